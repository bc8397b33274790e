"""Block groups: how a file system is divided, the bitmaps and descriptors of its groups, and its superblock.

With flex_bg, the inode tables and bitmaps of all groups may stand together at the end, so that content needs no gaps.
"""

from __future__ import annotations

import struct
import uuid as uuids
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from preloader_agent.errors import PreloaderError
from preloader_agent.host.ext4.layout import (
    BLOCK_SIZE,
    BLOCKS_PER_GROUP,
    COMPAT,
    DESCRIPTOR_SIZE,
    FIRST_CONTENT,
    HALF_MD4,
    INCOMPAT,
    INODE_SIZE,
    MAGIC,
    RO_COMPAT,
    SUPERBLOCK_OFFSET,
    crc32c,
)
from preloader_agent.host.node import Extent

_INODES_PER_BLOCK = BLOCK_SIZE // INODE_SIZE
_MAX_GROUPS = (FIRST_CONTENT - 1) * BLOCK_SIZE // DESCRIPTOR_SIZE
_INODE_ZEROED = 0x4  # a group's flag: its inode table is initialised
_FIRST_INODE = 11
_UNSIGNED_HASH = 0x2
_USER_XATTR_AND_ACL = 0xC  # mount options that are on by default
_CRC32C = 1
# What nothing in the content says: when the file system was made. Any constant does, if it is not in the future.
_CLOCK = 1577836800


class Geometry(NamedTuple):
    """How a file system is divided; positions and sizes in blocks."""

    blocks: int
    groups: int
    inodes_per_group: int
    table: int  # where the inode tables start
    block_bitmaps: int
    inode_bitmaps: int

    def group_sizes(self) -> list[int]:
        """The blocks of each group."""
        return [min(BLOCKS_PER_GROUP, self.blocks - first) for first in range(0, self.blocks, BLOCKS_PER_GROUP)]


class _Group(NamedTuple):
    """What a descriptor says of a group besides where its parts are; a bitmap has a bit for each used one."""

    block_bitmap: int
    inode_bitmap: int
    free_blocks: int
    free_inodes: int
    directories: int


def divide(content_end: int, inodes: int) -> Geometry:
    """The geometry for so many inodes, with tables and bitmaps behind the content."""
    for groups in range(1, _MAX_GROUPS + 1):
        table_blocks = -(-inodes // (groups * _INODES_PER_BLOCK))  # of each group
        bitmaps = content_end + groups * table_blocks
        end = bitmaps + 2 * groups
        if table_blocks * _INODES_PER_BLOCK <= BLOCKS_PER_GROUP and end <= groups * BLOCKS_PER_GROUP:
            blocks = max(end, (groups - 1) * BLOCKS_PER_GROUP + 1)
            per_group = table_blocks * _INODES_PER_BLOCK
            return Geometry(blocks, groups, per_group, content_end, bitmaps, bitmaps + groups)
    raise PreloaderError(f"a disk holds at most {_MAX_GROUPS * BLOCKS_PER_GROUP * BLOCK_SIZE >> 30} GiB; make several")


def pack_groups(  # noqa: PLR0913 - each is one property of a file system
    geometry: Geometry,
    inodes: int,
    directories: Iterable[int],
    unused: Sequence[Extent],
    *,
    label: str,
    uuid: uuids.UUID,
) -> tuple[bytes, bytes]:
    """What stands before the content (superblock and descriptors), and the bitmaps that stand behind the inode tables.

    `inodes` is how many are used, the first ones; `directories` is the numbers of those that are directories;
    `unused` is content that nothing refers to.
    """
    seed = crc32c(uuid.bytes)
    groups = _groups(geometry, inodes, directories, unused)
    descriptors = b"".join(_descriptor(geometry, number, group, seed) for number, group in enumerate(groups))
    superblock = _superblock(geometry, groups, label, uuid)
    bitmaps = [group.block_bitmap for group in groups] + [group.inode_bitmap for group in groups]
    start = bytes(SUPERBLOCK_OFFSET) + superblock.ljust(BLOCK_SIZE - SUPERBLOCK_OFFSET, b"\0")
    return start + descriptors, b"".join(bitmap.to_bytes(BLOCK_SIZE, "little") for bitmap in bitmaps)


def _groups(geometry: Geometry, inodes: int, directories: Iterable[int], unused: Sequence[Extent]) -> list[_Group]:
    descriptors_end = 1 + -(-geometry.groups * DESCRIPTOR_SIZE // BLOCK_SIZE)
    end = geometry.inode_bitmaps + geometry.groups
    gaps = [Extent(0, descriptors_end, FIRST_CONTENT - descriptors_end), Extent(0, end, geometry.blocks - end)]
    free = _free_bits(geometry, [*gaps, *unused])
    counts = Counter((inode - 1) // geometry.inodes_per_group for inode in directories)
    groups = []
    for number, size in enumerate(geometry.group_sizes()):
        used_inodes = min(max(inodes - number * geometry.inodes_per_group, 0), geometry.inodes_per_group)
        groups.append(
            _Group(
                _ALL_BITS & ~free[number],  # what is behind the last block counts as used, and so for inodes
                _ALL_BITS & ~(_bits(geometry.inodes_per_group) & ~_bits(used_inodes)),
                (free[number] & _bits(size)).bit_count(),
                geometry.inodes_per_group - used_inodes,
                counts[number],
            )
        )
    return groups


def _bits(count: int) -> int:
    return (1 << count) - 1


_ALL_BITS = _bits(8 * BLOCK_SIZE)


def _free_bits(geometry: Geometry, free: Iterable[Extent]) -> list[int]:
    """A bit for each free block of each group."""
    bits = [0] * geometry.groups
    for _, start, count in free:
        for group in range(start // BLOCKS_PER_GROUP, -(-(start + count) // BLOCKS_PER_GROUP)):
            first = max(start - group * BLOCKS_PER_GROUP, 0)
            end = min(start + count - group * BLOCKS_PER_GROUP, BLOCKS_PER_GROUP)
            bits[group] |= _bits(end) & ~_bits(first)
    return bits


def _descriptor(geometry: Geometry, number: int, group: _Group, seed: int) -> bytes:
    places = (
        geometry.block_bitmaps + number,
        geometry.inode_bitmaps + number,
        geometry.table + number * geometry.inodes_per_group // _INODES_PER_BLOCK,
    )
    counts = (group.free_blocks, group.free_inodes, group.directories)
    checksums = (
        crc32c(group.block_bitmap.to_bytes(BLOCK_SIZE, "little"), seed),
        crc32c(group.inode_bitmap.to_bytes(BLOCK_SIZE, "little")[: geometry.inodes_per_group // 8], seed),
    )
    low = struct.pack(
        "<IIIHHHHIHHHH",
        *(place & 0xFFFFFFFF for place in places),
        *(count & 0xFFFF for count in counts),
        _INODE_ZEROED,
        0,
        *(checksum & 0xFFFF for checksum in checksums),
        0,
        0,
    )
    high = struct.pack(
        "<IIIHHHHIHHI",
        *(place >> 32 for place in places),
        *(count >> 16 for count in counts),
        0,
        0,
        *(checksum >> 16 for checksum in checksums),
        0,
    )
    content = bytearray(low + high)
    struct.pack_into("<H", content, 30, crc32c(content, crc32c(struct.pack("<I", number), seed)) & 0xFFFF)
    return bytes(content)


def _superblock(geometry: Geometry, groups: Sequence[_Group], label: str, uuid: uuids.UUID) -> bytes:
    content = bytearray(1024)
    for offset, form, value in (
        (0x00, "I", geometry.groups * geometry.inodes_per_group),
        (0x04, "I", geometry.blocks & 0xFFFFFFFF),
        (0x0C, "I", sum(group.free_blocks for group in groups)),
        (0x10, "I", sum(group.free_inodes for group in groups)),
        (0x18, "I", BLOCK_SIZE.bit_length() - 11),
        (0x1C, "I", BLOCK_SIZE.bit_length() - 11),  # a cluster is a block
        (0x20, "I", BLOCKS_PER_GROUP),
        (0x24, "I", BLOCKS_PER_GROUP),
        (0x28, "I", geometry.inodes_per_group),
        (0x30, "I", _CLOCK),  # last write
        (0x36, "H", 0xFFFF),  # no bound on the number of mounts
        (0x38, "H", MAGIC),
        (0x3A, "H", 1),  # clean
        (0x3C, "H", 1),  # go on after errors
        (0x40, "I", _CLOCK),  # last check
        (0x4C, "I", 1),  # inodes of any size
        (0x54, "I", _FIRST_INODE),
        (0x58, "H", INODE_SIZE),
        (0x5C, "I", sum(COMPAT.values())),
        (0x60, "I", sum(INCOMPAT.values())),
        (0x64, "I", sum(RO_COMPAT.values())),
        (0x68, "16s", uuid.bytes),
        (0x78, "16s", label.encode()),
        (0xEC, "16s", uuid.bytes),  # the seed of the hashes in directories
        (0xFC, "B", HALF_MD4),
        (0xFE, "H", DESCRIPTOR_SIZE),
        (0x100, "I", _USER_XATTR_AND_ACL),
        (0x108, "I", _CLOCK),  # made
        (0x15C, "H", 32),  # what an inode has at least behind its first 128 bytes, and what it should have
        (0x15E, "H", 32),
        (0x160, "I", _UNSIGNED_HASH),
        (0x174, "B", 4),  # groups in a flex group: 2 ** 4
        (0x175, "B", _CRC32C),
    ):
        struct.pack_into(f"<{form}", content, offset, value)
    struct.pack_into("<I", content, 0x3FC, crc32c(content[:0x3FC]))
    return bytes(content)
