"""Folders for tests that make hundreds of passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """An empty folder, in memory where there is some, because a pass syncs its file system; gone with the block."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(prefix="dpl-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)
