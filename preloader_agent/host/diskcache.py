"""Disks that are built once for all who need them: a folder where each is named by its label.

A label follows from the images' IDs, names and repo digests. So a disk is found for whatever holds the same images, and
an archive is not read to its end to find it. What else decides on a disk's bytes, our version and the compression, is
the name of its folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from preloader_agent import __version__
from preloader_agent.errors import PreloaderError
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.waiting import tries

_DEFAULT = BuildOptions()
KEPT = 14 * 24 * 3600.0  # seconds that a disk stays which nobody asks for
OTHERS_TIMEOUT = 600.0  # for somebody who builds the same; after that, both do


def cache_folder() -> Path:
    """Where the disks of this user are."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "docker-preloader" / "disks"


def cache_disk(inputs: Sequence[str | Path], options: BuildOptions = _DEFAULT, folder: Path | None = None) -> Path:
    """The path of a disk with the images of some inputs: one from an earlier time, or a new one.

    Any number of processes may ask at the same time; those who ask for the same wait for the first. Raises what
    `build_disk` raises.
    """
    folder = folder or cache_folder()
    place = folder / "-".join(filter(None, (__version__, options.compression)))
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place / f".{_digest_request(inputs, options)}.lock"):
            disk = build_disk(inputs, place, options).path
            os.utime(disk)
        _drop_unused(folder)
    except OSError as err:
        raise PreloaderError(f"{err.filename or place}: cannot be written: {err.strerror or err}") from err
    return disk


def _digest_request(inputs: Sequence[str | Path], options: BuildOptions) -> str:
    """What tells those who ask for the same from others."""
    return hashlib.sha256(repr((sorted(os.path.abspath(each) for each in inputs), options)).encode()).hexdigest()[:16]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep others from doing the same work at the same time. Nothing breaks if they do: a disk appears in one step."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.utime(descriptor)
        for _ in tries(OTHERS_TIMEOUT, pause=0.1):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        yield
    finally:
        os.close(descriptor)


def _drop_unused(folder: Path) -> None:
    """Remove what nobody has asked for in a long time, of any version, and what a killed build left.

    Machines that use such a disk go on: a file that is open stays until it is closed.
    """
    for path in folder.glob("*/*"):
        with suppress(OSError):  # somebody else may do the same
            if time.time() - path.stat().st_mtime < KEPT:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for place in folder.glob("*"):
        with suppress(OSError):  # it is not empty
            place.rmdir()
