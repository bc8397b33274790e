"""What the agent is told, seen in whole guests: which disks, how long to wait, what to do on hot-plug."""

from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.host.run import run
from tests.images import app_image, busybox_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import images_of, label_of, show, status_of

BUSYBOX, APP = busybox_image().image_id, app_image().image_id
AGENT = "docker-preloader.service"
ABSENT = "dpl-0123456789ab"
RUN = "docker run --detach --network none --name work"
# Counts, so that a restart of it would be seen.
COUNTER = "/bin/busybox sh -c 'i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done'"


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks; the second image stands on the first."""
    folder = tmp_path_factory.mktemp("disks")
    return [make_raw_disk(folder / name, image()) for name, image in (("a", busybox_image), ("b", app_image))]


def counts_of(guest: NspawnGuest) -> list[int]:
    return [int(line) for line in guest.succeed("docker logs work").split()]


def test_it_is_ready_as_soon_as_all_named_disks_are_adopted(tree: Path, disks: list[Path]) -> None:
    """The credential names them; the file in the image, which it overrides, would wait for another."""
    files = {"etc/docker-preloader.conf": f"expect={ABSENT}\ntimeout=60\nrequired=yes\n"}
    labels = " ".join(map(label_of, disks))
    with NspawnGuest(tree, disks, files=files, credentials={"docker-preloader.expect": labels}) as guest:
        assert images_of(guest) == {BUSYBOX, APP}
        status = status_of(guest)
        assert status["missing"] == []
        assert status["ready_seconds"] < 20
        assert status["settings"] == {
            "labels": ["dpl-*"], "expect": " ".join(sorted(labels.split())), "timeout": 60.0, "required": True,
            "hotplug": "idle", "containers_from_disks": False,
        }  # fmt: skip


def test_required_disks_that_do_not_come_fail_the_unit_and_docker_starts(tree: Path, disks: list[Path]) -> None:
    files = {
        "etc/docker-preloader.conf": "timeout=60\nrequired=yes\n",
        "etc/docker-preloader.conf.d/site.conf": f"# of the site\nexpect={ABSENT}\ntimeout=2\n",
    }
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        assert show(guest, AGENT, "ActiveState") == "failed"
        assert (show(guest, AGENT, "ExecMainStatus"), show(guest, AGENT, "NRestarts")) == ("3", "0")
        journal = guest.succeed(f"journalctl --unit {AGENT} --output cat")
        assert f"{ABSENT}: required, and not attached within 2 s" in journal
        assert show(guest, "docker.service", "ActiveState") == "active"
        assert images_of(guest) == {BUSYBOX}, "what is there is served"


def test_labels_are_patterns(tree: Path, disks: list[Path], tmp_path: Path) -> None:
    """A plain copy of a data root, as NixOS's dockerPreloader made them, has the label that its maker chose."""
    plain = tmp_path / "plain.raw"
    plain.write_bytes(disks[1].read_bytes())
    run(["debugfs", "-w", "-R", "rm /preload.json", plain])
    run(["e2label", plain, "0f3c9a-nix"])
    with NspawnGuest(tree, [plain, disks[0]], files={"etc/docker-preloader.conf": "labels = *-nix\n"}) as guest:
        assert images_of(guest) == {APP}
        assert [disk["label"] for disk in status_of(guest)["disks"]] == ["0f3c9a-nix"]
        # Said anew, and looked at anew.
        guest.succeed("echo 'labels = *-nix, dpl-*' >/etc/docker-preloader.conf")
        guest.succeed(f"systemctl reload {AGENT}")
        guest.wait_until_succeeds(f"docker image inspect {APP} {BUSYBOX} >/dev/null")


def test_what_cannot_be_used_is_named_and_nothing_else_suffers(tree: Path, disks: list[Path]) -> None:
    files = {"etc/docker-preloader.conf": "hotplug=always\ncolour=blue\n"}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        assert images_of(guest) == {BUSYBOX}
        problems = "\n".join(status_of(guest)["problems"])
        assert "/etc/docker-preloader.conf:1: hotplug: expected restart, idle or defer, found 'always'" in problems
        assert "/etc/docker-preloader.conf:2: there is no setting 'colour'" in problems


def test_restart_keeps_containers_running_with_live_restore(tree: Path, disks: list[Path]) -> None:
    files = {"etc/docker/daemon.json": '{"live-restore": true}', "etc/docker-preloader.conf": "hotplug=restart\n"}
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        guest.succeed(f"{RUN} busybox:test {COUNTER}")
        guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")
        seen = len(counts_of(guest))
        guest.wait_until_succeeds(f"[ $(docker logs work | wc -l) -gt {seen + 5} ]")
        counts = counts_of(guest)
        assert counts == list(range(1, len(counts) + 1)), "neither restarted nor interrupted"


def test_restart_does_not_wait_for_containers(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1], files={"etc/docker-preloader.conf": "hotplug=restart\n"}) as guest:
        guest.succeed(f"{RUN} busybox:test {COUNTER}")
        guest.attach(disks[1])
        guest.wait_until_succeeds(f"docker image inspect {APP} >/dev/null")
        assert guest.succeed("docker inspect --format '{{.State.Running}}' work").strip() == "false"


def test_defer_leaves_docker_alone_until_somebody_starts_it(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1], files={"etc/docker-preloader.conf": "hotplug=defer\n"}) as guest:
        pid = show(guest, "docker.service", "MainPID")
        guest.attach(disks[1])
        guest.wait_until_succeeds('docker-preloader status | grep "1 disk more at docker\'s next start"')
        states = {disk["label"]: disk["state"] for disk in status_of(guest)["disks"]}
        assert states == {label_of(disks[0]): "adopted", label_of(disks[1]): "pending"}
        assert "1 disk more at docker's next start" in show(guest, AGENT, "StatusText")
        # Longer than any policy that restarts docker would take.
        guest.succeed("sleep 3")
        assert show(guest, "docker.service", "MainPID") == pid
        guest.succeed("systemctl restart docker")
        assert images_of(guest) == {BUSYBOX, APP}
        guest.wait_until_succeeds("docker-preloader status | grep '2 images from 2 disks'")
