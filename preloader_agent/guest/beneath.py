"""Reading what is on an untrusted disk: no symlink is followed, no device is opened, nothing is read beyond a bound."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from preloader_agent.errors import InvalidDisk


def read_beneath(root: str, path: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises InvalidDisk."""
    with _open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise InvalidDisk(f"{root}/{path}", f"is not a regular file of at most {limit} bytes; build the disk again")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)


def list_beneath(root: str, path: str, limit: int) -> list[str]:
    """The names in a directory of at most `limit` entries. Raises InvalidDisk."""
    with _open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        with os.scandir(descriptor) as entries:
            names = [entry.name for entry in islice(entries, limit + 1)]
        if len(names) > limit:
            raise InvalidDisk(f"{root}/{path}", f"has more than {limit} entries; build the disk again")
        return names


def is_directory_beneath(root: str, path: str) -> bool:
    """Whether a path is a directory. Raises InvalidDisk when it is not there, or a part of it is no directory."""
    return stat.S_ISDIR(_mode_beneath(root, path))


def is_file_beneath(root: str, path: str) -> bool:
    """Whether a path is a regular file. Raises InvalidDisk when it is not there, or a part of it is no directory."""
    return stat.S_ISREG(_mode_beneath(root, path))


def _mode_beneath(root: str, path: str) -> int:
    with _open_beneath(root, path, os.O_PATH) as descriptor:
        return os.fstat(descriptor).st_mode


@contextmanager
def _open_beneath(root: str, path: str, flags: int) -> Iterator[int]:
    """Open a path one part at a time, each without following it; every failure, a device's too, is the disk's."""
    opened: list[int] = []
    try:
        opened.append(os.open(root, os.O_PATH | os.O_DIRECTORY))
        *parents, name = path.split("/")
        for parent in parents:
            opened.append(os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        opened.append(os.open(name, flags | os.O_NOFOLLOW, dir_fd=opened[-1]))
        yield opened[-1]
    except OSError as err:
        raise InvalidDisk(f"{root}/{path}", f"cannot be read: {err.strerror}; build the disk again") from err
    finally:
        for descriptor in opened:
            os.close(descriptor)
