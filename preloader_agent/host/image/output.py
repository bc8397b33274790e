"""Where results go: to a file that appears when it is complete, or to standard output."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from preloader_agent.errors import InvalidValue, PreloaderError
from preloader_agent.host.diskimage import large_files_folder
from preloader_agent.host.publishing import check_output, publish, stage_beside

STANDARD_OUTPUT = "-"
_PLAIN_FILE = 0o666


class Output(NamedTuple):
    """A stream for the result, and a scratch folder for all that is needed to make it."""

    stream: BinaryIO
    folder: Path


@contextmanager
def open_output(output: str, inputs: Sequence[str], mode: int = _PLAIN_FILE) -> Iterator[Output]:
    """Where a result that is made of some inputs goes: `-` is standard output, else a file with a mode.

    Raises InvalidValue for what cannot be written to, and like `stage_beside`.
    """
    if output == STANDARD_OUTPUT:
        if sys.stdout is None or sys.stdout.isatty():  # None where it is closed, and 1 would be another file
            found = "a terminal" if sys.stdout else "no standard output"
            raise InvalidValue("output", found, "a file, or a pipe to another program")
        with open_scratch() as folder:
            yield Output(cast(BinaryIO, _StandardOutput()), folder)
        return
    path = Path(output)
    check_output(path, inputs, example="image.tar")
    with stage_beside(path) as folder:
        finished = folder / "finished"
        with open(finished, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            yield Output(stream, folder)
        publish(finished, path, mode)


def open_scratch() -> AbstractContextManager[Path]:
    """A folder for large files that nobody keeps. Raises like `stage_beside`."""
    return stage_beside(large_files_folder() or Path(tempfile.gettempdir()))


class _StandardOutput(io.RawIOBase):
    """Standard output, whose errors are not those of the scratch folder; each piece is out when `write` returns."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content: Any) -> int:
        """Write all of it."""
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(1, left) :]
        except OSError as err:
            raise PreloaderError(f"standard output: {err.strerror}") from err
        return len(content)
