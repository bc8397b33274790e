"""The driver with a real guest. One machine serves them all, booted twice; the order of the tests does not matter but
for the last two, which reboot it and power it off.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk, VmError
from preloader_agent.host.run import run
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Ending, State, Vm

COLD = "dpl-00000000c01d"
HOT = "dpl-0000000040f0"
OTHER = "dpl-000000000007"


def make_disk(folder: Path, label: str) -> Path:
    raw, disk = folder / f"{label}.raw", folder / f"{label}.qcow2"
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", label, raw, "1M"])
    run(["qemu-img", "convert", "-O", "qcow2", raw, disk])
    return disk


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("disks")
    return {label: make_disk(folder, label) for label in (COLD, HOT, OTHER)}


@pytest.fixture(scope="module")
def vm(guest: Path, disks: dict[str, Path]) -> Iterator[Vm]:
    credentials = {"test.text": "one, two", "test.lines": "one\ntwo"}
    config = VmConfig.of_guest(guest)
    config = dataclasses.replace(config, disks=(disks[COLD],), spare_ports=1, credentials=credentials)
    with Vm(config) as machine:
        machine.wait_booted()
        yield machine


def seen(vm: Vm, label: str) -> str:
    """The disk of a label as the guest sees it, once it does: read-only, serial, label."""
    vm.wait_until_succeeds(f"test -e /dev/disk/by-label/{label}", timeout=60)
    return vm.succeed(f"lsblk --noheadings --output RO,SERIAL,LABEL /dev/disk/by-label/{label}").strip()


def processes_of(folder: Path) -> list[Path]:
    return [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if f"{folder}/".encode() in path.read_bytes()]


def test_crash_leaves_nothing_behind(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="dpl-test-") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        with Vm(VmConfig.of_guest(guest)) as machine:
            assert len(processes_of(Path(name))) == 1
            machine.crash()
            assert processes_of(Path(name)) == []
            machine.start()
            assert len(processes_of(Path(name))) == 1
        assert processes_of(Path(name)) == []
        assert list(Path(name).iterdir()) == []


def test_initrd_says_what_is_wrong_and_ends(guest: Path) -> None:
    config = dataclasses.replace(VmConfig.of_guest(guest), append="root=LABEL=none console=ttyS0 quiet")
    with Vm(config) as machine, pytest.raises(VmError, match=r"(?s)the machine is gone.*no disk is LABEL=none"):
        machine.wait_booted()


def test_docker_is_up(vm: Vm) -> None:
    vm.wait_for_unit("docker.service")
    assert vm.succeed("docker info --format '{{.Driver}}'").strip() == "overlay2"
    assert vm.succeed("systemctl --failed --no-legend") == ""


def test_commands(vm: Vm) -> None:
    assert vm.execute("echo out; echo err >&2; exit 7") == (7, "out\nerr\n")
    assert vm.succeed("hostname") == "guest\n"
    assert vm.fail("cat /none") == "cat: /none: No such file or directory\n"
    assert len(vm.succeed("head -c 1000000 /dev/zero | tr '\\0' x")) == 1_000_000
    with pytest.raises(VmError, match="exit 3: expected exit status 0, got 3: no output"):
        vm.succeed("exit 3")
    with pytest.raises(VmError, match="true: expected a failure, got exit status 0"):
        vm.fail("true")
    with pytest.raises(VmError, match="sleep 1000: not finished after 1 s: begun"):
        vm.succeed("echo begun; sleep 1000", timeout=1)
    assert vm.fail("pgrep --exact sleep") == ""


def test_units(vm: Vm) -> None:
    vm.succeed("systemd-run --unit=test-fails sh -c 'exit 9'")
    with pytest.raises(VmError, match=r"(?s)test-fails\.service has failed:.*exited, status=9"):
        vm.wait_for_unit("test-fails.service")
    vm.succeed("systemctl reset-failed")
    with pytest.raises(VmError, match=r"rescue\.target is not active after 1 s, but inactive"):
        vm.wait_for_unit("rescue.target", timeout=1)
    with pytest.raises(VmError, match="test -e /none: has not succeeded in 1 s"):
        vm.wait_until_succeeds("test -e /none", timeout=1)


def test_credentials(vm: Vm) -> None:
    assert vm.succeed("cat /run/credentials/@system/test.text") == "one, two"
    assert vm.succeed("cat /run/credentials/@system/test.lines") == "one\ntwo"


def test_disks_come_and_go(vm: Vm, disks: dict[str, Path]) -> None:
    assert seen(vm, COLD).split() == ["1", COLD, COLD]
    for _ in range(2):  # the second time on the same port
        device = vm.attach(disks[HOT])
        assert seen(vm, HOT).split() == ["1", HOT, HOT]
        with pytest.raises(VmError, match=f"{HOT}.qcow2 is attached already, as {HOT}"):
            vm.attach(disks[HOT])
        with pytest.raises(VmError, match="no free place for a disk"):
            vm.attach(disks[OTHER])
        vm.detach(device)
        vm.wait_until_succeeds(f"! test -e /dev/disk/by-label/{HOT}", timeout=60)
    with pytest.raises(InvalidDisk, match="cannot be read: No such file"):
        vm.attach(disks[HOT].with_name("none.qcow2"))


def test_reboot_keeps_the_disks(vm: Vm, disks: dict[str, Path]) -> None:
    boot = vm.succeed("cat /proc/sys/kernel/random/boot_id; touch /root/kept")
    device = vm.attach(disks[HOT])
    vm.reboot()
    assert vm.succeed("cat /proc/sys/kernel/random/boot_id; ls /root/kept") != boot
    assert seen(vm, HOT).split() == ["1", HOT, HOT]
    vm.detach(device)


def test_shutdown_is_the_guests_own(vm: Vm) -> None:
    assert vm.shutdown() is Ending.POWEROFF
    assert vm.state is State.OFF
    assert "Power down" in vm.console()
