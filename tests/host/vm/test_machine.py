"""The machine without a guest: its accelerator, its two sockets, and a QEMU that runs nothing."""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, VmError
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from preloader_agent.host.vm.accelerator import QEMU, Accelerator, choose_accelerator, kvm_works
from preloader_agent.host.vm.attached import attach_disk, list_disks
from preloader_agent.host.vm.config import Forward, SharedFolder, UserNetwork, VmConfig
from preloader_agent.host.vm.driver import Ending, State, Vm
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.guest_shell import GuestShell
from preloader_agent.host.vm.machine import Machine
from preloader_agent.host.vm.parts import find_parts
from preloader_agent.host.vm.plan import plan_machine
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries
from tests.host.vm import bootsector
from tests.host.vm.fake_sockets import FakeAgent, FakeMonitor, Message, deleted
from tests.images import Layout

TCG = choose_accelerator(kvm=False, qemu=(7, 2))
GUEST = VmConfig.of_guest(Path("/guest"))

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "dpl-0123456789ab.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


# --- the accelerator ---


@pytest.mark.parametrize(
    ("flags", "machine", "works"),
    [
        ("fpu vme sse4_2 vmx", "x86_64", True),
        ("fpu svm sse4_2", "x86_64", True),
        ("fpu vme sse4_2 hypervisor", "x86_64", False),
        ("fpu vmxoff svm_lock", "x86_64", False),
        ("", "aarch64", True),
    ],
)
def test_kvm_needs_what_the_processor_says(tmp_path: Path, flags: str, machine: str, works: bool) -> None:
    kvm, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    kvm.touch()
    cpuinfo.write_text(f"processor\t: 0\nbugs\t\t: vmx svm\nflags\t\t: {flags}\nvmx flags\t: vnmi\n\nprocessor\t: 1\n")
    assert kvm_works(kvm, cpuinfo, machine) is works


def test_kvm_needs_a_device_that_opens(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: vmx\n")
    assert not kvm_works(tmp_path / "none", cpuinfo, "x86_64")
    assert not kvm_works(tmp_path, cpuinfo, "x86_64")


def test_accelerator() -> None:
    assert choose_accelerator(kvm=True, qemu=(7, 2)) == Accelerator("kvm", "host")
    assert choose_accelerator(kvm=False, qemu=(7, 2)) == Accelerator("tcg,thread=single,tb-size=128", "Nehalem,-cx16")
    assert choose_accelerator(kvm=False, qemu=(8, 0)) == Accelerator("tcg,thread=single,tb-size=128", "max")
    assert choose_accelerator(kvm=False, qemu=(10, 0)) == Accelerator("tcg,thread=multi,tb-size=128", "max")


# --- waiting ---


def test_tries_end_with_a_last_one() -> None:
    assert list(tries(0)) == [0.0]
    left = list(tries(0.2, pause=0.06))
    assert len(left) > 1
    assert left[-1] == 0.0
    assert all(before > after for before, after in itertools.pairwise(left))


# --- the monitor ---


@contextmanager
def monitor_of(fake: FakeMonitor) -> Iterator[Monitor]:
    with fake:
        monitor = Monitor(fake.path)
        try:
            yield monitor
        finally:
            monitor.close()


def test_unplug_waits_for_the_event_of_its_own_device(folder: Path) -> None:
    fake = FakeMonitor(folder, {"device_del": [deleted(None), deleted("disk1"), deleted("disk7")]})
    with monitor_of(fake) as monitor:
        monitor.unplug("disk7", timeout=20)
    assert fake.asked == [("device_del", {"id": "disk7"})]


@pytest.mark.parametrize(
    ("events", "timeout", "problem"),
    [
        ([deleted(None), deleted("disk1")], 0.2, "the guest has not let go of it after 0.2 s"),
        ([{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "disk7", "path": "/x"}}], 20, "the guest refused"),
    ],
)
def test_a_guest_that_keeps_the_disk(folder: Path, events: list[Message], timeout: float, problem: str) -> None:
    fake = FakeMonitor(folder, {"device_del": events})
    with monitor_of(fake) as monitor, pytest.raises(VmError, match=f"unplug disk7: {problem}"):
        monitor.unplug("disk7", timeout=timeout)


def test_monitor_says_that_qemu_has_gone(folder: Path) -> None:
    with monitor_of(FakeMonitor(folder, {}, dies_at="stop")) as monitor, pytest.raises(VmError, match="QMP stop: "):
        monitor.execute("stop")


# --- the guest's agent ---


@contextmanager
def shell_of(fake: FakeAgent) -> Iterator[GuestShell]:
    with fake:
        shell = GuestShell(fake.path)
        try:
            yield shell
        finally:
            shell.close()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo out; echo err >&2", (0, "out\nerr\n")),
        ("exit 7", (7, "")),
        ("cat", (0, "")),
        ("printf 'caf\\303\\251 \\377'", (0, "café �")),
        ('echo "$HOME"', (0, "/root\n")),
    ],
)
def test_shell_tells_status_and_output(folder: Path, command: str, expected: tuple[int, str]) -> None:
    with shell_of(FakeAgent(folder)) as shell:
        assert shell.execute(command, timeout=20) == expected


def test_shell_drops_what_was_in_the_channel(folder: Path) -> None:
    noise = b'{"return": 5}\n{"return": {"pid"\n\xff{"return": 1}\n\xff["x"]\n{"retur'
    with shell_of(FakeAgent(folder, noise)) as shell:
        assert shell.execute("echo 1", timeout=20) == (0, "1\n")
        assert shell.execute("echo 2", timeout=20) == (0, "2\n")


def test_shell_ends_what_takes_too_long_and_keeps_its_output(folder: Path) -> None:
    with (
        shell_of(FakeAgent(folder)) as shell,
        pytest.raises(VmError, match=r"sleep 100: not finished after 1 s: before"),
    ):
        shell.execute("echo before; sleep 100", timeout=1)


def test_shell_tells_the_signal(folder: Path) -> None:
    with shell_of(FakeAgent(folder, change=lambda _: {"exited": True, "signal": 11})) as shell:
        assert shell.execute("true", timeout=20) == (139, "")


def test_shell_refuses_output_that_is_not_whole(folder: Path) -> None:
    with (
        shell_of(FakeAgent(folder, change=lambda state: {**state, "out-truncated": True})) as shell,
        pytest.raises(VmError, match="more output than the guest agent keeps"),
    ):
        shell.execute("true", timeout=20)


def test_shell_says_that_the_machine_has_gone(folder: Path) -> None:
    class Dying(FakeAgent):
        def answer(self, line: bytes) -> bytes | None:
            return super().answer(line) if b"sync" in line else None

    with shell_of(Dying(folder)) as shell, pytest.raises(VmError, match="the machine is gone"):
        shell.execute("true", timeout=20)


def test_shell_bounds_its_wait_for_an_agent(folder: Path) -> None:
    class Silent(FakeAgent):
        def answer(self, line: bytes) -> bytes | None:
            return super().answer(line) and b""

    with shell_of(Silent(folder)) as shell, pytest.raises(VmError, match=r"no answer after 0\.2 s"):
        shell.sync(0.2)


# --- QEMU itself, stopped before its first instruction ---


@contextmanager
def stopped_machine(folder: Path, *disks: Path) -> Iterator[Machine]:
    """With a bit of everything that QEMU has to take."""
    root = folder / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", root, "1M"])
    credentials = {"a": "b,c", "l": "x\ny"}
    config = VmConfig(
        root_disk=root,
        kernel=root,
        disks=disks,
        empty_disks=(1 << 30,),
        spare_ports=1,
        network=UserNetwork((Forward(free_port(), 22),), is_restricted=True),
        shared_folders=(SharedFolder(folder, "/mnt"),),
        sharing="9p",
        credentials=credentials,
        fw_cfg_credentials=credentials,
        qemu_args=("-S",),
    )
    files = VmFiles.of(config, folder)
    plan = plan_machine(replace(config, kernel=None), find_parts(config), files)
    machine = Machine(plan, files)
    try:
        yield machine
    finally:
        machine.cut()
        assert machine.has_ended(0)


@needs_qemu
def test_qemu_takes_the_command_line_and_the_disks(folder: Path, disk: Path, disks: dict[Layout, Path]) -> None:
    other = disks["old"]
    with stopped_machine(folder, disk) as machine:
        attached = attach_disk(machine.monitor, other)
        assert attached in list_disks(machine.monitor)
        nodes = machine.monitor.execute("query-named-block-nodes")
        assert isinstance(nodes, list)
        assert {node["node-name"]: node["ro"] for node in nodes if not node["node-name"].startswith("#")} == {
            "root": False,
            "empty0-node": False,
            "dpl-0123456789ab-node": True,
            f"{inspect_disk(other).label}-node": True,
        }


@needs_qemu
def test_one_disk_is_attached_to_many_machines_and_locked(folder: Path, disk: Path) -> None:
    second = folder / "second"
    second.mkdir()
    with (
        stopped_machine(folder, disk),
        stopped_machine(second, disk),
        pytest.raises(CommandFailed, match='Failed to get "write" lock'),
    ):
        run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", disk])


@needs_qemu
def test_qemus_own_words_are_in_the_error(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    root = tmp_path / "root.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", root, "1M"])
    vm = Vm(VmConfig(kernel=tmp_path / "none", initrd=tmp_path / "none", root_disk=root))
    with pytest.raises(VmError, match=r"QEMU ended at its start: .*could not open kernel file"), vm:
        pass
    assert vm.state is State.CLOSED
    assert list(folder.iterdir()) == []


@needs_qemu
@pytest.mark.parametrize(("guest", "expected"), [("at the button", Ending.POWEROFF), ("stay", Ending.QUIT)])
def test_the_ladder_of_a_shutdown(tmp_path: Path, guest: bootsector.Ending, expected: Ending) -> None:
    image = bootsector.write_guest(tmp_path / "guest.raw", ending=guest)
    with Vm(VmConfig(image, memory_mib=64)) as vm:
        for _ in tries(20, pause=0.05):
            if "hello" in vm.console():
                break
        assert vm.shutdown(timeout=20 if expected is Ending.POWEROFF else 0.5) is expected
        assert vm.state is State.OFF


@needs_qemu
def test_a_guest_without_an_agent_is_told_with_the_consoles_last_lines(tmp_path: Path) -> None:
    image = bootsector.write_guest(tmp_path / "guest.raw", "this is all I say", ending="stay")
    problem = r"(?s)guest agent: no answer after 3 s; is qemu-guest-agent in the guest\?\n--- the.*this is all I say"
    with Vm(VmConfig(image, memory_mib=64)) as vm, pytest.raises(VmError, match=problem):
        vm.wait_booted(timeout=3)


@pytest.mark.parametrize(
    "use",
    [
        lambda vm: vm.execute("true"),
        lambda vm: vm.shutdown(),
        lambda vm: vm.detach("disk0"),
        lambda vm: vm.unplug("disk0"),
    ],
)
def test_a_machine_that_is_off_says_so(use: Callable[[Vm], object]) -> None:
    vm = Vm(GUEST)
    with pytest.raises(VmError, match="the machine is off"):
        use(vm)
    vm.close()
