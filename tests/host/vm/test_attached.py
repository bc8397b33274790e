"""`preloader detach` and what is below it, with a real QEMU that runs no guest: unplugging a SCSI disk needs none."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk, InvalidValue, VmError
from preloader_agent.host.inspection import inspect_disk, read_label
from preloader_agent.host.run import run, start
from preloader_agent.host.vm import qmp
from preloader_agent.host.vm.attached import AttachedDisk, find_disk, list_disks, parse_disks
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries
from tests.host.command import COMMAND, PYTHONPATH, SIGNALS, Preloader
from tests.host.conftest import wait_until_it_waits
from tests.host.vm.fake_sockets import FakePreloader
from tests.host.vm.standing import make_others, needs_qemu, read_only, standing_machine

BOUND = 20.0
REFUSED = {"ok": False, "error": "containers use it: web", "containers": ["web"]}


@pytest.fixture
def others(folder: Path) -> list[Path]:
    """Files of disks that are not ours."""
    return make_others(folder, 4)


@contextmanager
def machine_of(folder: Path, disk: Path, others: list[Path], *more: str) -> Iterator[Path]:
    """A QEMU that stands still, with our disk on `ours` and others in each way there is; the socket of its monitor."""
    first, second, third, fourth = map(str, others)
    words = [
        *("-machine", "q35", "-device", "virtio-scsi-pci,id=scsi"),
        *("-blockdev", read_only("ours-node", disk), "-device", "scsi-hd,id=ours,drive=ours-node"),
        *("-drive", f"file={first},if=none,id=named,read-only=on", "-device", "scsi-hd,drive=named"),
        *("-drive", f"file={second},if=virtio,read-only=on"),
        *("-device", "pcie-root-port,id=port0,chassis=1"),
        *("-blockdev", json.dumps({"driver": "file", "node-name": "storage", "filename": third, "read-only": True})),
        *("-blockdev", json.dumps({"driver": "qcow2", "node-name": "format", "file": "storage", "read-only": True})),
        *("-device", "scsi-hd,id=two-nodes,drive=format"),
        *("-blockdev", read_only("left", Path(fourth)), "-drive", "if=ide,media=cdrom"),
        *more,
    ]
    with standing_machine(folder, *words) as monitor:
        yield monitor


@pytest.fixture
def machine(folder: Path, disk: Path, others: list[Path]) -> Iterator[Path]:
    with machine_of(folder, disk, others) as monitor:
        yield monitor


@pytest.fixture
def guest(folder: Path, disk: Path) -> Iterator[FakePreloader]:
    """The agent of a guest that uses our disk, and lets go of it."""
    (folder / "control").mkdir()
    status = {"disks": [{"label": inspect_disk(disk).label, "state": "adopted"}]}
    with FakePreloader(folder / "control", {"status": {"ok": True, "status": status}}) as fake:
        yield fake


def disks_of(machine: Path) -> list[AttachedDisk]:
    with closing(Monitor(machine)) as monitor:
        return list_disks(monitor)


def nodes_of(machine: Path) -> set[str]:
    return {name for disk in disks_of(machine) for name in disk.nodes}


# --- finding ---


@needs_qemu
def test_every_way_to_attach_a_disk(machine: Path, disk: Path, others: list[Path]) -> None:
    first, second, third, fourth = map(str, others)
    assert [disk[:3] for disk in sorted(disks_of(machine))] == [
        ("", ("left",), fourth),
        ("/machine/peripheral-anon/device[0]", (), first),
        ("/machine/peripheral-anon/device[1]", (), second),
        ("ours", ("ours-node",), str(disk)),
        ("two-nodes", ("format", "storage"), third),
    ]


def test_a_virtio_device_is_told_by_its_backend() -> None:
    """As QEMU 7.2 shows a disk of ours."""
    inserted = {"file": "/x.qcow2", "node-name": "disk0-node", "ro": True, "drv": "qcow2"}
    blocks = [{"device": "", "qdev": "/machine/peripheral/disk0/virtio-backend", "inserted": inserted}]
    assert parse_disks(blocks, [inserted]) == [AttachedDisk("disk0", ("disk0-node",), "/x.qcow2")]


def test_a_file_that_two_devices_have_keeps_the_nodes_of_the_other() -> None:
    nodes = [{"file": "/x", "node-name": name} for name in ("a", "a-storage", "b", "#block1")]
    blocks = [
        {"device": "", "qdev": name, "inserted": {"file": "/x", "node-name": name, "ro": True}} for name in ("a", "b")
    ]
    assert parse_disks(blocks, nodes) == [AttachedDisk("a", ("a",), "/x"), AttachedDisk("b", ("b",), "/x")]


def test_a_disk_is_found_by_device_file_and_label(
    disk: Path, raw_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = inspect_disk(disk).label
    ours, gone = AttachedDisk("ours", (), str(disk)), AttachedDisk("", ("disk7-node",), "nbd://host/x")
    disks = [ours, AttachedDisk("/machine/x", (), str(tmp_path / "none")), gone]
    (tmp_path / "link").symlink_to(disk)
    monkeypatch.chdir(disk.parent)
    for name in ("ours", str(disk), disk.name, str(tmp_path / "link"), label):
        assert find_disk(disks, name) is ours
    for name in ("disk7-node", "disk7", "nbd://host/x"):
        assert find_disk(disks, name) is gone
    with pytest.raises(InvalidValue, match=r"which has ours \(.*\), /machine/x \(.*\), disk7-node .*found 'dpl-none'"):
        find_disk(disks, "dpl-none")
    twice = AttachedDisk("twice", (), str(raw_disk))
    with pytest.raises(InvalidValue, match=rf"expected one disk, and this is ours .*, twice .*found '{label}'"):
        find_disk([*disks, twice], label)
    assert find_disk([*disks, twice], "twice") is twice


def test_the_label_of_a_disk_with_and_without_an_index(disk: Path, tmp_path: Path) -> None:
    assert read_label(disk) == inspect_disk(disk).label
    plain = tmp_path / "plain"
    (plain / "image/overlay2/layerdb/sha256").mkdir(parents=True)
    run(["mke2fs", "-q", "-t", "ext4", "-L", "plain", "-d", plain, tmp_path / "plain.raw", "1M"])
    assert read_label(tmp_path / "plain.raw") == "plain"
    run(["mke2fs", "-q", "-t", "ext4", "-L", "guest-root", tmp_path / "root.raw", "1M"])
    with pytest.raises(InvalidDisk, match=r"has no preload\.json and no image store"):
        read_label(tmp_path / "root.raw")


# --- detaching ---


@needs_qemu
def test_detach_without_asking(machine: Path, disk: Path, others: list[Path], preloader: Preloader) -> None:
    result = preloader("detach", "--qmp", machine, "ours", disk, others[0], "two-nodes")
    expected = [
        f"ours ({disk}): detached",
        f"/machine/peripheral-anon/device[0] ({others[0]}): detached",
        f"two-nodes ({others[2]}): detached",
    ]
    assert result == (0, "\n".join(expected) + "\n", "")
    assert [left.file for left in disks_of(machine)] == [str(others[1]), str(others[3])]
    run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", others[2]])  # nobody has it open


@needs_qemu
def test_detach_asks_first(machine: Path, disk: Path, guest: FakePreloader, preloader: Preloader) -> None:
    label = inspect_disk(disk).label
    guest.answers["release"] = REFUSED
    command = ("detach", "--qmp", machine, "--control", guest.path, label)
    assert preloader(*command) == (1, "", "preloader: control channel: release: containers use it: web\n")
    assert "ours-node" in nodes_of(machine)
    guest.answers["release"] = {"ok": True}
    assert preloader(*command) == (0, f"ours ({disk}): detached\n", "")
    assert preloader(*command).status == 2
    request = {"request": "release", "label": label, "force": False}
    assert [asked for asked in guest.asked if "label" in asked] == [request, request]
    assert "ours-node" not in nodes_of(machine)


@needs_qemu
def test_force_is_passed_on_and_stops_at_nothing(machine: Path, disk: Path, guest: FakePreloader) -> None:
    guest.answers["release"] = REFUSED
    command: list[str | Path] = [*COMMAND, "detach", "--qmp", machine, "--control", guest.path, "--force", "ours"]
    said = run(command, env={"PYTHONPATH": PYTHONPATH}, with_stderr=True)
    assert guest.asked[-1]["force"] is True
    reason = "control channel: release: containers use it: web"
    assert said == f"preloader: ours is unplugged by force: {reason}\nours ({disk}): detached\n"


@needs_qemu
@pytest.mark.parametrize("seen", [[], [{"label": "dpl-other"}], [5, {"label": []}], None])
def test_a_disk_that_the_guest_does_not_know_is_just_unplugged(
    machine: Path, guest: FakePreloader, preloader: Preloader, seen: object, caplog: pytest.LogCaptureFixture
) -> None:
    guest.answers["status"] = {"ok": True, "status": {"disks": seen}}
    assert preloader("detach", "--qmp", machine, "--control", guest.path, "ours").status == 0
    assert "release" not in [asked["request"] for asked in guest.asked]
    assert "the guest does not use dpl-" in caplog.text


@needs_qemu
def test_a_guest_that_cannot_be_asked_keeps_its_disk(machine: Path, folder: Path, preloader: Preloader) -> None:
    result = preloader("detach", "--qmp", machine, "--control", folder / "none", "ours")
    reason = f"control channel: cannot connect to {folder}/none: No such file or directory"
    problem = f"{reason}; --force unplugs it all the same"
    assert result == (1, "", f"preloader: {problem}\n")
    assert "ours-node" in nodes_of(machine)
    assert preloader("detach", "--qmp", machine, "--control", folder / "none", "--force", "ours").status == 0


@needs_qemu
def test_disks_that_are_not_ours_or_not_removable_are_not_asked_for(
    machine: Path, others: list[Path], guest: FakePreloader, preloader: Preloader, caplog: pytest.LogCaptureFixture
) -> None:
    command = ("detach", "--qmp", machine, "--control", guest.path)
    result = preloader(*command, others[1])
    assert result.status == 1
    assert f"({others[1]}) is on a bus without hot-plug, such as pcie.0, and cannot be unplugged" in result.err
    assert preloader(*command, "two-nodes").status == 0
    assert f"the guest is not asked to let go of a disk: {others[2]}: holds no ext4" in caplog.text
    others[0].unlink()
    result = preloader(*command, others[0])
    assert result.status == 2
    assert f"{others[0]}: cannot be read from here" in result.err
    assert guest.asked == []


@needs_qemu
def test_nothing_is_done_when_a_name_is_wrong(machine: Path, preloader: Preloader) -> None:
    result = preloader("detach", "--qmp", machine, "ours", "none")
    assert (result.status, result.out) == (2, "")
    assert "preloader: disk: expected the device id, file or label of a disk of this machine" in result.err
    assert "ours-node" in nodes_of(machine)


def test_a_monitor_that_is_not_there(folder: Path, preloader: Preloader) -> None:
    result = preloader("detach", "--qmp", folder / "none", "x")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"preloader: QMP monitor at {folder}/none: ")
    assert "No such file or directory" in result.err
    assert result.err.count("\n") == 1


@needs_qemu
def test_a_monitor_that_another_program_holds(
    machine: Path, preloader: Preloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "GREETING_TIMEOUT", 0.3)
    with closing(Monitor(machine)):
        result = preloader("detach", "--qmp", machine, "ours")
    assert result.status == 1
    assert "one client at a time: is another program connected?" in result.err


# --- interrupted ---


@contextmanager
def detaching(folder: Path, *args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A detach in a process of its own; what it prints goes to `log`."""
    with (folder / "log").open("wb") as log:
        process = start(["env", f"PYTHONPATH={PYTHONPATH}", *COMMAND, "detach", *args], log=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_it_has_a_loop(process: subprocess.Popen[bytes]) -> None:
    """Until a process has begun with the monitor."""
    for _ in tries(BOUND, pause=0.02):
        with suppress(FileNotFoundError):  # a descriptor that was just closed
            if any("eventpoll" in str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir()):
                return
    raise AssertionError("the process never connects")


def assert_interrupted(process: subprocess.Popen[bytes], folder: Path) -> None:
    assert process.wait(BOUND) == 130
    said = (folder / "log").read_text().lstrip("\n")
    assert said == "preloader: interrupted; the same command again finishes what was begun\n"


@needs_qemu
@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_while_the_guest_lets_go(
    machine: Path, disk: Path, guest: FakePreloader, preloader: Preloader, number: signal.Signals
) -> None:
    guest.answers["release"] = ""
    folder, command = machine.parent, ("--qmp", machine, "--control", guest.path, disk)
    with detaching(folder, *command) as process:
        for _ in tries(BOUND, pause=0.02):
            if "release" in [asked["request"] for asked in guest.asked]:
                break
        wait_until_it_waits(process)
        process.send_signal(number)
        assert_interrupted(process, folder)
    guest.answers["release"] = {"ok": True}
    assert preloader("detach", *command).status == 0
    assert "ours-node" not in nodes_of(machine)


@needs_qemu
def test_interrupted_while_the_device_goes(folder: Path, disk: Path, others: list[Path]) -> None:
    """A guest that stands still keeps its PCI device: a request for it stays under way, and a second is no error."""
    more = ("-blockdev", read_only("pci-node", disk), "-device", "virtio-blk-pci,id=pci,drive=pci-node,bus=port0")
    with machine_of(folder, disk, others, *more) as machine:
        for _ in range(2):
            with detaching(folder, "--qmp", machine, "pci") as process:
                wait_until_it_has_a_loop(process)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1)
                process.send_signal(signal.SIGINT)
                assert_interrupted(process, folder)
        with closing(Monitor(machine)) as monitor, pytest.raises(VmError, match=r"has not let go of it after 0\.5 s"):
            monitor.unplug("pci", 0.5)


@needs_qemu
@pytest.mark.parametrize("way", ["device", "file", "label"])
def test_a_second_run_closes_what_an_interrupted_one_left_open(
    machine: Path, disk: Path, preloader: Preloader, way: str
) -> None:
    with closing(Monitor(machine)) as monitor:
        monitor.unplug("ours", BOUND)
        monitor.unplug("ours", BOUND)  # which has gone
    name = {"device": "ours", "file": disk, "label": inspect_disk(disk).label}[way]
    assert preloader("detach", "--qmp", machine, name) == (0, f"ours-node ({disk}): detached\n", "")
    assert "ours-node" not in nodes_of(machine)
