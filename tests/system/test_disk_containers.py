"""Containers that disks bring run as services, in whole guests with the real systemd and the real dockerd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.diskcontainers import clock_image, waiting_container
from tests.images import app_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import label_of, starts_of_docker, states_of, status_of

AGENT = "docker-preloader.service"
ON, OFF = (f"containers_from_disks={word}" for word in ("yes", "no"))
SETTING = {"etc/docker-preloader.conf": f"{ON}\n"}
FOLDER, NOTE = "/run/docker-preloader/containers.d", "/run/docker-preloader/containers.json"


WEB = waiting_container("app:1", 'depends_on = ["db"]')
DB = waiting_container("app:1", status=9)  # its service has failed when it was stopped
CLOCK = waiting_container("clock:1")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with two containers, of which the second needs the first, and one that is not started by itself."""
    containers = {"web": WEB, "db": DB, "tool": waiting_container("app:1", "auto_start = false")}
    return make_raw_disk(tmp_path_factory.mktemp("disk") / "app", app_image(), containers=containers)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a container of its own, and one whose name the first disk has as well."""
    containers = {"clock": CLOCK, "web": CLOCK}
    return make_raw_disk(tmp_path_factory.mktemp("disk") / "clock", clock_image(), containers=containers)


def containers_of(guest: NspawnGuest) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["disk"], each["name"]): each for each in status_of(guest)["containers"]}


def wait_running(guest: NspawnGuest, *names: str) -> None:
    for name in names:
        guest.wait_until_succeeds(
            f"systemctl is-active docker-{name} && docker ps --format '{{{{.Names}}}}' | grep -x {name}"
        )


def wait_gone(guest: NspawnGuest, *names: str) -> None:
    """Neither a service nor a container."""
    for name in names:
        guest.wait_until_succeeds(f"! systemctl cat docker-{name} 2>/dev/null")
        assert guest.succeed(f"docker ps --all --quiet --filter name=^{name}$") == ""
    assert guest.succeed("systemctl list-units --failed --plain --no-legend 'docker*'") == ""


def pid_of(guest: NspawnGuest, name: str) -> str:
    return guest.succeed(f"docker inspect --format '{{{{.State.Pid}}}}' {name}").strip()


def test_a_cold_disk_brings_its_services_and_a_release_stops_them_first(tree: Path, disk: Path) -> None:
    label = label_of(disk)
    with NspawnGuest(tree, [disk], files=SETTING) as guest:
        wait_running(guest, "web", "db")
        assert starts_of_docker(guest) == 1
        assert guest.fail("systemctl is-active docker-tool").strip() == "inactive"
        assert {state["state"] for state in containers_of(guest).values()} == {"installed"}
        assert status_of(guest)["problems"] == []
        # A restart of the agent changes nothing.
        pid = pid_of(guest, "db")
        guest.succeed(f"systemctl stop docker-web && systemctl restart {AGENT}")
        assert pid_of(guest, "db") == pid
        assert guest.fail("systemctl is-active docker-web").strip() == "inactive", "somebody has stopped it"
        guest.succeed("systemctl start docker-web")
        # Who may not release the disk has not stopped anything, in the end.
        guest.succeed("docker create --name mine --network none app:1 /bin/busybox true")
        said = guest.fail(f"docker-preloader release {label}")
        assert f"not released: containers use {label}: mine; remove them, or force it" in said
        wait_running(guest, "web", "db")
        guest.succeed("docker rm mine")
        assert guest.succeed(f"docker-preloader release {label}").startswith(f"{label} is released")
        wait_gone(guest, "web", "db", "tool")
        guest.succeed(f"test ! -e {FOLDER}/{label} && test ! -e /run/docker-preloader/containers.json")
        assert containers_of(guest) == {}
        # Asked for again, it brings them again.
        guest.succeed(f"systemctl reload {AGENT}")
        wait_running(guest, "web", "db")


def test_plugged_and_pulled(tree: Path, disk: Path, other: Path) -> None:
    """The services come with the disk, and go with it, though nobody has asked."""
    with NspawnGuest(tree, files={"etc/docker-preloader.conf": f"{ON}\nhotplug=restart\n"}) as guest:
        device = guest.attach(disk)
        wait_running(guest, "web", "db")
        assert starts_of_docker(guest) == 2
        # Of two for one name, the one that is there stays, and the other one is named.
        guest.attach(other)
        wait_running(guest, "clock", "web", "db")
        problem = f"{label_of(disk)} has brought a container of that name"
        assert containers_of(guest)[label_of(other), "web"]["reason"] == problem
        assert f"container web of {label_of(other)}: {problem}" in status_of(guest)["problems"]
        # The kernel lets go of the device when the services that stand on it have ended.
        guest.succeed(f"udevadm trigger --action=remove --settle {device}")
        wait_gone(guest, "db", "tool")
        guest.detach(device)
        # The name is free now.
        guest.wait_until_succeeds(f"test -e {FOLDER}/{label_of(other)}/web.toml")
        wait_running(guest, "clock", "web")
        assert guest.succeed("docker inspect --format '{{.Config.Image}}' web").strip() == "clock:1"
        assert containers_of(guest)[label_of(other), "web"]["reason"] == ""
        # Once more: one name less is free.
        guest.attach(disk)
        wait_running(guest, "db")
        assert containers_of(guest)[label_of(disk), "web"]["state"] == "refused"


def test_the_setting_decides_and_what_cannot_be_used_is_refused_alone(tree: Path, tmp_path: Path) -> None:
    containers = dict.fromkeys(("fine", "mine", "registry", "damaged"), CLOCK)
    disk = make_raw_disk(tmp_path / "disk", clock_image(), containers=containers)
    content = disk.read_bytes()
    start = content.index(CLOCK.encode())
    disk.write_bytes(content[:start] + b"#" + content[start + 1 :])  # the first by name: of "damaged"
    files = {
        "etc/docker-preloader.conf": f"{OFF}\n",
        "etc/docker-preloader/containers.d/mine.toml": CLOCK,
        "etc/systemd/system/docker-registry.service": "[Service]\nExecStart=sleep infinity\n",
    }
    with NspawnGuest(tree, [disk], files=files) as guest:
        wait_running(guest, "mine")
        assert {state["state"] for state in containers_of(guest).values()} == {"off"}
        assert f"fine           off      {label_of(disk)} ({OFF})" in guest.succeed("docker-preloader status")
        assert status_of(guest)["problems"] == []
        guest.succeed(f"test ! -e {FOLDER}")
        guest.succeed(f"echo {ON} >/etc/docker-preloader.conf && systemctl reload {AGENT}")
        wait_running(guest, "fine")
        reasons = {name: state["reason"] for (_, name), state in containers_of(guest).items()}
        assert reasons.pop("fine") == ""
        assert reasons.pop("mine") == "/etc/docker-preloader/containers.d/mine.toml describes a container of that name"
        assert "/etc/systemd/system/docker-registry.service is there already" in reasons.pop("registry")
        assert "containers/damaged.toml: expected sha256:" in reasons.pop("damaged")
        assert reasons == {}
        pid = pid_of(guest, "mine")
        guest.succeed(f"echo {OFF} >/etc/docker-preloader.conf && systemctl reload {AGENT}")
        wait_gone(guest, "fine")
        assert pid_of(guest, "mine") == pid, "it is the administrator's"
        assert states_of(guest) == {label_of(disk): "adopted"}


def test_a_killed_agent_goes_on_where_it_was(tree: Path, disk: Path) -> None:
    """It is held, so that it cannot do what it would; what a kill may leave is made; the next one puts it right."""
    with NspawnGuest(tree, [disk], files=SETTING) as guest:
        wait_running(guest, "web", "db")
        note = json.dumps([[label_of(disk), name] for name in ("db", "tool", "web")])

        def kill(*commands: str) -> None:
            guest.succeed(f"systemctl kill --kill-whom=main --signal=STOP {AGENT}")
            guest.succeed("\n".join([f"echo '{note}' >{NOTE}", "systemctl stop docker-web docker-db", *commands]))
            guest.succeed(f"systemctl kill --kill-whom=main --signal=KILL {AGENT}")

        kill()  # when they were to be started
        wait_running(guest, "web", "db")
        guest.wait_until_succeeds(f"test ! -e {NOTE}")
        kill(f"rm {FOLDER}/*/web.toml", "systemctl daemon-reload")  # when half of the files were written
        wait_running(guest, "web", "db")
        guest.wait_until_succeeds(f"test ! -e {NOTE}")
        # When half of the files were removed, and systemd did not know yet.
        kill(f"rm {FOLDER}/*/web.toml", f"echo {OFF} >/etc/docker-preloader.conf")
        wait_gone(guest, "web", "db", "tool")
        guest.wait_until_succeeds(f"test ! -e {NOTE}")
