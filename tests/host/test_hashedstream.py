"""A stream that is read ahead gives what it holds, its digest, and its errors; and its thread ends with it."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.hashedstream import HashedStream

PIECE = 1 << 20  # what its thread reads at once
BOUND = 20.0  # seconds for what takes a fraction of one


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 9 * PIECE + 7])
@pytest.mark.parametrize("step", [512, 100_003, PIECE, PIECE + 1, 5 * PIECE, 20 * PIECE])
def test_reads_are_of_the_size_that_was_asked_for(size: int, step: int) -> None:
    content = noise(size)
    with HashedStream(io.BytesIO(content), "layer") as stream:
        for start in range(0, size, step):
            assert stream.read(step) == content[start : start + step]
        assert stream.read(step) == stream.read(step) == b"", "the end, however often"
        assert stream.diff_id == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_reads_of_different_sizes() -> None:
    content = noise(6 * PIECE + 5)
    change, start = random.Random(0), 0
    with HashedStream(io.BytesIO(content), "layer") as stream:
        while start < len(content):
            size = change.choice([0, 1, 511, 512, 70_000, PIECE, 2 * PIECE + 1])
            assert stream.read(size) == content[start : start + size]
            start += size


def test_reading_goes_on_only_so_far_ahead() -> None:
    """A layer does not fit into memory."""
    content = io.BytesIO(bytes(50 * PIECE))
    with HashedStream(content, "layer") as stream:
        assert stream.read(1) == b"\0"
        assert stream.read(PIECE) == bytes(PIECE)
        assert content.tell() <= 8 * PIECE


class Failing(io.RawIOBase):
    """A stream that fails when it has given so many bytes."""

    def __init__(self, size: int, error: BaseException) -> None:
        self._left = size
        self._error = error

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            raise self._error
        count = min(size, self._left)
        self._left -= count
        return bytes(count)


def failing(size: int, error: BaseException) -> BinaryIO:
    return cast(BinaryIO, Failing(size, error))


def test_errors_of_the_system_are_those_of_the_archive() -> None:
    with HashedStream(failing(3 * PIECE, OSError(errno.EIO, os.strerror(errno.EIO))), "x.tar") as stream:
        assert stream.read(3 * PIECE) == bytes(3 * PIECE)
        with pytest.raises(InvalidArchive, match=r"^x\.tar: cannot be read: Input/output error$"):
            stream.read(1)


@pytest.mark.parametrize("error", [ValueError("of the stream"), OSError("not a gzipped file"), EOFError("too short")])
def test_other_errors_are_passed_on(error: Exception) -> None:
    """Those of a decompressor have no number; it is the caller who knows them."""
    with HashedStream(failing(5, error), "x.tar") as stream:
        with pytest.raises(type(error)) as raised:
            stream.read(6)
        assert raised.value is error
        assert stream.read(6) == b"", "and then the stream is at its end"


def test_damaged_compression_is_found_where_it_is_read() -> None:
    damaged = gzip.compress(noise(3 * PIECE))[:-1000]
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=io.BytesIO(damaged)))
    with HashedStream(stream, "x.tar") as hashed, pytest.raises(EOFError):
        hashed.read(4 * PIECE)


# --- what is copied ---


@pytest.mark.parametrize("size", [0, 1, PIECE, 3 * PIECE + 7])
def test_copy_holds_all_of_it(size: int) -> None:
    content, copy = noise(size), io.BytesIO()
    with HashedStream(io.BytesIO(content), "layer", copy) as stream:
        while stream.read(100_003):
            pass
    assert copy.getvalue() == content


def test_copy_without_room_is_no_fault_of_the_archive() -> None:
    with open("/dev/full", "wb", buffering=0) as full, HashedStream(io.BytesIO(noise(5)), "layer", full) as stream:
        with pytest.raises(OSError, match="No space left") as raised:
            stream.read(1)
        assert raised.value.errno == errno.ENOSPC
        assert stream.read(1) == b""


# --- how it ends ---


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.daemon}


def test_thread_ends_at_the_end_of_the_stream() -> None:
    before = readers()
    with HashedStream(io.BytesIO(noise(10 * PIECE)), "layer") as stream:
        assert len(readers() - before) == 1
        while stream.read(PIECE):
            pass
    assert readers() == before


def test_thread_that_waits_for_room_ends_when_nobody_reads() -> None:
    before = readers()
    with HashedStream(io.BytesIO(bytes(50 * PIECE)), "layer") as stream:
        assert stream.read(1) == b"\0"
    assert readers() == before


@contextmanager
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    """The two ends of a pipe, the second as a descriptor."""
    source, sink = os.pipe()
    with open(source, "rb", buffering=0) as stream:
        try:
            yield cast(BinaryIO, stream), sink
        finally:
            os.close(sink)


def read_and_raise(source: BinaryIO, error: BaseException, then: Callable[[], None] = lambda: None) -> None:
    with HashedStream(source, "layer") as stream:
        assert stream.read(5) == b"layer"
        then()
        raise error


def test_after_an_error_nobody_else_reads_the_stream() -> None:
    """Whoever goes on with it must not meet the thread there: it is waited for, however long its read takes."""
    with pipe() as (source, sink):
        os.write(sink, b"layer")
        timer = threading.Timer(0.2, os.write, (sink, b"-and more"))
        with pytest.raises(InvalidArchive):
            read_and_raise(source, InvalidArchive("layer", "is none"), timer.start)
        timer.join()
        os.write(sink, b"what follows")
        assert source.read(100) == b"what follows"


def test_interruption_does_not_wait_for_a_pipe_that_stands_still() -> None:
    before = readers()
    with pipe() as (source, sink):
        os.write(sink, b"layer")
        with pytest.raises(KeyboardInterrupt):
            read_and_raise(source, KeyboardInterrupt())
        (left,) = readers() - before
        assert left.is_alive()
        os.write(sink, b"end")
        left.join(BOUND)
        assert not left.is_alive()
