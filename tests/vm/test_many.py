"""Many machines on one file, and many disks on one machine."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.libvirt import TARGETS, UNITS
from preloader_agent.host.run import run
from preloader_agent.host.vm.adoption import wait_adopted
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.diskfile import read_disk_file
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.vm.qemu import SCSI_PLACE, read_only_node
from preloader_agent.host.vm.qmp import Monitor
from tests.images import Image, busybox_image, make_layer
from tests.images.layer import file
from tests.vm.disks import make_disk
from tests.vm.smallguest import make_small_guest, wait_until_read

MACHINES = 8
DISKS = 60
BOOT = 240.0  # seconds; all at once, emulated, on a busy host


@pytest.fixture(scope="module")
def small_guest(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> VmConfig:
    return make_small_guest(tmp_path_factory.mktemp("small"), guest)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Disks with an image each, on a layer that all of them have."""
    base = busybox_image().layers
    images = [Image((*base, make_layer([file("number", f"{n}\n")])), (f"many:{n}",)) for n in range(DISKS)]
    return [make_disk(tmp_path_factory.mktemp("many"), image) for image in images]


def test_many_machines_have_one_disk_and_nobody_writes_it(small_guest: VmConfig, many: list[Path]) -> None:
    disk, hot = many[:2]
    with ExitStack() as stack:
        config = replace(small_guest, disks=(disk,), spare_ports=1)
        machines = [stack.enter_context(Vm(config)) for _ in range(MACHINES)]
        for vm in machines:
            vm.attach(hot)
        for vm in machines:
            wait_until_read(vm, [disk, hot], BOOT)
        for path in (disk, hot):
            with pytest.raises(CommandFailed, match='Failed to get "write" lock'):
                run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", path])
    run(["qemu-io", "-f", "qcow2", "-c", "flush", disk])


def test_many_disks_on_root_ports(small_guest: VmConfig, many: list[Path]) -> None:
    """Half of them are there from the start."""
    half = DISKS // 2
    with Vm(replace(small_guest, disks=tuple(many[:half]), spare_ports=DISKS - half)) as vm:
        wait_until_read(vm, many[:half], BOOT)
        for disk in many[half:]:
            vm.attach(disk)
        wait_until_read(vm, many, BOOT)
        vm.unplug(many[0])
        vm.unplug(many[-1])


def test_the_units_of_a_scsi_target_that_libvirt_is_told(small_guest: VmConfig, many: list[Path]) -> None:
    """`preloader libvirt-xml --bus scsi` chooses any of them; a guest must find the last."""
    first, last = many[:2]
    with Vm(replace(small_guest, disks=(first,), disk_interface="virtio-scsi")) as vm:
        wait_until_read(vm, [first], BOOT)
        with closing(Monitor(vm.files.second_qmp)) as monitor:
            file = read_disk_file(last)
            monitor.execute("blockdev-add", read_only_node(file))
            monitor.execute("device_add", {**SCSI_PLACE.device_of(file.name), "scsi-id": TARGETS, "lun": UNITS - 1})
        wait_until_read(vm, [first, last], BOOT)


def test_the_agent_adopts_many_disks_on_a_scsi_controller(guest: Path, many: list[Path]) -> None:
    """Half of them are there from the start, and announced; the others come together, and cost docker few restarts."""
    half = DISKS // 2
    labels = [disk.stem for disk in many]
    with Vm(replace(VmConfig.of_guest(guest), disks=tuple(many[:half]), disk_interface="virtio-scsi")) as vm:
        vm.wait_booted()
        assert vm.succeed("docker images --quiet | wc -l").strip() == str(half)
        for disk in many[half:]:
            vm.attach(disk)
        wait_adopted(vm.files.control, labels)
        names = vm.succeed("docker images --format '{{.Repository}}:{{.Tag}}'").split()
        assert sorted(names) == sorted(f"many:{number}" for number in range(DISKS))
        assert vm.succeed(f"docker run --rm --network none many:{DISKS - 1} cat /number") == f"{DISKS - 1}\n"
        assert "problem" not in vm.succeed("docker-preloader status")
        vm.detach(many[0])
        assert "many:0" not in vm.succeed("docker images --format '{{.Repository}}:{{.Tag}}'").split()
