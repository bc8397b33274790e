"""The shell scripts that work on an image where its script runs.

They are passed as words, not as files: nobody there may read ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preloader_agent.errors import CommandFailed

_PARTS = Path(__file__).with_name("parts")


def part_words(name: str, *arguments: str) -> list[str]:
    """The command that runs one of the scripts."""
    return ["sh", "-c", (_PARTS / name).read_text(), name, *arguments]


@contextmanager
def named_part(name: str) -> Iterator[None]:
    """Let a failure in the block have a script's name, not its words."""
    try:
        yield
    except CommandFailed as err:
        raise CommandFailed(["run_as_root:", name], err.status, err.output) from err
