"""File systems that our writer makes: trees put together by hand, and what must be found in them."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from preloader_agent.host.diskimage import RawImage
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.htree import hash_name
from preloader_agent.host.ext4.layout import ROOT_INODE
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.ext4.writer import write_filesystem
from preloader_agent.host.node import Extent, make_directory
from preloader_agent.host.node import Node as Inode
from preloader_agent.host.run import run
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM
from tests.tree import Node, Tree

LABEL = "dpl-0123456789ab"
UUID = uuid.UUID("5b1e3e63-5a3c-4c7e-9d7a-0c54a1b8a5f1")
COLLISION = (b"000000000941", b"000000005400")  # names with the same hash, in a file system of this UUID
NAMES_PER_BLOCK = 204  # of their length
PIECE = 1 << 20  # bytes in which content comes
_ACL = b"system.posix_acl_"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
_TYPES = {
    REG: "file",
    DIR: "directory",
    SYM: "symlink",
    CHR: "character device",
    BLK: "block device",
    FIFO: "fifo",
}


class Filesystem:
    """A file system under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks = BlockFile(path)
        self.root = make_directory()
        self.contents: dict[Inode, bytes] = {}

    def file(self, content: bytes, mode: int = 0o644) -> Inode:
        """A regular file, whose content is stored."""
        pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
        node = Inode(REG, mode, size=len(content), extents=self.blocks.append(pieces))
        self.contents[node] = content
        return node

    def reserve(self, count: int) -> Extent:
        """So many blocks of content that nobody writes: they are holes of the image, whose size is large then."""
        start = self.blocks.end
        self.blocks.end += count
        self.blocks.write_at(start, b"start")
        return Extent(0, start, count)

    def put(self, path: bytes, node: Inode) -> Inode:
        """Give an inode a name, the first one or one more."""
        *folders, name = path.split(b"/")
        directory = self.root
        for folder in folders:
            directory = children_of(directory).setdefault(folder, make_directory())
        children_of(directory)[name] = node
        return node

    def write(self, shifts: Mapping[Inode, int] | None = None, unused: Sequence[Extent] = ()) -> Path:
        """Complete it."""
        write_filesystem(self.blocks, self.root, shifts or {}, unused, label=LABEL, uuid=UUID)
        self.blocks.close()
        return self.path

    def expected(self) -> Tree:
        """The tree as the kernel must show it."""
        paths: dict[Inode, list[bytes]] = {}
        for path, node in walk(self.root):
            paths.setdefault(node, []).append(path)
        return {path: self._describe(node, names) for node, names in paths.items() for path in names}

    def _describe(self, node: Inode, names: Sequence[bytes]) -> Node:
        content = self.contents.get(node, b"")
        return Node(
            type=_TYPES[node.type],
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            size=0 if node.type == DIR else len(node.target) or node.size,
            target=node.target,
            device=node.device,
            xattrs={name.decode(): value for name, value in node.xattrs.items()},
            mtime_ns=node.mtime_ns,
            sha256=hashlib.sha256(content).hexdigest() if node.type == REG else "",
            links=tuple(sorted(names)) if len(names) > 1 else (),
        )


def found_tree(image: Path) -> Tree:
    """The tree that our reader finds; ACLs are left out, which it knows in another form."""
    with Ext4(RawImage(image)) as reader:
        paths: dict[int, list[bytes]] = {}
        for path, number in _numbers(reader, ROOT_INODE):
            paths.setdefault(number, []).append(path)
        return {path: _read_node(reader, number, names) for number, names in paths.items() for path in names}


def _numbers(reader: Ext4, directory: int, folder: bytes = b"") -> Iterator[tuple[bytes, int]]:
    for name, number in reader.entries(directory).items():
        yield folder + name, number
        yield from _numbers(reader, number, folder + name + b"/")


def _read_node(reader: Ext4, number: int, names: Sequence[bytes]) -> Node:
    inode = reader.inode(number)
    assert inode.links == len(names) or inode.type == DIR
    digest = hashlib.sha256()
    for piece in reader.pieces(inode) if inode.type == REG else ():
        digest.update(piece)
    return Node(
        type=_TYPES[inode.type],
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        size=0 if inode.type == DIR else inode.size,
        target=reader.target(inode) if inode.type == SYM else b"",
        device=inode.device if inode.type in (CHR, BLK) else (0, 0),
        xattrs={name.decode(): value for name, value in reader.xattrs(inode).items() if not name.startswith(_ACL)},
        mtime_ns=inode.mtime_ns,
        sha256=digest.hexdigest() if inode.type == REG else "",
        links=tuple(sorted(names)) if len(names) > 1 else (),
    )


def fill(filesystem: Filesystem) -> None:
    """One of everything: what a file system can hold, and how it can hold it."""
    nodes = {
        b"file": filesystem.file(b"text", 0o4755),
        b"empty": filesystem.file(b""),
        b"holes": filesystem.file((b"x" + bytes(8191)) * 1500 + bytes(1 << 20)),
        b"large": filesystem.file(random.Random(0).randbytes(3_000_000)),
        b"directory/empty": make_directory(0o1777),
        b"directory/" + b"n" * 255: Inode(FIFO, 0o600),
        b"directory/caf\xe9\n": Inode(SYM, 0o777, target=b"t" * 59),
        b"directory/long": Inode(SYM, 0o777, target=b"\xff" * 60),
        b"directory/longest": Inode(SYM, 0o777, target=b"t/" * 2047 + b"t"),
        b"devices/null": Inode(CHR, 0o666, device=(1, 3)),
        b"devices/new": Inode(BLK, 0o660, device=(259, 1048575)),
        b"devices/whiteout": Inode(CHR, 0),
    }
    for number, (path, node) in enumerate(nodes.items()):
        node.uid, node.gid = number << 14, (1 << 32) - 2 - number
        node.mtime_ns = (number * 900_000_000 - (1 << 31)) * 10**9 + 999_999_999
        filesystem.put(path, node)
    for name in (b"file", b"directory/long", b"devices/whiteout"):
        filesystem.put(name + b" again", linked(nodes[name]))
    for number in range(1000):
        filesystem.put(b"many/%d" % number, Inode(FIFO, 0o600, mtime_ns=number))
    nodes[b"file"].xattrs = {b"user.note": b"\0\xff"}
    nodes[b"large"].xattrs = {b"user.note": b"v" * 3000, b"trusted.label": b"x", b"security.capability": CAPABILITY}
    nodes[b"directory/empty"].xattrs = {b"trusted.overlay.opaque": b"y"}
    nodes[b"devices/whiteout"].xattrs = {b"trusted.label": b"x" * 500}
    nodes[b"directory/long"].xattrs = {b"trusted.label": b"x" * 500}


def colliding_names() -> list[bytes]:
    """Names of which two have the same hash, one at the end of a block, one at the start of the next one."""
    names = sorted((b"%012d" % number for number in range(6000)), key=lambda name: hash_name(name, UUID.bytes))
    second = max(map(names.index, COLLISION))
    return names[second % NAMES_PER_BLOCK :]


def children_of(directory: Inode) -> dict[bytes, Inode]:
    assert directory.children is not None
    return directory.children


def walk(directory: Inode, folder: bytes = b"") -> list[tuple[bytes, Inode]]:
    """The inodes below a directory with their paths."""
    found: list[tuple[bytes, Inode]] = []
    for name, node in (directory.children or {}).items():
        found += [(folder + name, node), *walk(node, folder + name + b"/")]
    return found


def linked(node: Inode) -> Inode:
    """An inode that gets one more name."""
    node.links += 1
    return node


def check(image: Path) -> str:
    """Fail unless e2fsck has nothing to say, hints included; returns its last line, with the counts."""
    _version, *lines = run(["e2fsck", "-fn", image], with_stderr=True).splitlines()
    complaints = [line for line in lines[:-1] if not line.startswith("Pass ") and line]
    assert complaints == []
    return lines[-1]


def debugfs(image: Path, command: str) -> str:
    return run(["debugfs", "-R", command, image], with_stderr=True)
