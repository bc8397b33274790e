"""Directories as ext4 keeps them: names in blocks, and above more than one block an index by the hash of the names.

Without the index (htree), a look-up in a large directory reads all of it. Its nodes look like blocks with a single
unused entry, so that whoever does not know it reads the directory nonetheless.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from preloader_agent.host.ext4.htree import hash_name
from preloader_agent.host.ext4.layout import BLOCK_SIZE, HALF_MD4, crc32c
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM

_FILE_TYPES = {REG: 1, DIR: 2, CHR: 3, BLK: 4, FIFO: 5, SYM: 7}
_TAIL = 12  # bytes at the end of a block of names, which hold its checksum
_SPACE = BLOCK_SIZE - _TAIL
_ROOT_HEADER, _NODE_HEADER = 32, 8  # bytes before the entries of an index block
_INDEX_TAIL = 8
_ROOT_LIMIT = (BLOCK_SIZE - _ROOT_HEADER - _INDEX_TAIL) // 8
_NODE_LIMIT = (BLOCK_SIZE - _NODE_HEADER - _INDEX_TAIL) // 8


class Entry(NamedTuple):
    """A name in a directory, with the inode and the (tar) type of what it names."""

    name: bytes
    inode: int
    type: bytes


class _Leaf(NamedTuple):
    """The smallest hash that is looked up in a block, and the block."""

    hash: int
    content: bytes


def pack_directory(entries: Sequence[Entry], inode: int, parent: int, seed: int, hash_seed: bytes) -> bytes:
    """The blocks of a directory, more than one only with an index; `seed` is what its checksums start from."""
    dots = [Entry(b".", inode, DIR), Entry(b"..", parent, DIR)]
    blocks = list(_fill([*dots, *entries]))
    if len(blocks) == 1:
        return _pack_block(blocks[0], seed)
    return _pack_index(list(_pack_leaves(entries, seed, hash_seed)), dots, seed)


def _pack_leaves(entries: Sequence[Entry], seed: int, hash_seed: bytes) -> Iterator[_Leaf]:
    """Blocks of names in the order of their hashes; the lowest bit says that a hash goes on from the block before."""
    hashes = {entry.name: hash_name(entry.name, hash_seed) for entry in entries}
    last = None
    for block in _fill(sorted(entries, key=lambda entry: hashes[entry.name])):
        first = hashes[block[0].name][0]
        yield _Leaf(first | (first == last), _pack_block(block, seed))
        last = hashes[block[-1].name][0]


def _pack_index(leaves: Sequence[_Leaf], dots: Sequence[Entry], seed: int) -> bytes:
    """The root of the index, then its nodes if there are too many leaves for it, then the leaves."""
    starts = range(0, len(leaves), _NODE_LIMIT) if len(leaves) > _ROOT_LIMIT else range(0)
    places = [(leaf.hash, 1 + len(starts) + number) for number, leaf in enumerate(leaves)]
    nodes = [_pack_node(places[start : start + _NODE_LIMIT], seed) for start in starts]
    tops = [(places[start][0], 1 + number) for number, start in enumerate(starts)] or places
    root = _pack_entry(dots[0], 12) + _pack_entry(dots[1], BLOCK_SIZE - 12)
    root += struct.pack("<IBBBB", 0, HALF_MD4, 8, 1 if nodes else 0, 0)
    return b"".join([_add_places(root, tops, _ROOT_LIMIT, seed), *nodes, *(leaf.content for leaf in leaves)])


def _pack_node(places: Sequence[tuple[int, int]], seed: int) -> bytes:
    return _add_places(struct.pack("<IHBB", 0, BLOCK_SIZE, 0, 0), places, _NODE_LIMIT, seed)


def _add_places(header: bytes, places: Sequence[tuple[int, int]], limit: int, seed: int) -> bytes:
    """A block of the index; its first entry has no hash, but how many entries there are."""
    content = header + struct.pack("<HHI", limit, len(places), places[0][1])
    content += b"".join(struct.pack("<II", *place) for place in places[1:])
    checksum = crc32c(bytes(_INDEX_TAIL), crc32c(content, seed))
    return content.ljust(BLOCK_SIZE - 4, b"\0") + struct.pack("<I", checksum)


def _fill(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries, as many in each block as there is room for."""
    block: list[Entry] = []
    room = _SPACE
    for entry in entries:
        size = _size(entry.name)
        if size > room:
            yield block
            block, room = [], _SPACE
        block.append(entry)
        room -= size
    yield block


def _size(name: bytes) -> int:
    return 8 + (len(name) + 3 & ~3)


def _pack_block(entries: Sequence[Entry], seed: int) -> bytes:
    *others, last = entries
    content = b"".join(_pack_entry(entry, _size(entry.name)) for entry in others)
    content += _pack_entry(last, _SPACE - len(content))
    content = content.ljust(_SPACE, b"\0")
    return content + struct.pack("<IHBBI", 0, _TAIL, 0, 0xDE, crc32c(content, seed))


def _pack_entry(entry: Entry, size: int) -> bytes:
    name, inode, kind = entry
    return struct.pack("<IHBB", inode, size, len(name), _FILE_TYPES[kind]) + name.ljust(len(name) + 3 & ~3, b"\0")
