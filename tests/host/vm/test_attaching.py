"""`preloader attach` and `list`, with real QEMUs that run no guest: each kind of machine says where it has room."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk, InvalidValue, VmError
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run, start
from preloader_agent.host.vm.accelerator import QEMU
from preloader_agent.host.vm.attached import AttachedDisk, attach_disk, list_disks
from preloader_agent.host.vm.controlport import find_control
from preloader_agent.host.vm.places import free_places
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries
from tests.host.command import COMMAND, PYTHONPATH, Preloader
from tests.host.vm.fake_sockets import FakePreloader
from tests.host.vm.standing import make_others, needs_qemu, read_only, standing_machine

Q35 = ("-machine", "q35")
BOUND = 20.0
CHANNEL = "-chardev socket,id=c,path={},server=on,wait=off -device virtio-serial-pci"
CHANNEL += " -device virtserialport,chardev=c,name=org.docker-preloader.0"


def root_port(name: str, number: int, *options: str) -> tuple[str, str]:
    return "-device", ",".join([f"pcie-root-port,id={name},chassis={number}", *options])


@pytest.fixture
def files(folder: Path) -> list[Path]:
    """Disks that are none of ours: a device is named by the file."""
    return make_others(folder, 3)


@contextmanager
def monitor_of(folder: Path, *words: str) -> Iterator[Monitor]:
    with standing_machine(folder, *words) as socket, closing(Monitor(socket)) as monitor:
        yield monitor


def bus_of(monitor: Monitor, disk: AttachedDisk) -> str:
    """The end of the QOM path of the bus that a device is on."""
    path = monitor.execute("qom-get", {"path": f"/machine/peripheral/{disk.device}", "property": "parent_bus"})
    return str(path).rpartition("/")[2]


# --- places ---


@needs_qemu
def test_root_ports_are_taken_in_order_and_those_that_refuse_are_left_out(folder: Path, files: list[Path]) -> None:
    ports = [*root_port("a", 1), *root_port("cold", 2, "hotplug=off"), *root_port("b", 3)]
    with monitor_of(folder, *Q35, *ports) as monitor:
        assert [place.bus for place in free_places(monitor)] == ["a", "cold", "b"]
        assert [bus_of(monitor, attach_disk(monitor, path)) for path in files[:2]] == ["a", "b"]
        with pytest.raises(VmError, match=r"cannot attach .*other2\.qcow2: cold: .*does not support hotplugging"):
            attach_disk(monitor, files[2])


@needs_qemu
def test_a_port_that_has_a_device_is_not_free(folder: Path) -> None:
    ports = [*root_port("a", 1), "-device", "virtio-rng-pci,bus=a", "-device", "pcie-root-port,chassis=2"]
    with monitor_of(folder, *Q35, *ports) as monitor:
        assert list(free_places(monitor)) == []


@needs_qemu
@pytest.mark.parametrize(
    ("words", "bus"),
    [
        ((*Q35, "-device", "virtio-scsi-pci"), "scsi.0"),
        ((*Q35, "-device", "virtio-scsi-pci,id=many"), "many.0"),
        (("-machine", "microvm", "-device", "virtio-scsi-device"), "scsi.0"),
        (("-machine", "pc"), "pci.0"),
        ((*Q35, "-device", "virtio-scsi-pci", *root_port("a", 1)), "a"),
    ],
)
def test_every_machine_has_its_place(folder: Path, files: list[Path], words: tuple[str, ...], bus: str) -> None:
    with monitor_of(folder, *words) as monitor:
        attached = attach_disk(monitor, files[0])
        assert bus_of(monitor, attached) == bus
        assert list_disks(monitor) == [attached]
        assert attached == AttachedDisk("other0", ("other0-node",), str(files[0]))


@needs_qemu
def test_a_machine_without_room_says_what_it_needs(folder: Path, files: list[Path]) -> None:
    with (
        monitor_of(folder, *Q35) as monitor,
        pytest.raises(VmError, match="no free place for a disk: give QEMU a controller, -device virtio-scsi-pci"),
    ):
        attach_disk(monitor, files[0])


@needs_qemu
def test_a_chosen_bus(folder: Path, files: list[Path]) -> None:
    words = (*Q35, "-device", "virtio-scsi-pci,id=many", *root_port("a", 1))
    with monitor_of(folder, *words) as monitor:
        assert bus_of(monitor, attach_disk(monitor, files[0], bus="many")) == "many.0"
        assert bus_of(monitor, attach_disk(monitor, files[1], bus="a")) == "a"
        with pytest.raises(InvalidValue, match=r"bus: expected one where .* now, and that is many\.0, found 'a'"):
            attach_disk(monitor, files[2], bus="a")


# --- disks ---


@needs_qemu
def test_a_disk_is_attached_once(folder: Path, disk: Path, raw_disk: Path) -> None:
    label = inspect_disk(disk).label
    link = folder / "link.qcow2"
    link.symlink_to(disk)
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci") as monitor:
        assert attach_disk(monitor, disk).device == label
        for again in (disk, link):
            with pytest.raises(VmError, match=f"is attached already, as {label}"):
                attach_disk(monitor, again)
        with pytest.raises(VmError, match=rf"raw cannot be attached: {disk} is, and both are {label}"):
            attach_disk(monitor, raw_disk)


@needs_qemu
def test_a_raw_disk_is_one_too(folder: Path, raw_disk: Path) -> None:
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci") as monitor:
        attached = attach_disk(monitor, raw_disk)
        assert list_disks(monitor) == [attached]
        assert attached.is_read_only


@needs_qemu
def test_what_is_no_disk_is_not_attached(folder: Path, files: list[Path]) -> None:
    (folder / "images.tar").write_bytes(bytes(10240))
    files[0].write_bytes(files[0].read_bytes()[:8] + bytes(1000))
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", files[1], folder / "overlay.qcow2"])
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci") as monitor:
        for name, problem in (
            ("images.tar", "holds no ext4"),
            ("overlay.qcow2", "keeps its data in another file"),
            ("none.qcow2", "No such file"),
            ("", "Is a directory"),
        ):
            with pytest.raises(InvalidDisk, match=problem):
                attach_disk(monitor, folder / name)
        with pytest.raises(VmError, match=r"cannot attach .*other0\.qcow2: QMP blockdev-add: "):
            attach_disk(monitor, files[0])
        assert list_disks(monitor) == []


@needs_qemu
def test_a_disk_that_somebody_writes(folder: Path, files: list[Path]) -> None:
    (folder / "writer").mkdir()
    node = json.dumps({"driver": "qcow2", "node-name": "w", "file": {"driver": "file", "filename": str(files[0])}})
    writer = standing_machine(folder / "writer", *Q35, "-blockdev", node, "-device", "virtio-blk,drive=w")
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci") as monitor:
        with writer, pytest.raises(VmError, match=r"cannot attach .*: a program writes it; wait until that has ended"):
            attach_disk(monitor, files[0])
        assert list_disks(monitor) == []
        assert attach_disk(monitor, files[0]).is_read_only


@needs_qemu
def test_a_file_that_qemu_may_not_open(folder: Path, files: list[Path]) -> None:
    """As where QEMU runs as another user, or sees other folders."""
    other_user = ["-runas", "nobody"] if "-runas" in run([QEMU, "--help"]) else ["-run-with", "user=nobody"]  # 10.0
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci", *other_user) as monitor:
        files[0].chmod(0o600)
        with pytest.raises(VmError, match=r"cannot attach .*other0\.qcow2: .*Could not open .*Permission denied"):
            attach_disk(monitor, files[0])


@needs_qemu
def test_what_a_detach_has_left_open_is_closed_first(folder: Path, files: list[Path]) -> None:
    left = read_only("other0-node", files[0])
    with monitor_of(folder, *Q35, "-device", "virtio-scsi-pci", "-blockdev", left) as monitor:
        attached = attach_disk(monitor, files[0])
        assert list_disks(monitor) == [attached]


# --- the commands ---


@contextmanager
def machine_of(folder: Path, *words: str, channel: Path | None = None) -> Iterator[Path]:
    """A machine with a SCSI controller, and perhaps a control channel; the socket of its monitor."""
    port = CHANNEL.format(channel).split() if channel else []
    with standing_machine(folder, *Q35, "-device", "virtio-scsi-pci", *port, *words) as socket:
        yield socket


@contextmanager
def agent_of(folder: Path, *states: dict[str, object]) -> Iterator[FakePreloader]:
    """The agent of a guest, which says one after the other of the disks, and then the last for ever."""
    left = list(states)

    class Agent(FakePreloader):
        def answer(self, line: bytes) -> bytes | None:
            if b'"status"' in line:
                status = left.pop(0) if len(left) > 1 else left[0]
                self.answers["status"] = {"ok": True, "status": status}
            return super().answer(line)

    (folder / "control").mkdir(exist_ok=True)
    with Agent(folder / "control") as agent:
        yield agent


def status_of(label: str, state: str, **more: object) -> dict[str, object]:
    images = [{"id": "sha256:1", "disk": label, "lost": False}] * 2
    return {"disks": [{"label": label, "state": state, "reason": "no room"}], "images": images, **more}


@needs_qemu
def test_attach_and_list(folder: Path, disk: Path, files: list[Path], preloader: Preloader) -> None:
    label = inspect_disk(disk).label
    with machine_of(folder) as socket:
        done = preloader("attach", "--qmp", socket, disk, files[0])
        assert done == (0, f"{label} ({disk}): attached\nother0 ({files[0]}): attached\n", "")
        found = preloader("list", "--qmp", socket)
        assert found.status == 0
        assert [line.split() for line in found.out.splitlines()] == [
            ["DEVICE", "LABEL", "FILE", "READ-ONLY", "STATE", "IMAGES"],
            [label, label, str(disk), "yes", "-", "-"],
            ["other0", "-", str(files[0]), "yes", "-", "-"],
        ]
        assert preloader("detach", "--qmp", socket, label).status == 0
        assert [item["device"] for item in json.loads(preloader("list", "--qmp", socket, "--json").out)["disks"]] == [
            "other0"
        ]


@needs_qemu
def test_what_was_attached_before_a_failure_stays(folder: Path, files: list[Path], preloader: Preloader) -> None:
    with machine_of(folder) as socket:
        result = preloader("attach", "--qmp", socket, files[0], folder / "none", files[1])
        assert (result.status, result.out) == (2, f"other0 ({files[0]}): attached\n")
        assert f"{folder}/none: cannot be read: No such file or directory" in result.err
        with closing(Monitor(socket)) as monitor:
            assert [disk.device for disk in list_disks(monitor)] == ["other0"]


@needs_qemu
def test_wait_needs_somebody_to_ask(folder: Path, disk: Path, files: list[Path], preloader: Preloader) -> None:
    with machine_of(folder) as socket:
        result = preloader("attach", "--qmp", socket, "--wait", disk)
        assert result.status == 2
        assert "--wait needs a control channel" in result.err
        result = preloader("attach", "--qmp", socket, "--wait", disk, files[0])
        assert result.status == 2
        assert f"{files[0]}: holds no ext4" in result.err
        assert json.loads(preloader("list", "--qmp", socket, "--json").out) == {"disks": []}


@needs_qemu
def test_wait_until_docker_has_the_images(folder: Path, disk: Path, preloader: Preloader) -> None:
    label = inspect_disk(disk).label
    adopted = status_of(label, "adopted")
    steps: tuple[dict[str, object], ...] = (
        {"disks": []},
        status_of(label, "pending"),
        {**adopted, "restarting": True},
        adopted,
    )
    with machine_of(folder) as socket, agent_of(folder, *steps) as agent:
        assert preloader("attach", "--qmp", socket, "--control", agent.path, "--wait", disk).status == 0
        assert len([asked for asked in agent.asked if asked["request"] == "status"]) >= len(steps) - 1
        found = json.loads(preloader("list", "--qmp", socket, "--control", agent.path, "--json").out)
        known = {"device": label, "label": label, "file": str(disk), "read_only": True}
        assert found == {"disks": [{**known, "state": "adopted", "images": 2}]}


IDLE = {"settings": {"hotplug": "idle", "labels": ["dpl-*"]}, "problems": ["containerd's image store"]}


@needs_qemu
@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (
            "pending",
            "{}: after 0.1 s, its images come at docker's next start, which the agent asks for once no container",
        ),
        ("refused", "{}: the guest refuses it: no room"),
        ("unused", "{}: the guest does not use any disk: containerd's image store"),
        ("released", "{}: after 0.1 s, the guest's agent says that it is released"),
        ("", "{}: after 0.1 s, the guest's agent has seen no such disk, and uses dpl-*"),
    ],
)
def test_wait_says_why_not(folder: Path, disk: Path, preloader: Preloader, state: str, problem: str) -> None:
    label = inspect_disk(disk).label
    status = {**IDLE, **(status_of(label, state) if state else {})}
    with machine_of(folder) as socket, agent_of(folder, status) as agent:
        command = ("attach", "--qmp", socket, "--control", agent.path, "--wait", "--timeout", "0.1", disk)
        result = preloader(*command)
        assert (result.status, result.out) == (1, f"{label} ({disk}): attached\n")
        assert result.err.startswith(f"preloader: {problem.format(label)}")


@needs_qemu
def test_the_channel_is_found_through_the_monitor(folder: Path, disk: Path, preloader: Preloader) -> None:
    with machine_of(folder, channel=folder / "channel") as socket:
        (folder / "channel").unlink()  # nobody answers in a machine that stands still; this is the quickest answer
        reason = f"preloader: control channel: cannot connect to {folder}/channel: No such file or directory"
        result = preloader("attach", "--qmp", socket, "--wait", disk)
        assert (result.status, result.err) == (1, f"{reason}\n")
        refused = preloader("detach", "--qmp", socket, disk)
        assert (refused.status, refused.err) == (1, f"{reason}; --force unplugs it all the same\n")
        assert preloader("list", "--qmp", socket).out.splitlines()[1].split()[-2:] == ["-", "-"]
        assert preloader("detach", "--qmp", socket, "--force", disk).status == 0


@needs_qemu
def test_a_channel_whose_path_is_relative(
    folder: Path, disk: Path, preloader: Preloader, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk is not just pulled then: the guest could be asked."""
    with machine_of(folder, channel=Path(os.path.relpath(folder / "channel"))) as socket:
        assert preloader("attach", "--qmp", socket, disk).status == 0
        for command in (["attach", "--wait"], ["detach"]):
            result = preloader(*command, "--qmp", socket, disk)
            assert (result.status, result.out) == (2, "")
            assert "control channel: expected an absolute path, or --control: this one is relative" in result.err
        listed = preloader("list", "--qmp", socket)
        assert listed.out.splitlines()[1].split()[-2:] == ["-", "-"]
        assert "control channel: expected an absolute path" in caplog.text
        assert preloader("detach", "--qmp", socket, "--control", folder / "channel", "--force", disk).status == 0


@needs_qemu
def test_a_channel_that_is_no_socket_of_qemus(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["-chardev", "null,id=c", *CHANNEL.split()[2:]]
    with monitor_of(folder, *Q35, *words) as monitor:
        assert find_control(monitor) is None
    assert "the port org.docker-preloader.0 leads to null, not to a unix socket" in caplog.text


@needs_qemu
def test_interrupted_while_the_guest_takes_its_time(folder: Path, disk: Path, preloader: Preloader) -> None:
    label = inspect_disk(disk).label
    with machine_of(folder) as socket, agent_of(folder, status_of(label, "pending")) as agent:
        words: list[str | Path] = ["attach", "--qmp", socket, "--control", agent.path, "--wait", disk]
        with (folder / "log").open("wb") as log:
            process = start(["env", f"PYTHONPATH={PYTHONPATH}", *COMMAND, *words], log=log)
        try:
            wait_until_it_asks(agent, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(BOUND) == 130
        finally:
            process.kill()
            process.wait()
        said = (folder / "log").read_text()
        assert said == f"{label} ({disk}): attached\n\npreloader: interrupted; the disks stay attached\n".replace(
            "\n\n", "\n"
        )
        assert preloader("detach", "--qmp", socket, label).status == 0


def wait_until_it_asks(agent: FakePreloader, process: subprocess.Popen[bytes]) -> None:
    for _ in tries(BOUND, pause=0.02):
        if "status" in [asked["request"] for asked in agent.asked]:
            return
        assert process.poll() is None
    raise AssertionError("the agent is never asked")
