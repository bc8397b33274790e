"""What a disk's file says of it: the name that it has in a machine and in its guest, and the format to open it with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from preloader_agent.errors import InvalidDisk, InvalidValue
from preloader_agent.host.diskimage import is_qcow2, open_image
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.inspection import read_label

MAX_NAME = 20  # bytes of a serial number that a guest sees of a virtio-blk disk


class DiskFile(NamedTuple):
    """A disk to attach, read-only."""

    path: Path  # absolute
    name: str  # the id of its device and its serial: the label, and of a disk that is none of ours its file's stem
    format: str  # qcow2 or raw; QEMU is never left to guess, because a guest that writes could have it guess again
    label: str = ""  # by which the agent in a guest knows it, if it is one of ours


def read_disk_file(path: Path) -> DiskFile:
    """Look at a disk's file. Raises InvalidDisk when it cannot be read, by us or by QEMU."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as err:
        raise InvalidDisk(path, "has a path that is not UTF-8, which QEMU cannot be told: rename it") from err
    format_ = "qcow2" if is_qcow2(path) else "raw"
    try:
        label = read_label(path)
    except InvalidDisk:  # of somebody else, and welcome
        label = ""
    return DiskFile(path.absolute(), device_id(label or path.stem), format_, label)


def read_disk_files(paths: Iterable[Path]) -> tuple[DiskFile, ...]:
    """Look at the files of one machine's disks. Raises InvalidDisk, and InvalidValue when two have one name."""
    files: dict[str, DiskFile] = {}
    for path in paths:
        file = read_disk_file(path)
        if file.name in files:
            raise InvalidValue("disk", str(path), f"another one than {files[file.name].path}: both are {file.name}")
        files[file.name] = file
    return tuple(files.values())


def device_id(name: str) -> str:
    """A name as QEMU takes an id: a letter, then letters, digits, `-`, `.` and `_`; no longer than a serial."""
    valid = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return (valid if re.match(r"[A-Za-z]", valid) else f"disk-{valid}")[:MAX_NAME]


def check_content(file: DiskFile) -> None:
    """Any file is a raw disk: one without an ext4 file system, such as an archive, was named by mistake.

    Raises InvalidDisk for that.
    """
    if file.format == "raw":
        with Ext4(open_image(file.path)):
            pass
