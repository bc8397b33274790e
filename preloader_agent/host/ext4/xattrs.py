"""Extended attributes as ext4 keeps them: within the inode where they fit, else in one block."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from preloader_agent.host.ext4.layout import BLOCK_SIZE, INODE_SIZE, XATTR_MAGIC, crc32c

_INODE_SPACE = INODE_SIZE - 160 - 4  # bytes behind the fields of the inode, and a magic number
_HEADER = 32  # bytes of a block's
_BLOCK_SPACE = BLOCK_SIZE - _HEADER
_PREFIXES = (
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)
_PREFIX_OF = {number: prefix for prefix, number in _PREFIXES}
_MAGIC = struct.pack("<I", XATTR_MAGIC)
_ENTRY = struct.Struct("<BBHIII")  # length and prefix of the name; place, inode, size of the value; hash
_ACL_ENTRY, _ACL_USER, _ACL_GROUP = struct.Struct("<HHI"), 0x02, 0x08


def can_hold(xattrs: Mapping[bytes, bytes]) -> bool:
    """Whether an inode can have all of some attributes."""
    return _size(divide(xattrs)[1]) <= _BLOCK_SPACE


def divide(xattrs: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Which attributes go into the inode, the smallest first, and which into the block."""
    inline: dict[bytes, bytes] = {}
    outside: dict[bytes, bytes] = {}
    for name, value in sorted(xattrs.items(), key=lambda item: (len(item[0]) + len(item[1]), item)):
        fits = not outside and _size({**inline, name: value}) <= _INODE_SPACE
        (inline if fits else outside)[name] = value
    return inline, outside


def pack_inline(xattrs: Mapping[bytes, bytes]) -> bytes:
    """What stands behind an inode's fields."""
    return struct.pack("<I", XATTR_MAGIC) + _pack(xattrs, _INODE_SPACE, 0, is_hashed=False) if xattrs else b""


def pack_block(xattrs: Mapping[bytes, bytes], block: int, seed: int) -> bytes:
    """The block that holds the attributes, when its number is `block`."""
    body = _pack(xattrs, _BLOCK_SPACE, _HEADER, is_hashed=True)
    content = bytearray(struct.pack("<IIIII12x", XATTR_MAGIC, 1, 1, _block_hash(body), 0) + body)
    struct.pack_into("<I", content, 16, crc32c(content, crc32c(struct.pack("<Q", block), seed)))
    return bytes(content)


def unpack_inline(behind: bytes) -> dict[bytes, bytes]:
    """The attributes behind an inode's fields, ACLs as ext4 stores them. Raises ValueError when they are damaged."""
    return _unpack(behind[4:], 0) if behind.startswith(_MAGIC) else {}


def unpack_block(content: bytes) -> dict[bytes, bytes]:
    """The same for the block."""
    if not content.startswith(_MAGIC):
        raise ValueError("not a block of extended attributes")
    return _unpack(content, _HEADER)


def stored_value(name: bytes, value: bytes) -> bytes:
    """What ext4 stores of a value."""
    return _split(name, value)[2]


def _unpack(content: bytes, position: int) -> dict[bytes, bytes]:
    found = {}
    while content[position : position + 4] != bytes(4):
        if position + _ENTRY.size > len(content):
            raise ValueError("no end of the extended attributes")
        length, prefix, place, inode, size, _ = _ENTRY.unpack_from(content, position)
        rest = content[position + _ENTRY.size :][:length]
        value = content[place : place + size]
        if inode or len(rest) < length or len(value) < size:
            raise ValueError("an extended attribute that is elsewhere")
        found[_PREFIX_OF.get(prefix, b"%d." % prefix) + rest] = value
        position += _ENTRY.size + _padded(length)
    return found


def _size(xattrs: Mapping[bytes, bytes]) -> int:
    """The bytes that attributes take, with the four zeros that end them."""
    split = (_split(*item) for item in xattrs.items())
    return sum(_ENTRY.size + _padded(len(name)) + _padded(len(value)) for _, name, value in split) + 4


def _pack(xattrs: Mapping[bytes, bytes], space: int, offset: int, *, is_hashed: bool) -> bytes:
    """Entries from the start, in the kernel's order, and their values from the end."""
    split = sorted(_split(*item) for item in xattrs.items())
    entries, values = b"", b""
    for (index, _), name, value in split:
        values = value.ljust(_padded(len(value)), b"\0") + values
        position = offset + space - len(values) if value else 0
        value_hash = _entry_hash(name, values[: _padded(len(value))]) if is_hashed else 0
        entries += _ENTRY.pack(len(name), index, position, 0, len(value), value_hash)
        entries += name.ljust(_padded(len(name)), b"\0")
    return entries + bytes(space - len(entries) - len(values)) + values


def _padded(size: int) -> int:
    return size + 3 & ~3


def _split(name: bytes, value: bytes) -> tuple[tuple[int, int], bytes, bytes]:
    """The number of a name's prefix with the length of the rest (the kernel's sort key), the rest, and the value."""
    prefix, number = next(found for found in _PREFIXES if name.startswith(found[0]))
    rest = name[len(prefix) :]
    return (number, len(rest)), rest, _pack_acl(value) if number in (2, 3) else value


def _pack_acl(value: bytes) -> bytes:
    """An ACL as setxattr(2) takes it (version 2) becomes what ext4 stores (version 1): no id where none is used."""
    packed = struct.pack("<I", 1)
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[4:]):
        packed += struct.pack("<HH", tag, permissions)
        packed += struct.pack("<I", number) if tag in (_ACL_USER, _ACL_GROUP) else b""
    return packed


def _entry_hash(name: bytes, padded: bytes) -> int:
    found = 0
    for byte in name:
        found = (found << 5 & 0xFFFFFFFF) ^ found >> 27 ^ byte
    return _fold(found, padded)


def _fold(found: int, words: bytes) -> int:
    for (word,) in struct.iter_unpack("<I", words):
        found = (found << 16 & 0xFFFFFFFF) ^ found >> 16 ^ word
    return found


def _block_hash(body: bytes) -> int:
    found, position = 0, 0
    while body[position : position + 4] != bytes(4):
        found = _fold(found, body[position + 12 : position + 16])
        position += _ENTRY.size + _padded(body[position])
    return found
