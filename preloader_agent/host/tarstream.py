"""Layer tars as dockerd reads them: members with their raw bytes, in one forward pass.

Python's `tarfile` is not used for layers: it takes a damaged header for the end of the archive, decodes names, and
hides the raw header bytes that tar-split records. The rules are those of Go's archive/tar, which decides what dockerd
accepts: https://github.com/golang/go/tree/master/src/archive/tar (reader.go, strconv.go).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from preloader_agent.errors import InvalidArchive

BLOCK = 512
CHUNK = 1 << 20
MAX_SPECIAL = 1 << 20  # bytes in a PAX header or GNU long name; Go's maxSpecialFileSize

REG, LNK, SYM, CHR, BLK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
GLOBAL_HEADER = b"g"
_HEADER_ONLY = frozenset((LNK, SYM, CHR, BLK, DIR, FIFO))
_XATTR_PREFIX = b"SCHILY.xattr."
_ZERO_BLOCK = bytes(BLOCK)
_OCTAL = frozenset(b"01234567")
_PAX_TEXTS = frozenset((b"path", b"linkpath", b"uname", b"gname"))
_MAX_DIGITS = 21  # with a sign and the space behind them
_PAX_NUMBER = re.compile(rb"[+-]?\d{1,19}")
_PAX_TIME = re.compile(rb"([+-]?\d{1,19})(?:\.(\d*))?")
_LIMIT = 1 << 63  # Go's numbers
_SPARSE_VERSIONS = ((b"0", b"0"), (b"0", b"1"), (b"1", b"0"))


class Readable(Protocol):
    """A stream that is read in order; `read` returns fewer bytes than asked for only at the end."""

    def read(self, size: int, /) -> bytes:
        """So many bytes."""


class Member(NamedTuple):
    """One member of a layer tar; `raw` is every byte since the data of the member before it."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes
    device: tuple[int, int]
    raw: bytes
    xattrs: Mapping[bytes, bytes] = {}


class LayerTar:
    """A layer's tar stream: iterate over its members, take each one's data, then ask for `tail`.

    All of a member's data must be read before the next member is asked for.
    Raises InvalidArchive, naming `layer`, for what dockerd would not read either.
    """

    def __init__(self, stream: Readable, layer: str) -> None:
        self._stream = stream
        self._layer = layer
        self._raw = bytearray()
        self._unread = 0
        self._padding = 0
        self._header_data = 0  # bytes of a global header, whose padding tar-split counts to what follows

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next_member()) is not None:
            self._unread = member.size
            self._padding = -(member.size or self._header_data) % BLOCK
            yield member

    def data(self) -> Iterator[bytes]:
        """The data of the member that was yielded last, in chunks."""
        while self._unread:
            chunk = self._stream.read(min(self._unread, CHUNK))
            if not chunk:
                raise self._invalid("it ends within a file; the archive is truncated")
            self._unread -= len(chunk)
            yield chunk

    def tail(self) -> Iterator[bytes]:
        """What follows the last member: its padding, the two zero blocks, and whatever the writer put behind them."""
        yield bytes(self._raw)
        self._raw.clear()
        while chunk := self._stream.read(CHUNK):
            yield chunk

    def _invalid(self, problem: str) -> InvalidArchive:
        return InvalidArchive(self._layer, problem)

    def _read_raw(self, size: int) -> bytes:
        """Read bytes that tar-split records as they are."""
        content = self._stream.read(size)
        self._raw += content
        return content

    def _read_block(self) -> bytes:
        """A header block, b"" at the end of the stream."""
        block = self._read_raw(BLOCK)
        if block and len(block) < BLOCK:
            raise self._invalid("it ends within a header; the archive is truncated")
        return block

    def _next_member(self) -> Member | None:
        self._read_raw(self._padding)  # it may be missing at the end
        self._header_data = 0
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while True:
            block = self._read_header()
            if block is None:
                return None
            kind = block[156:157]
            if kind == b"x":
                pax = self._parse_pax(self._read_special(block))
            elif kind == b"L":
                long_name = _until_nul(self._read_special(block))
            elif kind == b"K":
                long_link = _until_nul(self._read_special(block))
            else:
                member = self._parse_member(block, pax, long_name, long_link)
                self._raw.clear()
                return member

    def _read_header(self) -> bytes | None:
        """The next header block with a valid checksum, or None at the end of the archive."""
        block = self._read_block()
        if not block:
            return None
        if block == _ZERO_BLOCK:
            second = self._read_block()
            if second and second != _ZERO_BLOCK:
                raise self._invalid("a zero block stands between two headers; the archive is damaged")
            return None
        stored = _parse_octal(block[148:156])
        rest = block[:148] + block[156:]
        unsigned = sum(rest) + 8 * ord(" ")
        # Some old writers add up signed bytes.
        if stored != unsigned and stored != unsigned - 256 * sum(byte > 127 for byte in rest):
            raise self._invalid("a tar header has a wrong checksum; the archive is damaged")
        return block

    def _read_special(self, block: bytes, *, is_padded: bool = True) -> bytes:
        size = self._header_number(block[124:136])
        if not 0 <= size <= MAX_SPECIAL:
            raise self._invalid(
                f"a tar header of type {block[156:157]!r} has {size} bytes, at most {MAX_SPECIAL} are read"
            )
        content = self._read_raw(size)
        if len(content) < size:
            raise self._invalid("it ends within a header; the archive is truncated")
        self._read_raw(-size % BLOCK if is_padded else 0)  # it may be missing at the end
        return content

    def _parse_pax(self, content: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        start = 0
        while start < len(content):
            digits = content[start : start + _MAX_DIGITS].partition(b" ")[0]
            length = int(digits) if _PAX_NUMBER.fullmatch(digits) else 0
            key, equals, value = content[start + len(digits) + 1 : start + max(length, 0)].partition(b"=")
            if not 0 < length <= len(content) - start or not equals or not key or not value.endswith(b"\n"):
                raise self._invalid("a PAX header is not well formed; the archive is damaged")
            if b"\0" in (value if key in _PAX_TEXTS else key):
                raise self._invalid(f"PAX record {show_name(key)} holds a zero byte; the archive is damaged")
            records[key] = value[:-1]
            start += length
        return records

    def _parse_member(self, block: bytes, pax: dict[bytes, bytes], long_name: bytes, long_link: bytes) -> Member:
        name = long_name or pax.get(b"path") or self._header_name(block)
        kind = block[156:157]
        if kind == b"\0":
            kind = DIR if name.endswith(b"/") else REG
        if kind == b"S" or _is_sparse(pax):
            raise self._invalid(
                f"{show_name(name)} is a sparse member, which docker cannot save again; add it without --sparse"
            )
        size = self._number(block[124:136], pax, b"size")
        if kind == GLOBAL_HEADER:
            records = self._parse_pax(self._read_special(block, is_padded=False))
            size, name, self._header_data = 0, records.get(b"path") or self._header_name(block), size
        for key in (b"atime", b"ctime"):
            self._time(b"0", pax, key)
        return Member(
            name=name,
            type=kind,
            mode=self._header_number(block[100:108]) & 0o7777,
            uid=self._number(block[108:116], pax, b"uid"),
            gid=self._number(block[116:124], pax, b"gid"),
            size=0 if kind in _HEADER_ONLY else self._checked_size(size),
            mtime_ns=self._time(block[136:148], pax, b"mtime"),
            linkname=long_link or pax.get(b"linkpath") or _until_nul(block[157:257]),
            device=self._device(block) if kind in (CHR, BLK) else (0, 0),
            raw=bytes(self._raw),
            xattrs={key[len(_XATTR_PREFIX) :]: value for key, value in pax.items() if key.startswith(_XATTR_PREFIX)},
        )

    def _header_name(self, block: bytes) -> bytes:
        """The name in a header, with its prefix; the GNU form has other fields there, but old Go wrote one, too."""
        name = _until_nul(block[:100])
        prefix = _until_nul(block[345:500]) if block[257:263] == b"ustar\0" or _has_go_prefix(block) else b""
        return prefix + b"/" + name if prefix else name

    def _checked_size(self, size: int) -> int:
        if size < 0:
            raise self._invalid(f"a tar header has size {size}, which no file can have; the archive is damaged")
        return size

    def _number(self, text: bytes, pax: dict[bytes, bytes], key: bytes) -> int:
        """A number of a header, or of the PAX record that says it better; an empty record says nothing."""
        value = pax.get(key)
        if not value:
            return self._header_number(text)
        if not _PAX_NUMBER.fullmatch(value) or not -_LIMIT <= int(value) < _LIMIT:
            raise self._invalid(f"PAX record {show_name(key)} is not a number: {show_name(value[:40])}")
        return int(value)

    def _device(self, block: bytes) -> tuple[int, int]:
        return self._header_number(block[329:337]), self._header_number(block[337:345])

    def _time(self, text: bytes, pax: dict[bytes, bytes], key: bytes) -> int:
        """A time in nanoseconds since 1970; Go cuts what is finer."""
        value = pax.get(key)
        if not value:
            return self._header_number(text) * 10**9
        found = _PAX_TIME.fullmatch(value)
        if found is None or not -_LIMIT <= int(found[1]) < _LIMIT:
            raise self._invalid(f"PAX record {show_name(key)} is not a time: {show_name(value[:40])}")
        nanoseconds = int(((found[2] or b"") + b"000000000")[:9])
        return int(found[1]) * 10**9 + (-nanoseconds if value.startswith(b"-") else nanoseconds)

    def _header_number(self, text: bytes) -> int:
        """A number of a header: octal digits, or base 256 when the first bit is set (GNU)."""
        if text[0] & 0x80:
            first = text[0] & 0x7F | (text[0] & 0x40) << 1
            number: int | None = int.from_bytes(bytes([first]) + text[1:], "big", signed=True)
        else:
            number = _parse_octal(text)
        if number is None or not -_LIMIT <= number < _LIMIT:
            raise self._invalid(f"a tar header holds {text!r} where a number is expected; the archive is damaged")
        return number


@lru_cache  # most headers of a layer say the same
def _parse_octal(text: bytes) -> int | None:
    digits = _until_nul(text.strip(b" \0"))
    return int(digits or b"0", 8) if _OCTAL.issuperset(digits) else None


def _has_go_prefix(block: bytes) -> bool:
    """Whether a GNU header has a prefix where its two times should be (a mistake of Go before 1.8)."""
    times = (block[345:357], block[357:369])
    is_gnu = block[257:265] == b"ustar  \0"
    return is_gnu and block[345:500].isascii() and any(time[0] and not _is_number(time) for time in times)


def _is_number(text: bytes) -> bool:
    return bool(text[0] & 0x80) or _parse_octal(text) is not None


def _is_sparse(pax: dict[bytes, bytes]) -> bool:
    """As Go decides it (readGNUSparsePAXHeaders); it ignores versions that it does not know."""
    version = (pax.get(b"GNU.sparse.major", b""), pax.get(b"GNU.sparse.minor", b""))
    return version in _SPARSE_VERSIONS or (version == (b"", b"") and bool(pax.get(b"GNU.sparse.map")))


def _until_nul(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def show_name(name: bytes) -> str:
    """A member's name for a message."""
    return ascii(name.decode(errors="surrogateescape"))
