"""The ext4 tools: mke2fs, which writes a file system from a tar stream, and debugfs and e2fsck, which complete it.

`mke2fs -d -` came with e2fsprogs 1.47.1 and needs libarchive at run time. It loses every xattr but
security.capability, sub-second times, and times that a signed 32-bit number cannot hold; `complete` puts them back.
All of it works without root, and gives the same bytes for the same input and version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from preloader_agent.errors import CommandFailed, ToolMissing, ToolTooOld
from preloader_agent.host.ext4 import Ext4, RawImage
from preloader_agent.host.run import feed, find_tool, run

NEEDED = (1, 47, 1)
BLOCK_SIZE = 4096
INODE_SIZE = 256
_MAX_MTIME_NS = (1 << 31) * 10**9  # what a signed 32-bit number of seconds holds
# The inode and superblock times that nothing in the content sets; any constant does, and this one is not in the future.
_CLOCK = "1577836800"
# With SOURCE_DATE_EPOCH, which package builds set, mke2fs 1.47.2 would cut every later mtime down to it. Without a
# configuration file, mke2fs uses the defaults of its version, not those of the machine.
_REPRODUCIBLE = {
    "SOURCE_DATE_EPOCH": None,
    "E2FSPROGS_FAKE_TIME": _CLOCK,
    "E2FSCK_TIME": _CLOCK,
    "MKE2FS_CONFIG": "/nonexistent",
    "E2FSCK_CONFIG": "/nonexistent",
}
_HINT = (
    "on Debian 12: enable bookworm-backports, then `apt install -t bookworm-backports e2fsprogs`; "
    "Debian 13 and Ubuntu 25.04 have it"
)
_LIBARCHIVE_HINT = "`apt install libarchive13` (Debian 12) or `libarchive13t64` (Debian 13, Ubuntu)"


@dataclass(frozen=True)
class Geometry:
    """How large a file system is made: its blocks of 4096 bytes, and its inodes."""

    blocks: int
    inodes: int


@dataclass(frozen=True)
class Completion:
    """What mke2fs cannot set on an inode; `path` is from the file system's top, no time means that it stays."""

    path: bytes
    mtime_ns: int | None
    xattrs: dict[bytes, bytes]

    @property
    def is_needed(self) -> bool:
        """Whether mke2fs lost anything of it."""
        return bool(self.xattrs or (self.mtime_ns and (self.mtime_ns % 10**9 or self.mtime_ns >= _MAX_MTIME_NS)))


def check_version() -> str:
    """The version of mke2fs. Raises ToolMissing, or ToolTooOld when it cannot read a tar stream."""
    mke2fs = find_tool("mke2fs", "`apt install e2fsprogs`, 1.47.1 or later")
    version = _parse_version(mke2fs)
    if tuple(int(part) for part in version.split(".")) < NEEDED:
        raise ToolTooOld("e2fsprogs", version, "1.47.1 with libarchive", _HINT)
    with TemporaryDirectory(prefix="preloader-") as folder:
        try:
            empty_tar = bytes(10240)
            run([mke2fs, "-q", "-F", "-t", "ext4", "-d", "-", Path(folder, "probe"), "1M"], stdin=empty_tar)
        except CommandFailed as err:
            if "libarchive" in err.output:
                hint = f"mke2fs {version} needs it to read a tar stream; {_LIBARCHIVE_HINT}"
                raise ToolMissing("libarchive", hint) from err
            raise
    return version


def _parse_version(mke2fs: str) -> str:
    output = run([mke2fs, "-V"], with_stderr=True)
    found = re.search(r"mke2fs (\d+(?:\.\d+)+)", output)
    if found is None:
        raise ToolTooOld("e2fsprogs", output.strip()[:60] or "of an unknown version", "1.47.1", _HINT)
    return found[1]


@contextmanager
def make_filesystem(image: Path, geometry: Geometry, label: str, uuid: str) -> Iterator[IO[bytes]]:
    """Write an ext4 file system to `image`: the block writes its content to the pipe, as a tar stream."""
    features = "^has_journal,^resize_inode,sparse_super2,^orphan_file"
    extended = f"hash_seed={uuid},lazy_itable_init=0,root_owner=0:0,num_backup_sb=0,nodiscard"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_SIZE), "-I", str(INODE_SIZE), "-m", "0"]
    argv += ["-N", str(geometry.inodes), "-L", label, "-U", uuid, "-O", features, "-E", extended]
    with feed([*argv, "-d", "-", image, str(geometry.blocks)], env=_REPRODUCIBLE) as pipe:
        yield pipe


def complete(image: Path, completions: list[Completion]) -> None:
    """Set what mke2fs lost, then let e2fsck index large directories.

    Inodes are named by number: debugfs' command language has no way to write a newline in a path.
    """
    with TemporaryDirectory(prefix="preloader-") as folder, Ext4(RawImage(image)) as filesystem:
        commands = Path(folder, "commands")
        with commands.open("w") as file:
            file.writelines(_commands(filesystem, completions, Path(folder)))
        if commands.stat().st_size:
            output = run(["debugfs", "-w", "-f", commands, image], env=_REPRODUCIBLE, with_stderr=True)
            _check_debugfs(image, output)
    run(["e2fsck", "-fyD", image], env=_REPRODUCIBLE, ok=(0, 1))


def _commands(filesystem: Ext4, completions: list[Completion], folder: Path) -> Iterator[str]:
    values: dict[bytes, Path] = {}
    for completion in completions:
        inode = filesystem.find(completion.path)
        assert inode is not None, completion.path
        for name, value in completion.xattrs.items():
            if value not in values:
                values[value] = folder / f"value{len(values)}"
                values[value].write_bytes(value)
            yield f'ea_set -f "{values[value]}" <{inode}> "{name.decode()}"\n'
        if completion.mtime_ns is None:
            continue
        seconds, nanoseconds = divmod(completion.mtime_ns, 10**9)
        # ext4 keeps seconds in 32 signed bits, and two more bits of them beside the nanoseconds.
        epoch = (seconds + (1 << 31)) >> 32 & 3
        yield f"set_inode_field <{inode}> mtime {seconds & 0xFFFFFFFF:#x}\n"
        yield f"set_inode_field <{inode}> mtime_extra {nanoseconds << 2 | epoch:#x}\n"


def _check_debugfs(image: Path, output: str) -> None:
    """debugfs reports a failed command, and goes on; its banner and its echo of a command start with its name."""
    complaints = [line for line in output.splitlines() if line and not line.startswith("debugfs")]
    if complaints:
        raise CommandFailed(["debugfs", "-w", str(image)], 0, "\n".join(complaints[:5]))
