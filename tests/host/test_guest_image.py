"""The agent is put into disk images: where the root is found, and which images are refused and stay as they are."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, InvalidGuest, PreloaderError
from preloader_agent.host.guests.install import install_into_image
from preloader_agent.host.run import run
from preloader_agent.host.waiting import tries
from tests.host.command import PYTHONPATH
from tests.host.guesttrees import dump_filesystem, make_filesystem, make_guest, write

MIB = 1 << 20
COMMAND = "usr/bin/docker-preloader"
PROGRAM = """
import pathlib, signal, sys
from preloader_agent.host.guests.install import install_into_image
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
install_into_image(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_guest(tmp_path / "root")


@pytest.fixture
def raw(root: Path) -> Path:
    """An image of a file system without a partition table, in a folder of its own."""
    folder = root.parent / "images"
    folder.mkdir()
    return make_filesystem(root).rename(folder / "guest.raw")


def to_qcow2(raw: Path, *options: str) -> Path:
    disk = raw.with_suffix(".qcow2")
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, disk])
    raw.unlink()
    return disk


def partition(raw: Path, label: str, table: Sequence[str], *files: tuple[Path, int]) -> Path:
    """An image with a partition table, and file systems at some MiB of it."""
    disk = raw.with_name("partitioned.raw")
    with disk.open("wb") as whole:
        whole.truncate(64 * MIB)
    run(["sfdisk", "--quiet", disk], stdin="\n".join([f"label: {label}", *table]).encode())
    for file, start in files:
        run(["dd", f"if={file}", f"of={disk}", "conv=notrunc,sparse", f"seek={start}", "bs=1M"])
    raw.unlink()
    return disk


def test_qcow2_stays_qcow2(raw: Path) -> None:
    disk = to_qcow2(raw, "-o", "cluster_size=16384")
    disk.chmod(0o640)
    install_into_image(disk)
    assert '"cluster-size": 16384' in run(["qemu-img", "info", "--output=json", "-f", "qcow2", disk])
    assert stat.S_IMODE(disk.stat().st_mode) == 0o640
    assert list(disk.parent.iterdir()) == [disk]
    assert (dump_filesystem(disk, disk.parent / "found") / COMMAND).is_file()


@pytest.mark.parametrize("name", ["with space.raw", "it's,odd:$(x).raw"])
def test_odd_names(raw: Path, name: str) -> None:
    disk = raw.rename(raw.with_name(name))
    install_into_image(disk)
    assert list(disk.parent.iterdir()) == [disk]
    assert b"import main" in disk.read_bytes()


def test_a_name_of_the_image_that_is_a_symlink(raw: Path) -> None:
    link = raw.parent / "link"
    link.symlink_to(raw.name)
    install_into_image(link)
    assert link.is_symlink()
    assert b"import main" in raw.read_bytes()


TABLES = {
    "gpt": ["start=2048,size=16384,type=U", "start=32768,type=L"],
    "dos": ["start=2048,size=16384,type=c,bootable", "start=18432,type=5", "start=32768,type=83"],  # a logical one
}


@pytest.mark.parametrize("label", TABLES)
def test_root_in_a_partition(raw: Path, label: str) -> None:
    boot = make_filesystem(write(raw.parent.parent / "boot/vmlinuz").parent, size="8M")
    disk = partition(raw, label, TABLES[label], (boot, 1), (raw, 16))
    before = run(["sfdisk", "--dump", disk])
    install_into_image(disk)
    assert run(["sfdisk", "--dump", disk]) == before
    assert disk.stat().st_size == 64 * MIB
    assert (dump_filesystem(disk, disk.parent / "found", 16 * MIB) / COMMAND).is_file()
    assert not (dump_filesystem(disk, disk.parent / "boot", MIB) / "usr").exists()


@pytest.mark.parametrize("features", ["^extents,^64bit,^metadata_csum,^has_journal", "inline_data"])
def test_root_beside_a_file_system_that_is_not_read(raw: Path, features: str) -> None:
    boot = make_filesystem(write(raw.parent.parent / "boot/vmlinuz").parent, "-O", features, size="8M")
    disk = partition(raw, "gpt", TABLES["gpt"], (boot, 1), (raw, 16))
    install_into_image(disk)
    assert (dump_filesystem(disk, disk.parent / "found", 16 * MIB) / COMMAND).is_file()


def test_indexed_directories_stay_sound(root: Path) -> None:
    for number in range(600):
        write(root / f"usr/lib/systemd/system/a-service-with-a-rather-long-name-{number}.service")
    raw = make_filesystem(root, "-N", "4096", "-b", "1024")
    run(["e2fsck", "-fyD", raw], ok=(0, 1))
    assert "Flags: 0x81000" in run(["debugfs", "-R", "stat /usr/lib/systemd/system", raw])  # indexed
    install_into_image(raw)
    units = dump_filesystem(raw, root.with_name("found")) / "usr/lib/systemd/system"
    assert len(list(units.iterdir())) == 602
    install_into_image(raw)


def put_on_backing(raw: Path) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, raw.with_name("overlay.qcow2")])
    return raw.with_name("overlay.qcow2")


def add_snapshot(raw: Path) -> Path:
    disk = to_qcow2(raw)
    run(["qemu-img", "snapshot", "-c", "before", disk])
    return disk


def leave_unclean(raw: Path) -> Path:
    run(["debugfs", "-w", "-R", "feature needs_recovery", raw])
    return raw


def leave_mounted(raw: Path) -> Path:
    run(["debugfs", "-w", "-R", "set_super_value state 0", raw])
    return raw


def damage(raw: Path) -> Path:
    run(["debugfs", "-w", "-R", "set_inode_field /etc/os-release links_count 7", raw])
    return raw


def add_feature(raw: Path) -> Path:
    run(["debugfs", "-w", "-R", "feature inline_data", raw])
    return raw


def add_quotas(raw: Path) -> Path:
    run(["tune2fs", "-O", "quota", raw])
    return raw


def make_ext2(raw: Path) -> Path:
    return make_filesystem(raw.parent.parent / "root", "-O", "^extents,^64bit,^has_journal").rename(raw)


def make_another_filesystem(raw: Path) -> Path:
    run(["mke2fs", "-q", "-F", "-t", "ext4", raw])
    return raw


def make_no_filesystem(raw: Path) -> Path:
    raw.write_bytes(b"\x7fELF" * MIB)
    return raw


def make_two_roots(raw: Path) -> Path:
    return partition(raw, "gpt", ["start=2048,size=32768", "start=65536"], (raw, 1), (raw, 32))


def fill(raw: Path) -> Path:
    write(raw.parent.parent / "content", bytes(range(256)) * (MIB >> 8) * 16)
    run(["debugfs", "-w", "-R", f"write {raw.parent.parent / 'content'} full", raw])
    return raw


def make_python_old(raw: Path) -> Path:
    run(["debugfs", "-w", "-f", "-", raw], stdin=b"rm /usr/bin/python3\nsymlink /usr/bin/python3 python3.9\n")
    return raw


UNFIT: dict[Callable[[Path], Path], str] = {
    put_on_backing: "keeps its data in another file; flatten it first",
    add_snapshot: "has snapshots, which would be lost",
    leave_unclean: "was not shut down cleanly, or is in use: boot it",
    leave_mounted: "was not shut down cleanly, or is in use: boot it",
    damage: r"e2fsck finds fault with it \(so nothing was changed",
    add_feature: r"features that are not read here \(incompatible 0x8000\)",
    add_quotas: "its ext4 has quotas, which only a mount keeps right",
    make_ext2: "holds no ext4 file system with /etc and /usr in it: for others, mount it",
    make_another_filesystem: "holds no ext4 file system with /etc and /usr in it: for others, mount it",
    make_no_filesystem: "holds no ext4 file system with /etc and /usr in it: for others, mount it",
    make_two_roots: "holds several root file systems",
    fill: "cannot be changed: .*allocat",
    make_python_old: "has no /usr/bin/python3",
}


@pytest.mark.parametrize("spoil", UNFIT, ids=lambda spoil: spoil.__name__)
def test_an_image_that_is_not_fit_stays_as_it_is(raw: Path, spoil: Callable[[Path], Path]) -> None:
    disk = spoil(raw)
    before, names = disk.read_bytes(), sorted(disk.parent.iterdir())
    with pytest.raises(PreloaderError, match=UNFIT[spoil]) as raised:
        install_into_image(disk)
    assert str(raised.value).startswith(f"{disk}: ")
    assert raised.value.exit_code == 2
    assert disk.read_bytes() == before
    assert sorted(disk.parent.iterdir()) == names


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_image_that_a_machine_uses(raw: Path, form: str) -> None:
    disk = raw if form == "raw" else to_qcow2(raw)
    # It takes the lock that QEMU takes, and keeps it until its standard input ends.
    with subprocess.Popen(["qemu-io", "-f", form, disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"length\n")
        user.stdin.flush()
        assert b"16 MiB" in user.stdout.readline()
        with pytest.raises(InvalidGuest, match="is in use: shut the machine down first"):
            install_into_image(disk)
        user.stdin.close()
    install_into_image(disk)


def test_a_guests_names_are_no_commands(root: Path) -> None:
    (root / "usr/lib/udev").symlink_to('/etc/x"\ndump /etc/os-release /tmp/stolen\n')
    raw = make_filesystem(root)
    with pytest.raises(InvalidGuest, match="a name with such characters"):
        install_into_image(raw)


def test_a_guests_long_path_is_no_second_command(root: Path) -> None:
    """debugfs reads lines of 8191 bytes; a chain of symlinks can lead to a path of any length."""
    (root / "usr/lib/udev").symlink_to("/" + "a/" * 2040)
    raw = make_filesystem(root, "-b", "4096")
    with pytest.raises(InvalidGuest, match=r"a/a/\.\.\. cannot be written: it has more than 4095 bytes"):
        install_into_image(raw)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(raw: Path, tmp_path: Path, number: int) -> None:
    """While e2fsck looks at the changed copy, and never ends."""
    marks = tmp_path / "before", tmp_path / "after"
    script = f'#!/bin/sh\n[ -e "{marks[0]}" ] || exec touch "{marks[0]}"\ntouch "{marks[1]}"\nkill -STOP $$\n'
    write(tmp_path / "bin/e2fsck", script.encode()).chmod(0o755)
    before = raw.read_bytes()
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": PYTHONPATH}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, raw], env=environment, stderr=subprocess.PIPE) as process:
        for _ in tries(30, pause=0.01):
            if marks[1].exists():
                break
        process.send_signal(number)
        try:
            assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert marks[1].exists()
    assert raw.read_bytes() == before
    assert list(raw.parent.iterdir()) == [raw]


def test_no_space(raw: Path) -> None:
    before = raw.read_bytes()
    limited = ["prlimit", f"--fsize={8 * MIB}", sys.executable, "-c", PROGRAM, str(raw)]
    with pytest.raises(CommandFailed, match=r"guest\.raw: no space left, or a limit reached"):
        run(limited, env={"PYTHONPATH": PYTHONPATH})
    assert raw.read_bytes() == before
    assert list(raw.parent.iterdir()) == [raw]


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidGuest, match="absent: is no file: expected a disk image"):
        install_into_image(tmp_path / "absent")
