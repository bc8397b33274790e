"""Two disks under one label, in whole guests: one is served, the other reported, until the first one goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preloader_agent.host.inspection import inspect_disk
from preloader_agent.store.layout import INDEX_NAME
from tests.crafted import CraftedDisk
from tests.images import app_image, busybox_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import images_of, starts_of_docker

BUSYBOX, APP = (image().image_id for image in (busybox_image, app_image))
TWIN = "cannot mount {} on /run/docker-preloader/disks/{}: {} with the same label is there"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw_disk(tmp_path_factory.mktemp("disks") / "disk", busybox_image())


@pytest.fixture(scope="module")
def label(disk: Path) -> str:
    return inspect_disk(disk).label


def disks_of(guest: NspawnGuest) -> dict[str, list[dict[str, str]]]:
    """What the status says of disks, by state."""
    found: dict[str, list[dict[str, str]]] = {}
    for each in json.loads(guest.succeed("docker-preloader status --json"))["disks"]:
        found.setdefault(each["state"], []).append(each)
    return found


def wait_until_served(guest: NspawnGuest, device: str) -> None:
    guest.wait_until_succeeds(f"docker-preloader status | grep 'adopted  *{device}'")


def test_a_disk_that_is_attached_twice_is_served_once_and_the_other_one_takes_over(
    tree: Path, disk: Path, label: str
) -> None:
    with NspawnGuest(tree) as guest:
        first = guest.attach(disk)
        wait_until_served(guest, first)
        second = guest.attach(disk)
        guest.wait_until_succeeds(f"docker-preloader status | grep 'refused  *{second}'")
        (refused,) = disks_of(guest)["refused"]
        assert refused["reason"] == TWIN.format(second, label, first)
        assert f"not mounting {second}: {refused['reason']}" in guest.journal("docker-preloader")
        assert len(disks_of(guest)["adopted"]) == 1
        guest.succeed(f"udevadm trigger --action=change --settle {second}")  # told again, it is not reported again
        guest.succeed("journalctl --sync")
        assert guest.journal("docker-preloader").count(f"not mounting {second}") == 1
        guest.detach(first)
        wait_until_served(guest, second)
        assert "refused" not in disks_of(guest)
        assert images_of(guest) == {BUSYBOX}
        assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"
        assert starts_of_docker(guest) == 2, "the paths are the same, and so is what is there"


def test_a_disk_that_is_there_twice_at_boot_is_served_once(tree: Path, disk: Path) -> None:
    with NspawnGuest(tree, [disk, disk]) as guest:
        assert {state: len(found) for state, found in disks_of(guest).items()} == {"adopted": 1, "refused": 1}
        assert images_of(guest) == {BUSYBOX}
        guest.succeed("systemctl restart docker-preloader")
        assert {state: len(found) for state, found in disks_of(guest).items()} == {"adopted": 1, "refused": 1}
        assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"


def test_another_disk_under_the_label_is_served_when_the_first_one_goes(
    tree: Path, disk: Path, label: str, tmp_path: Path
) -> None:
    """Only a copy of a data root can have any label."""
    other = CraftedDisk(tmp_path / "other.raw", (("other",), ("other:1",)))
    other.remove(INDEX_NAME)
    other.label = label
    with NspawnGuest(tree) as guest:
        first = guest.attach(disk)
        wait_until_served(guest, first)
        second = guest.attach(other.write())
        guest.wait_until_succeeds(f"docker-preloader status | grep 'refused  *{second}'")
        assert images_of(guest) == {BUSYBOX}
        guest.detach(first)
        wait_until_served(guest, second)
        assert images_of(guest) == {other.index.images[0].image_id}
        assert starts_of_docker(guest) == 3
        assert json.loads(guest.succeed("docker-preloader status --json"))["problems"] == []


def test_an_impostor_under_the_label_is_never_served(tree: Path, disk: Path, label: str, tmp_path: Path) -> None:
    impostor = CraftedDisk(tmp_path / "impostor.raw", (("other",), ("busybox:test",)))
    own_label, impostor.label = impostor.label, label
    with NspawnGuest(tree) as guest:
        first = guest.attach(disk)
        wait_until_served(guest, first)
        second = guest.attach(impostor.write())
        guest.wait_until_succeeds(f"docker-preloader status | grep 'refused  *{second}'")
        guest.detach(first)
        guest.wait_until_succeeds(f"docker-preloader status | grep 'is not labelled {own_label}'")
        guest.succeed("systemctl restart docker")
        assert images_of(guest) == set()
        assert guest.succeed("systemctl --failed --plain --no-legend") == ""
