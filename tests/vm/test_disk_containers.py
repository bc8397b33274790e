"""Disks that bring containers, in a real guest without a network: they run when the disk is there, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.diskcontainers import clock_image, waiting_container
from tests.images import app_image
from tests.vm.disks import make_disk


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    containers = {"web": waiting_container("app:1")}
    return make_disk(tmp_path_factory.mktemp("cold"), app_image(), containers=containers)


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    containers = {"clock": waiting_container("clock:1")}
    return make_disk(tmp_path_factory.mktemp("hot"), clock_image(), containers=containers)


@pytest.fixture(scope="module")
def vm(guest: Path, cold: Path) -> Iterator[Vm]:
    """A guest that was started with the first disk."""
    credentials = {"docker-preloader.containers_from_disks": "yes"}
    with Vm(replace(VmConfig.of_guest(guest), disks=(cold,), credentials=credentials)) as vm:
        vm.wait_booted()
        yield vm


def wait_running(vm: Vm, name: str) -> None:
    vm.wait_until_succeeds(f"systemctl is-active docker-{name} && docker ps --format '{{{{.Names}}}}' | grep -x {name}")


def wait_gone(vm: Vm, name: str) -> None:
    """Neither a service nor a container."""
    vm.wait_until_succeeds(f"! systemctl cat docker-{name} 2>/dev/null")
    assert vm.succeed(f"docker ps --all --quiet --filter name=^{name}$") == ""


def test_the_containers_of_disks_come_and_go_with_them(vm: Vm, hot: Path) -> None:
    wait_running(vm, "web")
    vm.succeed("systemctl stop docker-web")  # each restart of docker, for the other disk, would be one of it
    label = vm.attach(hot, wait=True)
    wait_running(vm, "clock")
    vm.detach(label)  # which asks first: a container that uses the disk would be in the way
    wait_gone(vm, "clock")
    vm.attach(hot, wait=True)
    wait_running(vm, "clock")
    vm.unplug(label)
    wait_gone(vm, "clock")
    assert vm.succeed("systemctl list-units --failed --plain --no-legend") == ""
