"""Disk images, raw and qcow2, as random access to the bytes of the disk; without a mount and without root."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from preloader_agent.errors import CommandFailed, InvalidDisk
from preloader_agent.host.run import run
from preloader_agent.host.scratch import scratch_folder

_QCOW_MAGIC = b"QFI\xfb"
_HEADER_SIZE = 80  # bytes of it that are looked at
_EXTERNAL_DATA = 1 << 2
_LARGE_FILES = Path("/var/tmp")  # where the FHS has them; /tmp is often in memory
_MAX_OFFSET = (1 << 63) - 1  # what a file can have


class DiskImage(Protocol):
    """Random access to the bytes of a disk."""

    name: str

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the virtual disk; short at its end."""

    def close(self) -> None:
        """Let go of it."""


class RawImage:
    """A raw image, or a block device."""

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self.name = str(name or path)
        self._file = path.open("rb", buffering=0)

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        if offset > _MAX_OFFSET - length:
            return b""
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as err:
            raise InvalidDisk(self.name, f"cannot be read at byte {offset}: {err.strerror}") from err

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class QcowImage:
    """A qcow2 image, read in large pieces through qemu-img, which knows every variant of the format."""

    _PIECE = 4 << 20

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path.absolute()
        with path.open("rb") as file:
            self._size: int = struct.unpack_from(">Q", file.read(_HEADER_SIZE).ljust(_HEADER_SIZE, b"\0"), 24)[0]
        self._folder = TemporaryDirectory(prefix="preloader-")
        self._pieces: dict[int, bytes] = {}

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        first, last = offset // self._PIECE, (offset + length - 1) // self._PIECE
        content = b"".join(self._piece(number) for number in range(first, last + 1))
        start = offset - first * self._PIECE
        return content[start : start + length]

    def close(self) -> None:
        """Forget the pieces."""
        self._folder.cleanup()

    def _piece(self, number: int) -> bytes:
        if number not in self._pieces:
            self._pieces[number] = self._read_piece(number * self._PIECE)
        return self._pieces[number]

    def _read_piece(self, offset: int) -> bytes:
        """A part of the disk; `qemu-img dd` of QEMU 7.2 cannot skip more than it copies."""
        if offset >= max(self._size, 1):
            return b""
        filename, target = str(self._path).replace(",", ",,"), Path(self._folder.name, "piece")
        part = f"driver=raw,offset={offset},size={min(self._PIECE, self._size - offset)}"
        image = f"{part},file.driver=qcow2,file.file.driver=file,file.file.filename={filename}"
        try:
            run(["qemu-img", "convert", "--image-opts", "-O", "raw", image, target])
        except CommandFailed as err:
            raise InvalidDisk(self.name, f"is no sound qcow2 image: {err.output}") from err
        return target.read_bytes()


def open_image(path: Path) -> RawImage | QcowImage:
    """Open a raw or qcow2 image. Raises InvalidDisk when it cannot be read."""
    return QcowImage(path) if is_qcow2(path) else RawImage(path)


@contextmanager
def as_raw(path: Path) -> Iterator[Path]:
    """The raw image of a disk, which programs can read: the disk itself, or a temporary copy of a qcow2 image.

    Raises InvalidDisk like `open_image`, and CommandFailed when it cannot be copied.
    """
    if not is_qcow2(path):
        yield path.absolute()
        return
    with scratch_folder(large_files_folder()) as folder:
        raw = folder / "disk.raw"
        run(["qemu-img", "convert", "-W", "-f", "qcow2", "-O", "raw", path.absolute(), raw])
        yield raw


def large_files_folder() -> Path | None:
    """Where temporary files of the size of a disk belong; None where tempfile's own choice is as good."""
    return None if "TMPDIR" in os.environ or not _LARGE_FILES.is_dir() else _LARGE_FILES


def is_qcow2(path: Path, *, may_have_others: bool = False) -> bool:
    """Whether an image is qcow2, not raw. Raises InvalidDisk when it cannot be read, or has others and may not."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
    except OSError as err:
        raise InvalidDisk(path, f"cannot be read: {err.strerror}") from err
    if header.startswith(_QCOW_MAGIC) and not may_have_others:
        _refuse_other_files(path, header)
    return header.startswith(_QCOW_MAGIC)


def _refuse_other_files(path: Path, header: bytes) -> None:
    """A qcow2 image can name other files to read; ours has none, and a stranger's shall not choose any here.

    Layout: QEMU docs/interop/qcow2.txt: offset of the backing file's name at 8, incompatible features at 72.
    """
    version, backing = struct.unpack_from(">IQ", header.ljust(_HEADER_SIZE, b"\0"), 4)
    (features,) = struct.unpack_from(">Q", header.ljust(_HEADER_SIZE, b"\0"), 72)
    if backing or (version >= 3 and features & _EXTERNAL_DATA):
        raise InvalidDisk(path, "keeps its data in another file; flatten it first: qemu-img convert -O qcow2")
