"""Where the root file system of a raw disk image is: on the whole disk, or in a partition."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidDisk, InvalidGuest
from preloader_agent.host.diskimage import DiskImage
from preloader_agent.host.ext4.layout import INCOMPAT, MAGIC, SUPERBLOCK_OFFSET
from preloader_agent.host.guests.imageroot import ImageTree
from preloader_agent.host.run import find_tool, run

_OTHERWISE = "for others, mount it and use --root with the folder"
_IS_CLEAN = 0x1  # s_state
_NEEDS_RECOVERY = 0x4  # s_feature_incompat
_HAS_QUOTAS = 0x100  # s_feature_ro_compat
# Beside those of our own disks, two that change nothing of what is read here: checksums by a seed, large directories.
_READABLE = sum(INCOMPAT.values()) | 0x2000 | 0x4000 | _NEEDS_RECOVERY


def find_root(disk: DiskImage, path: Path) -> ImageTree:
    """The root tree in a disk, which is the raw image at `path`.

    Raises InvalidGuest when there is none, or it cannot be changed.
    """
    problems: list[str] = []
    roots = list(_find_roots(disk, path, problems))
    if not roots:
        problem = "; ".join(problems) or "holds no ext4 file system with /etc and /usr in it"
        raise InvalidGuest(disk.name, f"{problem}: {_OTHERWISE}")
    if len(roots) > 1:
        starts = ", ".join(str(tree.start) for tree in roots)
        raise InvalidGuest(disk.name, f"holds several root file systems (at bytes {starts}): mount one, and use --root")
    _check_state(roots[0], disk)
    return roots[0]


def _find_roots(disk: DiskImage, path: Path, problems: list[str]) -> Iterator[ImageTree]:
    """What cannot be read may be somebody's data, so it is a problem only where nothing else is the root."""
    for start in _list_starts(path):
        superblock = disk.read_at(start + SUPERBLOCK_OFFSET, 1024)
        if len(superblock) < 1024 or struct.unpack_from("<H", superblock, 0x38)[0] != MAGIC:
            continue
        features = _features(superblock)
        if not features & INCOMPAT["extents"]:
            continue  # ext2 or ext3, often /boot
        if unknown := features & ~_READABLE:
            problems.append(f"its ext4 has features that are not read here (incompatible {unknown:#x})")
            continue
        try:
            tree = ImageTree(disk, path, start)
            is_root = _is_root(tree)
        except InvalidDisk as err:
            problems.append(err.problem.removesuffix("; build the disk again"))
            continue
        if is_root:
            yield tree


def _is_root(tree: ImageTree) -> bool:
    return all(tree.names(name) is not None for name in ("etc", "usr"))


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
    if struct.unpack_from("<I", superblock, 0x64)[0] & _HAS_QUOTAS:
        raise InvalidGuest(tree.name, "its ext4 has quotas, which only a mount keeps right: mount it, and use --root")


def _features(superblock: bytes) -> int:
    """Layout: docs.kernel.org/filesystems/ext4, "The Super Block"."""
    return int(struct.unpack_from("<I", superblock, 0x60)[0])
