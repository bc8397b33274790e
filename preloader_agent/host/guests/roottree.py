"""A guest's root tree as it is asked about, wherever it stands: in a folder, in a tar file, or in a disk image.

Its symlinks are its own: one that says /usr means the guest's /usr, never the host's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Protocol

from preloader_agent.errors import InvalidGuest

_MAX_LINKS = 40  # as many as Linux follows (path_resolution(7))


class RootTree(Protocol):
    """What is in a root tree. Paths are relative to its root; only `resolve` follows symlinks."""

    name: str

    def has(self, path: str) -> bool:
        """Whether there is anything of that name."""

    def target(self, path: str) -> str | None:
        """What a symlink holds; None for all else."""

    def names(self, path: str) -> Collection[str] | None:
        """The names in a folder; None where there is none."""

    def head(self, path: str, size: int) -> bytes | None:
        """The first bytes of a regular file; None where there is none."""


def resolve(tree: RootTree, path: str) -> str:
    """The path without symlinks that a path leads to, whether there is something or not."""
    done: list[str] = []
    left = path.split("/")[::-1]
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            del done[-1:]
        elif name not in ("", "."):
            target = tree.target("/".join([*done, name]))
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidGuest(tree.name, f"/{path}: symlinks that lead to each other")
            done = [] if target.startswith("/") else done
            left += target.split("/")[::-1]
    return "/".join(done)


def place(tree: RootTree, path: str) -> str:
    """Where a path stands: its folder without symlinks, its last name as it is."""
    parent, _, name = path.rpartition("/")
    return str(PurePosixPath(resolve(tree, parent), name))


def list_names(tree: RootTree, path: str) -> Collection[str]:
    """The names in a folder that a path leads to; none where there is none."""
    return tree.names(resolve(tree, path)) or ()


def has_file(tree: RootTree, path: str) -> bool:
    """Whether a path leads to a regular file."""
    return tree.head(resolve(tree, path), 0) is not None


def walk_up(tree: RootTree, path: str) -> Iterator[str]:
    """All that stands below a path, and the path, if there is anything: each after what is in it."""
    for name in sorted(tree.names(path) or ()):
        yield from walk_up(tree, f"{path}/{name}")
    if tree.has(path):
        yield path
