"""Reading an ext4 file system in a disk image, without a mount and without root.

Only what disk format 1 uses: extents, 64-bit block numbers or not, linear and hashed directories (a hashed directory
is a valid linear one). Layout: https://docs.kernel.org/filesystems/ext4/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.diskimage import DiskImage
from preloader_agent.host.ext4.layout import (
    EXTENT_MAGIC,
    FLAG_EXTENTS,
    INCOMPAT,
    INODE,
    MAGIC,
    MAX_EXTENT,
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
)
from preloader_agent.host.ext4.xattrs import unpack_block, unpack_inline
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM

_MAX_DEPTH = 5
_MAX_DIRECTORY = 1 << 28  # bytes; more than a million names
_MAX_TARGET = 4096  # bytes; the kernel's limit
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_FINE_MTIME_END = 12  # bytes behind the first 128 of an inode that has the field
_TYPES = {0o100000: REG, 0o040000: DIR, 0o120000: SYM, 0o020000: CHR, 0o060000: BLK, 0o010000: FIFO}


class Inode(NamedTuple):
    """An inode, with the (tar) type of what it is, b"" for others; `block` says where its content is, or is it."""

    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    has_extents: bool
    block: bytes
    xattr_block: int
    behind: bytes  # the fields, where the first xattrs stand

    @property
    def device(self) -> tuple[int, int]:
        """The numbers of a device: in the old form, or in the new one behind it."""
        old, new = struct.unpack_from("<II", self.block)
        return (old >> 8 & 0xFF, old & 0xFF) if old else (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)


class Ext4:
    """A file system. Raises InvalidDisk for what is not ext4, or not sound."""

    def __init__(self, image: DiskImage) -> None:
        self._image = image
        self.name = image.name
        block = image.read_at(SUPERBLOCK_OFFSET, 1024)
        if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != MAGIC:
            raise InvalidDisk(image.name, "holds no ext4 file system; expected a disk made by `preloader build`")
        # The largest block that ext4 knows has 64 KiB; a larger shift would fill the memory.
        self.block_size: int = 1024 << min(struct.unpack_from("<I", block, 0x18)[0], 7)
        self.label = block[0x78:0x88].rstrip(b"\0").decode(errors="replace")
        self.uuid = block[0x68:0x78].hex()
        self._inodes_per_group: int = struct.unpack_from("<I", block, 0x28)[0]
        self._inode_size: int = struct.unpack_from("<H", block, 0x58)[0]
        is_64bit = struct.unpack_from("<I", block, 0x60)[0] & INCOMPAT["64bit"]
        self._descriptor_size: int = struct.unpack_from("<H", block, 0xFE)[0] if is_64bit else 32
        self._descriptors = self.block_size * (struct.unpack_from("<I", block, 0x14)[0] + 1)
        self._tables: dict[int, int] = {}
        self._directories: dict[int, dict[bytes, int]] = {}
        if not (self.block_size <= 65536 and self._inodes_per_group and 128 <= self._inode_size <= self.block_size):
            raise self._damaged("superblock")

    def __enter__(self) -> Ext4:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._image.close()

    def find(self, path: bytes) -> int | None:
        """The number of the inode at a path, or None; symlinks are not followed."""
        number = ROOT_INODE
        for name in path.split(b"/"):
            if name:
                found = self.entries(number).get(name)
                if found is None:
                    return None
                number = found
        return number

    def names(self, path: bytes) -> list[bytes]:
        """The sorted names in a directory; none when it is not there."""
        number = self.find(path)
        return sorted(self.entries(number)) if number is not None else []

    def read(self, path: bytes, limit: int) -> bytes | None:
        """The content of a regular file of at most `limit` bytes, or None when there is none."""
        number = self.find(path)
        inode = self.inode(number) if number is not None else None
        if inode is None or inode.type != REG:
            return None
        if inode.size > limit:
            raise InvalidDisk(self.name, f"{path.decode()} has {inode.size} bytes, at most {limit} are read")
        return b"".join(self.pieces(inode))

    def inode(self, number: int) -> Inode:
        """The inode of a number."""
        group, index = divmod(number - 1, self._inodes_per_group)
        offset = self._table(group) * self.block_size + index * self._inode_size
        content = self._image.read_at(offset, self._inode_size)
        if len(content) < self._inode_size:
            raise self._damaged(f"inode {number}")
        return _parse_inode(content)

    def entries(self, number: int) -> dict[bytes, int]:
        """The names in a directory, but `.` and `..`, with the numbers of their inodes; none in what is none."""
        if number not in self._directories:
            inode = self.inode(number)
            if inode.type != DIR:
                return {}
            if inode.size > _MAX_DIRECTORY:
                raise self._damaged("directory")
            # No entry is in two blocks, and so not in two pieces.
            self._directories[number] = dict(entry for piece in self.pieces(inode) for entry in self._entries(piece))
        return self._directories[number]

    def is_folder(self, number: int) -> bool:
        """Whether an inode is a directory."""
        return self.inode(number).type == DIR

    def target(self, inode: Inode) -> bytes:
        """What a symlink holds."""
        if inode.size > (_MAX_TARGET if inode.has_extents else len(inode.block)):
            raise self._damaged("symlink")
        return b"".join(self.pieces(inode)) if inode.has_extents else inode.block[: inode.size]

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """The extended attributes of an inode, ACLs in the form that ext4 stores."""
        try:
            found = unpack_inline(inode.behind)
            if inode.xattr_block:
                found |= unpack_block(self._image.read_at(inode.xattr_block * self.block_size, self.block_size))
        except ValueError as err:
            raise self._damaged("extended attribute") from err
        return found

    def pieces(self, inode: Inode) -> Iterator[bytes]:
        """The content of a file, in pieces of at most 1 MiB."""
        left = inode.size
        for physical, count in self._runs(inode):
            length = min(count * self.block_size, left)
            yield from zeros(length) if physical is None else self._stored(physical * self.block_size, length)
            left -= length
            if not left:
                return

    def _damaged(self, what: str) -> InvalidDisk:
        return InvalidDisk(self.name, f"its ext4 {what} is damaged; build the disk again")

    def _table(self, group: int) -> int:
        """The first block of a group's inode table."""
        if group not in self._tables:
            content = self._image.read_at(self._descriptors + group * self._descriptor_size, self._descriptor_size)
            if group < 0 or len(content) < 32:
                raise self._damaged("group descriptor")
            high = struct.unpack_from("<I", content, 0x28)[0] if self._descriptor_size >= 64 else 0
            self._tables[group] = struct.unpack_from("<I", content, 8)[0] | high << 32
        return self._tables[group]

    def _entries(self, content: bytes) -> Iterator[tuple[bytes, int]]:
        offset = 0
        while offset + 8 <= len(content):
            number, length, name_length = struct.unpack_from("<IHB", content, offset)
            if length < 8:
                raise self._damaged("directory")
            name = content[offset + 8 : offset + 8 + name_length]
            if number and name not in (b".", b".."):
                yield name, number
            offset += length

    def _stored(self, offset: int, length: int) -> Iterator[bytes]:
        for done in range(0, length, _PIECE):
            size = min(_PIECE, length - done)
            piece = self._image.read_at(offset + done, size)
            if len(piece) < size:
                raise InvalidDisk(self.name, "ends before what should be on it; build the disk again")
            yield piece

    def _runs(self, inode: Inode) -> Iterator[tuple[int | None, int]]:
        """The first block and the number of blocks of each part of a file, in order; None for holes."""
        if not inode.has_extents:
            raise self._damaged("inode (no extents)")
        position, end = 0, -(-inode.size // self.block_size)
        for logical, physical, count in self._extents(inode.block, _MAX_DEPTH):
            if logical < position or not count:  # a tree that bites its own tail would never end
                raise self._damaged("extent tree")
            yield None, logical - position
            is_written = count <= MAX_EXTENT
            length = count if is_written else count - MAX_EXTENT
            yield physical if is_written else None, length
            position = logical + length
        yield None, max(end - position, 0)

    def _extents(self, node: bytes, depth_left: int) -> Iterator[tuple[int, int, int]]:
        """Logical block, physical block and number of blocks of each extent."""
        magic, entries, _, depth = struct.unpack_from("<HHHH", node) if len(node) >= 12 else (0, 0, 0, 0)
        is_empty = not entries and depth_left < _MAX_DEPTH
        if magic != EXTENT_MAGIC or not depth_left or is_empty or 12 * (entries + 1) > len(node):
            raise self._damaged("extent tree")
        for entry in range(12, 12 * (entries + 1), 12):
            if depth:
                leaf = struct.unpack_from("<I", node, entry + 4)[0] | struct.unpack_from("<H", node, entry + 8)[0] << 32
                yield from self._extents(self._image.read_at(leaf * self.block_size, self.block_size), depth_left - 1)
            else:
                logical, count, high, low = struct.unpack_from("<IHHI", node, entry)
                yield logical, high << 32 | low, count


def _parse_inode(content: bytes) -> Inode:
    fields = INODE.unpack_from(content.ljust(INODE.size, b"\0"))
    mode, uid, size, _, _, mtime, gid, links, _, flags, block, xattrs, size_high = fields[:13]
    _, xattrs_high, uid_high, gid_high, extra_size, _, fine, _ = fields[13:]
    fine = fine if extra_size >= _FINE_MTIME_END else 0
    seconds = (mtime ^ 1 << 31) - (1 << 31) + ((fine & 3) << 32)
    return Inode(
        type=_TYPES.get(mode & 0o170000, b""),
        mode=mode & 0o7777,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        size=size | size_high << 32,
        mtime_ns=seconds * 10**9 + (fine >> 2),
        links=links,
        has_extents=bool(flags & FLAG_EXTENTS),
        block=block,
        xattr_block=xattrs | xattrs_high << 32,
        behind=content[128 + extra_size :],
    )


def zeros(length: int) -> Iterator[bytes]:
    """So many zeros, in pieces."""
    for done in range(0, length, _PIECE):
        yield _ZEROS[: length - done]
