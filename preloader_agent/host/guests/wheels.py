"""What a guest's Python lacks, taken from wheels that pip finds for it.

pip is asked for the guest's version of Python and architecture, not for ours. Its settings apply (PIP_INDEX_URL,
PIP_NO_INDEX, PIP_FIND_LINKS), so a host without a network can serve wheels from a folder.
"""

from __future__ import annotations

import posixpath
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidArchive, InvalidValue, ToolMissing, WheelMissing
from preloader_agent.host.guests.agentfiles import CODE, File
from preloader_agent.host.guests.guestpython import GuestPython
from preloader_agent.host.run import run
from preloader_agent.host.scratch import scratch_folder

# glibc 2.28 is older than every distribution's that has Python 3.11; pip does not know that newer ones include older.
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28")
_SOURCE_ONLY = frozenset({"sdnotify"})  # pure Python, without a wheel on PyPI: built, which runs its setup.py
_DOWNLOAD_TIMEOUT = 600.0  # seconds


def carry_packages(names: Sequence[str], python: GuestPython, wheels: Path | None) -> list[File]:
    """The files of some Python packages, and of what those need, for the agent's folder in the guest.

    `wheels` is a folder that pip looks into as well. Raises ToolMissing without pip, WheelMissing, and InvalidValue
    when there is no such folder.
    """
    check_wheels(wheels)
    if not names:
        return []
    if find_spec("pip") is None:
        raise ToolMissing(f"pip for {sys.executable}", f"the guest lacks {', '.join(names)}, and pip gets that")
    with scratch_folder() as folder:
        for name in names:
            _get_wheel(name, python, wheels, folder)
        return [file for wheel in sorted(folder.glob("*.whl")) for file in unpack_wheel(wheel)]


def check_wheels(wheels: Path | None) -> None:
    """Raises InvalidValue for what is no folder: pip only warns of it, and looks elsewhere."""
    if wheels is not None and not wheels.is_dir():
        raise InvalidValue("folder of wheels", str(wheels), "a directory that exists")


def _get_wheel(name: str, python: GuestPython, wheels: Path | None, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    links = ["--find-links", str(wheels.absolute())] if wheels else []
    if name in _SOURCE_ONLY:
        argv = [*pip, "wheel", "--no-deps", *links, "--wheel-dir", str(folder), name]
    else:
        argv = [*pip, "download", *_target(python), *links, "--dest", str(folder), name]
    try:
        run(argv, timeout=_DOWNLOAD_TIMEOUT)
    except CommandFailed as err:
        raise WheelMissing(name, f"Python {python.version} on {python.machine}", err.output) from err


def _target(python: GuestPython) -> list[str]:
    tags = [f"{platform}_{python.machine}" for platform in _PLATFORMS]
    abis = [f"cp3{python.minor}", "abi3", "none"]
    given = [("--platform", tag) for tag in (*tags, "any")] + [("--abi", abi) for abi in abis]
    words = [word for pair in given for word in pair]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python.version, *words]


def unpack_wheel(wheel: Path) -> list[File]:
    """The modules of a wheel, and what describes it. Raises InvalidArchive.

    Format: packaging.python.org, binary distribution format; NAME.data/purelib and platlib go beside the rest.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            placed = [(_module_path(wheel, name), name) for name in names]
            return [File(f"{CODE}/{path}", archive.read(name)) for path, name in placed if path]
    except (OSError, zipfile.BadZipFile) as err:
        raise InvalidArchive(wheel, f"is no sound wheel: {err}") from err


def _module_path(wheel: Path, name: str) -> str | None:
    """Where a wheel's file stands below the folder; None for what is no module, such as a script."""
    path = name
    first, _, rest = name.partition("/")
    if first.endswith(".data"):
        kind, _, path = rest.partition("/")
        if kind not in ("purelib", "platlib"):
            return None
    placed = posixpath.normpath(path)
    if placed.startswith(("/", "..")) or "\n" in name:
        raise InvalidArchive(wheel, f"{name!r} would be outside of the folder it is unpacked in")
    return placed
