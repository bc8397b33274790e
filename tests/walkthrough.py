"""What a page tells its reader to do: the files it shows, the commands, and what they print.

A fenced block with a name behind its language (```xml guest.xml) is a file. A block of `console` is a session: after
`$ ` stand commands for the host, after `# ` and `root@guest:~# ` for the guest, each followed by all that it prints. So
that a page can show real output, IDs, sizes, times and the like may differ; "..." stands for anything, and for any
lines where it is one of its own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from preloader_agent.errors import PreloaderError
from preloader_agent.host.run import run
from tests.host.command import PYTHONPATH

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
HOST, GUEST_SHELL, GUEST_CONSOLE = "$", "#", "root@guest:~#"
STEP_BOUND = 600.0  # seconds: `guest build` loads packages, and a busy host emulates the guest slowly
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = rf"(?:\$|#|{GUEST_CONSOLE})"
_STEP = re.compile(rf"^({_PROMPT}) ((?:.*\\\n)*.*)\n((?:(?!{_PROMPT} ).*\n)*)", re.MULTILINE)
# What differs from day to day: group by group, what the page shows, and what may be there. The two letters are what
# libvirt puts before the name of a disk.
_VARYING = re.compile(
    r"(?P<anything>\.\.\.)"
    r"|(?P<id>\b[0-9a-f]{12,64}\b)"
    r"|(?P<age>\d+ \w+ ago)"
    r"|(?P<amount>\b\d+(\.\d+)?(?= ?[kMG]?B\b| s\b))"
    r"|(?P<disk>(?<=\b[sv]d)[a-z]{5}\b)"
    r"|(?P<rule>-{3,})"
    r"|(?P<space>\s+)"
)
_VARIANTS = {
    "anything": ".*",
    "id": r"[0-9a-f]{12,64}",
    "age": r"\S+ \w+ ago",
    "amount": r"\d+(\.\d+)?",
    "disk": "[a-z]{5}",
    "rule": "-{3,}",
    "space": r"\s+",
}


class Block(NamedTuple):
    """A fenced block; `name` is that of a file, or empty."""

    language: str
    name: str
    text: str


class Step(NamedTuple):
    """A command of a session: `prompt` says where it runs."""

    prompt: str
    command: str
    output: str


def read_blocks(page: Path, changes: Mapping[str, str]) -> list[Block]:
    """The blocks of a page, in order; `changes` is what has to differ here from what the page says."""
    text = page.read_text()
    for old, new in changes.items():
        assert old in text, f"{page}: expected {old!r} in it"
        text = text.replace(old, new)
    return [Block(*found.groups(default="")) for found in _BLOCK.finditer(text)]


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the files that a page shows."""
    for block in blocks:
        if block.name:
            path = folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def steps_of(blocks: Sequence[Block]) -> Iterator[Step]:
    """The steps of all sessions."""
    for block in blocks:
        if block.language == "console":
            for found in _STEP.findall(block.text):
                yield Step(*found)


def host_shell(command: str, folder: Path) -> list[str]:
    """How a reader's command is run: by a shell in a folder, with our `preloader`."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    preloader = programs / "preloader"
    code = "from preloader_agent.host.cli import main; main()"
    preloader.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
    preloader.chmod(0o755)
    return ["bash", "-c", f"cd {shlex.quote(str(folder))}\nPATH={shlex.quote(str(programs))}:$PATH\n{command}"]


def run_on_host(command: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command as a reader would; what it prints, and it may fail."""
    shell = host_shell(f"exec 2>&1\n{command}", folder)
    return run(shell, env={"PYTHONPATH": PYTHONPATH, **(env or {})}, timeout=STEP_BOUND, ok=range(128))


def check_output(step: Step, found: str) -> None:
    """See that a step has printed what its page shows. Raises PreloaderError."""
    lines = [line.strip() for line in found.splitlines() if line.strip()]
    if not _pattern(step.output).fullmatch("".join(f"{line}\n" for line in lines)):
        raise PreloaderError(f"{step.command}: expected as the page shows it:\n{step.output}\nfound:\n{found}")


def _pattern(output: str) -> re.Pattern[str]:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return re.compile("".join(r"(.*\n)*" if line == "..." else f"{_line_pattern(line)}\n" for line in lines))


def _line_pattern(line: str) -> str:
    end, pattern = 0, ""
    for found in _VARYING.finditer(line):
        pattern += re.escape(line[end : found.start()]) + _VARIANTS[str(found.lastgroup)]
        end = found.end()
    return pattern + re.escape(line[end:])
