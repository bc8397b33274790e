"""`run_as_root` in a machine: what only real root may do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from preloader_agent.host.tarstream import BLK, CHR
from preloader_agent.host.vm.config import UserNetwork, VmConfig
from tests.images.layer import block_device, directory, file
from tests.scriptruns import layer_on_busybox, run_script

SCRIPT = r"""
mknod /made c 10 229
mknod /dev/unseen c 10 229
chown 100000:70000 /far
truncate -s 1M /fs
mke2fs -q -F /fs
mkdir /mnt
mount -o loop /fs /mnt
echo mounted >/mnt/file
umount /mnt
rm /old
grep -c : /proc/net/dev >/interfaces
"""


def test_a_script_has_what_real_root_has_in_a_machine(guest: Path) -> None:
    machine = replace(VmConfig.of_guest(guest), network=UserNetwork(), spare_ports=0)
    entries = (directory("dev"), block_device("old", 8, 0), block_device("kept", 8, 1), file("far", "x"))
    ran = run_script(SCRIPT, *layer_on_busybox(*entries), machine=machine)
    changes = ran.changes
    assert changes.keys() == {b"made", b"far", b"fs", b"mnt", b"old", b"interfaces"}
    assert (changes[b"made"].type, changes[b"made"].device) == (CHR, (10, 229))
    assert (changes[b"far"].uid, changes[b"far"].gid, changes[b"far"].content) == (100000, 70000, b"x")
    assert b"mounted\n" in changes[b"fs"].content
    assert (ran.after[b"kept"].type, ran.after[b"kept"].device) == (BLK, (8, 1))
    assert b"old" not in ran.after
    assert changes[b"interfaces"].content == b"1\n"  # the loopback's, whatever network the machine was to have
