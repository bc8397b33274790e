"""Machines with all that they can have, and a real guest in them: by BIOS through the driver, by UEFI on a terminal."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import pytest

from preloader_agent.host.run import run
from preloader_agent.host.vm.config import Forward, SharedFolder, UserNetwork, VmConfig
from preloader_agent.host.vm.control import ControlChannel
from preloader_agent.host.vm.driver import Vm
from tests.host.command import COMMAND, PYTHONPATH
from tests.host.terminal import Terminal

BOOT = 300.0  # seconds; some 40 on an idle host
ANSWER = 60.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "of-the-host").write_text("hello guest")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def vm(guest: Path, disks: tuple[Path, Path], shared: Path, port: int) -> Iterator[Vm]:
    """A guest that boots by itself, with its disks on virtio-scsi and a network of forwards only."""
    config = VmConfig(
        guest / "disk.qcow2",
        disks=disks,
        empty_disks=(1 << 30, 64 << 20),
        disk_interface="virtio-scsi",
        network=UserNetwork((Forward(port, 80),), is_restricted=True),
        shared_folders=(SharedFolder(shared, "/mnt/shared"), SharedFolder(shared, "/mnt/kept", is_read_only=True)),
    )
    with Vm(config) as vm:
        vm.wait_booted()
        yield vm


def test_the_guest_was_booted_by_its_boot_loader(vm: Vm) -> None:
    assert vm.succeed("systemctl --failed --no-legend") == ""
    assert vm.fail("test -d /sys/firmware/efi") == ""


def test_the_agent_expected_the_disks_and_adopted_them(vm: Vm, disks: tuple[Path, Path]) -> None:
    status = json.loads(vm.succeed("docker-preloader status --json"))
    assert {disk["label"]: disk["state"] for disk in status["disks"]} == {disk.stem: "adopted" for disk in disks}
    assert set(vm.succeed("cat /run/credentials/@system/docker-preloader.expect").split()) == {
        disk.stem for disk in disks
    }
    assert vm.succeed("docker run --rm --network none app:1 /bin/busybox echo ok").strip() == "ok"


def test_disks_are_on_virtio_scsi(vm: Vm, disks: tuple[Path, Path]) -> None:
    found = json.loads(vm.succeed("lsblk --json --nodeps --bytes --output NAME,SERIAL,RO,SIZE"))["blockdevices"]
    on_scsi = {disk["serial"]: (disk["ro"], disk["size"]) for disk in found if disk["name"].startswith("sd")}
    assert {serial for serial, (is_read_only, _) in on_scsi.items() if is_read_only} == {disk.stem for disk in disks}
    assert {serial: size for serial, (is_read_only, size) in on_scsi.items() if not is_read_only} == {
        "empty0": 1 << 30,
        "empty1": 64 << 20,
    }


def test_an_empty_disk_can_be_written_to(vm: Vm) -> None:
    vm.succeed("echo written >/tmp/x && dd if=/tmp/x of=$(ls /dev/disk/by-id/*empty1) oflag=sync")
    assert vm.succeed("dd iflag=direct bs=4096 count=1 status=none if=$(ls /dev/disk/by-id/*empty1) | head -n 1") == (
        "written\n"
    )


def test_folders_are_shared(vm: Vm, shared: Path) -> None:
    assert vm.succeed("cat /mnt/shared/of-the-host /mnt/kept/of-the-host") == "hello guest" * 2
    vm.succeed("echo hello host >/mnt/shared/of-the-guest")
    assert (shared / "of-the-guest").read_text() == "hello host\n"
    assert "Read-only" in vm.fail("touch /mnt/kept/x")


def test_a_restricted_network_has_its_forwards_alone(vm: Vm, port: int) -> None:
    vm.succeed("systemd-run --unit=web python3 -m http.server --directory /mnt/shared 80")
    vm.wait_until_succeeds("ip -brief address show scope global | grep -q 10.0.2.15")
    vm.wait_until_succeeds("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 80))'")
    with urlopen(f"http://127.0.0.1:{port}/of-the-host", timeout=ANSWER) as answer:
        assert answer.read() == b"hello guest"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        to_host = f'socket.create_connection(("10.0.2.2", {listener.getsockname()[1]}), 5)'
        assert "Error" in vm.fail(f"python3 -c 'import socket; {to_host}'")


def test_a_disk_is_plugged_and_unplugged_on_virtio_scsi(vm: Vm, disks: tuple[Path, Path]) -> None:
    vm.detach(disks[1])
    vm.wait_until_succeeds(f"! test -e /dev/disk/by-label/{disks[1].stem}")
    vm.attach(disks[1])
    vm.wait_until_succeeds(f"docker-preloader status | grep -q 'disk *{disks[1].stem} *adopted'")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes, and pytest's are longer."""
    with TemporaryDirectory(prefix="dpl-test-") as name:
        yield Path(name)


def test_a_persistent_guest_on_a_terminal(guest: Path, disks: tuple[Path, Path], tmp_path: Path, folder: Path) -> None:
    """By UEFI; somebody on the console leaves something, and SIGTERM then has the guest power off."""
    image = tmp_path / "mine.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", guest / "disk.qcow2", image])
    command: list[str | Path] = [*COMMAND, "vm", "run", image, "--persistent", "--firmware=uefi", "--disk", disks[0]]
    command += ["--console-log", folder / "log", "--control", folder / "control"]
    with Terminal(command, {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(folder)}, BOOT) as terminal:
        terminal.wait_shown("root@guest:~# ")
        terminal.type("ls -d /sys/firmware/efi && docker run --network none app:1 /bin/busybox echo o''k\n")
        terminal.wait_shown("/sys/firmware/efi\n")
        terminal.wait_shown("ok\n")
        terminal.type("echo it was k''ept >/root/kept && echo do''ne\n")
        terminal.wait_shown("done\n")
        with closing(ControlChannel(folder / "control")) as channel:
            assert [disk["state"] for disk in channel.status()["disks"]] == ["adopted"]
        terminal.process.terminate()
        assert terminal.wait_ended() == 130
        assert "preloader: interrupted; the guest powered off\n" in terminal.shown
        assert terminal.settings() == terminal.before
    assert [path.name for path in folder.iterdir()] == ["log"]
    assert "Power down" in (folder / "log").read_text(errors="replace")
    assert b"it was kept" in image.read_bytes()
