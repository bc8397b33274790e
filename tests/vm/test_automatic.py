"""A guest that nobody told what to expect, which is then killed: the devices themselves decide when it is ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.images import app_image, busybox_image, edge_image
from tests.vm.disks import make_disk


@pytest.fixture(scope="module")
def vm(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """A guest with three disks, which share a layer."""
    images = (busybox_image(), app_image(), edge_image())
    disks = tuple(make_disk(tmp_path_factory.mktemp("disk"), image) for image in images)
    with Vm(replace(VmConfig.of_guest(guest), disks=disks, announce_disks=False)) as vm:
        vm.wait_booted()
        yield vm


def check_images(vm: Vm) -> None:
    """Every image is there and runs, and docker was not restarted for it."""
    assert "3 images from 3 disks, ready in" in vm.succeed("docker-preloader status")
    for image in (busybox_image(), app_image(), edge_image()):
        assert (
            vm.succeed(f"docker run --rm --network none --user 0 {image.image_id} /bin/busybox echo ok").strip() == "ok"
        )
    assert vm.succeed("systemctl show --property=NRestarts --value docker").strip() == "0"
    assert "restarting docker" not in vm.succeed("journalctl --boot --unit docker-preloader --output cat")


def test_docker_starts_with_every_disk_that_was_there(vm: Vm) -> None:
    check_images(vm)


def test_a_guest_that_was_killed_comes_back_the_same(vm: Vm) -> None:
    vm.succeed("docker tag busybox:test mine:1")
    vm.succeed("sync")
    vm.crash()
    vm.start()
    vm.wait_booted()
    check_images(vm)
    assert vm.succeed("docker image inspect --format '{{.Id}}' mine:1").strip() == busybox_image().image_id
