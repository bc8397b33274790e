"""A stream that a thread of its own reads, decompresses, hashes and copies ahead of its reader.

These take as long as the rest of the work, and free Python's lock: both cores work.
"""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import BinaryIO

from preloader_agent.errors import InvalidArchive
from preloader_agent.store.digest import ALGORITHM, DiffID

_PIECE = 1 << 20
_AHEAD = 4  # pieces


class HashedStream:
    """Reads a stream to its end; then `diff_id` is the digest of all of it, and `copy`, if given, holds it."""

    def __init__(self, stream: BinaryIO, name: str, copy: BinaryIO | None = None) -> None:
        self._stream = stream
        self._name = name
        self._copy = copy
        self._hash = hashlib.sha256()
        self._pieces: Queue[bytes | BaseException] = Queue(_AHEAD)
        self._piece = b""
        self._position = 0
        self._is_at_end = False
        self._is_closing = False
        self._thread = Thread(target=self._read_ahead, daemon=True)

    def __enter__(self) -> HashedStream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_closing = True
        # Whoever goes on after an error reads the same stream; who is interrupted leaves a pipe that stands still.
        is_left = kind is not None and not issubclass(kind, Exception)
        while self._thread.is_alive() and not is_left:
            while not self._pieces.empty():  # it may wait for room
                self._pieces.get()
            self._thread.join(0.01)

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end.

        Raises what reading the stream raises, InvalidArchive for OSError, and the OSError of a copy without room.
        """
        end = self._position + size
        if end <= len(self._piece):
            content = self._piece[self._position : end]
            self._position = end
            return content
        parts = [self._piece[self._position :]]
        left = size - len(parts[0])
        self._position = len(self._piece)
        while left and self._next_piece():
            parts.append(self._piece[:left])
            self._position = len(parts[-1])
            left -= self._position
        return b"".join(parts)

    @property
    def diff_id(self) -> DiffID:
        """The digest of the whole stream, once it has been read."""
        return DiffID(ALGORITHM + self._hash.hexdigest())

    def _next_piece(self) -> bool:
        piece = self._pieces.get() if not self._is_at_end else b""
        if isinstance(piece, BaseException):
            self._is_at_end = True
            raise piece
        self._piece, self._position, self._is_at_end = piece, 0, not piece
        return bool(piece)

    def _read_ahead(self) -> None:
        try:
            piece = b"?"
            while piece and not self._is_closing:
                piece = self._read_piece()
                self._hash.update(piece)
                if self._copy is not None:
                    self._copy.write(piece)
                self._pieces.put(piece)
        except BaseException as err:
            self._pieces.put(err)

    def _read_piece(self) -> bytes:
        try:
            return self._stream.read(_PIECE)
        except OSError as err:
            if not err.errno:  # the error of a damaged gzip stream has none
                raise
            raise InvalidArchive(self._name, f"cannot be read: {err.strerror}") from err
