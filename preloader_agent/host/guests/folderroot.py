"""A root tree in a folder of the host."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from preloader_agent.errors import InvalidGuest, PreloaderError
from preloader_agent.host.guests.agentfiles import File
from preloader_agent.host.guests.plan import Plan
from preloader_agent.host.guests.roottree import resolve
from preloader_agent.host.interruptions import put_off
from preloader_agent.host.scratch import scratch_folder


class FolderTree:
    """See RootTree."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self.root = root
        if not root.is_dir():
            raise InvalidGuest(root, "is no folder: expected the root of a guest's file system")

    def has(self, path: str) -> bool:
        """See RootTree."""
        return os.path.lexists(self.root / path)

    def target(self, path: str) -> str | None:
        """See RootTree."""
        full = self.root / path
        return os.readlink(full) if full.is_symlink() else None

    def names(self, path: str) -> Collection[str] | None:
        """See RootTree."""
        full = self.root / path
        return os.listdir(full) if full.is_dir() and not full.is_symlink() else None

    def head(self, path: str, size: int) -> bytes | None:
        """See RootTree."""
        full = self.root / path
        if not full.is_file() or full.is_symlink():
            return None
        with full.open("rb") as file:
            return file.read(size)


def apply_to_folder(tree: FolderTree, plan: Plan) -> None:
    """Carry out a plan. Everything is written before anything is taken away, so a full disk changes nothing.

    An interruption comes before that, or after it.
    """
    root = tree.root
    beside = root / resolve(tree, "usr/lib")
    with _as_message(root), scratch_folder(beside, ".docker-preloader.") as folder:
        files = [entry for entry in plan.entries if isinstance(entry, File)]
        staged = {file.path: _write_file(folder / str(number), file) for number, file in enumerate(files)}
        _check_writable(root, plan)
        with put_off():
            _replace(root, plan, staged)


def _check_writable(root: Path, plan: Plan) -> None:
    """What is refused halfway would leave a guest with neither the old agent nor the new one."""
    changed = [*plan.removed, *plan.folders, *(entry.path for entry in plan.entries)]
    for folder in dict.fromkeys((root / path).parent for path in changed):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _replace(root: Path, plan: Plan, staged: Mapping[str, Path]) -> None:
    for path in plan.removed:
        (root / path).rmdir() if path in plan.removed_folders else (root / path).unlink()
    for path in plan.folders:
        _make_folder(root / path)
    for entry in plan.entries:
        if isinstance(entry, File):
            staged[entry.path].rename(root / entry.path)
        else:
            (root / entry.path).symlink_to(entry.target)


def _write_file(path: Path, file: File) -> Path:
    path.write_bytes(file.content)
    path.chmod(file.mode)  # whatever the umask
    return path


def _make_folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


@contextmanager
def _as_message(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        hint = ": run it as who owns the tree, mostly root" if isinstance(err, PermissionError) else ""
        raise PreloaderError(f"{err.filename or root}: cannot be written: {err.strerror}{hint}") from err
