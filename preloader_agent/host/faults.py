"""What a check of a disk finds, and how it is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from preloader_agent.errors import InvalidArchive, InvalidDisk


class Fault(NamedTuple):
    """Something that is not as it should be; `path` is in the disk's file system, or says what else it is about."""

    path: str
    problem: str


def fault_of(path: str, error: InvalidDisk | InvalidArchive) -> Fault:
    """The fault that an error is about; what to do is said once, not with each."""
    return Fault(path or "/", error.problem.removesuffix("; build the disk again"))


@dataclass
class Tally:
    """What was checked so far: regular files of layers, and their bytes; `notes` is what cannot be checked."""

    advance: Callable[[int], None]
    files: int = 0
    size: int = 0
    notes: list[Fault] = field(default_factory=list)

    def count(self, size: int) -> None:
        """A file whose content is right."""
        self.files += 1
        self.size += size


def show_path(path: str, name: bytes = b"") -> str:
    """A path for a message, with a name below it."""
    text = f"{path}/{name.decode(errors='backslashreplace')}" if name else path
    return text if text.isprintable() else ascii(text)[1:-1]
