"""Disks that leave: asked for with `release`, or pulled without a word; in whole guests with a real dockerd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import EXIT_INVALID, CommandFailed
from preloader_agent.store.layout import STORE_DIRECTORIES
from tests.agent import Agent, read_store
from tests.images import app_image, busybox_image, edge_image, untagged_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import images_of, label_of, starts_of_docker, states_of, status_of

BUSYBOX, APP, EDGE, UNTAGGED = (image().image_id for image in (busybox_image, app_image, edge_image, untagged_image))
LIVE_RESTORE = {"etc/docker/daemon.json": '{"live-restore": true}'}
RUN = "docker run --network none"
# Counts, so that a restart in between would be seen.
COUNTER = "/bin/busybox sh -c 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done'"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four disks with an image each; all stand on the layer of busybox."""
    folder = tmp_path_factory.mktemp("disks")
    images = (busybox_image(), app_image(), edge_image(), untagged_image())
    return [make_raw_disk(folder / str(number), image) for number, image in enumerate(images)]


@pytest.fixture
def guest(tree: Path, disks: list[Path]) -> Iterator[NspawnGuest]:
    """A guest with three disks."""
    with NspawnGuest(tree, disks[:3], credentials={"docker-preloader.expect": "count:3"}) as guest:
        yield guest


def device_of(guest: NspawnGuest, label: str) -> str:
    return next(str(disk["device"]) for disk in status_of(guest)["disks"] if disk["label"] == label)


def test_a_released_disk_leaves_by_the_path_it_came(guest: NspawnGuest, disks: list[Path]) -> None:
    label = label_of(disks[1])
    output = guest.succeed(f"docker-preloader release {label}")
    assert output.strip() == f"{label} is released: {device_of(guest, label)} can be unplugged"
    # Nothing holds the device any more; whoever had it mounted would.
    guest.succeed(f"python3 -c 'import os; os.open(\"{device_of(guest, label)}\", os.O_RDONLY | os.O_EXCL)'")
    guest.wait_until_succeeds("systemctl is-active docker")
    assert images_of(guest) == {BUSYBOX, EDGE}
    assert states_of(guest)[label] == "released"
    assert status_of(guest)["problems"] == []
    assert guest.succeed(f"{RUN} --rm busybox:test /bin/busybox echo ok").strip() == "ok"
    # It stays away, whatever is restarted, until it is asked for.
    guest.succeed("systemctl restart docker-preloader && systemctl restart docker")
    assert images_of(guest) == {BUSYBOX, EDGE}
    assert states_of(guest)[label] == "released"
    guest.succeed(f"docker-preloader release {label}")  # once more does no harm
    guest.succeed("systemctl reload docker-preloader")
    guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")


def test_a_disk_that_containers_use_is_not_released(guest: NspawnGuest, disks: list[Path]) -> None:
    label = label_of(disks[1])
    guest.succeed(f"{RUN} --name done app:1 /bin/busybox true")
    guest.succeed("docker commit done mine:1 && docker create --name second --network none mine:1 /bin/busybox true")
    starts = starts_of_docker(guest)
    said = guest.fail(f"docker-preloader release {label}")
    assert f"not released: containers use {label}: done, second; remove them, or force it" in said
    assert states_of(guest)[label] == "adopted"
    assert starts_of_docker(guest) == starts
    guest.succeed("docker rm done second && docker-preloader release " + label)
    assert APP not in images_of(guest)
    guest.succeed("systemctl reload docker-preloader")
    guest.wait_until_succeeds("docker image inspect mine:1 >/dev/null")
    assert guest.succeed(f"{RUN} --rm mine:1 /bin/busybox echo back").strip() == "back"


def test_a_forced_release_goes_on(guest: NspawnGuest, disks: list[Path]) -> None:
    label = label_of(disks[1])
    guest.succeed(f"{RUN} --name done app:1 /bin/busybox true")
    guest.succeed(f"{RUN} --detach --name other busybox:test {COUNTER}")
    guest.succeed(f"docker-preloader release --force {label}")
    assert images_of(guest) == {BUSYBOX, EDGE}
    # What stands on it fails, and works again when it is back.
    guest.fail("docker start --attach done")
    guest.succeed("systemctl reload docker-preloader")
    guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")
    guest.succeed("docker start --attach done")


def test_running_containers_are_not_stopped_for_a_release(guest: NspawnGuest, disks: list[Path]) -> None:
    """Neither without live-restore, where it is refused, nor with it."""
    label = label_of(disks[1])
    guest.succeed(f"{RUN} --detach --name other edge:test /bin/busybox sleep 1000")
    said = guest.fail(f"docker-preloader release {label}")
    assert "docker would have to be restarted, which stops containers, and 1 run" in said
    guest.succeed("mkdir -p /etc/docker && echo '{\"live-restore\": true}' >/etc/docker/daemon.json")
    guest.succeed("systemctl reload docker")
    pid = guest.succeed("docker inspect --format '{{.State.Pid}}' other")
    guest.succeed(f"docker-preloader release {label}")
    assert APP not in images_of(guest)
    assert guest.succeed("docker inspect --format '{{.State.Pid}}' other") == pid


def test_a_release_while_docker_is_stopped_does_not_start_it(guest: NspawnGuest, disks: list[Path]) -> None:
    label = label_of(disks[1])
    guest.succeed("systemctl stop docker.socket docker.service")
    guest.succeed(f"docker-preloader release {label}")
    guest.fail("systemctl is-active docker")
    guest.succeed("systemctl start docker")
    assert images_of(guest) == {BUSYBOX, EDGE}


def test_a_disk_that_no_layer_came_from_is_released_at_once(tree: Path, disks: list[Path]) -> None:
    """The user has its image, too, so that this is none of docker's business."""
    label = label_of(disks[0])
    with NspawnGuest(tree, disks[:1]) as guest:
        # The restart, because dockerd keeps the layers of what it has saved until it ends.
        guest.succeed("docker save --output saved.tar busybox:test && systemctl restart docker")
        guest.succeed("docker rmi busybox:test && docker load --input saved.tar")
        guest.succeed(f"docker-preloader release {label}")
        assert starts_of_docker(guest) == 2
        assert states_of(guest)[label] == "released"
        assert status_of(guest)["problems"] == []
        assert status_of(guest)["images"] == []
        assert images_of(guest) == {BUSYBOX}


def test_whoever_insists_is_heard_and_what_was_taken_back_is_answered(guest: NspawnGuest, disks: list[Path]) -> None:
    """While a release waits for a docker that does not answer."""
    label = label_of(disks[1])
    guest.succeed("kill -STOP $(cat /run/docker.pid)")
    for option, noted in ((" ", "false"), ("--force", "true")):
        guest.succeed(f"docker-preloader release {option} {label} >>said 2>&1 &")
        guest.wait_until_succeeds(f"grep '{label}.: {noted}' /run/docker-preloader/released.json")
    guest.succeed("systemctl reload docker-preloader")
    guest.wait_until_succeeds(f"test $(grep -c 'the release of {label} was taken back meanwhile; ask again' said) = 2")
    guest.succeed("kill -CONT $(cat /run/docker.pid)")
    assert states_of(guest)[label] == "adopted"


def test_a_disk_that_waits_for_docker_is_released_at_once(tree: Path, disks: list[Path]) -> None:
    files = {"etc/docker-preloader.conf": "hotplug=defer\n"}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        device = guest.attach(disks[1])
        label = label_of(disks[1])
        guest.wait_until_succeeds('docker-preloader status | grep "1 disk more at docker\'s next start"')
        guest.succeed(f"docker-preloader release {label}")
        assert starts_of_docker(guest) == 1
        guest.detach(device)
        guest.wait_until_succeeds(f"! docker-preloader status | grep {label}")
        said = guest.fail(f"docker-preloader release {label_of(disks[0])}")
        assert "the setting hotplug=defer says no" in said
        assert "there is no disk dpl-none; the disks here are: " + label_of(disks[0]) in guest.fail(
            "docker-preloader release dpl-none"
        )


def test_a_released_disk_that_is_plugged_again_is_used_again(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        device = guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")
        guest.succeed(f"docker-preloader release {label_of(disks[1])}")
        guest.detach(device)
        guest.wait_until_succeeds(f"! docker-preloader status | grep {label_of(disks[1])}")
        guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")


def test_a_layer_of_a_disk_that_vanished_is_served_by_one_that_stays(tree: Path, disks: list[Path]) -> None:
    """At once, while dockerd runs: all three stand on the layer of busybox, which the first disk serves."""
    with NspawnGuest(tree, [], files=LIVE_RESTORE) as guest:
        first = guest.attach(disks[0])
        guest.wait_until_succeeds(f"docker image inspect {BUSYBOX} >/dev/null")
        for disk in disks[1:3]:
            guest.attach(disk)
        guest.wait_until_succeeds(f"docker image inspect {APP} {EDGE} >/dev/null")
        guest.succeed("docker tag busybox:test mine:tag")
        starts = starts_of_docker(guest)
        guest.detach(first)
        guest.wait_until_succeeds("docker-preloader status | grep 'was unplugged'")
        for image in ("app:1", "edge:test", "mine:tag"):
            assert guest.succeed(f"{RUN} --rm --user 0 {image} /bin/busybox echo still").strip() == "still"
        assert starts_of_docker(guest) == starts
        lost = {image["id"]: image["lost"] for image in status_of(guest)["images"]}
        assert lost == {BUSYBOX: True, APP: False, EDGE: False}
        guest.succeed("systemctl restart docker")
        for image in ("app:1", "edge:test"):
            assert guest.succeed(f"{RUN} --rm --user 0 {image} /bin/busybox echo still").strip() == "still"
        assert images_of(guest) == {APP, EDGE}
        assert status_of(guest)["problems"] == []
        guest.attach(disks[0])
        guest.wait_until_succeeds("docker image inspect mine:tag busybox:test >/dev/null")


def test_a_vanished_disk_takes_its_images_at_dockers_next_start(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1], files=LIVE_RESTORE) as guest:
        device = guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")
        guest.succeed(f"{RUN} --detach --name victim app:1 /bin/busybox sleep 1000")
        guest.succeed("docker commit victim mine:1")
        guest.succeed("docker rm --force victim")
        guest.succeed(f"{RUN} --name stopped app:1 /bin/busybox true")
        guest.detach(device)
        guest.wait_until_succeeds("docker-preloader status | grep 'was unplugged'")
        assert guest.succeed("systemctl is-active docker-preloader").strip() == "active"
        journal = guest.succeed("journalctl --unit docker-preloader --output cat")
        assert f"{label_of(disks[1])}: containers stand on it, and fail: stopped" in journal
        guest.succeed("systemctl restart docker")
        assert images_of(guest) == {BUSYBOX}
        guest.attach(disks[1])
        guest.wait_until_succeeds("docker image inspect mine:1 app:1 >/dev/null")
        assert guest.succeed(f"{RUN} --rm mine:1 /bin/busybox echo back").strip() == "back"
        guest.succeed("docker start --attach stopped")


def test_all_disks_leave_a_store_that_nobody_uses(tmp_path: Path, disks: list[Path]) -> None:
    with Agent(tmp_path / "agent", tmp_path / "docker") as agent:
        labels = {agent.attach(disk) for disk in disks[:2]}
        assert any("docker-preloader" in path for path in read_store(agent.data_root))
        with pytest.raises(CommandFailed, match="not allowed with argument --release-all") as refused:
            agent.release_all("/dev/null")
        assert refused.value.status == EXIT_INVALID
        assert agent.mounted() == labels
        agent.release_all()
        assert agent.mounted() == set()
        left = read_store(agent.data_root)
        assert [path for path in left if "docker-preloader" in path] == []
        folders = {path for path, _ in STORE_DIRECTORIES}
        assert left.keys() <= {*folders, "image/overlay2/repositories.json"}
        assert json.loads((agent.data_root / "image/overlay2/repositories.json").read_bytes()) == {"Repositories": {}}
        agent.release_all()
        assert read_store(agent.data_root) == left


def test_a_request_of_somebody_else_than_root_is_not_heard(guest: NspawnGuest, disks: list[Path]) -> None:
    label = label_of(disks[1])
    as_nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    assert "Permission denied" in guest.fail(f"{as_nobody} docker-preloader release {label}")
    assert "Permission denied" in guest.fail(f"{as_nobody} docker-preloader status")
    assert guest.succeed("find /run/docker-preloader -xdev -perm /o+w ! -type l") == ""
    # Even with the file's permission, the peer has to be root.
    guest.succeed("chmod 0666 /run/docker-preloader/control")
    assert "does not talk to you: only root may ask" in guest.fail(f"{as_nobody} docker-preloader release {label}")
    assert states_of(guest)[label] == "adopted"
