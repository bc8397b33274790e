"""What a page of docs/ tells its reader to do: the files it shows, the commands, and what they print.

A fenced block with a name behind its language (```xml guest.xml) is a file. A block of `console` is a session: after
`$ ` stand commands for the host, after `# ` for the guest, each followed by all that it prints. So that a page can show
real output, numbers with a unit, hexadecimal IDs, libvirt's names of disks and white space may differ.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from preloader_agent.host.run import run
from tests.host.command import PYTHONPATH

DOCS = Path(__file__).parent.parent / "docs"
STEP_BOUND = 240.0
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^([$#]) ((?:.*\\\n)*.*\n)((?:(?![$#] ).*\n)*)", re.MULTILINE)
_VARYING = re.compile(r"\b[0-9a-f]{12,64}\b|(?<=\b[sv]d)[a-z]{5}\b|-{3,}|\b\d+(\.\d+)?(?= ?(s|kB|MB|GB)\b)")


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


def read_blocks(page: str, changes: Mapping[str, str]) -> list[Block]:
    """The blocks of a page, in order; `changes` is what has to differ here from what the page says."""
    text = (DOCS / page).read_text()
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


def steps_of(block: Block) -> Iterator[Step]:
    """The steps of a session."""
    for prompt, command, output in _STEP.findall(block.text):
        yield Step(prompt, command, output)


def run_on_host(command: str, folder: Path) -> str:
    """Run a command as a reader would, in a folder, with our `preloader`; what it prints, and it may fail."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    preloader = programs / "preloader"
    code = "from preloader_agent.host.cli import main; main()"
    preloader.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
    preloader.chmod(0o755)
    script = f"cd {shlex.quote(str(folder))}\nPATH={shlex.quote(str(programs))}:$PATH\nexec 2>&1\n{command}"
    return run(["bash", "-c", script], env={"PYTHONPATH": PYTHONPATH}, timeout=STEP_BOUND, ok=range(128))


def check_output(step: Step, found: str) -> None:
    """See that a step has printed what its page says."""
    assert _comparable(found) == _comparable(step.output), f"{step.prompt} {step.command}"


def _comparable(output: str) -> list[str]:
    return [" ".join(_VARYING.sub("N", line).split()) for line in output.splitlines() if line.strip()]
