"""Compressed streams: told by their first bytes, as dockerd does, and read without a seek."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import zstandard

from preloader_agent.errors import InvalidArchive

_OPENERS: dict[bytes, Callable[[BinaryIO], object]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\x28\xb5\x2f\xfd": lambda stream: zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
# A frame of zstd that is passed over may come first: pzstd writes it.
_OPENERS |= {bytes((0x50 + number,)) + b"\x2a\x4d\x18": _OPENERS[b"\x28\xb5\x2f\xfd"] for number in range(16)}
_DAMAGED = (zlib.error, zstandard.ZstdError, lzma.LZMAError, EOFError)


class FullReads(io.RawIOBase):
    """A pipe whose reads return as much as was asked for, so that `peek` of a buffer on it shows a whole magic."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill the buffer, but at the end of the stream."""
        content = memoryview(buffer)
        done = 0
        while done < len(content) and (count := self._stream.readinto(content[done:])):  # type: ignore[attr-defined]
            done += count
        return done


@contextmanager
def decompressed(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """What a stream holds, decompressed if it is compressed; the stream must have `peek`.

    The block raises InvalidArchive, naming the stream, when its compression is damaged.
    """
    opener = _find_opener(stream)
    if opener is None:
        yield stream
        return
    try:
        # Not closed here: that would wait for a thread that reads it.
        yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, opener(stream)), 1 << 18))
    except (*_DAMAGED, OSError) as err:
        if isinstance(err, OSError) and err.errno:  # gzip and bz2 raise it without a number
            raise
        raise InvalidArchive(name, f"its compressed stream is damaged: {err}; get it again") from err


def is_compressed(stream: BinaryIO) -> bool:
    """Whether a stream, which must have `peek`, starts like a compressed one."""
    return _find_opener(stream) is not None


def _find_opener(stream: BinaryIO) -> Callable[[BinaryIO], object] | None:
    magic = cast(io.BufferedReader, stream).peek(8)
    return next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
