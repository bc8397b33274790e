"""The files that make containers of disks services: what systemd's generator reads, and what of it is not done yet."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from preloader_agent.guest import log
from preloader_agent.guest.apply import write_file
from preloader_agent.guest.definitions import SUFFIX
from preloader_agent.guest.paths import Paths
from preloader_agent.store.digest import Digest, sha256_digest


class Key(NamedTuple):
    """A container of a disk."""

    label: str
    name: str


def read_installed(paths: Paths) -> dict[Key, Digest]:
    """The digests of the definitions that disks have brought. Raises OSError."""
    found = {}
    for label in _list(paths.containers):
        for file in _list(f"{paths.containers}/{label}"):
            if file.endswith(SUFFIX):
                with open(f"{paths.containers}/{label}/{file}", "rb") as stream:
                    found[Key(label, file.removesuffix(SUFFIX))] = sha256_digest(stream.read())
    return found


def write_container(paths: Paths, key: Key, definition: bytes) -> None:
    """Have a container be a service from the time on when systemd reads its units. Raises OSError."""
    file = paths.container(*key)
    os.makedirs(os.path.dirname(file), mode=0o755, exist_ok=True)
    write_file(file, definition, 0o644, temporary=f"{paths.unfinished}.definition")


def remove_container(paths: Paths, key: Key) -> None:
    """Have a container be no service any more, and with the last one of a disk, remove its folder. Raises OSError."""
    file = paths.container(*key)
    os.unlink(file)
    with suppress(OSError):  # others are there
        os.rmdir(os.path.dirname(file))


def read_unfinished(paths: Paths) -> list[Key]:
    """What a change was about that was not carried out to its end."""
    try:
        with open(paths.unfinished, "rb") as file:
            return [Key(str(label), str(name)) for label, name in json.load(file)]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, RecursionError) as err:
        log.warning("not using %s: %s; services of disks may not have been started", paths.unfinished, err)
        return []


def write_unfinished(paths: Paths, keys: Collection[Key]) -> None:
    """Note what a change is about, before it begins; nothing, when it has ended. Raises OSError."""
    if keys:
        write_file(paths.unfinished, json.dumps(sorted(keys)).encode(), 0o600)
    else:
        with suppress(FileNotFoundError):
            os.unlink(paths.unfinished)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
