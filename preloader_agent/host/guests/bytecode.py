"""The agent's code compiled for a guest's Python, if the host has one of that version: the boot need not do it.

Python compiles a module when it is first imported and keeps the result, but a guest whose disk is thrown away would do
that at each boot. The files say of themselves that they need no check against the source: an install replaces both.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from preloader_agent.errors import ToolError
from preloader_agent.host.guests.agentfiles import CODE, Entry, File
from preloader_agent.host.guests.guestpython import GuestPython
from preloader_agent.host.run import environment, run
from preloader_agent.host.scratch import scratch_folder

# What a Python is given to compile; what comes behind is a folder.
COMPILE = ("-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
_TIMEOUT = 60.0  # seconds


def compile_modules(entries: Sequence[Entry], python: GuestPython) -> list[File]:
    """The compiled modules among some files; none without a Python of the guest's version."""
    modules = [entry for entry in entries if isinstance(entry, File) and _is_module(entry.path)]
    with scratch_folder() as folder:
        for module in modules:
            path = folder / module.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(module.content)
        with suppress(ToolError):  # some put a python3.N on PATH that only says that it is not installed
            _compile(folder, python)
        found = sorted(folder.glob("**/*.pyc"))
        return [File(str(path.relative_to(folder)), path.read_bytes()) for path in found]


def _is_module(path: str) -> bool:
    return path.startswith(f"{CODE}/") and path.endswith(".py")


def _compile(folder: Path, python: GuestPython) -> None:
    is_ours = sys.version_info[:2] == (3, python.minor)
    program = sys.executable if is_ours else shutil.which(f"python{python.version}", path=environment()["PATH"])
    if program is not None:
        stripped = ("-s", str(folder), "-p", "/")
        run([program, *COMPILE, *stripped, folder], timeout=_TIMEOUT, ok=(0, 1))  # 1: a module in a wheel that is none
