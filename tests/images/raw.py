"""Layers that no builder would write: raw header bytes, and what stands between and behind the members."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tests.images.layer import BLOCK, Entry, Form, Layer, make_layer, to_bytes

Part = Entry | bytes

END = bytes(2 * BLOCK)
_FIELDS = {
    "name": 0,
    "mode": 100,
    "uid": 108,
    "gid": 116,
    "size": 124,
    "mtime": 136,
    "checksum": 148,
    "type": 156,
    "target": 157,
    "magic": 257,
    "major": 329,
    "minor": 337,
    "prefix": 345,
    "sparse": 386,  # GNU: four pairs of offset and size
    "real_size": 483,
    "star": 508,
}


def layer(*parts: Part, end: bytes = END) -> Layer:
    """A layer of entries in PAX form and of raw bytes."""
    return Layer(b"".join(part if isinstance(part, bytes) else member(part) for part in parts) + end)


def member(entry: Entry, form: Form = "pax") -> bytes:
    """A member as a builder writes it: headers, data and padding."""
    content = make_layer([entry], form).content
    assert isinstance(content, bytes)
    return content[: -len(END)]


def raw(entry: Entry, **fields: bytes) -> bytes:
    """A member in which some bytes of its header are others; it must have no extended header."""
    block = bytearray(member(entry))
    for name, value in {"checksum": b" " * 8, **fields}.items():
        block[_FIELDS[name] : _FIELDS[name] + len(value)] = value
    if "checksum" not in fields:
        block[148:156] = b"%06o\0 " % sum(block[:BLOCK])
    return bytes(block)


def gnu(entry: Entry) -> bytes:
    return member(entry, "gnu")


def long_text(kind: bytes, text: bytes) -> bytes:
    """GNU's long name (L) or long link target (K) of the next member."""
    return gnu(Entry(name=b"././@LongLink", type=kind, data=text + b"\0"))


def pax(records: Mapping[str, bytes], kind: bytes = b"x") -> bytes:
    """An extended header for the next member, or a global one (g)."""
    return raw_pax(b"".join(record(to_bytes(key), value) for key, value in records.items()), kind)


def raw_pax(content: bytes, kind: bytes = b"x") -> bytes:
    name = b"pax_global_header" if kind == b"g" else b"PaxHeaders.0/x"
    return member(Entry(name=name, type=kind, data=content))


def record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>` and a newline, where the length counts its own digits."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    return b"%d" % (len(rest) + len(str(length))) + rest


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel's xattr: (tag, permissions, id) of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
