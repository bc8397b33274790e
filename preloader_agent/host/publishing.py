"""Files that appear when they are complete: made in a folder beside their place, and given their name in one step."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidValue, NoSpace, PreloaderError
from preloader_agent.host.scratch import scratch_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_BYTES = 1 << 20  # with less than that left, a program that found no space means the folder, not its file system


def check_output(output: Path, inputs: Iterable[str], *, example: str, may_be_folder: bool = False) -> None:
    """Fail before the work, not after it; a device's or an input's name is never given to a file.

    Raises InvalidValue; `example` is the name of a file such as it is.
    """
    if not output.parent.is_dir():
        raise InvalidValue("output", str(output), "a file in a directory that exists")
    if output.exists() and not output.is_file() and not (may_be_folder and output.is_dir()):
        folder = ", or a directory" * may_be_folder
        raise InvalidValue("output", str(output), f"a file's name, such as {example}{folder}")
    if any(_is_same(Path(given), output) for given in inputs):
        raise InvalidValue("output", str(output), "another file than the archive that is read")


def _is_same(path: Path, output: Path) -> bool:
    with suppress(OSError):  # one of them is not there, or cannot be looked at: whoever opens it says so
        return path.samefile(output)
    return False


@contextmanager
def stage_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output (in it, if that is a folder), for what is not finished; gone with the block.

    It is on the same file system. Raises NoSpace when that is full, and PreloaderError for all else that keeps files
    from being written there.
    """
    prefix, parent = (".disk.", output) if output.is_dir() else (f".{output.name}.", output.parent)
    try:
        # A program would take a relative path with a colon for a protocol, and one with a dash for an option.
        with scratch_folder(parent.absolute(), prefix) as folder:
            try:
                yield folder
            except CommandFailed as err:
                is_limited = err.status == -signal.SIGXFSZ or os.strerror(errno.EFBIG) in err.output
                if is_limited or shutil.disk_usage(folder).free < _FULL_BYTES:
                    raise NoSpace(output) from err
                raise
    except OSError as err:
        if err.errno in _FULL:
            raise NoSpace(output) from err
        raise PreloaderError(f"{output}: cannot be written: {err.strerror or err}") from err


def publish(finished: Path, output: Path, mode: int) -> None:
    """Give a finished file its name, on stable storage, in one step; `mode` is limited by the umask."""
    finished.chmod(finished.stat().st_mode & mode)
    descriptor = os.open(finished, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    finished.replace(output)


def replace_file(finished: Path, output: Path) -> None:
    """Like `publish`, with the mode of the file that is replaced, and its owner where we may give files away."""
    old = output.stat()
    if os.geteuid() == 0:
        os.chown(finished, old.st_uid, old.st_gid)
    finished.chmod(stat.S_IMODE(old.st_mode))
    publish(finished, output, 0o7777)
