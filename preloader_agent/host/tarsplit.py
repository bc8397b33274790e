"""tar-split: what must be kept beside a layer's tree to write the layer's tar stream again, bit by bit.

`docker save` and `docker push` need it. The format is that of github.com/vbatts/tar-split (tar/storage/entry.go,
tar/asm/disassemble.go): gzip of one JSON object a line, segments of raw bytes between the CRC-64 of each file's data.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode

from fastcrc import crc64

_SEGMENT, _FILE = 2, 1
_GZIP = zlib.MAX_WBITS | 16
# Go's encoder escapes these in every string, so that dockerd's own file and ours are the same bytes.
_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class TarSplit:
    """Collects the records of one layer; they are compressed as they come, so memory stays small."""

    def __init__(self) -> None:
        # zlib writes neither a time nor a name into the header: the same input gives the same bytes.
        self._gzip = zlib.compressobj(wbits=_GZIP)
        self._output = bytearray()
        self._position = 0

    def add_segment(self, raw: bytes) -> None:
        """Raw bytes: headers and padding."""
        self._add({"type": _SEGMENT, "payload": b64encode(raw).decode(), "position": self._position})

    def add_file(self, name: bytes, size: int, crc: int | None) -> None:
        """A member; `crc` is the CRC-64 of its data (crc64/go-iso), None for a member that has none."""
        record: dict[str, object] = {"type": _FILE}
        try:
            record["name"] = name.decode()
        except UnicodeDecodeError:
            record["name_raw"] = b64encode(name).decode()
        if size:
            record["size"] = size
        record["payload"] = None if crc is None else b64encode(crc.to_bytes(8, "big")).decode()
        record["position"] = self._position
        self._add(record)

    def finish(self) -> bytes:
        """The bytes of tar-split.json.gz."""
        self._output += self._gzip.flush()
        return bytes(self._output)

    def _add(self, record: dict[str, object]) -> None:
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        for character, escape in _GO_ESCAPES.items():
            if character in line:
                line = line.replace(character, escape)
        self._output += self._gzip.compress(line.encode() + b"\n")
        self._position += 1


def crc64_of(chunk: bytes, crc: int = 0) -> int:
    """The CRC-64 of some data, going on from the CRC of what came before it (0 at the start)."""
    return crc64.go_iso(chunk, crc)
