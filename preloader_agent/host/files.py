"""The files of an input, by name: those of a tar file, of a folder, or of a tar stream.

Each gives its small files, and stages its layers. A tar file and a folder are read where they are needed; a stream
(standard input, a program, a compressed file) cannot be asked for anything twice, so its layers are staged as they
come, before anybody knows what they are for.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.compression import FullReads, decompressed
from preloader_agent.host.staging import StagedLayer, Stager

EXPECTED = "expected what `docker save` writes, or an OCI image layout"
MAX_DOCUMENT = 16 << 20  # bytes of a manifest or configuration; real ones have a few kB
_MAX_DOCUMENTS = 64 << 20  # bytes of all those that are kept of a stream


class Files(Protocol):
    """The files of an input, by normalized name."""

    name: str

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def read(self, name: str) -> bytes | None:
        """A small file, or None when it is not there."""

    def stage(self, name: str, stager: Stager) -> StagedLayer:
        """Stage the layer that a file holds."""

    def size(self, name: str) -> int:
        """The bytes of a layer's file that are still to be read, 0 when it is staged already."""


class TarFiles:
    """The files of a tar file, read where they are needed; some writers put "./" before their names."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        try:
            self._tar = _open_tar(file, "r:")
            # Reads every header: a truncated archive is found before anything is written.
            self._members = {posixpath.normpath(member.name): member for member in _members(self._tar)}
        except OSError as err:
            raise InvalidArchive(name, f"cannot be read: {err.strerror or err}") from err
        except tarfile.TarError as err:
            raise InvalidArchive(name, f"not a sound tar file ({err}); {EXPECTED}") from err
        self._links = {name: target for name, member in self._members.items() if (target := _link_target(name, member))}

    def has(self, name: str) -> bool:
        """See Files."""
        return self._find(name) is not None

    def read(self, name: str) -> bytes | None:
        """See Files."""
        member = self._find(name)
        if member is None:
            return None
        check_document_size(self.name, name, member.size)
        with self._open(member) as file:
            return file.read()

    def stage(self, name: str, stager: Stager) -> StagedLayer:
        """See Files."""
        member = self._find(name)
        if member is None:
            raise missing(self.name, name)
        with self._open(member) as file:
            return stager.stage(file, f"{self.name}: layer {member.name}")

    def size(self, name: str) -> int:
        """See Files."""
        member = self._find(name)
        return member.size if member else 0

    def _find(self, name: str) -> tarfile.TarInfo | None:
        member = self._members.get(_resolve(name, self._links))
        return member if member and member.isreg() else None

    def _open(self, member: tarfile.TarInfo) -> BinaryIO:
        return cast(BinaryIO, self._tar.extractfile(member))


class FolderFiles:
    """The files of a folder, and no others, whatever a manifest calls them."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def has(self, name: str) -> bool:
        """See Files."""
        return self._find(name) is not None

    def read(self, name: str) -> bytes | None:
        """See Files."""
        path = self._find(name)
        if path is None:
            return None
        with open_file(path) as file:
            check_document_size(self.name, name, os.fstat(file.fileno()).st_size)
            return file.read()

    def stage(self, name: str, stager: Stager) -> StagedLayer:
        """See Files."""
        path = self._find(name)
        if path is None:
            raise missing(self.name, name)
        with open_file(path) as file:
            return stager.stage(file, f"{self.name}: layer {name}")

    def size(self, name: str) -> int:
        """See Files."""
        path = self._find(name)
        return path.stat().st_size if path else 0

    def _find(self, name: str) -> Path | None:
        """A file below the folder; symlinks are followed, since build tools make layouts of them."""
        path = self._path / name
        try:
            return path if not posixpath.normpath(name).startswith(("/", "..")) and path.is_file() else None
        except OSError as err:
            raise InvalidArchive(path, f"cannot be read: {err.strerror}") from err


class StreamFiles:
    """The files of a tar stream that was read to its end: small files are kept, layers are staged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._documents: dict[str, bytes] = {}
        self._layers: dict[str, StagedLayer | InvalidArchive] = {}
        self._links: dict[str, str] = {}

    def add(self, member: tarfile.TarInfo, file: io.BufferedReader | None, stager: Stager) -> None:
        """Take a member; what is no layer after all is an error only if an image needs it."""
        name = posixpath.normpath(member.name)
        if file is None:
            if target := _link_target(name, member):
                self._links[name] = target
        elif _is_document(file):
            self._add_document(name, file, member.size)
        else:
            try:
                self._layers[name] = stager.stage(cast(BinaryIO, file), f"{self.name}: layer {member.name}")
            except InvalidArchive as err:
                self._layers[name] = err

    def has(self, name: str) -> bool:
        """See Files."""
        name = _resolve(name, self._links)
        return name in self._documents or name in self._layers

    def read(self, name: str) -> bytes | None:
        """See Files."""
        return self._documents.get(_resolve(name, self._links))

    def stage(self, name: str, stager: Stager) -> StagedLayer:  # noqa: ARG002 - it was staged when it came
        """See Files."""
        layer = self._layers.get(_resolve(name, self._links))
        if layer is None:
            raise missing(self.name, name)
        if isinstance(layer, InvalidArchive):
            raise layer
        return layer

    def size(self, name: str) -> int:  # noqa: ARG002
        """See Files."""
        return 0

    def _add_document(self, name: str, file: io.BufferedReader, size: int) -> None:
        kept = sum(map(len, self._documents.values()))
        if size <= MAX_DOCUMENT and kept + size <= _MAX_DOCUMENTS:
            self._documents[name] = file.read()


def read_stream(stream: BinaryIO, name: str, stager: Stager) -> StreamFiles:
    """Read a tar stream, compressed or not, to its end: whoever writes it shall not fail."""
    files = StreamFiles(name)
    with decompressed(stream, name) as content:
        try:
            tar = _open_tar(content, "r|")
            for member in _members(tar):
                file = tar.extractfile(member) if member.isreg() else None
                files.add(member, cast(io.BufferedReader | None, file), stager)
        except tarfile.TarError as err:
            raise InvalidArchive(name, f"not a sound tar file ({err}); {EXPECTED}") from err
        while content.read(1 << 20):
            pass
    return files


def _open_tar(file: BinaryIO, mode: Literal["r:", "r|"]) -> tarfile.TarFile:
    with _as_tar_error():
        return tarfile.open(fileobj=file, mode=mode)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members as they come."""
    while True:
        with _as_tar_error():
            member = tar.next()
        if member is None:
            return
        yield member


@contextmanager
def _as_tar_error() -> Iterator[None]:
    """For what tarfile stumbles over, such as an odd sparse map."""
    try:
        yield
    except (ValueError, OverflowError, RecursionError) as err:
        raise tarfile.HeaderError(str(err)) from err


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file or a FIFO for `peek` and `read`. Raises InvalidArchive."""
    try:
        is_pipe = stat.S_ISFIFO(path.stat().st_mode)
        file = path.open("rb", buffering=0 if is_pipe else -1)
    except OSError as err:
        raise InvalidArchive(path, f"cannot be read: {err.strerror}") from err
    with file:
        yield buffered(file) if is_pipe else file


def buffered(stream: object) -> BinaryIO:
    """A pipe for `peek` and `read`. It is not to be closed: that would wait for a thread that reads it."""
    return cast(BinaryIO, io.BufferedReader(FullReads(cast(BinaryIO, stream)), 1 << 16))


def _is_document(file: io.BufferedReader) -> bool:
    """Whether a file may be JSON rather than a layer; a tar header has a zero byte, JSON has none."""
    start = file.peek(512)[:512]
    return start.lstrip()[:1] in (b"{", b"[") and b"\0" not in start


def _link_target(name: str, member: tarfile.TarInfo) -> str | None:
    """`docker save` before 25 makes a layer that it wrote already a symlink, tar a hard link."""
    if not (member.issym() or member.islnk()):
        return None
    folder = posixpath.dirname(name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(folder, member.linkname))


def _resolve(name: str, links: Mapping[str, str]) -> str:
    visited: set[str] = set()
    while name in links and name not in visited:
        visited.add(name)
        name = links[name]
    return name


def check_document_size(archive: str, name: str, size: int) -> None:
    """Raises InvalidArchive when a file is too large for a manifest or configuration."""
    if size > MAX_DOCUMENT:
        raise InvalidArchive(archive, f"{name} has {size} bytes, at most {MAX_DOCUMENT} are read")


def missing(archive: str, name: str) -> InvalidArchive:
    """The error for a file that an image needs."""
    return InvalidArchive(archive, f"{name} is missing, though an image needs it; save it again (is it complete?)")
