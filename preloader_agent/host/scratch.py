"""Folders for what nobody keeps, which are gone in any case: no interruption divides their making or their removal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from preloader_agent.host.interruptions import put_off


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = "preloader-") -> Iterator[Path]:
    """A folder for the block: in `parent`, else where temporary files belong."""
    folder = None
    try:
        with put_off():
            folder = TemporaryDirectory(prefix=prefix, dir=parent)
        yield Path(folder.name)
    finally:
        with put_off():
            if folder is not None:
                folder.cleanup()
