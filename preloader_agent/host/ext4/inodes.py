"""The inodes of an ext4 file system, and what stands outside of them: directories, extent trees, xattrs."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple, cast

from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.directory import Entry, pack_directory
from preloader_agent.host.ext4.layout import (
    BLOCK_SIZE,
    EXTENT_MAGIC,
    EXTENTS_PER_BLOCK,
    FLAG_EXTENTS,
    FLAG_INDEX,
    INLINE_EXTENTS,
    INODE,
    INODE_SIZE,
    MAX_EXTENT,
    MAX_LINKS,
    ROOT_INODE,
    crc32c,
    inode_seed,
)
from preloader_agent.host.ext4.xattrs import divide, pack_block, pack_inline
from preloader_agent.host.node import Extent, Node
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM

_RESERVED = 10  # inodes; the first of ours is the eleventh
_TYPE_BITS = {REG: 0o100000, DIR: 0o040000, SYM: 0o120000, CHR: 0o020000, BLK: 0o060000, FIFO: 0o010000}
_INLINE_TARGET = 60  # a shorter symlink target stands in the inode
_EXTRA_SIZE = 32  # bytes of an inode's fields behind the first 128
_SECTORS_PER_BLOCK = BLOCK_SIZE // 512


class _Scope(NamedTuple):
    """A part of the tree with inodes of its own; its content stands `shift` blocks behind where its extents say."""

    shift: int
    numbers: dict[int, int]  # of the inodes with several names


class _Place(NamedTuple):
    """A directory whose inode has a number, and is not written yet."""

    node: Node
    inode: int
    parent: int
    scope: _Scope


class Inodes:
    """The inode table, and what stands outside of it: directories, extent trees, xattrs.

    The table is kept in a file, because it is the largest part of what describes many files.
    """

    def __init__(self, blocks: BlockFile, seed: int, hash_seed: bytes) -> None:
        self._blocks = blocks
        self._seed = seed
        self._hash_seed = hash_seed
        self.count = _RESERVED
        self._table: BinaryIO = cast(BinaryIO, TemporaryFile(dir=blocks.path.parent))  # noqa: SIM115 - write_table closes it
        self.directories: list[int] = []

    def add_tree(self, root: Node, shifts: Mapping[Node, int]) -> None:
        """Give every inode below the root a number, and write it."""
        waiting = deque([_Place(root, ROOT_INODE, ROOT_INODE, _Scope(0, {}))])
        while waiting:
            place = waiting.popleft()
            if place.node in shifts:
                place = place._replace(scope=_Scope(shifts[place.node], {}))
            waiting.extend(self._add_directory(place))

    def write_table(self, size: int) -> None:
        """Append the inode table, made that many inodes long, to the blocks."""
        self._table.truncate(size * INODE_SIZE)
        self._table.seek(0)
        while piece := self._table.read(1 << 20):
            self._blocks.append_blocks(piece)
        self._table.close()

    def _add_directory(self, place: _Place) -> list[_Place]:
        """Write a directory and all in it, but for the directories, which are returned."""
        entries: list[Entry] = []
        below: list[_Place] = []
        assert place.node.children is not None
        for name, node in sorted(place.node.children.items()):
            number = place.scope.numbers.get(id(node)) if node.links > 1 else None
            if number is None:
                number = self._new_number(node, place.scope)
                if node.type == DIR:
                    below.append(_Place(node, number, place.inode, place.scope))
                else:
                    self._put(number, node, node.links, self._extents_of(node, place.scope.shift))
            entries.append(Entry(name, number, node.type))
        self._put_directory(place, entries, 2 + len(below))
        return below

    def _put_directory(self, place: _Place, entries: list[Entry], links: int) -> None:
        seed = inode_seed(self._seed, place.inode)
        content = pack_directory(entries, place.inode, place.parent, seed, self._hash_seed)
        extent = Extent(0, self._blocks.append_blocks(content), len(content) // BLOCK_SIZE)
        place.node.size = len(content)
        self._put(place.inode, place.node, links if links <= MAX_LINKS else 1, [extent])
        self.directories.append(place.inode)

    def _new_number(self, node: Node, scope: _Scope) -> int:
        self.count += 1
        if node.links > 1:
            scope.numbers[id(node)] = self.count
        return self.count

    def _extents_of(self, node: Node, shift: int) -> list[Extent]:
        if node.type == SYM and len(node.target) >= _INLINE_TARGET:
            return [Extent(0, self._blocks.append_blocks(node.target.ljust(BLOCK_SIZE, b"\0")), 1)]
        return [Extent(logical, start + shift, length) for logical, start, length in node.extents]

    def _put(self, number: int, node: Node, links: int, extents: list[Extent]) -> None:
        """Write an inode into the table, and what does not fit in it to blocks."""
        seed = inode_seed(self._seed, number)
        end = self._blocks.end
        block, flags = self._pack_block_field(node, extents, seed)
        inline, outside = divide(node.xattrs) if node.xattrs else ({}, {})
        xattrs = self._blocks.append_blocks(pack_block(outside, self._blocks.end, self._seed)) if outside else 0
        used = sum(extent.length for extent in extents) + self._blocks.end - end
        fields = _pack_fields(node, links, used * _SECTORS_PER_BLOCK, flags, block, xattrs)
        content = bytearray((fields + pack_inline(inline)).ljust(INODE_SIZE, b"\0"))
        checksum = crc32c(content, seed)
        content[0x7C:0x7E] = (checksum & 0xFFFF).to_bytes(2, "little")
        content[0x82:0x84] = (checksum >> 16).to_bytes(2, "little")
        self._table.seek((number - 1) * INODE_SIZE)
        self._table.write(content)

    def _pack_block_field(self, node: Node, extents: list[Extent], seed: int) -> tuple[bytes, int]:
        """The 60 bytes of an inode that say where its content is, and the flag that says how."""
        if node.type in (CHR, BLK):
            return _pack_device(*node.device), 0
        if node.type == FIFO or (node.type == SYM and not extents):
            return node.target, 0
        is_indexed = node.type == DIR and node.size > BLOCK_SIZE
        return self._pack_extents(extents, seed), FLAG_EXTENTS | (FLAG_INDEX if is_indexed else 0)

    def _pack_extents(self, extents: list[Extent], seed: int) -> bytes:
        """The root of the extent tree; leaves and inner nodes go to blocks."""
        entries = [
            (logical, struct.pack("<IHHI", logical, count, start >> 32, start & 0xFFFFFFFF))
            for logical, start, count in _split(extents)
        ]
        depth = 0
        while len(entries) > INLINE_EXTENTS:
            groups = [entries[at : at + EXTENTS_PER_BLOCK] for at in range(0, len(entries), EXTENTS_PER_BLOCK)]
            entries = [(group[0][0], self._add_extent_block(group, depth, seed)) for group in groups]
            depth += 1
        return _extent_node(entries, INLINE_EXTENTS, depth)

    def _add_extent_block(self, group: list[tuple[int, bytes]], depth: int, seed: int) -> bytes:
        content = _extent_node(group, EXTENTS_PER_BLOCK, depth)
        block = self._blocks.append_blocks(content + struct.pack("<I", crc32c(content, seed)))
        return struct.pack("<IIHH", group[0][0], block & 0xFFFFFFFF, block >> 32, 0)


def _pack_fields(node: Node, links: int, sectors: int, flags: int, block: bytes, xattrs: int) -> bytes:  # noqa: PLR0913, PLR0917 - its fields
    """An inode's fields, without its checksum; each time stands in two halves."""
    size = len(node.target) or node.size
    seconds, nanoseconds = divmod(node.mtime_ns, 10**9)
    # ext4 keeps seconds in 32 signed bits, and two more bits of them beside the nanoseconds.
    time, extra = seconds & 0xFFFFFFFF, nanoseconds << 2 | (seconds + (1 << 31)) >> 32 & 3
    return INODE.pack(
        _TYPE_BITS[node.type] | node.mode,
        node.uid & 0xFFFF,
        size & 0xFFFFFFFF,
        time,
        time,
        time,
        node.gid & 0xFFFF,
        links,
        sectors & 0xFFFFFFFF,
        flags,
        block,
        xattrs & 0xFFFFFFFF,
        size >> 32,
        sectors >> 32,
        xattrs >> 32,
        node.uid >> 16,
        node.gid >> 16,
        _EXTRA_SIZE,
        extra,
        extra,
        extra,
    )


def _split(extents: list[Extent]) -> Iterator[Extent]:
    """Extents of a length that ext4 can write."""
    for logical, start, count in extents:
        for done in range(0, count, MAX_EXTENT):
            yield Extent(logical + done, start + done, min(count - done, MAX_EXTENT))


def _extent_node(entries: list[tuple[int, bytes]], capacity: int, depth: int) -> bytes:
    header = struct.pack("<HHHHI", EXTENT_MAGIC, len(entries), capacity, depth, 0)
    return (header + b"".join(entry for _, entry in entries)).ljust(12 * (capacity + 1), b"\0")


def _pack_device(major: int, minor: int) -> bytes:
    """The number of a device: the old form where it fits, else the new one behind it."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
