"""What an install changes in a root tree: values, worked out before anything is written.

All paths are without symlinks, so whoever carries it out follows none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from preloader_agent.errors import InvalidGuest
from preloader_agent.host.guests.agentfiles import CODE, LIST, Entry
from preloader_agent.host.guests.roottree import RootTree, place, resolve, walk_up

_MAX_LIST = 1 << 16  # bytes of an older install's list; ours has some hundred


@dataclass(frozen=True)
class Plan:
    """First `removed`, each path after what is in it, then `folders`, parents first, then `entries`.

    Everything is root's, folders have mode 755.
    """

    removed: tuple[str, ...]
    removed_folders: frozenset[str]
    folders: tuple[str, ...]
    entries: tuple[Entry, ...]


def plan_install(tree: RootTree, entries: Iterable[Entry]) -> Plan:
    """Put these entries into a tree, and take out what an earlier install has put there."""
    placed = [replace(entry, path=place(tree, entry.path)) for entry in entries]
    removed = _list_old(tree, [entry.path for entry in placed])
    folders = frozenset(path for path in removed if tree.names(path) is not None)
    for path in folders - set(walk_up(tree, place(tree, CODE))):
        raise InvalidGuest(tree.name, f"/{path} is a folder: expected a file, or nothing")
    return Plan(tuple(removed), folders, tuple(_list_new_folders(tree, placed, folders)), tuple(placed))


def _list_old(tree: RootTree, paths: Sequence[str]) -> list[str]:
    """What is there of an earlier install, whatever it has installed, and what stands where a file is to be."""
    listed = (tree.head(resolve(tree, LIST), _MAX_LIST) or b"").decode(errors="replace").splitlines()
    old = [*walk_up(tree, place(tree, CODE)), *(place(tree, path) for path in listed if path), *paths]
    return [path for path in dict.fromkeys(old) if tree.has(path)]


def _list_new_folders(tree: RootTree, entries: Sequence[Entry], removed: frozenset[str]) -> Iterator[str]:
    known: set[str] = {""}
    for entry in entries:
        names = entry.path.split("/")[:-1]
        for end in range(1, len(names) + 1):
            path = "/".join(names[:end])
            if path in known:
                continue
            known.add(path)
            if tree.names(path) is None or path in removed:
                yield _checked_folder(tree, path)


def _checked_folder(tree: RootTree, path: str) -> str:
    if tree.has(path) and tree.names(path) is None and path != CODE:
        raise InvalidGuest(tree.name, f"/{path} is no folder: expected one, or nothing")
    return path
