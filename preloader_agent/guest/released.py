"""Disks that were released: asked for by their user, and not to be mounted again until they were unplugged.

Kept in the run directory, so that whoever makes the next pass takes their images out, and so that a restart of the
agent does not bring them back.
"""

from __future__ import annotations

import json
import os

from preloader_agent.guest import log
from preloader_agent.guest.apply import write_file
from preloader_agent.guest.paths import Paths


def read_released(paths: Paths) -> dict[str, bool]:
    """The labels of released disks, and whether that is to be done whatever uses them."""
    try:
        with open(paths.released, "rb") as file:
            document = json.load(file)
        return {str(label): bool(is_forced) for label, is_forced in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError) as err:
        log.warning("not using %s: %s; disks released since boot may come back", paths.released, err)
        return {}


def add_released(paths: Paths, label: str, *, is_forced: bool) -> None:
    """Have a disk leave the store in the next pass. Under the lock (sync.exclusive)."""
    _write(paths, {**read_released(paths), label: is_forced})


def drop_released(paths: Paths, label: str) -> None:
    """Treat a disk like any other again. Under the lock."""
    released = read_released(paths)
    if released.pop(label, None) is not None:
        _write(paths, released)


def _write(paths: Paths, released: dict[str, bool]) -> None:
    if released:
        write_file(paths.released, json.dumps(released).encode(), 0o600)
    elif os.path.exists(paths.released):
        os.unlink(paths.released)
