"""A guest's disk: a tree, a kernel and an initrd as a raw image that any firmware boots; made without root.

The first of two MBR partitions is an EFI system partition with the kernel and the initrd. BIOS finds syslinux there,
UEFI systemd-boot. The second is the root, ext4 with the label guest-root; a kernel that QEMU starts finds it as well.
"""

from __future__ import annotations

import re
from pathlib import Path

from preloader_agent.errors import InvalidValue, ToolMissing
from preloader_agent.host.guests.boot import BootFiles
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.vm.config import GUEST_APPEND

MIB = 1 << 20
SECTOR = 512
_ESP_START, _ESP_SIZE = MIB, 64 * MIB  # bytes; room for initrds of others
_ROOT_START = _ESP_START + _ESP_SIZE
MIN_FREE = 512 * MIB  # of the root: what ext4 itself needs, and something to work with
_MBR_CODE = 440  # bytes before the disk's signature and the partition table

SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
SYSLINUX_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
_TOOLS = {
    "sfdisk": "fdisk",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
}
_FILES = {SYSTEMD_BOOT: "systemd-boot-efi", SYSLINUX_MBR: "syslinux-common"}

# A screen is served too; what is said last is what /dev/console is.
_APPEND = f"console=tty0 {GUEST_APPEND}"
_SYSLINUX_CFG = (
    f"SERIAL 0 115200\nDEFAULT guest\nPROMPT 0\nLABEL guest\nLINUX vmlinuz\nINITRD initrd\nAPPEND {_APPEND}\n"
)
_LOADER_CONF = "default guest.conf\ntimeout 0\n"
_LOADER_ENTRY = f"title docker-preloader guest\nlinux /vmlinuz\ninitrd /initrd\noptions {_APPEND}\n"

_MKE2FS_OF_TARS = (1, 47, 1)
_BACKPORTS = "Debian 12 has one in bookworm-backports: `apt install -t bookworm-backports e2fsprogs libarchive13`"


def check_tools() -> None:
    """Raises ToolMissing, with the Debian package, for the first program or file that a disk cannot be made without."""
    for tool, package in _TOOLS.items():
        find_tool(tool, f"`apt install {package}`")
    for path, package in _FILES.items():
        if not path.is_file():
            raise ToolMissing(str(path), f"`apt install {package}`")
    found = re.search(r"mke2fs (\d+)\.(\d+)\.(\d+)", run(["mke2fs", "-V"], with_stderr=True))
    if found and tuple(map(int, found.groups())) < _MKE2FS_OF_TARS:
        raise ToolMissing("an mke2fs that reads tar files", f"expected 1.47.1 or newer, found {found[0]}; {_BACKPORTS}")


def write_disk(tree: Path, boot: BootFiles, size: int, disk: Path) -> None:
    """Write the raw image of a disk of `size` bytes from the tree of a tar file and what it boots from.

    Raises InvalidValue if the tree does not fit, and CommandFailed.
    """
    needed = _ROOT_START + tree.stat().st_size + MIN_FREE
    if size < needed:
        raise InvalidValue("size", f"{size // MIB}M", f"at least {-(-needed // MIB)}M for this guest")
    with disk.open("wb") as file:
        file.write(SYSLINUX_MBR.read_bytes()[:_MBR_CODE])
        file.truncate(size)
    _write_partitions(disk)
    _write_esp(disk, boot)
    _write_root(disk, tree, size - _ROOT_START)


def _write_partitions(disk: Path) -> None:
    """The type EF is for UEFI, the active flag for the BIOS."""
    start, length = _ESP_START // SECTOR, _ESP_SIZE // SECTOR
    table = f"label: dos\nstart={start}, size={length}, type=ef, bootable\nstart={start + length}, type=83\n"
    run(["sfdisk", "--quiet", disk], stdin=table.encode())


def _write_esp(disk: Path, boot: BootFiles) -> None:
    """mtools would refuse a disk whose geometry it does not know, unless told to skip that check."""
    run(["mkfs.fat", "-F", "16", "-n", "BOOT", f"--offset={_ESP_START // SECTOR}", disk, str(_ESP_SIZE >> 10)])
    place = f"{disk}@@{_ESP_START}"
    settings = {
        "syslinux.cfg": _SYSLINUX_CFG,
        "loader/loader.conf": _LOADER_CONF,
        "loader/entries/guest.conf": _LOADER_ENTRY,
    }
    run(["mmd", "-i", place, "::EFI", "::EFI/BOOT", "::loader", "::loader/entries"])
    for path, text in settings.items():
        run(["mcopy", "-i", place, "-", f"::{path}"], stdin=text.encode())
    files = {"EFI/BOOT/BOOTX64.EFI": SYSTEMD_BOOT, "vmlinuz": boot.kernel, "initrd": boot.initrd}
    for path, source in files.items():
        run(["mcopy", "-i", place, source, f"::{path}"])
    run(["syslinux", "--install", "--offset", str(_ESP_START), disk])


def _write_root(disk: Path, tree: Path, size: int) -> None:
    # Inode tables are written now: zeroes cost a sparse file nothing, and the guest's kernel the first minutes.
    extended = f"lazy_itable_init=0,lazy_journal_init=0,offset={_ROOT_START}"
    options = ("-q", "-F", "-t", "ext4", "-L", "guest-root", "-E", extended)
    run(["mke2fs", *options, "-d", tree, disk, f"{size >> 10}k"])
