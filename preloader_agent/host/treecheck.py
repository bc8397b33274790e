"""Whether a tree of a file system is what it should be: every name, and all that stands in an inode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.ext4.reader import Ext4, Inode
from preloader_agent.host.ext4.xattrs import stored_value
from preloader_agent.host.faults import Fault, fault_of, show_path
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM

TYPE_NAMES = {
    REG: "a file",
    DIR: "a directory",
    SYM: "a symlink",
    CHR: "a device",
    BLK: "a block device",
    FIFO: "a FIFO",
}


class _Properties(NamedTuple):
    """What an inode has in common with its Node."""

    type: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes
    device: tuple[int, int]
    names: int
    xattrs: Mapping[bytes, bytes]


def compare_trees(filesystem: Ext4, expected: Node, number: int, path: str) -> Iterator[Fault]:
    """The differences between a tree and what is below an inode; a directory without children is one to pass over."""
    numbers: dict[int, int] = {}  # of the inodes with several names
    waiting = [(expected, number, path)]
    while waiting:
        node, number, path = waiting.pop()
        if node.links > 1 and numbers.setdefault(id(node), number) != number:
            yield Fault(path, "is a file of its own, expected a hard link")
        try:
            inode = filesystem.inode(number)
            yield from _compare(filesystem, node, inode, path)
            if node.children is None or inode.type != DIR:
                continue
            entries = filesystem.entries(number)
        except InvalidDisk as err:
            yield fault_of(path, err)
            continue
        for name in sorted(node.children.keys() ^ entries.keys()):
            yield Fault(show_path(path, name), "is missing" if name in node.children else "does not belong there")
        waiting += [
            (node.children[name], entries[name], show_path(path, name))
            for name in sorted(node.children.keys() & entries.keys(), reverse=True)
        ]


def _compare(filesystem: Ext4, node: Node, inode: Inode, path: str) -> Iterator[Fault]:
    if inode.type != node.type:
        yield Fault(path, f"is {TYPE_NAMES.get(inode.type, 'of no known type')}, expected {TYPE_NAMES[node.type]}")
    elif node.type != DIR or node.children is not None:
        expected, found = _of_node(node), _of_inode(filesystem, inode)
        if expected != found:
            for name, wanted, value in zip(_Properties._fields, expected, found, strict=True):
                if wanted != value:
                    yield Fault(path or "/", f"has {name} {_show(name, value)}, expected {_show(name, wanted)}")


def _of_node(node: Node) -> _Properties:
    return _Properties(
        node.type,
        node.mode,
        node.uid,
        node.gid,
        node.mtime_ns,
        node.size if node.type == REG else 0,
        node.target,
        node.device,
        node.links if node.type != DIR else 0,
        {name: stored_value(name, value) for name, value in node.xattrs.items()} if node.xattrs else node.xattrs,
    )


def _of_inode(filesystem: Ext4, inode: Inode) -> _Properties:
    return _Properties(
        inode.type,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime_ns,
        inode.size if inode.type == REG else 0,
        filesystem.target(inode) if inode.type == SYM else b"",
        inode.device if inode.type in (CHR, BLK) else (0, 0),
        inode.links if inode.type != DIR else 0,
        filesystem.xattrs(inode),
    )


def _show(name: str, value: object) -> str:
    return f"{value:04o}" if name == "mode" else f"{value!r:.200}"
