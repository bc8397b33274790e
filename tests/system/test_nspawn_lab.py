"""The units, the udev rule and the agent in a whole guest: its own systemd, udev and dockerd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.images import Image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import label_of, show

UNITS = ("docker-preloader.service", "docker-preloader-merge.service")
EXPOSURE = 40  # as in tests/test_units.py, for this systemd

# What the oneshot finds while it runs: the pid of a dockerd, or nothing.
WITNESS = "/run/witness"
WITNESS_DROP_IN = f"[Service]\nExecStartPre=-sh -c 'pgrep -x dockerd >>{WITNESS}; echo started >>{WITNESS}'\n"
DOCKER_STARTS = {
    "restart": "systemctl restart docker.service",
    "socket": "systemctl stop docker.service && docker images",
    "crash": "systemctl kill --kill-whom=main --signal=KILL docker.service",
}


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two raw disks: busybox, and app, which is made on top of it."""
    folder = tmp_path_factory.mktemp("disks")
    return [make_raw_disk(folder / name, image) for name, image in named_images().items()]


@pytest.fixture(scope="module")
def guest(tree: Path, disks: list[Path]) -> Iterator[NspawnGuest]:
    """One guest for all tests here, booted with the first disk."""
    drop_in = {"etc/systemd/system/docker-preloader-merge.service.d/witness.conf": WITNESS_DROP_IN}
    with NspawnGuest(tree, disks[:1], files=drop_in, credentials={"docker-preloader.expect": "count:1"}) as guest:
        yield guest


def named_images() -> dict[str, Image]:
    return {"busybox": images.busybox_image(), "app": images.app_image()}


def test_guest_boots_with_docker_and_the_agent(guest: NspawnGuest) -> None:
    for unit in ("docker.service", UNITS[0]):
        assert show(guest, unit, "ActiveState") == "active"
    assert guest.succeed("systemctl --failed --plain --no-legend") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_package_enables_the_units(guest: NspawnGuest, unit: str) -> None:
    assert guest.succeed(f"systemctl is-enabled {unit}").strip() == "enabled"


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_clean_for_the_guests_systemd(guest: NspawnGuest, unit: str) -> None:
    assert guest.succeed(f"systemd-analyze verify --man=no {unit}") == ""
    guest.succeed(f"systemd-analyze security --threshold={EXPOSURE} {unit} >/dev/null")


def test_rule_is_clean_for_the_guests_udev(guest: NspawnGuest) -> None:
    guest.succeed("udevadm verify /usr/lib/udev/rules.d/70-docker-preloader.rules")


def test_docker_waits_for_the_agent(guest: NspawnGuest) -> None:
    ready = int(show(guest, UNITS[0], "ActiveEnterTimestampMonotonic"))
    assert 0 < ready <= int(show(guest, "docker.service", "InactiveExitTimestampMonotonic"))


def test_disk_of_the_boot_is_in_the_store(guest: NspawnGuest, disks: list[Path]) -> None:
    assert "busybox" in guest.succeed("docker images --format '{{.Repository}}'").split()
    assert guest.succeed(f"findmnt --noheadings --output=OPTIONS /run/docker-preloader/disks/{label_of(disks[0])}")


def test_udev_knows_the_disk_and_keeps_desktops_off(guest: NspawnGuest, disks: list[Path]) -> None:
    device = guest.succeed(f"findfs LABEL={label_of(disks[0])}").strip()
    properties = guest.succeed(f"udevadm info --query=property {device}").splitlines()
    assert {f"ID_FS_LABEL={label_of(disks[0])}", "ID_FS_TYPE=ext4", "UDISKS_IGNORE=1"} <= set(properties)


@pytest.mark.parametrize("how", DOCKER_STARTS)
def test_merge_runs_while_no_dockerd_does(guest: NspawnGuest, how: str) -> None:
    guest.wait_for_unit("docker.service")
    guest.succeed(f"systemctl reset-failed; rm -f {WITNESS}; touch /run/docker-preloader/pending")
    before = show(guest, "docker.service", "ExecMainPID")
    guest.succeed(DOCKER_STARTS[how])
    guest.wait_until_succeeds(
        f"systemctl is-active docker.service && [ $(systemctl show -P ExecMainPID docker.service) != {before} ]"
    )
    assert guest.succeed(f"cat {WITNESS}").split() == ["started"]  # once, and without a dockerd beside it
    assert show(guest, UNITS[1], "Result") == "success"
    merged = int(show(guest, UNITS[1], "ExecMainExitTimestampMonotonic"))
    assert merged <= int(show(guest, "docker.service", "ExecMainStartTimestampMonotonic"))
    guest.fail("test -e /run/docker-preloader/pending")


def test_nothing_runs_when_nothing_waits(guest: NspawnGuest) -> None:
    guest.succeed(f"systemctl reset-failed; rm -f {WITNESS}; systemctl restart docker.service")
    guest.fail(f"test -e {WITNESS}")
    assert show(guest, UNITS[1], "ConditionResult") == "no"


def test_restart_of_the_agent_leaves_docker_alone(guest: NspawnGuest) -> None:
    before = show(guest, "docker.service", "ExecMainPID")
    guest.succeed(f"systemctl restart {UNITS[0]}")
    assert show(guest, "docker.service", "ExecMainPID") == before
    assert "busybox" in guest.succeed("docker images --format '{{.Repository}}'").split()


def test_disk_is_plugged_used_and_pulled(guest: NspawnGuest, disks: list[Path]) -> None:
    app = images.app_image()
    guest.succeed("systemctl reset-failed docker.service")
    device = guest.attach(disks[1])
    guest.wait_until_succeeds(f"docker image inspect {app.image_id}")
    assert guest.succeed(f"docker run --rm --network none {app.image_id} /bin/busybox echo hello").strip() == "hello"
    guest.detach(device)
    guest.wait_until_succeeds(f"! findmnt /run/docker-preloader/disks/{label_of(disks[1])}")
    guest.succeed("systemctl reset-failed docker.service && systemctl restart docker.service")
    guest.fail(f"docker image inspect {app.image_id}")


def test_guest_survives_a_reboot(guest: NspawnGuest) -> None:
    guest.reboot()
    guest.wait_for_unit("docker.service")
    assert "busybox" in guest.succeed("docker images --format '{{.Repository}}'").split()


def test_shipped_unit_may_not_read_other_devices(tree: Path, disks: list[Path]) -> None:
    without_drop_in = {"etc/systemd/system/docker-preloader.service.d/loop.conf": ""}
    with NspawnGuest(tree, disks[:1], files=without_drop_in, credentials={"docker-preloader.expect": "none"}) as guest:
        guest.wait_until_succeeds("docker-preloader status | grep 'Operation not permitted'")
        assert show(guest, "docker.service", "ActiveState") == "active"
