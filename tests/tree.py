"""A file system tree as values, so that two trees can be compared entry by entry.

What cannot be equal in two trees with equal content is left out: inode numbers, the size and link count of a
directory, access and change times, and the root itself, which is each container's own.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class Node:
    """One entry of a tree; what its type does not have is empty."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    target: bytes
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]
    mtime_ns: int
    sha256: str
    links: tuple[bytes, ...] = ()  # every path of an inode that has several in the tree, sorted


Tree = dict[bytes, Node]


def describe_tree(root: Path, skip: Collection[bytes] = ()) -> Tree:
    """Describe what is below `root`, by path relative to it; `skip` names paths to leave out with all below them."""
    tree: Tree = {}
    names: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    top = os.fsencode(root)
    for path in _walk(top, b"", skip):
        status = os.lstat(os.path.join(top, path))
        tree[path] = _describe(os.path.join(top, path), status)
        if not stat.S_ISDIR(status.st_mode):
            names[status.st_dev, status.st_ino].append(path)
    for paths in names.values():
        if len(paths) > 1:
            tree.update({path: replace(tree[path], links=tuple(sorted(paths))) for path in paths})
    return tree


def tree_differences(expected: Tree, found: Tree) -> list[str]:
    """One line for each path or field that differs; empty for equal trees."""
    lines = [f"{path!r}: missing" for path in sorted(expected.keys() - found.keys())]
    lines += [f"{path!r}: not expected" for path in sorted(found.keys() - expected.keys())]
    for path in sorted(expected.keys() & found.keys()):
        for name in (field.name for field in fields(Node)):
            wanted, seen = getattr(expected[path], name), getattr(found[path], name)
            if wanted != seen:
                lines.append(f"{path!r}: {name}: expected {wanted!r}, found {seen!r}")
    return lines


def _walk(top: bytes, folder: bytes, skip: Collection[bytes]) -> Iterator[bytes]:
    with os.scandir(os.path.join(top, folder)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = os.path.join(folder, entry.name)
            if path in skip:
                continue
            yield path
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(top, path, skip)


def _describe(path: bytes, status: os.stat_result) -> Node:
    kind = stat.S_IFMT(status.st_mode)
    return Node(
        type=TYPES[kind],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == stat.S_IFDIR else status.st_size,
        target=os.readlink(path) if kind == stat.S_IFLNK else b"",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(_xattr_names(path))},
        mtime_ns=status.st_mtime_ns,
        sha256=_content_digest(path) if kind == stat.S_IFREG else "",
    )


def _xattr_names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _content_digest(path: bytes) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
