"""Layers as Docker's builders write them: entries in, one uncompressed tar and its DiffID out.

The tar is written here and not with `tarfile`, because a layer must hold what Go's archive/tar writes: names and
attribute values that are any bytes, without `hdrcharset`, in PAX or in GNU form, the same bytes each time. `tarfile`
is then an independent reader to check it with.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

EPOCH_NS = 1_700_000_000 * 10**9  # the mtime of an entry that has none of its own
BLOCK = 512
CHUNK = 1 << 20
OCTAL_8 = 0o7777777  # the largest uid or gid that an 8-byte header field holds

Text = str | bytes
Form = Literal["pax", "gnu"]


def to_bytes(text: Text) -> bytes:
    """A name as the bytes that the kernel sees."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member of a layer; the functions below make them."""

    name: bytes
    type: bytes = b"0"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = EPOCH_NS
    data: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    def owned(self, uid: int, gid: int) -> Entry:
        return replace(self, uid=uid, gid=gid)

    def at(self, mtime_ns: int) -> Entry:
        """The same entry with another modification time, in nanoseconds since 1970."""
        return replace(self, mtime_ns=mtime_ns)

    def having(self, **xattrs: bytes) -> Entry:
        """The same entry with extended attributes: `having(**{"user.note": b"..."})`."""
        return replace(self, xattrs={**self.xattrs, **xattrs})


def file(name: Text, data: Text = b"", mode: int = 0o644) -> Entry:
    return Entry(name=to_bytes(name), data=to_bytes(data), mode=mode)


def directory(name: Text, mode: int = 0o755) -> Entry:
    return Entry(name=to_bytes(name).rstrip(b"/") + b"/", type=b"5", mode=mode)


def symlink(name: Text, target: Text) -> Entry:
    return Entry(name=to_bytes(name), type=b"2", target=to_bytes(target), mode=0o777)


def hard_link(name: Text, entry: Entry) -> Entry:
    """Another name of an earlier entry, with the same metadata, as builders write it."""
    return replace(entry, name=to_bytes(name), type=b"1", target=entry.name, data=b"")


def character_device(name: Text, major: int, minor: int, mode: int = 0o666) -> Entry:
    return Entry(name=to_bytes(name), type=b"3", device=(major, minor), mode=mode)


def block_device(name: Text, major: int, minor: int, mode: int = 0o660) -> Entry:
    return Entry(name=to_bytes(name), type=b"4", device=(major, minor), mode=mode)


def fifo(name: Text, mode: int = 0o644) -> Entry:
    return Entry(name=to_bytes(name), type=b"6", mode=mode)


def whiteout(name: Text) -> Entry:
    """The marker that hides `name` of the layers below."""
    folder, slash, base = to_bytes(name).rpartition(b"/")
    return Entry(name=folder + slash + b".wh." + base, mode=0)


def opaque(name: Text) -> Entry:
    """The marker that hides everything below the directory `name` of the layers below."""
    return Entry(name=to_bytes(name).rstrip(b"/") + b"/.wh..wh..opq", mode=0)


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer tar, in memory or in a file."""

    content: bytes | Path

    @cached_property
    def diff_id(self) -> str:
        digest = hashlib.sha256()
        with self.open() as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        return f"sha256:{digest.hexdigest()}"

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def open(self) -> IO[bytes]:
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)


def make_layer(entries: Iterable[Entry], form: Form = "pax") -> Layer:
    """Write the entries, in their order, as one tar; GNU form knows neither attributes nor parts of a second."""
    members = (_gnu_member(entry) if form == "gnu" else _pax_member(entry) for entry in entries)
    return Layer(b"".join(members) + bytes(2 * BLOCK))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _octal(value: int, width: int) -> bytes:
    return f"{value:0{width - 1}o}".encode() + b"\0"


def _header(entry: Entry, size: int, magic: bytes = b"ustar\x0000", prefix: bytes = b"") -> bytes:
    """One 512-byte header; names that are too long are cut, numbers that are too large are 0 (PAX says them)."""
    numbers = [_number(value, 8, magic) for value in (entry.mode, entry.uid, entry.gid)]
    major, minor = (_octal(number, 8) for number in entry.device)
    block = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
        entry.name[:100],
        *numbers,
        _octal(size, 12),
        _number(entry.mtime_ns // 10**9, 12, magic),
        b" " * 8,
        entry.type,
        entry.target[:100],
        magic,
        b"root" if entry.uid == 0 else b"",
        b"root" if entry.gid == 0 else b"",
        major,
        minor,
        prefix,
    )
    return block[:148] + f"{sum(block):06o}".encode() + b"\0 " + block[156:]


def _number(value: int, width: int, magic: bytes) -> bytes:
    """Octal where it fits; else base 256 in GNU form, and 0 in PAX form."""
    if 0 <= value < 8 ** (width - 1):
        return _octal(value, width)
    if magic.endswith(b" \0"):
        raw = value.to_bytes(width, "big", signed=True)
        return bytes([raw[0] | 0x80]) + raw[1:]
    return _octal(0, width)


def _pax_member(entry: Entry) -> bytes:
    name, prefix = _split_name(entry.name)
    records = _pax_records(entry, is_split=bool(prefix))
    extended = b""
    if records:
        folder, _, base = entry.name.rstrip(b"/").rpartition(b"/")
        payload = b"".join(_pax_record(key, records[key]) for key in sorted(records))
        nameless = Entry(name=b"/".join((folder, b"PaxHeaders.0", base)).lstrip(b"/"), type=b"x", mtime_ns=0, mode=0)
        ascii_only = replace(nameless, name=nameless.name.decode("ascii", "ignore").encode())
        extended = _header(ascii_only, len(payload)) + _padded(payload)
    plain = entry if prefix == b"" else replace(entry, name=name)
    return extended + _header(plain, len(entry.data), prefix=prefix) + _padded(entry.data)


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    """A long ASCII name as the header's name and prefix fields, where it can be cut at a slash."""
    if len(name) <= 100 or not name.isascii():
        return name, b""
    cut = name.rstrip(b"/").rfind(b"/", 0, 156)
    return (name[cut + 1 :], name[:cut]) if cut > 0 and len(name) - cut - 1 <= 100 else (name, b"")


def _pax_records(entry: Entry, *, is_split: bool) -> dict[bytes, bytes]:
    records = {b"SCHILY.xattr." + to_bytes(key): value for key, value in entry.xattrs.items()}
    if not entry.name.isascii() or (len(entry.name) > 100 and not is_split):
        records[b"path"] = entry.name
    if not entry.target.isascii() or len(entry.target) > 100:
        records[b"linkpath"] = entry.target
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds < 8**11:
        records[b"mtime"] = f"{seconds}.{nanoseconds:09d}".rstrip("0").rstrip(".").encode()
    records.update({key: b"%d" % value for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)) if value > OCTAL_8})
    return records


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>` and a newline, where the length counts its own digits."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _gnu_member(entry: Entry) -> bytes:
    magic = b"ustar  \0"
    long = b""
    for type_, text in ((b"K", entry.target), (b"L", entry.name)):
        if len(text) > 100:
            marker = Entry(name=b"././@LongLink", type=type_, mtime_ns=0)
            long += _header(marker, len(text) + 1, magic) + _padded(text + b"\0")
    return long + _header(entry, len(entry.data), magic) + _padded(entry.data)
