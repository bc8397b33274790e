"""The shell scripts that work on an image where its script runs.

They are passed as words, not as files: nobody there may read ours.
"""

from __future__ import annotations

from pathlib import Path

_PARTS = Path(__file__).with_name("parts")


def part_words(name: str, *arguments: str) -> list[str]:
    """The command that runs one of the scripts."""
    return ["sh", "-c", (_PARTS / name).read_text(), name, *arguments]
