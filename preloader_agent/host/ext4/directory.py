"""Directories as ext4 keeps them: names in blocks, and above more than one block an index by the hash of the names.

The index (htree) is what `e2fsck -D` would make; without it, a look-up in a large directory reads all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from preloader_agent.host.ext4.layout import BLOCK_SIZE, crc32c
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM

_FILE_TYPES = {REG: 1, DIR: 2, CHR: 3, BLK: 4, FIFO: 5, SYM: 7}
_TAIL = 12  # bytes at the end of a block, which hold its checksum
_SPACE = BLOCK_SIZE - _TAIL


class Entry(NamedTuple):
    """A name in a directory, with the inode and the (tar) type of what it names."""

    name: bytes
    inode: int
    type: bytes


def pack_directory(entries: Sequence[Entry], inode: int, parent: int, seed: int) -> bytes:
    """The blocks of a directory; `seed` is what its checksums start from."""
    dots = [Entry(b".", inode, DIR), Entry(b"..", parent, DIR)]
    blocks = list(_fill([*dots, *entries]))
    return b"".join(_pack_block(block, seed) for block in blocks)


def _fill(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries, as many in each block as there is room for."""
    block: list[Entry] = []
    room = _SPACE
    for entry in entries:
        size = _size(entry)
        if size > room:
            yield block
            block, room = [], _SPACE
        block.append(entry)
        room -= size
    yield block


def _size(entry: Entry) -> int:
    return 8 + (len(entry.name) + 3 & ~3)


def _pack_block(entries: Sequence[Entry], seed: int) -> bytes:
    content = bytearray()
    for number, (name, inode, kind) in enumerate(entries):
        is_last = number == len(entries) - 1
        size = _SPACE - len(content) if is_last else 8 + (len(name) + 3 & ~3)
        content += struct.pack("<IHBB", inode, size, len(name), _FILE_TYPES[kind]) + name
        content += bytes(-len(name) % 4)
    content += bytes(_SPACE - len(content))
    return bytes(content) + struct.pack("<IHBBI", 0, _TAIL, 0, 0xDE, crc32c(content, seed))
