"""Building guests, as far as it needs neither a mirror nor a machine; tests/vm/test_matrix.py has all of it."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, InvalidGuest, InvalidValue, ReleaseExpired, ToolMissing
from preloader_agent.host.guests import bootdisk
from preloader_agent.host.guests.base import BaseConfig, Suite, make_base
from preloader_agent.host.guests.boot import BootFiles, make_boot_files
from preloader_agent.host.guests.bootdisk import MIB, check_tools, write_disk
from preloader_agent.host.run import run, start
from preloader_agent.host.waiting import tries
from tests.host.command import COMMAND, PYTHONPATH, Preloader

BOUND = 20.0
# What apt of Debian 13 says of a mirror that is a snapshot.
EXPIRED = "E: Release file for http://mirror/debian/dists/forky/InRelease is expired (invalid since 15d 10h 28min 36s)."


@pytest.fixture
def needs_tools() -> None:
    try:
        check_tools()
    except ToolMissing as err:
        pytest.skip(f"{err}, or run packaging/install-tools")


@pytest.fixture
def boot(tmp_path: Path) -> BootFiles:
    """Files of which the disk only keeps the content."""
    files = BootFiles(tmp_path / "kernel", tmp_path / "initial")
    files.kernel.write_bytes(b"kernel" * 100_000)
    files.initrd.write_bytes(b"initrd" * 100_000)
    return files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The tar file of a tree with one file."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("guest\n")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "etc", "./etc")
    return tmp_path / "root.tar"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs are found in place of the real ones."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


@pytest.fixture
def mmdebstrap(programs: Path) -> Path:
    """Where a program is found in place of mmdebstrap."""
    return programs / "mmdebstrap"


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("needs_tools")
def test_disk_has_what_both_kinds_of_firmware_look_for(tree: Path, boot: BootFiles, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    write_disk(tree, boot, 800 * MIB, disk)
    table = json.loads(run(["sfdisk", "--json", disk]))["partitiontable"]
    assert table["label"] == "dos"
    assert [(part["type"], part.get("bootable")) for part in table["partitions"]] == [("ef", True), ("83", None)]
    esp, root = (part["start"] * table["sectorsize"] for part in table["partitions"])
    assert disk.read_bytes()[:440] == bootdisk.SYSLINUX_MBR.read_bytes()[:440]
    files = {"vmlinuz": boot.kernel, "initrd": boot.initrd, "EFI/BOOT/BOOTX64.EFI": bootdisk.SYSTEMD_BOOT}
    for name, source in files.items():
        run(["mcopy", "-n", "-o", "-i", f"{disk}@@{esp}", f"::{name}", tmp_path / "found"])
        assert (tmp_path / "found").read_bytes() == source.read_bytes()
    for name in ("syslinux.cfg", "loader/entries/guest.conf"):
        assert "root=LABEL=guest-root" in run(["mtype", "-i", f"{disk}@@{esp}", f"::{name}"])
    assert run(["debugfs", "-R", "cat /etc/hostname", f"{disk}?offset={root}"]) == "guest\n"
    run(["e2fsck", "-fn", f"{disk}?offset={root}"])


def test_disk_that_is_too_small(tree: Path, boot: BootFiles, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="size: expected at least 578M for this guest, found '100M'"):
        write_disk(tree, boot, 100 * MIB, tmp_path / "disk.raw")
    assert not (tmp_path / "disk.raw").exists()


@pytest.mark.usefixtures("needs_tools")
def test_mke2fs_that_cannot_read_tar_files(programs: Path) -> None:
    write_program(programs / "mke2fs", "echo 'mke2fs 1.47.0 (5-Feb-2023)' >&2")
    with pytest.raises(
        ToolMissing, match=r"reads tar files is not installed: expected 1\.47\.1 or newer, found mke2fs"
    ):
        check_tools()


def test_tree_without_a_kernel(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidGuest, match="has no kernel: expected /boot/vmlinuz-"):
        make_boot_files(tree, tmp_path)


def test_mirror_whose_lists_are_out_of_date(mmdebstrap: Path, tmp_path: Path) -> None:
    write_program(mmdebstrap, f'case "$*" in *Check-Valid-Until*) ;; *) echo "{EXPIRED}" >&2; exit 100 ;; esac')
    with pytest.raises(ReleaseExpired, match=r"(?s)forky: .*--no-check-valid-until.*InRelease is expired"):
        make_base(BaseConfig(Suite.FORKY), tmp_path / "root.tar")
    make_base(BaseConfig(Suite.FORKY, is_validity_checked=False), tmp_path / "root.tar")


def test_what_mmdebstrap_says_is_passed_on(mmdebstrap: Path, tmp_path: Path) -> None:
    write_program(mmdebstrap, "echo 'E: Unable to locate package none' >&2; exit 100")
    with pytest.raises(CommandFailed, match=r"^mmdebstrap trixie: exit status 100: E: Unable to locate package none$"):
        make_base(BaseConfig(Suite.TRIXIE, ("none",)), tmp_path / "root.tar")


@pytest.mark.usefixtures("needs_tools")
def test_interrupted_build_leaves_nothing(mmdebstrap: Path, tmp_path: Path) -> None:
    """mmdebstrap is given the time to remove its own tree, which nobody else may be able to."""
    left, output = tmp_path / "left", tmp_path / "out" / "guest.qcow2"
    output.parent.mkdir()
    write_program(mmdebstrap, f"touch {left}; trap 'rm {left}; exit 1' TERM; while :; do sleep 0.1; done")
    with (tmp_path / "log").open("wb") as log:
        arguments = ["guest", "build", "--suite", "trixie", "-o", str(output)]
        process = start(["env", f"PYTHONPATH={PYTHONPATH}", *COMMAND, *arguments], log=log)
    for _ in tries(BOUND, 0.05):
        if left.exists():
            break
    process.terminate()
    assert process.wait(BOUND) == 130
    assert not left.exists()
    assert list(output.parent.iterdir()) == []
    assert (tmp_path / "log").read_text().lstrip("\n") == "preloader: interrupted; nothing was written\n"


def test_program_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ >pid; exec sleep 1000"
    with pytest.raises(CommandFailed, match=r"not finished after 0\.5 s"):
        run(["env", f"--chdir={tmp_path}", "sh", "-c", script], timeout=0.5, grace=0.5)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_guest_that_is_there_already(preloader: Preloader, tmp_path: Path) -> None:
    output = tmp_path / "guest.qcow2"
    output.write_text("somebody's work")
    status, out, err = preloader("guest", "build", "--suite", "trixie", "-o", output)
    assert (status, out) == (2, "")
    assert "expected a file that is not there yet; --force replaces it" in err
    assert output.read_text() == "somebody's work"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-o", "none/guest.qcow2"), "a file in a directory that exists"),
        (("-o", "a@@1.qcow2"), "a path without @@, after which mtools expect an offset"),
        (("-o", "guest.qcow2", "--package", "none.deb"), "a Debian package's file"),
        (("-o", "guest.qcow2", "--boot-files", "none"), "a directory that exists"),
        (("-o", "guest.qcow2", "--size", "8 gigs"), "a number such as 512M or 8G"),
        (("-o", "guest.qcow2", "--size", "1000M"), "at least 1G for any guest"),
        (("-o", "guest.qcow2", "--wheels", "none"), "a directory that exists"),
    ],
)
def test_what_cannot_be_built(
    preloader: Preloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = preloader("guest", "build", "--suite", "trixie", *arguments)
    assert status == 2
    assert f"expected {expected}, found" in err
    assert list(tmp_path.iterdir()) == []
