"""The life of the guest's Debian package in a machine that is used: install, upgrade, remove, install again, purge.

One guest lives through the whole module, with a disk attached all the time; the tests run in the order in which they
stand here. It begins with a purge, of the package that the guest was made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.host.run import run
from preloader_agent.host.vm.config import SharedFolder, VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.cachedguests import packages
from tests.images import app_image, busybox_image

# It may start three times a minute.
RESTART_DOCKER = "systemctl reset-failed docker && systemctl restart docker"
NEWER = "0.1.0+newer"
DPKG = "DEBIAN_FRONTEND=noninteractive dpkg"
PIDS = "docker inspect --format '{{.State.Pid}}' own worker web; systemctl show -p MainPID docker docker-web"
RUN = "docker run --network none"
SLEEP = "/bin/busybox sleep 10000"
DETACHED = f"{RUN} --detach --stop-signal KILL"  # it is its container's first process, and would not mind another
# A container that is a service, on an image of the disk.
DESCRIPTION = """image = "busybox:test"
cmd = ["/bin/busybox", "sleep", "10000"]
pull = "never"
networks = ["none"]
run_options = ["--stop-signal=KILL"]
"""
DESCRIBE = f"echo '{DESCRIPTION}' >/etc/docker-preloader/containers.d/web.toml && systemctl daemon-reload"
START = "systemctl start docker-web && docker inspect --format '{{.State.Running}}' web"
UNITS = ("docker-preloader.service", "docker-preloader-merge.service")
# What changes by itself, and what a container that is started again has anew.
CHANGING = ("/mnt", "/run/containerd", "/run/credentials", "/run/docker", "/run/log", "/run/systemd", "/run/udev")
PRUNED = " -o ".join(f"-path {path}" for path in (*CHANGING, "/var/log", "/var/lib/systemd/timers"))
ROOTS = "/etc /opt /root /run /srv /usr /var"
LIST = f"find {ROOTS} \\( {PRUNED} \\) -prune -o -printf '%p -> %l\\n' 2>/dev/null | sort"


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it is, and as one of a newer version."""
    folder = tmp_path_factory.mktemp("debs")
    package, _ = packages()
    (folder / "first.deb").write_bytes(package.read_bytes())
    unpacked = folder / "unpacked"
    run(["dpkg-deb", "--raw-extract", package, unpacked])
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", f"\nVersion: {NEWER}.", 1))
    run(["dpkg-deb", "--root-owner-group", "--build", unpacked, folder / "newer.deb"])
    return folder


@pytest.fixture(scope="module")
def vm(guest: Path, disks: tuple[Path, Path], debs: Path) -> Iterator[Vm]:
    """A guest with a disk; its user has an image and a container, which docker starts whenever it starts itself."""
    shared = (SharedFolder(debs, "/mnt/debs", is_read_only=True),)
    with Vm(replace(VmConfig.of_guest(guest), disks=disks[:1], shared_folders=shared)) as vm:
        vm.wait_booted()
        vm.succeed("tar --create --directory / bin/busybox | docker import - own:1")
        vm.succeed(f"{DETACHED} --restart always --name own own:1 {SLEEP}")
        yield vm


@pytest.fixture(scope="module")
def before(vm: Vm) -> dict[str, set[str]]:
    """What there is before the package is installed."""
    vm.succeed(f"{DPKG} --purge docker-preloader")
    return everything(vm)


def everything(vm: Vm) -> dict[str, set[str]]:
    """Files and links, mounts, and docker's images."""
    vm.wait_until_succeeds("docker inspect --format '{{.State.Running}}' own | grep true")
    mounts = vm.succeed("findmnt --raw --noheadings --output TARGET,SOURCE,FSTYPE").splitlines()
    return {
        "files": set(vm.succeed(LIST).splitlines()),
        # Those below: /run/docker-preloader is none of /run/docker.
        "mounts": {mount for mount in mounts if not mount.startswith(tuple(f"{path}/" for path in CHANGING))},
        "images": images_of(vm),
    }


def images_of(vm: Vm) -> set[str]:
    return set(vm.succeed("docker images --format '{{.Repository}}:{{.Tag}}'").split())


def check_docker_works(vm: Vm) -> None:
    assert vm.succeed(f"{RUN} --rm own:1 /bin/busybox echo works").strip() == "works"
    assert vm.succeed("systemctl list-units --failed --plain --no-legend") == ""


def check_is_gone(vm: Vm) -> None:
    """What a removed package may leave behind is nothing that runs, is mounted, or stands in docker's store."""
    assert vm.succeed("findmnt --raw --noheadings --output TARGET,SOURCE | grep docker-preloader || true") == ""
    assert vm.succeed("ls /run | grep preloader || true") == ""
    assert vm.succeed("find /var/lib/docker -lname '/run/docker-preloader/*' -o -name '*docker-preloader*'") == ""


def test_a_purge_leaves_nothing_with_our_name(vm: Vm, before: dict[str, set[str]]) -> None:
    assert [path for path in before["files"] if "preloader" in path] == []
    assert [mount for mount in before["mounts"] if "preloader" in mount] == []
    assert before["images"] == {"own:1"}
    check_docker_works(vm)


def test_an_install_disturbs_no_container_and_enables_the_units(vm: Vm) -> None:
    pid = vm.succeed("docker inspect --format '{{.State.Pid}}' own")
    vm.succeed(f"{DPKG} --install /mnt/debs/first.deb")
    for unit in UNITS:
        assert vm.succeed(f"systemctl is-enabled {unit}").strip() == "enabled"
    vm.wait_until_succeeds("docker-preloader status | grep '1 disk'")
    assert vm.succeed("docker inspect --format '{{.State.Pid}}' own") == pid
    # The disk was there already: its images wait for docker's next start, while a container runs.
    vm.succeed(RESTART_DOCKER)
    assert images_of(vm) == {"own:1", *busybox_image().references, *app_image().references}
    check_docker_works(vm)


def test_a_container_is_a_service_at_once(vm: Vm) -> None:
    assert vm.succeed(f"{DESCRIBE} && {START}").strip() == "true"


def test_an_upgrade_is_not_noticed_by_containers(vm: Vm) -> None:
    vm.succeed(f"{DETACHED} --name worker busybox:test {SLEEP}")
    pids = vm.succeed(PIDS)
    agent, images = vm.succeed("systemctl show -p MainPID docker-preloader"), images_of(vm)
    vm.succeed(f"{DPKG} --install /mnt/debs/newer.deb")
    assert NEWER in vm.succeed("dpkg-query --show docker-preloader")
    assert vm.succeed("systemctl is-active docker-preloader").strip() == "active"
    assert vm.succeed("systemctl show -p MainPID docker-preloader") != agent
    assert vm.succeed(PIDS) == pids
    assert images_of(vm) == images
    assert vm.succeed(f"{RUN} --rm --user 0 app:1 /bin/busybox echo ok").strip() == "ok"
    check_docker_works(vm)


def test_a_removal_takes_the_images_out_whatever_uses_them(vm: Vm) -> None:
    """`worker` runs on a layer of the disk, and `kept` has something of the user's on top of one."""
    vm.succeed(f"{RUN} --user 0 --name kept app:1 /bin/busybox sh -c 'echo precious >/mine'")
    vm.succeed("docker tag busybox:test mine:1")
    said = vm.succeed(f"{DPKG} --remove docker-preloader")
    assert "Restarting Docker without the images of disks" in said
    assert "docker rmi" not in said
    assert vm.succeed("systemctl list-units --all --plain --no-legend 'docker-web*'") == ""
    vm.wait_until_succeeds("docker inspect --format '{{.State.Running}}' own | grep true")
    assert images_of(vm) == {"own:1"}
    check_is_gone(vm)
    check_docker_works(vm)


def test_nothing_of_the_users_is_lost_with_it(vm: Vm) -> None:
    vm.succeed(f"{DPKG} --install /mnt/debs/newer.deb && {RESTART_DOCKER}")
    assert images_of(vm) == {"own:1", "mine:1", *busybox_image().references, *app_image().references}
    assert set(vm.succeed("docker ps --all --format '{{.Names}}'").split()) == {"own", "worker", "kept"}
    assert vm.succeed(START).strip() == "true"
    assert vm.succeed("docker cp kept:/mine - | tar --extract --to-stdout").strip() == "precious"
    assert vm.succeed("docker start kept").strip() == "kept"
    assert vm.succeed(f"{RUN} --rm mine:1 /bin/busybox echo back").strip() == "back"
    check_docker_works(vm)


def test_a_purge_leaves_what_was_there_before_the_install(vm: Vm, before: dict[str, set[str]]) -> None:
    vm.succeed("docker rm --force --volumes worker kept && docker rmi mine:1")
    vm.succeed("echo hotplug=defer >/etc/docker-preloader.conf && systemctl reload docker-preloader")
    vm.succeed(f"{DPKG} --purge docker-preloader")
    after = everything(vm)
    for what, expected in before.items():
        assert after[what] ^ expected == set(), what
    check_is_gone(vm)
    check_docker_works(vm)
