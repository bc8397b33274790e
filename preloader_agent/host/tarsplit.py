"""tar-split: what must be kept beside a layer's tree to write the layer's tar stream again, bit by bit.

`docker save` and `docker push` need it. The format is that of github.com/vbatts/tar-split (tar/storage/entry.go,
tar/asm/disassemble.go): gzip of one JSON object a line, segments of raw bytes between the CRC-64 of each file's data.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from json.encoder import encode_basestring
from types import TracebackType
from typing import Any, NamedTuple

from fastcrc import crc64

_GZIP = zlib.MAX_WBITS | 16
_BATCH = 1 << 18  # characters of records that are compressed at once
_WAITING = 4  # batches that may wait for the thread
# What Go's encoder escapes beside what JSON must.
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_MAX_FILE = 1 << 44  # bytes that a file of ext4 can have
_MAX_LINE = 16 << 20  # bytes; a member's headers have some kB
_PIECE = 1 << 20


class FileRecord(NamedTuple):
    """A member of a layer; `crc` is the CRC-64 of its data (crc64/go-iso), None for a member that has none."""

    name: bytes
    size: int
    crc: int | None


class TarSplit:
    """Collects the records of one layer; a thread compresses them as they come, so memory stays small."""

    def __init__(self) -> None:
        # zlib writes neither a time nor a name into the header: the same input gives the same bytes.
        self._gzip = zlib.compressobj(wbits=_GZIP)
        self._thread = ThreadPoolExecutor(1)
        self._output: list[Future[bytes]] = []
        self._lines: list[str] = []
        self._length = 0
        self._position = 0

    def __enter__(self) -> TarSplit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add_segment(self, raw: bytes) -> None:
        """Raw bytes: headers and padding."""
        self._add(f'{{"type":2,"payload":"{b64encode(raw).decode()}"')

    def add_file(self, name: bytes, size: int, crc: int | None) -> None:
        """A member; `crc` is the CRC-64 of its data (crc64/go-iso), None for a member that has none."""
        try:
            text = f',"name":{_encode(name.decode())}' if name else ""
        except UnicodeDecodeError:
            text = f',"name_raw":"{b64encode(name).decode()}"'
        count = f',"size":{size}' if size else ""
        payload = "null" if crc is None else f'"{b64encode(crc.to_bytes(8, "big")).decode()}"'
        self._add(f'{{"type":1{text}{count},"payload":{payload}')

    def finish(self) -> bytes:
        """The bytes of tar-split.json.gz."""
        self._compress()
        return b"".join(output.result() for output in self._output) + self._gzip.flush()

    def _add(self, record: str) -> None:
        line = f'{record},"position":{self._position}}}\n'
        self._lines.append(line)
        self._length += len(line)
        self._position += 1
        if self._length >= _BATCH:
            self._compress()

    def _compress(self) -> None:
        batch = "".join(self._lines).encode()
        self._lines.clear()
        self._length = 0
        if len(self._output) >= _WAITING:
            self._output[-_WAITING].result()
        self._output.append(self._thread.submit(self._gzip.compress, batch))


def _encode(text: str) -> str:
    """A JSON string as Go's encoder writes it, so that dockerd's own file and ours are the same bytes."""
    encoded = encode_basestring(text)
    for character, escape in _GO_ESCAPES.items():
        if character in encoded:
            encoded = encoded.replace(character, escape)
    return encoded


def crc64_of(chunk: bytes, crc: int = 0) -> int:
    """The CRC-64 of some data, going on from the CRC of what came before it (0 at the start)."""
    return crc64.go_iso(chunk, crc)


def read_tar_split(pieces: Iterable[bytes]) -> Iterator[bytes | FileRecord]:
    """The segments and members that a tar-split.json.gz records, in order. Raises ValueError when it is damaged."""
    for line in _lines(pieces):
        try:
            yield _parse_record(json.loads(line))
        except (KeyError, TypeError, AttributeError, RecursionError) as err:
            raise ValueError("a line is no record of tar-split") from err


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a gzip stream; memory is bounded, whatever it holds."""
    rest = b""
    for content in _decompress(pieces):
        *lines, rest = (rest + content).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise ValueError(f"a line has more than {_MAX_LINE} bytes")
        yield from lines
    if rest:
        raise ValueError("its last line has no end")


def _decompress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    gzip = zlib.decompressobj(wbits=_GZIP)
    try:
        for piece in pieces:
            left = piece
            while left and not gzip.unused_data:
                yield gzip.decompress(left, _PIECE)
                left = gzip.unconsumed_tail
        yield gzip.flush()
    except zlib.error as err:
        raise ValueError(f"its gzip stream is damaged: {err}") from err
    if not gzip.eof or gzip.unused_data:
        raise ValueError("its gzip stream has no end" if not gzip.eof else "something stands behind its gzip stream")


def _parse_record(record: dict[str, Any]) -> bytes | FileRecord:
    if record["type"] == 2:
        return b64decode(record["payload"], validate=True)
    if record["type"] != 1:
        raise ValueError(f"a record has the unknown type {record['type']!r:.20}")
    name = record["name"].encode() if "name" in record else b64decode(record.get("name_raw", ""), validate=True)
    size, payload = record.get("size", 0), record["payload"]
    crc = None if payload is None else int.from_bytes(b64decode(payload, validate=True), "big")
    if not isinstance(size, int) or not 0 <= size < _MAX_FILE:
        raise ValueError(f"a member has {size!r:.40} bytes")
    return FileRecord(name, size, crc)
