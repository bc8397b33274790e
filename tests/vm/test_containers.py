"""Containers as services of a machine without a network, from the images of a disk, at its boot after a power cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.guest.definitions import OWN
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.images import app_image, busybox_image
from tests.vm.disks import make_disk

SERVICES = ("docker-db", "docker-web")
PLAIN = """\
image = "busybox:test"
pull = "never"
cmd = ["/bin/busybox", "sleep", "100000"]
networks = ["none"]
run_options = ["--init"]
"""
GOOD = {"db": PLAIN, "web": f'{PLAIN.replace("busybox:test", "app:1")}depends_on = ["db"]\nuser = "0"\n'}
BAD = {
    "unknown": (f"{PLAIN}prots = []\n", "unknown.toml:6: prots: there is no such key; did you mean ports?"),
    "wrong": (f"{PLAIN}user = 7\n", "wrong.toml:6: user: expected text in quotes, found 7"),
    # Tried once: each try takes an emulated machine seconds.
    "nowhere": (
        f'{PLAIN.replace("busybox:test", "nowhere:1")}restart = "no"\n',
        "docker has no image nowhere:1, and pull is never: attach",
    ),
    "cycle1": (
        f'{PLAIN}depends_on = ["cycle2"]\n',
        "cycle1.toml:6: depends_on: is a cycle: cycle1 -> cycle2 -> cycle1",
    ),
    "cycle2": (
        f'{PLAIN}depends_on = ["cycle1"]\n',
        "cycle2.toml:6: depends_on: is a cycle: cycle2 -> cycle1 -> cycle2",
    ),
}


@pytest.fixture(scope="module")
def vm(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    """A guest whose services ran when its power was cut, and that is up again."""
    disk = make_disk(tmp_path_factory.mktemp("disk"), busybox_image(), app_image())
    texts = GOOD | {name: content for name, (content, _) in BAD.items()}
    with Vm(replace(VmConfig.of_guest(guest), disks=(disk,))) as vm:
        vm.wait_booted()
        for name, content in texts.items():
            vm.succeed(f"cat >{OWN}/{name}.toml <<'EOF'\n{content}EOF")
        vm.succeed("systemctl daemon-reload && systemctl start docker-web && sync")
        vm.crash()
        vm.start()
        vm.wait_booted()
        yield vm


def check_services(vm: Vm) -> dict[str, str]:
    """Both run, the second since the first did; their containers' IDs."""
    for unit in SERVICES:
        vm.wait_for_unit(f"{unit}.service")
    first, second = json.loads(vm.succeed("docker container inspect db web"))
    assert first["State"]["Running"]
    assert second["State"]["Running"]
    assert first["State"]["StartedAt"] < second["Created"]
    assert (first["Config"]["Image"], second["Config"]["Image"]) == ("busybox:test", "app:1")
    return {"db": first["Id"], "web": second["Id"]}


def test_two_containers_run_in_their_order_after_the_boot(vm: Vm) -> None:
    check_services(vm)
    assert vm.succeed("ls /sys/class/net").split() == ["docker0", "lo"]
    assert sorted(vm.succeed("docker ps --all --format '{{.Names}}'").split()) == ["db", "web"]
    assert vm.succeed("docker-preloader status | grep '2 images from 1 disk'")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_has_a_clear_message(vm: Vm, name: str) -> None:
    assert BAD[name][1] in vm.succeed(f"journalctl --boot --output=cat --unit docker-{name}")
    assert name == "nowhere" or BAD[name][1] in vm.fail("docker-preloader containers check")


def test_a_restart_of_docker_is_one_of_its_services(vm: Vm) -> None:
    before = check_services(vm)
    vm.succeed("systemctl restart docker")
    vm.wait_until_succeeds("systemctl is-active docker-web")
    assert set(before.values()).isdisjoint(check_services(vm).values())
