"""A disk image is changed: a copy of it, which takes its place when it is complete and sound.

No root is needed. Whatever happens, the image is the old one or the new one, and nothing is left beside it. qemu-img
makes the copy, because it respects the lock of a machine that uses the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from preloader_agent.errors import CommandFailed, InvalidDisk, InvalidGuest
from preloader_agent.host.diskimage import RawImage, is_qcow2
from preloader_agent.host.guests.imageroot import ImageTree, check_filesystem
from preloader_agent.host.guests.partitions import find_root
from preloader_agent.host.publishing import replace_file, stage_beside
from preloader_agent.host.run import find_tool, run


@contextmanager
def edit_image(path: Path) -> Iterator[tuple[ImageTree, Path]]:
    """The root tree in a copy of an image, and a folder for temporary files. The block changes the copy.

    Raises InvalidGuest for an image that is in use, not clean, not ext4, or kept in several files.
    """
    image = path.resolve()
    if not image.is_file():
        raise InvalidGuest(path, "is no file: expected a disk image, qcow2 or raw")
    if "?" in str(image):
        raise InvalidGuest(path, "has a question mark in its path, after which e2fsprogs expect options: move it")
    find_tool("qemu-img", "`apt install qemu-utils`")
    try:
        with stage_beside(image) as folder:
            yield from _edit_copy(image, folder)
    except InvalidDisk as err:
        raise InvalidGuest(path, err.problem.removesuffix("; build the disk again")) from err


def _edit_copy(image: Path, folder: Path) -> Iterator[tuple[ImageTree, Path]]:
    form = "qcow2" if is_qcow2(image) else "raw"
    before, clusters = image.stat(), _cluster_size(image, form)
    copy, finished = folder / "disk.raw", folder / "disk.qcow2"
    _read_image(image, "convert", "-f", form, "-O", "raw", image, copy)
    with closing(RawImage(copy, image)) as disk:
        tree = find_root(disk, copy)
        check_filesystem(tree, "(so nothing was changed; repair it first)")
        yield tree, folder
    check_filesystem(tree, "after the change (so it was not changed; this is a bug of ours)")
    if form == "qcow2":
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", f"cluster_size={clusters}", copy, finished])
        copy = finished
    # A machine may have begun to use it; `info` would not look at the lock.
    _read_image(image, "dd", "-f", form, "-O", "raw", "count=1", f"if={image}", f"of={folder / 'start'}")
    if _identity(image.stat()) != _identity(before):
        raise InvalidGuest(image, "was changed by somebody else meanwhile: try again")
    replace_file(copy, image)


def _cluster_size(image: Path, form: str) -> int:
    """Of a qcow2 image; 0 for a raw one. Raises InvalidGuest for an image with snapshots."""
    found = json.loads(_read_image(image, "info", "--output=json", "-f", form, image))
    if found.get("snapshots"):
        raise InvalidGuest(image, "has snapshots, which would be lost: qemu-img convert makes an image without")
    return int(found.get("cluster-size", 0))


def _read_image(image: Path, *words: str | Path) -> str:
    try:
        return run(["qemu-img", *words])
    except CommandFailed as err:
        if " lock" not in err.output:
            raise
        raise InvalidGuest(image, f"is in use: shut the machine down first ({err.output})") from err


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
