"""Where the root file system of a raw disk image is: on the whole disk, or in a partition."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidGuest
from preloader_agent.host.diskimage import DiskImage
from preloader_agent.host.ext4.layout import INCOMPAT, MAGIC, SUPERBLOCK_OFFSET
from preloader_agent.host.guests.imageroot import ImageTree
from preloader_agent.host.run import find_tool, run

_OTHERWISE = "for others, mount it and use --root with the folder"
_IS_CLEAN = 0x1  # s_state
_NEEDS_RECOVERY = 0x4  # s_feature_incompat
# Beside those of our own disks, two that change nothing of what is read here: checksums by a seed, large directories.
_READABLE = sum(INCOMPAT.values()) | 0x2000 | 0x4000 | _NEEDS_RECOVERY


def find_root(disk: DiskImage, path: Path) -> ImageTree:
    """The root tree in a disk, which is the raw image at `path`.

    Raises InvalidGuest when there is none, or it cannot be changed.
    """
    roots = [tree for tree in _open_trees(disk, path) if _is_root(tree)]
    if not roots:
        raise InvalidGuest(disk.name, f"holds no ext4 file system with /etc and /usr in it: {_OTHERWISE}")
    if len(roots) > 1:
        starts = ", ".join(str(tree.start) for tree in roots)
        raise InvalidGuest(disk.name, f"holds several root file systems (at bytes {starts}): mount one, and use --root")
    _check_state(roots[0], disk)
    return roots[0]


def _is_root(tree: ImageTree) -> bool:
    return all(tree.names(name) is not None for name in ("etc", "usr"))


def _open_trees(disk: DiskImage, path: Path) -> Iterator[ImageTree]:
    for start in _list_starts(path):
        superblock = disk.read_at(start + SUPERBLOCK_OFFSET, 1024)
        if len(superblock) == 1024 and struct.unpack_from("<H", superblock, 0x38)[0] == MAGIC:
            if unknown := _features(superblock) & ~_READABLE:
                raise InvalidGuest(
                    disk.name, f"its ext4 has features that are not read here (incompatible {unknown:#x})"
                )
            yield ImageTree(disk, path, start)


def _list_starts(path: Path) -> list[int]:
    """The byte at which each partition starts; the first of all where there is no partition table."""
    sfdisk = find_tool("sfdisk", "`apt install fdisk`")
    try:
        table = json.loads(run([sfdisk, "--json", path]))["partitiontable"]
    except CommandFailed:
        return [0]
    return [partition["start"] * table.get("sectorsize", 512) for partition in table.get("partitions", ())] or [0]


def _check_state(tree: ImageTree, disk: DiskImage) -> None:
    superblock = disk.read_at(tree.start + SUPERBLOCK_OFFSET, 1024)
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    if _features(superblock) & _NEEDS_RECOVERY or not state & _IS_CLEAN:
        raise InvalidGuest(tree.name, "was not shut down cleanly, or is in use: boot it, and shut it down")


def _features(superblock: bytes) -> int:
    """Layout: docs.kernel.org/filesystems/ext4, "The Super Block"."""
    return int(struct.unpack_from("<I", superblock, 0x60)[0])
