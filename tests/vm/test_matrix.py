"""Debian before and after the release that all other tests of this tier use, as `preloader guest build` makes it: the
agent, from our files and not from our package, with other versions of systemd, Python, docker and the kernel. They boot
by firmware, as users' guests do.

One guest of each release is booted and rebooted; the tests run in the order in which they stand here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.host.guests.base import Suite
from preloader_agent.host.vm.config import FirmwareKind, UserNetwork, VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.cachedguests import cached_guest
from tests.images import app_image, busybox_image, edge_image
from tests.vm.conftest import check_tools
from tests.vm.versions import check_versions

RUN = "docker run --rm --network none --user 0"
FIRMWARE: dict[Suite, FirmwareKind] = {Suite.BOOKWORM: "bios", Suite.FORKY: "uefi"}


@pytest.fixture(scope="module", params=FIRMWARE, ids=lambda suite: suite.value)
def suite(request: pytest.FixtureRequest) -> Suite:
    found: Suite = request.param
    return found


@pytest.fixture(scope="module")
def vm(suite: Suite, disks: tuple[Path, Path]) -> Iterator[Vm]:
    """A guest that was started with the first disk, and a network card."""
    check_tools()
    disk = cached_guest(suite) / "disk.qcow2"
    with Vm(VmConfig(disk, firmware=FIRMWARE[suite], disks=(disks[0],), network=UserNetwork())) as vm:
        vm.wait_booted()
        yield vm


def check_adopted(vm: Vm) -> None:
    """The first disk's images are docker's from its start, and nothing in the guest failed."""
    assert "2 images from 1 disk, ready in" in vm.succeed("systemctl status --no-pager docker-preloader")
    status = json.loads(vm.succeed("docker-preloader status --json"))
    assert ([disk["state"] for disk in status["disks"]], status["problems"]) == (["adopted"], [])
    for image in (busybox_image(), app_image()):
        assert vm.succeed(f"{RUN} {image.image_id} /bin/busybox echo hello") == "hello\n"
    # Docker was started once, after the agent was ready.
    assert "restarting docker" not in vm.succeed("journalctl --boot --unit docker-preloader --output cat")
    ready, started = (
        int(vm.succeed(f"systemctl show --property={time}TimestampMonotonic --value {unit}"))
        for time, unit in (("ActiveEnter", "docker-preloader"), ("ExecMainStart", "docker"))
    )
    assert 0 < ready <= started
    assert vm.succeed("systemctl list-units --failed --plain --no-legend") == ""


def test_versions(vm: Vm, suite: Suite) -> None:
    check_versions(vm, suite)


def test_the_agent_came_compiled(vm: Vm) -> None:
    """As files that are not compared with their source (PEP 552), which the guest's Python would not make by itself."""
    flags = "print({path.read_bytes()[4] for path in Path('/usr/lib/docker-preloader').rglob('guest/**/*.pyc')})"
    assert vm.succeed(f'python3 -c "from pathlib import Path; {flags}"') == "{1}\n"


def test_disk_is_adopted_before_docker_starts(vm: Vm) -> None:
    check_adopted(vm)


def test_guest_is_there_for_people(vm: Vm, suite: Suite) -> None:
    assert vm.execute("test -d /sys/firmware/efi")[0] == (0 if FIRMWARE[suite] == "uefi" else 1)
    vm.wait_until_succeeds("ip -4 route show default | grep --quiet 'via 10.0.2.2'")
    vm.wait_until_succeeds("grep --quiet 'nameserver 10.0.2.3' /run/systemd/resolve/resolv.conf")
    assert vm.succeed("readlink --canonicalize /etc/resolv.conf") == "/run/systemd/resolve/stub-resolv.conf\n"
    vm.wait_for_unit("serial-getty@ttyS0.service")
    assert vm.succeed("getent shadow root").startswith("root::")  # no password


def test_disk_is_plugged_and_unplugged(vm: Vm, disks: tuple[Path, Path]) -> None:
    vm.attach(disks[1], wait=True)
    assert vm.succeed(f"{RUN} {edge_image().image_id} /bin/busybox echo plugged") == "plugged\n"
    assert "from 2 disks" in vm.succeed("docker-preloader status")
    vm.detach(disks[1])
    vm.fail(f"docker image inspect {edge_image().image_id}")
    assert vm.succeed(f"{RUN} app:1 /bin/busybox echo still here") == "still here\n"


def test_reboot_gives_the_same(vm: Vm) -> None:
    vm.succeed("docker tag busybox:test mine:1")
    vm.reboot()
    check_adopted(vm)
    assert vm.succeed("docker image inspect --format '{{.Id}}' mine:1").strip() == busybox_image().image_id
