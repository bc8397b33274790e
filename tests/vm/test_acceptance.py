"""The main job, end to end: images on disks, attached to a real VM, are part of its docker from the first moment.

One guest lives through the whole module; the tests run in the order in which they stand here, and the later ones plug,
restart and reboot it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.host.guests.base import Suite
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Ending, Vm
from tests.images import app_image, busybox_image, edge_image
from tests.vm.versions import check_versions

RUN = "docker run --rm --network none"

DOCKERFILE = r"""FROM busybox:test\nCOPY file /file\nRUN ["/bin/busybox", "cp", "/file", "/copy"]\n"""

# Prints the SHA-256 of each layer that `docker save` wrote, beside the DiffID that the configuration asks for.
COMPARE_LAYERS = r"""
import hashlib, json, sys, tarfile
archive = tarfile.open(sys.argv[1])
entry = json.load(archive.extractfile("manifest.json"))[0]
config = json.load(archive.extractfile(entry["Config"]))
found = ["sha256:" + hashlib.sha256(archive.extractfile(layer).read()).hexdigest() for layer in entry["Layers"]]
print("layers match" if found == config["rootfs"]["diff_ids"] else (found, config["rootfs"]["diff_ids"]))
"""


@pytest.fixture(scope="module")
def vm(guest: Path, disks: tuple[Path, Path]) -> Iterator[Vm]:
    """A guest that was started with the first disk, and told to expect it."""
    first, _ = disks
    with Vm(replace(VmConfig.of_guest(guest), disks=(first,))) as vm:
        vm.wait_booted()
        yield vm


def status_of(vm: Vm) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(vm.succeed("docker-preloader status --json"))
    return status


def images_of(vm: Vm) -> dict[str, str]:
    """Every name that docker lists, with the whole image ID; an image without a name counts under its ID."""
    lines = vm.succeed("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").splitlines()
    pairs = [line.split() for line in lines]
    return {image if name == "<none>:<none>" else name: image for name, image in pairs}


def test_the_guest_is_debian_13(vm: Vm) -> None:
    check_versions(vm, Suite.TRIXIE)


def test_every_image_of_the_disk_is_listed(vm: Vm) -> None:
    expected = {name: image.image_id for image in (busybox_image(), app_image()) for name in image.references}
    assert images_of(vm) == expected


def test_systemctl_status_says_how_many_images_came_and_how_fast(vm: Vm) -> None:
    assert "2 images from 1 disk, ready in" in vm.succeed("systemctl status --no-pager docker-preloader")
    status = status_of(vm)
    assert [disk["state"] for disk in status["disks"]] == ["adopted"]
    assert status["problems"] == []


def test_nothing_in_the_guest_failed(vm: Vm) -> None:
    assert vm.succeed("systemctl list-units --failed --plain --no-legend") == ""


def test_containers_run(vm: Vm) -> None:
    assert vm.succeed(f"{RUN} busybox:test /bin/busybox echo hello").strip() == "hello"
    assert vm.succeed(f"{RUN} --user 0 app:1 /bin/busybox id -u").strip() == "0"


def test_save_writes_the_layers_bit_by_bit(vm: Vm) -> None:
    vm.succeed("docker save app:1 >/var/tmp/app.tar")
    assert vm.succeed(f"python3 -c '{COMPARE_LAYERS}' /var/tmp/app.tar").strip() == "layers match"


def test_commit_and_build_stand_on_preloaded_images(vm: Vm) -> None:
    vm.succeed("docker run --name work --network none busybox:test /bin/busybox touch /mine")
    vm.succeed("docker commit work mine:1 && docker rm work")
    assert vm.succeed(f"{RUN} mine:1 /bin/busybox ls /mine").strip() == "/mine"
    vm.succeed(f"mkdir /var/tmp/build && cd /var/tmp/build && echo built >file && printf '{DOCKERFILE}' >Dockerfile")
    vm.succeed("DOCKER_BUILDKIT=0 docker build --network none -t built:1 /var/tmp/build")
    assert vm.succeed(f"{RUN} built:1 /bin/busybox cat /copy").strip() == "built"


def test_a_removed_image_stays_away_while_docker_is_restarted(vm: Vm) -> None:
    vm.succeed("docker rmi " + " ".join(app_image().references))
    vm.succeed("systemctl restart docker docker-preloader && systemctl restart docker")
    assert set(images_of(vm)) == {"busybox:test", "mine:1", "built:1"}
    assert vm.succeed(f"{RUN} mine:1 /bin/busybox ls /mine").strip() == "/mine"


def test_a_restart_of_the_agent_leaves_docker_alone(vm: Vm) -> None:
    before = vm.succeed("systemctl show -p MainPID docker")
    vm.succeed("systemctl restart docker-preloader")
    assert vm.succeed("systemctl show -p MainPID docker") == before


def test_a_plugged_disk_is_adopted_and_the_users_tags_stay(vm: Vm, disks: tuple[Path, Path]) -> None:
    vm.succeed("docker tag mine:1 edge:test && docker tag busybox:test alias/of:busybox")
    before = images_of(vm)
    vm.attach(disks[1])
    vm.wait_until_succeeds(f"docker image inspect {edge_image().image_id}")
    assert before.items() <= images_of(vm).items()
    assert vm.succeed(f"{RUN} --user 0 {edge_image().image_id} /bin/busybox echo plugged").strip() == "plugged"
    status = status_of(vm)
    assert [disk["state"] for disk in status["disks"]] == ["adopted", "adopted"]
    assert len(status["problems"]) == 1
    assert "edge:test stays with image" in status["problems"][0]


def test_a_reboot_gives_the_same_and_the_removed_image_back(vm: Vm) -> None:
    before = images_of(vm)
    vm.reboot()
    # Only the first disk was announced; the other may come after READY, and then costs docker a restart.
    vm.wait_until_succeeds(f"docker image inspect {edge_image().image_id}")
    after = images_of(vm)
    assert before.items() <= after.items()
    assert {name for name in after if name not in before} == set(app_image().references)
    assert vm.succeed(f"{RUN} mine:1 /bin/busybox ls /mine").strip() == "/mine"
    assert vm.succeed(f"{RUN} busybox:test /bin/busybox echo again").strip() == "again"


def test_a_disk_that_is_pulled_without_asking_takes_its_images_along_and_nothing_else(
    vm: Vm, disks: tuple[Path, Path]
) -> None:
    vm.unplug(disks[1].stem)
    vm.wait_until_succeeds("docker-preloader status | grep -q unplugged")
    assert "was unplugged" in status_of(vm)["problems"][0]
    vm.succeed("systemctl restart docker")
    names = {"busybox:test", "mine:1", "built:1", "edge:test", "alias/of:busybox", *app_image().references}
    assert set(images_of(vm)) == names
    assert vm.succeed(f"{RUN} app:1 /bin/busybox echo still here").strip() == "still here"
    vm.attach(disks[1])
    vm.wait_until_succeeds(f"docker image inspect {edge_image().image_id}")


def test_the_guest_powers_off(vm: Vm) -> None:
    assert vm.shutdown() is Ending.POWEROFF
