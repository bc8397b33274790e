"""Restarts of the agent, of docker and of the whole guest change nothing; many disks at once are all adopted."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from tests.images import Image, app_image, busybox_image, edge_image, make_layer
from tests.images.layer import file
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import starts_of_docker, status_of

MANY = 20
# A file that is written again has another inode, and one that is changed another time.
LIST_STORE = (
    "cd /var/lib/docker && find image overlay2 -mindepth 1"
    " -type f -printf '%p %m %i %s %T@\\n' -o -printf '%p %y %m %i %l\\n' | sort"
)
SLOW_DOCKER = {"etc/systemd/system/docker.service.d/slow.conf": "[Service]\nExecStartPost=sleep 4\n"}


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks that share a layer."""
    folder = tmp_path_factory.mktemp("disks")
    groups = ((busybox_image(), app_image()), (edge_image(),))
    return [make_raw_disk(folder / str(number), *group) for number, group in enumerate(groups)]


@pytest.fixture(scope="module")
def many_disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Disks with a tiny image each."""
    folder = tmp_path_factory.mktemp("many")
    return [make_raw_disk(folder / str(n), tiny_image(n)) for n in range(MANY)]


def tiny_image(number: int) -> Image:
    return Image((make_layer([file("number", str(number))]),), (f"tiny:{number}",), {"Cmd": ["none"]})


def names_of(guest: NspawnGuest) -> set[str]:
    return set(guest.succeed("docker images --format '{{.Repository}}:{{.Tag}}'").split())


def restart(guest: NspawnGuest, what: str) -> None:
    if what == "guest":
        guest.reboot()
    else:
        guest.succeed("systemctl reset-failed")  # the limits of starts a minute are for crashes
        guest.succeed(f"systemctl restart {what}")


def test_restarts_in_any_order_change_nothing(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks) as guest:
        guest.succeed("docker run --name work --network none --user 0 app:1 touch /mine")
        guest.succeed("docker commit work mine:1 && docker tag busybox:test mine:2 && docker rmi edge:test")
        restart(guest, "guest")  # what was removed is back, and what is to come has nothing to do any more
        names, store = names_of(guest), guest.succeed(LIST_STORE)
        assert {"mine:1", "mine:2", "edge:test", "busybox:test", *app_image().references} == names
        for order in permutations(("docker-preloader", "docker", "guest")):
            for what in (*order, *order):
                restart(guest, what)
            assert guest.succeed(LIST_STORE) == store, order
            assert names_of(guest) == names, order
        for name in ("mine:1", "edge:test"):
            assert guest.succeed(f"docker run --rm --network none --user 0 {name} echo ok").strip() == "ok"
        assert status_of(guest)["problems"] == []
        assert guest.succeed("systemctl --failed --plain --no-legend") == ""


def check_many(guest: NspawnGuest) -> None:
    status = status_of(guest)
    assert [disk["state"] for disk in status["disks"]] == ["adopted"] * MANY
    assert status["problems"] == []
    assert names_of(guest) == {f"tiny:{number}" for number in range(MANY)}


def test_many_disks_at_boot(tree: Path, many_disks: list[Path]) -> None:
    with NspawnGuest(tree, many_disks) as guest:
        check_many(guest)
        assert starts_of_docker(guest) == 1


def test_many_disks_while_docker_starts(tree: Path, many_disks: list[Path]) -> None:
    with NspawnGuest(tree, files=SLOW_DOCKER) as guest:
        guest.succeed("systemctl --no-block restart docker")
        guest.wait_until_succeeds("systemctl show --property=SubState docker | grep start-post")
        guest.attach_together(many_disks)
        assert guest.succeed("systemctl show --property=ActiveState --value docker").strip() == "activating"
        guest.wait_until_succeeds(f"docker-preloader status | grep '^{MANY} images from {MANY} disks'")
        check_many(guest)
        assert starts_of_docker(guest) == 3  # at boot, here, and one for all disks
