"""A guest that is all initrd: it mounts each disk that comes, reads it, and says on its console what it has read.

For tests of many machines and many disks: it needs 96 MiB and seconds to boot, where Debian takes a gigabyte and 20.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

from preloader_agent.errors import VmError
from preloader_agent.host.diskimage import open_image
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.guests.boot import write_initrd
from preloader_agent.host.run import run
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.waiting import tries
from preloader_agent.store.index import MAX_INDEX_BYTES
from preloader_agent.store.layout import INDEX_NAME

MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4")
INIT = f"""#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /disk
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
while read -r module; do $bb insmod "/modules/$module.ko"; done </lists/all
echo small guest: up
seen=' '
while :; do
    for path in /sys/block/vd* /sys/block/sd*; do
        name=${{path##*/}}
        case $seen in *" $name "*) continue ;; esac
        [ "$($bb cat $path/serial 2>/dev/null)" != root ] || continue
        $bb mount -t ext4 -o ro,noload "/dev/$name" /disk 2>/dev/null || continue
        echo "small guest: $name ro=$($bb cat $path/ro) $($bb sha256sum </disk/{INDEX_NAME})"
        $bb umount /disk
        seen="$seen$name "
    done
    $bb sleep 0.2
done
"""
READ = re.compile(r"^small guest: (\w+) ro=1 ([0-9a-f]{64})", re.MULTILINE)


def make_small_guest(folder: Path, guest: Path) -> VmConfig:
    """A small guest with the kernel of a whole one (its folder)."""
    root = folder / "root.qcow2"
    with tarfile.open(guest / "root.tar") as tree:
        write_initrd(tree, INIT.encode(), {"all": MODULES}, folder / "initrd")
    run(["qemu-img", "create", "-q", "-f", "qcow2", root, "1M"])
    return VmConfig(
        root,
        kernel=guest / "vmlinuz",
        initrd=folder / "initrd",
        append="console=ttyS0 quiet mitigations=off tsc=reliable",
        memory_mib=96,
        cores=1,
        announce_disks=False,
    )


def index_digest(disk: Path) -> str:
    """What the small guest says when it has read a disk."""
    with Ext4(open_image(disk)) as filesystem:
        return hashlib.sha256(filesystem.read(INDEX_NAME.encode(), MAX_INDEX_BYTES) or b"").hexdigest()


def wait_until_read(vm: Vm, disks: list[Path], timeout: float) -> None:
    """Wait until a small guest has read these disks, each as one that cannot be written."""
    wanted = sorted(map(index_digest, disks))
    for _ in tries(timeout, pause=0.2):
        found = sorted(digest for _, digest in READ.findall(vm.console()))
        if found == wanted:
            return
    raise VmError(f"{len(found)} of {len(wanted)} disks read after {timeout:g} s", vm.console()[-3000:])
