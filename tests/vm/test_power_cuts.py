"""The power is cut 20 times, at varying moments: every boot that is let through comes up whole.

QEMU is killed while the guest boots, and while docker is restarted for a disk that was plugged in. A second disk comes
and goes from boot to boot, so that each boot has images to adopt or to take out. What the guest had only in its page
cache is lost; what it had handed to its disk is not, flushed or not, which is kinder than real power cuts are.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.images import app_image, busybox_image, edge_image, untagged_image
from tests.vm.disks import make_disk

SEED = 20180717
ROUNDS, CUTS_AT_BOOT = 4, 4  # and one cut at a hot-plug in each round
# Of the time that a boot takes: QEMU is up, and everything has started; a hot-plug with docker's restart.
BOOT, RESTART = (0.15, 0.95), (0.0, 0.5)

RUN = "docker run --rm --network none --user 0"
NAMES = "docker images --all --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'"
# Names only: a layer's own directory, and what docker notes of layers and images. dockerd leaves its probes of the file
# system behind (overlay2/metacopy-check1512764318) when it is interrupted in one.
PRUNED = r"\( -path '*/diff/*' -o -path 'overlay2/*check*' \) -prune"
LIST_STORE = f"cd /var/lib/docker && find image/overlay2 overlay2 -maxdepth 5 {PRUNED} -o -print | sort"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that is always there, one that comes and goes, one to be plugged in; all share a layer."""
    groups = ((busybox_image(), app_image()), (edge_image(),), (untagged_image(),))
    return [make_disk(tmp_path_factory.mktemp("disk"), *group) for group in groups]


def names_of(vm: Vm) -> dict[str, str]:
    return dict(line.split() for line in vm.succeed(NAMES).splitlines())


def start(vm: Vm, disks: Sequence[Path]) -> None:
    vm.config = replace(vm.config, disks=tuple(disks))
    vm.start()


def cut_after(vm: Vm, seconds: float) -> None:
    time.sleep(seconds)
    vm.crash()


def make_own_images(vm: Vm) -> None:
    """What the user has: an image on a disk's, one more name for a disk's, and an image of nothing but a file."""
    vm.succeed("docker run --name work --network none --user 0 app:1 touch /mine")
    vm.succeed("docker commit work mine:1 && docker rm work && docker tag busybox:test mine:busybox")
    vm.succeed("tar -C / -c etc/hostname | docker import - mine:imported")
    vm.succeed(f"{RUN} mine:1 true && {RUN} edge:test true && sync")


def check(vm: Vm, names: dict[str, str]) -> None:
    """Nothing failed, docker runs, what is the user's is there, and what the disks bring."""
    assert vm.succeed("systemctl list-units --failed --plain --no-legend") == ""
    assert json.loads(vm.succeed("docker-preloader status --json"))["problems"] == []
    has_edge = len(vm.config.disks) > 1
    assert names_of(vm) == {name: image for name, image in names.items() if has_edge or name != "edge:test"}
    for name in ("mine:1", *(["edge:test"] if has_edge else [])):
        assert vm.succeed(f"{RUN} {name} echo ok").strip() == "ok"


def test_the_power_may_be_cut_at_any_moment(guest: Path, disks: list[Path]) -> None:
    moments, history = random.Random(SEED), [f"seed {SEED}"]
    started = time.monotonic()
    with Vm(replace(VmConfig.of_guest(guest), disks=tuple(disks[:2]))) as vm:
        vm.wait_booted()
        boot_seconds = time.monotonic() - started
        make_own_images(vm)
        names, store = names_of(vm), vm.succeed(LIST_STORE)
        assert {"mine:1", "mine:busybox", "mine:imported", "app:1", "busybox:test", "edge:test"} <= names.keys()
        vm.crash()
        try:
            for number in range(ROUNDS):
                for _ in range(CUTS_AT_BOOT):
                    count, seconds = moments.choice((1, 2)), moments.uniform(*BOOT) * boot_seconds
                    history.append(f"a boot with {count} disks, cut after {seconds:.2f} s of {boot_seconds:.2f} s")
                    start(vm, disks[:count])
                    cut_after(vm, seconds)
                count, seconds = 1 + number % 2, moments.uniform(*RESTART) * boot_seconds
                history.append(
                    f"a whole boot with {count} disks, a disk plugged in, and cut {seconds:.2f} s after that"
                )
                start(vm, disks[:count])
                vm.wait_booted()
                check(vm, names)
                vm.attach(disks[2])
                cut_after(vm, seconds)
            history.append("the last boot")
            start(vm, disks[:2])
            vm.wait_booted()
            check(vm, names)
            assert vm.succeed(LIST_STORE) == store
        except BaseException as err:
            err.add_note("\n".join(history))
            raise
