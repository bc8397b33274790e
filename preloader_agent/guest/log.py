"""Messages for the journal: one line each, with the priority that systemd reads in front (sd-daemon(3)).

The standard library's logging would cost 19 ms of the boot (measured, Python 3.13).
"""

from __future__ import annotations

import os
import sys

_TO_JOURNAL = "JOURNAL_STREAM" in os.environ


def debug(message: str, *values: object) -> None:
    """What only somebody who looks for a fault wants to see; shown with DOCKER_PRELOADER_DEBUG=1."""
    if "DOCKER_PRELOADER_DEBUG" in os.environ:
        _write(7, message, values)


def info(message: str, *values: object) -> None:
    """What was done."""
    _write(6, message, values)


def warning(message: str, *values: object) -> None:
    """What a person should look at."""
    _write(4, message, values)


def error(message: str, *values: object) -> None:
    """What failed."""
    _write(3, message, values)


def _write(priority: int, message: str, values: tuple[object, ...]) -> None:
    prefix = f"<{priority}>" if _TO_JOURNAL else ""
    text = message % values if values else message
    line = "".join(character if character.isprintable() else " " for character in text)
    print(f"{prefix}{line}", file=sys.stderr, flush=True)
