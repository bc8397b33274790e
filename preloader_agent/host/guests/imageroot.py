"""A root tree in a disk image, which may be in a partition: read without a mount, written by debugfs.

debugfs ends with status 0 whatever goes wrong, so all that it says counts, and in the end e2fsck's judgement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidGuest
from preloader_agent.host.diskimage import DiskImage
from preloader_agent.host.ext4.reader import Ext4, Inode
from preloader_agent.host.guests.agentfiles import File, Symlink
from preloader_agent.host.guests.plan import Plan
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.tarstream import REG, SYM

_HINT = "`apt install e2fsprogs`"
_TIMEOUT = 600.0  # seconds, for a large file system
# What no kernel takes either, so only a forged image has it. debugfs reads lines of 8191 bytes: what is behind them
# would be commands, of which some write to the host. The longest line has two paths, one of which is ours.
_MAX_PATH = 4095
_REGULAR, _FOLDER = 0o100000, 0o040000


class _Partition:
    """See DiskImage: what starts at a byte of a raw image."""

    def __init__(self, disk: DiskImage, start: int) -> None:
        self.name = disk.name
        self._disk, self._start = disk, start

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        return self._disk.read_at(self._start + offset, length)

    def close(self) -> None:
        """See DiskImage."""
        self._disk.close()


class ImageTree:
    """See RootTree; the ext4 file system at byte `start` of a disk, which is the raw image at `path`."""

    def __init__(self, disk: DiskImage, path: Path, start: int) -> None:
        self.name = disk.name
        self.start = start
        # How e2fsprogs are told of a file system that is not at the start (e2fsck(8), `offset=`).
        self.device = f"{path}?offset={start}" if start else str(path)
        self._ext4 = Ext4(_Partition(disk, start))

    def has(self, path: str) -> bool:
        """See RootTree."""
        return self._ext4.find(os.fsencode(path)) is not None

    def target(self, path: str) -> str | None:
        """See RootTree."""
        inode = self._find(path)
        return os.fsdecode(self._ext4.target(inode)) if inode and inode.type == SYM else None

    def names(self, path: str) -> Collection[str] | None:
        """See RootTree."""
        number = self._ext4.find(os.fsencode(path))
        if number is None or not self._ext4.is_folder(number):
            return None
        return [os.fsdecode(name) for name in self._ext4.entries(number)]

    def head(self, path: str, size: int) -> bytes | None:
        """See RootTree."""
        inode = self._find(path)
        if inode is None or inode.type != REG:
            return None
        return next(self._ext4.pieces(inode), b"")[:size]

    def _find(self, path: str) -> Inode | None:
        number = self._ext4.find(os.fsencode(path))
        return self._ext4.inode(number) if number is not None else None


def check_filesystem(tree: ImageTree, when: str) -> None:
    """Raises InvalidGuest when e2fsck finds fault."""
    try:
        run([find_tool("e2fsck", _HINT), "-fn", tree.device], timeout=_TIMEOUT)
    except CommandFailed as err:
        raise InvalidGuest(tree.name, f"e2fsck finds fault with it {when}: {err.output}") from err


def apply_to_image(tree: ImageTree, plan: Plan, folder: Path) -> None:
    """Carry out a plan in the copy of an image; `folder` is for what debugfs reads."""
    debugfs = find_tool("debugfs", _HINT)
    commands = list(_list_commands(tree, plan, folder))
    said = run([debugfs, "-w", "-f", "-", tree.device], stdin="".join(commands).encode(), with_stderr=True)
    # Its errors come first, under its version; its output repeats each command.
    errors = said.partition("debugfs: ")[0].splitlines()[1:]
    if errors:
        raise InvalidGuest(tree.name, f"cannot be changed: {'; '.join(errors[:5])}")


def _list_commands(tree: ImageTree, plan: Plan, folder: Path) -> Iterator[str]:
    for path in plan.removed:
        yield f"{'rmdir' if path in plan.removed_folders else 'rm'} {_quote(tree, path)}\n"
    for path in plan.folders:
        yield f"mkdir {_quote(tree, path)}\n"
        yield from _set_fields(_quote(tree, path), _FOLDER | 0o755)
    for number, entry in enumerate(plan.entries):
        path = _quote(tree, entry.path)
        if isinstance(entry, Symlink):
            yield f"symlink {path} {_quote(tree, entry.target, '')}\n"
        else:
            yield from _write_file(tree, entry, folder / str(number))


def _write_file(tree: ImageTree, file: File, source: Path) -> Iterator[str]:
    """`write` takes a name in the current folder only."""
    source.write_bytes(file.content)
    parent, _, name = file.path.rpartition("/")
    yield f"cd {_quote(tree, parent)}\nwrite {_quote(tree, str(source), '')} {_quote(tree, name, '')}\n"
    yield from _set_fields(_quote(tree, file.path), _REGULAR | file.mode)


def _set_fields(path: str, mode: int) -> Iterator[str]:
    for field, value in (("mode", f"0{mode:o}"), ("uid", "0"), ("gid", "0")):
        yield f"set_inode_field {path} {field} {value}\n"


def _quote(tree: ImageTree, path: str, top: str = "/") -> str:
    """A path as a word of debugfs's; nothing that a guest calls its folders may become a command."""
    if not re.fullmatch(r'[^"\x00-\x1f\x7f\ud800-\udfff]+', path):
        raise InvalidGuest(
            tree.name, f"{path!r} cannot be written: a name with such characters is not passed to debugfs"
        )
    if len(path.encode()) > _MAX_PATH:
        raise InvalidGuest(tree.name, f"{path[:60]}... cannot be written: it has more than {_MAX_PATH} bytes")
    return f'"{top}{path}"'
