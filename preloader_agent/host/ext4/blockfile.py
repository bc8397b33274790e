"""The file that a file system is written to: content as it comes, behind the space for what describes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from preloader_agent.host.ext4.layout import BLOCK_SIZE, FIRST_CONTENT
from preloader_agent.host.node import Extent

_ZERO_BLOCK = bytes(BLOCK_SIZE)
_PIECE = 1 << 20  # bytes that are copied at once
_ZEROS = bytes(16)  # enough to pass over most blocks without a copy


class BlockFile:
    """A file of blocks that grows at its end. Blocks of zeros are not stored: they become holes of their file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("w+b", buffering=1 << 20)
        self._file.seek(FIRST_CONTENT * BLOCK_SIZE)
        self.end = FIRST_CONTENT

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def append(self, chunks: Iterable[bytes]) -> tuple[Extent, ...]:
        """Store the content of a file, given in pieces of whole blocks but for the last one."""
        extents: list[Extent] = []
        logical = 0
        for chunk in chunks:
            for start, end in _filled(chunk):
                self._grow(extents, logical + start, end - start)
                part = chunk[start * BLOCK_SIZE : end * BLOCK_SIZE]
                self._file.write(part)
                self._file.write(bytes(-len(part) % BLOCK_SIZE))
            logical += -(-len(chunk) // BLOCK_SIZE)
        return tuple(extents)

    def append_blocks(self, content: bytes) -> int:
        """Store whole blocks, zeros too; returns the number of the first one."""
        first = self.end
        self._file.write(content)
        self.end += len(content) // BLOCK_SIZE
        return first

    def read(self, extents: Iterable[Extent], size: int) -> Iterator[bytes]:
        """The content of a file of so many bytes, in pieces; what is in no extent is zeros."""
        self._file.flush()
        offset = 0
        for logical, start, length in extents:
            yield from _zeros(logical * BLOCK_SIZE - offset)
            offset = logical * BLOCK_SIZE
            end = min(offset + length * BLOCK_SIZE, size)
            shift = start * BLOCK_SIZE - offset
            while offset < end:
                piece = os.pread(self._file.fileno(), min(_PIECE, end - offset), offset + shift)
                yield piece
                offset += len(piece)
        yield from _zeros(size - offset)

    def write_at(self, block: int, content: bytes) -> None:
        """Overwrite what stands before the content."""
        self._file.seek(block * BLOCK_SIZE)
        self._file.write(content)
        self._file.seek(self.end * BLOCK_SIZE)

    def _grow(self, extents: list[Extent], logical: int, count: int) -> None:
        last = extents[-1] if extents else None
        if last and last.logical + last.length == logical and last.start + last.length == self.end:
            extents[-1] = Extent(last.logical, last.start, last.length + count)
        else:
            extents.append(Extent(logical, self.end, count))
        self.end += count

    def finish(self, blocks: int) -> None:
        """Make the file as long as so many blocks, and write what is buffered."""
        self._file.flush()
        self._file.truncate(blocks * BLOCK_SIZE)

    def copy_from(self, source: BlockFile, first: int, count: int) -> None:
        """Append blocks of another file."""
        source._file.flush()
        self.end += count
        offset, end = first * BLOCK_SIZE, (first + count) * BLOCK_SIZE
        while offset < end:
            piece = os.pread(source._file.fileno(), min(_PIECE, end - offset), offset)
            self._file.write(piece)
            offset += len(piece)


def _zeros(count: int) -> Iterator[bytes]:
    for left in range(count, 0, -_PIECE):
        yield bytes(min(left, _PIECE))


def _filled(chunk: bytes) -> Iterator[tuple[int, int]]:
    """The runs of blocks that are not zeros, as numbers of the first and of the one behind the last."""
    start = None
    for number, offset in enumerate(range(0, len(chunk), BLOCK_SIZE)):
        is_hole = chunk.startswith(_ZEROS, offset) and chunk[offset : offset + BLOCK_SIZE] == _ZERO_BLOCK
        if is_hole and start is not None:
            yield start, number
            start = None
        elif not is_hole and start is None:
            start = number
    if start is not None:
        yield start, -(-len(chunk) // BLOCK_SIZE)
