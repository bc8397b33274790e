"""What images are read from: whatever the user names is opened here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.compression import is_compressed
from preloader_agent.host.files import EXPECTED, Files, FolderFiles, TarFiles, buffered, open_file, read_stream
from preloader_agent.host.run import stream_output
from preloader_agent.host.skopeo import DAEMON, REGISTRY, DaemonFiles, RegistryFiles, Skopeo
from preloader_agent.host.staging import Stager

_PROGRAM = (b"#!", b"\x7fELF")


@contextmanager
def open_input(argument: str, stager: Stager, skopeo: Skopeo) -> Iterator[Files]:
    """Open what the user names: "-", an image of a registry or a daemon, or what `_open_path` takes.

    Raises InvalidArchive, InvalidValue, CommandFailed and ToolMissing.
    """
    if argument == "-":
        yield read_stream(_standard_input(), "standard input", stager)
    elif argument.startswith(REGISTRY):
        yield RegistryFiles(argument, skopeo)
    elif argument.startswith(DAEMON):
        yield DaemonFiles(argument, skopeo)
    else:
        with _open_path(argument, stager) as files:
            yield files


@contextmanager
def _open_path(argument: str, stager: Stager) -> Iterator[Files]:
    """A folder, a program, a file or a FIFO."""
    path = Path(argument)
    with ExitStack() as stack:
        if _is_folder(path):
            yield FolderFiles(path)
        elif _is_program(path):
            with stream_output([path.absolute()]) as output:  # whose failure must be known before a disk is there
                files = read_stream(buffered(output), argument, stager)
            yield files
        else:
            file = stack.enter_context(open_file(path))
            if is_compressed(file) or not file.seekable():
                yield read_stream(file, argument, stager)
            else:
                yield TarFiles(file, argument)


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidArchive("standard input", f"is a terminal; {EXPECTED}: docker save IMAGE | preloader build - ...")
    return buffered(open(0, "rb", buffering=0, closefd=False))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as err:
        raise InvalidArchive(path, f"cannot be read: {err.strerror}") from err


def _is_program(path: Path) -> bool:
    """A file that may be executed and says by its first bytes that it can be; an archive with that mode is none."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            return file.read(4).startswith(_PROGRAM) and _check_executable(path)
    except OSError as err:
        raise InvalidArchive(path, f"cannot be read: {err.strerror}") from err


def _check_executable(path: Path) -> bool:
    if not os.access(path, os.X_OK):
        raise InvalidArchive(path, f"is a program without permission to execute it; chmod +x it, or {EXPECTED}")
    return True
