"""What a machine's command line depends on beside its configuration: the disks' files, and what this host has."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from preloader_agent.errors import InvalidDisk, InvalidValue
from preloader_agent.host.diskimage import QcowImage, RawImage, is_qcow2
from preloader_agent.host.vm.accelerator import Accelerator, find_accelerator
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.diskfile import DiskFile, read_disk_files
from preloader_agent.host.vm.firmware import Firmware, find_firmware
from preloader_agent.host.vm.sharing import find_virtiofsd

_SECTOR = 512
_BOOT_SIGNATURE = b"\x55\xaa"  # ends the first sector of whatever a BIOS boots, and of each MBR or GPT


class Parts(NamedTuple):
    """What was found for a machine."""

    accelerator: Accelerator
    root_format: str
    disks: tuple[DiskFile, ...] = ()
    firmware: Firmware | None = None
    virtiofsd: str | None = None


def find_parts(config: VmConfig) -> Parts:
    """Look at a machine's files and at this host.

    Raises InvalidDisk and InvalidValue for what cannot be used, and ToolMissing for what is not installed.
    """
    for place in (config.qmp, config.control):
        if place is not None:
            _check_socket(place)
    if config.console_log is not None:
        _check_log(config.console_log, [config.root_disk, config.kernel, config.initrd, *config.disks])
    return Parts(
        accelerator=find_accelerator(),
        root_format=_format_of_root(config.root_disk, is_booted=config.kernel is None),
        disks=read_disk_files(config.disks),
        firmware=find_firmware() if config.firmware == "uefi" else None,
        virtiofsd=find_virtiofsd(config),
    )


def _format_of_root(path: Path, *, is_booted: bool) -> str:
    """The format of a guest's disk, which may have a backing file: whoever runs a guest trusts it with more."""
    format_ = "qcow2" if is_qcow2(path, may_have_others=True) else "raw"
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise InvalidDisk(path, "is neither a file nor a block device")
    image = QcowImage(path) if format_ == "qcow2" else RawImage(path)
    try:
        first = image.read_at(0, _SECTOR)
    finally:
        image.close()
    if len(first) < _SECTOR:
        raise InvalidDisk(path, f"is no disk: it has {len(first)} bytes")
    if is_booted and not first.endswith(_BOOT_SIGNATURE):
        raise InvalidDisk(path, "cannot boot: it has no partition table and no boot loader; name its kernel and initrd")
    return format_


def _check_log(path: Path, others: Sequence[Path | None]) -> None:
    """QEMU empties the file."""
    if not path.absolute().parent.is_dir():
        raise InvalidValue("console log", str(path), "a file in a folder that is there")
    for other in others:
        if other is not None and other.exists() and path.exists() and path.samefile(other):
            raise InvalidValue("console log", str(path), "a file of its own, and this one the machine reads")


def _check_socket(path: Path) -> None:
    """QEMU replaces whatever stands where its socket is to be; so that may only be a socket that nobody serves."""
    if not path.is_socket():
        if os.path.lexists(path):
            raise InvalidValue("socket", str(path), "a name for a new socket, and there is a file")
        return
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(1)
        client.connect(str(path))
        raise InvalidValue("socket", str(path), "a name for a new socket, and another program listens on it")
