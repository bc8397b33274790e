"""What an install changes in a root tree: values, worked out before anything is written.

All paths are without symlinks, so whoever carries it out follows none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from preloader_agent.errors import InvalidGuest
from preloader_agent.host.guests.agentfiles import CODE, FOLDERS, LIST, Entry
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
    code = place(tree, CODE)
    if tree.target(code) is not None:  # all of it is to be replaced, wherever it is
        raise InvalidGuest(tree.name, f"/{code} is a symlink: expected a folder, or nothing")
    placed = [replace(entry, path=place(tree, entry.path)) for entry in entries]
    removed = _list_old(tree, [entry.path for entry in placed])
    folders = frozenset(path for path in removed if tree.names(path) is not None)
    for path in folders - set(walk_up(tree, code)):
        raise InvalidGuest(tree.name, f"/{path} is a folder: expected a file, or nothing")
    return Plan(tuple(removed), folders, tuple(_list_new_folders(tree, placed, removed)), tuple(placed))


def _list_old(tree: RootTree, paths: Sequence[str]) -> list[str]:
    """What is there of an earlier install, whatever it has installed, and what stands where a file is to be."""
    listed = (tree.head(resolve(tree, LIST), _MAX_LIST) or b"").decode(errors="replace").splitlines()
    old = [*walk_up(tree, place(tree, CODE)), *(place(tree, path) for path in listed if path), *paths]
    return [path for path in dict.fromkeys(old) if tree.has(path)]


def _list_new_folders(tree: RootTree, entries: Sequence[Entry], removed: Collection[str]) -> Iterator[str]:
    needed = [PurePosixPath(entry.path).parent for entry in entries]
    needed += [PurePosixPath(resolve(tree, path)) for path in FOLDERS]
    folders = {str(part): None for folder in needed for part in reversed((folder, *folder.parents)[:-1])}
    for path in folders:
        if path in removed or not tree.has(path):
            yield path
        elif tree.names(path) is None:
            raise InvalidGuest(tree.name, f"/{path} is no folder: expected one, or nothing")
