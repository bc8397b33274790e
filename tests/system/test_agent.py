"""The agent's promises, in whole guests with their own systemd, udev and dockerd: one for each start that differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from preloader_agent.store.digest import CacheID
from tests.images import app_image, busybox_image, edge_image, untagged_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import images_of, label_of, starts_of_docker, status_of

BUSYBOX, APP, EDGE, UNTAGGED = (image().image_id for image in (busybox_image, app_image, edge_image, untagged_image))


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four disks with an image each; all stand on the layer of busybox."""
    folder = tmp_path_factory.mktemp("disks")
    images = (busybox_image(), app_image(), edge_image(), untagged_image())
    return [make_raw_disk(folder / str(number), image) for number, image in enumerate(images)]


def wait_for_images(guest: NspawnGuest, *images: str) -> None:
    guest.wait_until_succeeds(f"docker image inspect {' '.join(images)} >/dev/null")


def test_disks_plugged_together_cost_docker_one_restart(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1], credentials={"docker-preloader.expect": label_of(disks[0])}) as guest:
        assert starts_of_docker(guest) == 1
        for disk in disks[1:]:
            guest.attach(disk)
        wait_for_images(guest, APP, EDGE, UNTAGGED)
        guest.wait_until_succeeds("docker-preloader status | grep '4 images from 4 disks'")
        assert starts_of_docker(guest) == 2
        assert status_of(guest)["problems"] == []


def test_a_running_container_is_not_disturbed_until_it_ends(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        guest.succeed("docker run --detach --name work --network none busybox:test /bin/busybox sleep 1000")
        guest.attach(disks[1])
        guest.wait_until_succeeds('docker-preloader status | grep "1 disk more at docker\'s next start"')
        guest.wait_until_succeeds("journalctl --unit docker-preloader | grep 'not restarting docker: 1 containers run'")
        assert [disk["state"] for disk in status_of(guest)["disks"]] == ["adopted", "pending"]
        assert guest.succeed("docker inspect --format '{{.State.Running}}' work").strip() == "true"
        assert images_of(guest) == {BUSYBOX}
        guest.succeed("docker kill work")
        wait_for_images(guest, APP)
        assert starts_of_docker(guest) == 2


def test_with_live_restore_the_container_keeps_running(tree: Path, disks: list[Path]) -> None:
    files = {"etc/docker/daemon.json": '{"live-restore": true}'}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        guest.succeed("docker run --detach --name work --network none busybox:test /bin/busybox sleep 1000")
        before = guest.succeed("docker inspect --format '{{.State.Pid}}' work")
        guest.attach(disks[1])
        wait_for_images(guest, APP)
        assert guest.succeed("docker inspect --format '{{.State.Pid}}' work") == before
        assert guest.succeed("docker inspect --format '{{.State.Running}}' work").strip() == "true"


def test_a_paused_container_is_not_disturbed_either(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        guest.succeed("docker run --detach --name work --network none busybox:test /bin/busybox sleep 1000")
        guest.succeed("docker pause work")
        guest.attach(disks[1])
        guest.wait_until_succeeds("journalctl --unit docker-preloader | grep 'not restarting docker: 1 containers run'")
        assert guest.succeed("docker inspect --format '{{.State.Status}}' work").strip() == "paused"


def test_a_disk_that_comes_while_docker_restarts_is_not_forgotten(tree: Path, disks: list[Path]) -> None:
    """The merge unit has run, and docker takes its time to start, as it does in a slow guest."""
    files = {"etc/systemd/system/docker.service.d/slow.conf": "[Service]\nExecStartPost=sleep 3\n"}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        guest.attach(disks[1])
        guest.wait_until_succeeds("systemctl show --property=SubState docker | grep start-post")
        guest.attach(disks[2])
        wait_for_images(guest, APP, EDGE)
        guest.wait_until_succeeds("docker-preloader status | grep '3 images from 3 disks'")


def test_docker_is_not_restarted_again_and_again_for_a_pass_that_fails(tree: Path, disks: list[Path]) -> None:
    """Something stands where a layer should go; docker does not mind."""
    layer = CacheID.of_chain(inspect_disk(disks[1]).images[0].chain[-1])
    with NspawnGuest(tree, disks[:1]) as guest:
        guest.succeed(f"touch /var/lib/docker/overlay2/{layer}")
        guest.attach(disks[1])
        guest.wait_until_succeeds("journalctl --unit docker-preloader | grep 'but nothing was merged: see'")
        guest.succeed("sleep 12")  # longer than it is between two looks
        assert starts_of_docker(guest) == 2
        assert images_of(guest) == {BUSYBOX}
        guest.succeed(f"rm /var/lib/docker/overlay2/{layer} && systemctl restart docker")
        wait_for_images(guest, APP)


def test_what_waits_is_not_forgotten_when_the_agent_is_restarted(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        guest.succeed("docker run --detach --name work --network none busybox:test /bin/busybox sleep 1000")
        guest.attach(disks[1])
        guest.wait_until_succeeds('docker-preloader status | grep "1 disk more at docker\'s next start"')
        guest.succeed("systemctl kill --signal=KILL docker-preloader")
        guest.wait_for_unit("docker-preloader.service")
        guest.succeed("docker kill work")
        wait_for_images(guest, APP)


def test_a_restart_of_the_bus_costs_neither_the_agent_nor_a_disk(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        guest.attach(disks[1])
        guest.wait_until_succeeds("docker-preloader status | grep '2 images from 2 disks'")
        guest.succeed("systemctl restart dbus")
        guest.attach(disks[2])
        wait_for_images(guest, EDGE)
        assert guest.succeed("systemctl show --property=NRestarts --value docker-preloader").strip() == "0"


def test_the_agent_lives_on_where_there_is_no_room_for_its_report(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        show = "systemctl show --property MainPID,NRestarts,ActiveState docker-preloader"
        before = guest.succeed(show)
        guest.succeed("mount -o remount,size=$(df --output=used --block-size=1 /run | tail -1) /run")
        guest.attach(disks[1])
        guest.wait_until_succeeds("systemctl status docker-preloader | grep 'the report cannot be written'")
        assert guest.succeed(show) == before
        guest.succeed("mount -o remount,size=100M /run")
        guest.attach(disks[2])
        guest.wait_until_succeeds("docker-preloader status | grep '3 images from 3 disks'")


def test_a_missing_disk_is_named_and_docker_starts(tree: Path, disks: list[Path]) -> None:
    expected = f"{label_of(disks[0])} dpl-0123456789ab"
    with NspawnGuest(tree, disks[:1], credentials={"docker-preloader.expect": expected}) as guest:
        assert images_of(guest) == {BUSYBOX}
        assert status_of(guest)["missing"] == ["dpl-0123456789ab"]
        assert 29 < status_of(guest)["ready_seconds"] < 45
        assert "expected and not attached in time: dpl-0123456789ab" in guest.succeed("docker-preloader status")
        assert "in time: dpl-0123456789ab" in guest.succeed("systemctl show --property=StatusText docker-preloader")


def spoil_index(disk: Path) -> None:
    """Cut the index short, where the kernel does not notice."""
    run(["debugfs", "-w", "-R", "set_inode_field /preload.json size 100", disk])


def spoil_superblock(disk: Path) -> None:
    """Leave the magic number and the label, for udev, and nothing that the kernel would mount."""
    with disk.open("r+b") as file:
        file.seek(1024 + 0x18)
        file.write(b"\xff" * 8)


def make_foreign(disk: Path) -> None:
    """Another file system under the same label."""
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label_of(disk), disk])


@pytest.mark.parametrize("spoil", [spoil_index, spoil_superblock, make_foreign])
def test_a_disk_that_is_not_fit_keeps_nobody_out(
    tree: Path, disks: list[Path], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    bad = tmp_path / "bad.raw"
    bad.write_bytes(disks[1].read_bytes())
    spoil(bad)
    with NspawnGuest(tree, [bad, disks[0]]) as guest:
        assert images_of(guest) == {BUSYBOX}
        refused = [disk for disk in status_of(guest)["disks"] if disk["state"] == "refused"]
        # udev, too, finds no file system where the superblock is spoilt.
        assert [disk["label"] for disk in refused] == ([] if spoil is spoil_superblock else [label_of(disks[1])])
        assert label_of(disks[1]) not in guest.succeed("ls /run/docker-preloader/disks").split()
        assert guest.succeed("systemctl --failed --plain --no-legend") == ""
        assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"


def test_a_store_that_is_not_overlay2_is_left_alone(tree: Path, disks: list[Path]) -> None:
    files = {"etc/docker/daemon.json": '{"features": {"containerd-snapshotter": true}}'}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        assert "left alone" in status_of(guest)["problems"][0]
        guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker-preloader status | grep {label_of(disks[1])}")
        assert [disk["state"] for disk in status_of(guest)["disks"]] == ["unused", "unused"]
        assert starts_of_docker(guest) == 1
        assert guest.succeed("find /var/lib/docker/overlay2 /var/lib/docker/image 2>/dev/null || true") == ""


def test_a_damaged_repositories_file_is_reported_and_not_touched(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree) as guest:
        guest.succeed(
            "systemctl stop docker.socket docker && echo '{' >/var/lib/docker/image/overlay2/repositories.json"
        )
        guest.attach(disks[0])
        guest.wait_until_succeeds("docker-preloader status | grep '1 disk more'")
        guest.fail("docker-preloader sync")
        assert guest.succeed("cat /var/lib/docker/image/overlay2/repositories.json") == "{\n"
        guest.succeed("echo '{\"Repositories\":{}}' >/var/lib/docker/image/overlay2/repositories.json")
        guest.succeed("systemctl start docker")
        assert images_of(guest) == {BUSYBOX}


def test_a_sandbox_that_hides_mounts_from_docker_is_named(tree: Path, disks: list[Path]) -> None:
    path = "etc/systemd/system/docker-preloader.service.d/sandbox.conf"
    with NspawnGuest(tree, disks[:1], files={path: "[Service]\nPrivateTmp=yes\nProtectHome=no\n"}) as guest:
        assert images_of(guest) == set()
        reason = f"/{path}: PrivateTmp=yes makes a mount namespace; remove it"
        assert status_of(guest)["problems"][0].endswith(reason)
        assert reason in guest.succeed("journalctl --unit docker-preloader")
        assert guest.succeed("systemctl is-active docker.service").strip() == "active"
        guest.succeed(f"rm /{path}; systemctl daemon-reload; systemctl restart docker-preloader")
        wait_for_images(guest, BUSYBOX)


def test_without_a_disk_docker_hardly_waits(tree: Path) -> None:
    with NspawnGuest(tree) as guest:
        status = status_of(guest)
        assert status["disks"] == status["images"] == status["problems"] == []
        assert "0 images from 0 disks" in guest.succeed("systemctl status --no-pager docker-preloader")
        assert guest.succeed("ls /run/docker-preloader/disks") == ""
        # What the agent imports before READY is held by a list in tests/guest; here it is what a unit really loaded.
        agent = guest.succeed("systemctl show --property=MainPID --value docker-preloader").strip()
        loaded = guest.succeed(f"cat /proc/{agent}/maps")
        assert "pystemd" not in loaded
        assert "orjson" not in loaded
        assert "libudev.so" in loaded
