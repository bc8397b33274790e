"""A folder of the host as a tree of nodes: what it would be in an image, whoever has it here.

Everything belongs to root there, and of xattrs only those are taken that whoever reads the folder sees alike.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from preloader_agent.errors import InputError
from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import children_of, is_whiteout
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM, show_name
from preloader_agent.host.tree import WHITEOUT_PREFIX

_TYPES = {
    stat.S_IFREG: REG,
    stat.S_IFDIR: DIR,
    stat.S_IFLNK: SYM,
    stat.S_IFCHR: CHR,
    stat.S_IFBLK: BLK,
    stat.S_IFIFO: FIFO,
}


def read_folder(folder: Path, content: Content, epoch: int, *, is_ours: bool = False) -> Node:
    """The tree of a folder, whose files `content` is told of; what is in it with two names is one node.

    All of it is of one time, in seconds since 1970. A folder that `is_ours` is unlocked: its files become readable for
    us, and the nodes have the modes from before. Raises InputError for what cannot be read, or be in a layer.
    """
    root = make_directory()
    inodes: dict[tuple[int, int], Node] = {}
    left = [(folder, root)]
    while left:
        path, directory = left.pop()
        for name in _list(path):
            found = path / os.fsdecode(name)
            status = _lstat(found)
            if is_ours:
                _unlock(found, status.st_mode)
            node = inodes.get((status.st_dev, status.st_ino)) or _make_node(name, found, status, epoch)
            children_of(directory)[name] = node
            if node.type == DIR:
                left.append((found, node))
            else:
                inodes[status.st_dev, status.st_ino] = node
            if node.type == REG:
                content.add(node, found)
    return root


def _list(path: Path) -> list[bytes]:
    try:
        return sorted(os.listdir(os.fsencode(path)))
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err


def _lstat(path: Path) -> os.stat_result:
    try:
        return path.lstat()
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err


def _unlock(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        path.chmod(stat.S_IMODE(mode) | (0o700 if stat.S_ISDIR(mode) else 0o400))


def _make_node(name: bytes, path: Path, status: os.stat_result, epoch: int) -> Node:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise InputError(f"{_show(path)}: is a socket, which no image can hold; remove it")
    mtime_ns = epoch * 10**9
    node = Node(kind, stat.S_IMODE(status.st_mode), mtime_ns=mtime_ns, children={} if kind == DIR else None)
    if kind == REG:
        node.size = status.st_size
    if kind == SYM:
        node.target, node.mode = os.readlink(os.fsencode(path)), 0o777
    if kind in (CHR, BLK):
        node.device = os.major(status.st_rdev), os.minor(status.st_rdev)
    if kind in (REG, DIR):
        node.xattrs = _read_xattrs(path)
    if is_whiteout(node) or name.startswith(WHITEOUT_PREFIX):
        raise InputError(f"{_show(path)}: would remove what is below it in the image; remove it")
    return node


def _read_xattrs(path: Path) -> dict[bytes, bytes]:
    """What belongs to the file: labels and signatures (security.selinux, security.ima) belong to a host.

    Only root sees trusted ones.
    """
    try:
        names = [name for name in os.listxattr(path) if name.startswith("user.") or name == "security.capability"]
        found = {os.fsencode(name): os.getxattr(path, name) for name in names}
    except OSError as err:
        if err.errno == errno.ENOTSUP:
            return {}
        raise InputError(f"{path}: its xattrs cannot be read: {err.strerror}") from err
    for name, value in found.items():
        if b"=" in name or not value:
            raise InputError(f"{_show(path)}: has an xattr {show_name(name)} that no tar can hold, with = or no value")
    return found


def _show(path: Path) -> str:
    """A path for a message."""
    return show_name(os.fsencode(path))
