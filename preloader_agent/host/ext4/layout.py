"""The numbers of ext4's layout, and its checksums."""

from __future__ import annotations

import struct

from fastcrc import crc32

BLOCK_SIZE = 4096
INODE_SIZE = 256
SUPERBLOCK_OFFSET = 1024
FIRST_CONTENT = 16  # block; those before it are for the superblock and the descriptors of up to 120 GiB
MAGIC = 0xEF53
ROOT_INODE = 2
BLOCKS_PER_GROUP = 8 * BLOCK_SIZE  # one block of bitmap
DESCRIPTOR_SIZE = 64
EXTENT_MAGIC = 0xF30A
MAX_EXTENT = 32768  # blocks; a longer one is allocated, but unwritten: zeros
EXTENTS_PER_BLOCK = (BLOCK_SIZE - 12 - 4) // 12  # without the header and the checksum
INLINE_EXTENTS = 4
XATTR_MAGIC = 0xEA020000
MAX_LINKS = 65000
HALF_MD4 = 1  # how names in indexed directories are hashed

# An inode: mode, uid, size, access, change and modification time; gid, links, sectors, flags; i_block; xattrs, size;
# the high halves of sectors, xattrs, uid and gid; then, behind the first 128 bytes, their number and the other times.
INODE = struct.Struct("<HHIIII4xHHII4x60s4xII4xHHHH4xH2xIII16x")

FLAG_INDEX, FLAG_EXTENTS = 0x1000, 0x80000

COMPAT = {"ext_attr": 0x8, "dir_index": 0x20, "sparse_super2": 0x200}
INCOMPAT = {"filetype": 0x2, "extents": 0x40, "64bit": 0x80, "flex_bg": 0x200}
RO_COMPAT = {"large_file": 0x2, "huge_file": 0x8, "dir_nlink": 0x20, "extra_isize": 0x40, "metadata_csum": 0x400}

_ALL_ONES = 0xFFFFFFFF


def crc32c(content: bytes | bytearray, crc: int = _ALL_ONES) -> int:
    """The CRC-32C that ext4 uses, which unlike the usual one is not inverted; goes on from another one."""
    return crc32.iscsi(bytes(content), crc ^ _ALL_ONES) ^ _ALL_ONES


def inode_seed(filesystem_seed: int, inode: int) -> int:
    """What the checksums of an inode, of its directory blocks and of its extent blocks start from."""
    return crc32c(struct.pack("<II", inode, 0), filesystem_seed)
