"""The control channel of a real guest: it is told what to expect, and lets go of disks before they are unplugged.

One guest lives through the whole module; the tests run in the order in which they stand here.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preloader_agent import __version__
from preloader_agent.errors import AgentRefused, AgentSilent
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run, start
from preloader_agent.host.vm.config import GUEST_APPEND, VmConfig
from preloader_agent.host.vm.control import MAX_ANSWER, PING_RETRY, ControlChannel
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.vm.linesocket import LineSocket
from preloader_agent.host.waiting import tries
from tests.host.command import COMMAND, PYTHONPATH
from tests.images import edge_image

RUN = "docker run --rm --network none --user 0"
ANSWER = 30.0  # seconds; an emulated guest answers in a few milliseconds
CLIENTS = 20  # that come and go


@pytest.fixture(scope="module")
def vm(guest: Path, disks: tuple[Path, Path]) -> Iterator[Vm]:
    """A guest with the first disk, which is told something in each of the three ways."""
    config = replace(
        VmConfig.of_guest(guest),
        disks=(disks[0],),
        spare_ports=8,
        append=f"{GUEST_APPEND} docker_preloader.timeout=47 docker_preloader.expect=none",
        credentials={"docker-preloader.expect": disks[0].stem},
        fw_cfg_credentials={"docker-preloader.labels": "dpl-*,other-?"},
    )
    with Vm(config) as vm:
        vm.wait_booted()
        yield vm


def images_of(vm: Vm) -> set[str]:
    """The IDs of all images that docker lists."""
    return set(vm.succeed("docker images --all --no-trunc --quiet").split())


def ids_of(disk: Path) -> set[str]:
    return {image.image_id for image in inspect_disk(disk).images}


def status_of(vm: Vm) -> dict[str, Any]:
    with closing(ControlChannel(vm.files.control)) as channel:
        return channel.status()


def states_of(vm: Vm) -> dict[str, str]:
    return {disk["label"]: disk["state"] for disk in status_of(vm)["disks"]}


def attach(vm: Vm, disk: Path) -> None:
    """Plug a disk; its images are there at once, whatever docker is busy with."""
    assert vm.attach(disk, wait=True) == disk.stem
    assert ids_of(disk) <= images_of(vm)


@contextmanager
def raw_client(vm: Vm) -> Iterator[socket.socket]:
    """A client that can send anything."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER)
        client.connect(str(vm.files.control))
        yield client


def say(vm: Vm, content: bytes) -> list[dict[str, Any]]:
    """Send anything, and a ping after it; the answers until that of the ping.

    The first ping is repeated: what is sent before the guest's kernel knows of a new connection may be lost.
    """
    with closing(LineSocket(vm.files.control, "raw client", MAX_ANSWER)) as lines:

        def answers(number: str, timeout: float) -> list[dict[str, Any]]:
            end = time.monotonic() + timeout
            lines.send(b'\n{"id": "%s", "request": "ping"}\n' % number.encode(), end)
            found = [json.loads(lines.read_line(end))]
            while found[-1].get("id") != number:
                found.append(json.loads(lines.read_line(end)))
            return found[:-1]

        for left in tries(ANSWER, pause=0):
            with suppress(TimeoutError):
                answers("first", min(left, PING_RETRY))
                break
        lines.send(content, time.monotonic() + ANSWER)
        return [answer for answer in answers("last", ANSWER) if answer.get("id") != "first"]


def preloader(vm: Vm, command: str, *args: str | Path, status: int = 0) -> str:
    """Run a command for this machine's disks, beside its driver; what it printed. It finds the channel by itself."""
    words = [*COMMAND, command, "--qmp", vm.files.second_qmp, *args]
    return run(words, env={"PYTHONPATH": PYTHONPATH}, ok=(status,), with_stderr=True)


def detach(vm: Vm, *args: str | Path, status: int = 0) -> str:
    return preloader(vm, "detach", *args, status=status)


# --- questions and answers ---


def test_the_agent_answers(vm: Vm) -> None:
    with closing(ControlChannel(vm.files.control)) as channel:
        assert channel.ping() == __version__
        assert channel.status() == json.loads(vm.succeed("docker-preloader status --json"))


def test_what_was_said_in_three_ways_is_in_force(vm: Vm, disks: tuple[Path, Path]) -> None:
    """A credential, through SMBIOS or fw_cfg, comes before the kernel command line."""
    assert status_of(vm)["settings"] == {
        "labels": ["dpl-*", "other-?"],
        "expect": disks[0].stem,
        "timeout": 47,
        "required": False,
        "hotplug": "idle",
        "containers_from_disks": False,
    }
    assert states_of(vm) == {disks[0].stem: "adopted"}


def test_clients_that_leave_in_the_middle(vm: Vm) -> None:
    for number in range(CLIENTS):
        with raw_client(vm) as client:
            client.sendall(b'{"id": "gone", "request": "status"}\n' * number + b'{"id": "gone", "request": "sta')
        with closing(ControlChannel(vm.files.control)) as channel:
            assert channel.ping() == __version__
            assert channel.status()["problems"] == []


def test_a_client_that_does_not_read_its_answers(vm: Vm) -> None:
    with raw_client(vm) as client:
        client.sendall(b'{"id": "unread", "request": "status"}\n' * 2000)
    with closing(ControlChannel(vm.files.control)) as channel:
        assert channel.ping() == __version__


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b"\x00\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"request": "reboot"}',
        b'{"request": "release"}',
        b'{"request": "release", "label": 5}',
        b'{"request": "release", "label": "dpl-none", "force": 1}',
        b'{"request": "ping", "id": {}}',
        b"[" * 4000,
        b'{"request": "ping"' + b" " * 4096 + b"}",
        b"x" * 300_000,
    ],
    ids=lambda junk: f"{junk[:30]!r}",
)
def test_junk_is_answered_with_one_error(vm: Vm, junk: bytes) -> None:
    before = vm.succeed("systemctl show --property=MainPID docker-preloader")
    answers = say(vm, junk)
    assert [answer["ok"] for answer in answers] == [False]
    assert 0 < len(answers[0]["error"]) < 1000
    assert vm.succeed("systemctl show --property=MainPID docker-preloader") == before


def test_a_disk_that_is_not_there_cannot_be_released(vm: Vm) -> None:
    with closing(ControlChannel(vm.files.control)) as channel, pytest.raises(AgentRefused, match="dpl-none"):
        channel.release("dpl-none")


# --- unplugging ---


def test_a_disk_stays_while_a_stopped_container_uses_it(vm: Vm, disks: tuple[Path, Path]) -> None:
    vm.succeed("docker run --name keeper --network none app:1 /bin/busybox true")
    with pytest.raises(AgentRefused, match="keeper") as refused:
        vm.detach(disks[0].stem)
    assert refused.value.containers == ("keeper",)
    assert states_of(vm) == {disks[0].stem: "adopted"}
    assert vm.succeed("docker start --attach keeper && echo started").strip() == "started"


def test_a_detached_disk_takes_its_images_along_and_nothing_else(vm: Vm, disks: tuple[Path, Path]) -> None:
    attach(vm, disks[1])
    vm.succeed("docker rm keeper")
    vm.detach(disks[0].stem)
    assert images_of(vm) == ids_of(disks[1])
    assert vm.succeed(f"{RUN} {edge_image().image_id} /bin/busybox echo shared layer").strip() == "shared layer"
    vm.wait_until_succeeds(f"! docker-preloader status | grep {disks[0].stem}")
    assert status_of(vm)["problems"] == []
    assert vm.succeed("dmesg | grep -i 'ext4.*error\\|shut down requested' || true") == ""


def test_a_detached_disk_comes_back(vm: Vm, disks: tuple[Path, Path]) -> None:
    attach(vm, disks[0])
    assert vm.succeed(f"{RUN} app:1 /bin/busybox echo again").strip() == "again"


def test_the_command_detaches_from_a_machine_that_somebody_else_drives(vm: Vm, disks: tuple[Path, Path]) -> None:
    vm.succeed(f"docker create --name keeper --network none {edge_image().image_id} /bin/busybox true")
    refused = detach(vm, disks[1].stem, status=1)
    assert refused.startswith("preloader: control channel: release: ")
    assert "keeper" in refused
    assert ids_of(disks[1]) <= images_of(vm)
    vm.succeed("docker rm keeper")
    assert detach(vm, disks[1].stem) == f"{disks[1].stem} ({disks[1]}): detached\n"
    assert images_of(vm) == ids_of(disks[0])
    run(["qemu-io", "-f", "qcow2", "-c", "flush", disks[1]])  # which opens it for writing: nobody else has it open


def test_the_command_attaches_to_a_machine_that_somebody_else_drives(vm: Vm, disks: tuple[Path, Path]) -> None:
    """While a container runs, docker is not restarted."""
    vm.succeed("docker run --detach --name runner --network none busybox:test /bin/busybox sleep 1000")
    preloader(vm, "attach", disks[1])
    vm.wait_until_succeeds(f"docker-preloader status | grep -q '{disks[1].stem} *pending'")
    rows = {row["label"]: row for row in json.loads(preloader(vm, "list", "--json"))["disks"]}
    assert (rows[disks[1].stem]["state"], rows[disks[1].stem]["images"]) == ("pending", 0)
    assert (rows[disks[0].stem]["state"], rows[disks[0].stem]["images"]) == ("adopted", len(ids_of(disks[0])))
    vm.succeed("docker rm --force runner")
    assert detach(vm, disks[1]) == f"{disks[1].stem} ({disks[1]}): detached\n"
    assert preloader(vm, "attach", "--wait", disks[1]) == f"{disks[1].stem} ({disks[1]}): attached\n"
    assert ids_of(disks[1]) <= images_of(vm)
    vm.detach(disks[1])  # by its file: who attached it does not matter


def test_an_interrupted_command_is_finished_by_the_next(vm: Vm, disks: tuple[Path, Path], tmp_path: Path) -> None:
    attach(vm, disks[1])
    command: list[str | Path] = ["detach", "--qmp", vm.files.second_qmp, "--control", vm.files.control, disks[1]]
    with (tmp_path / "log").open("wb") as log:
        process = start(["env", f"PYTHONPATH={PYTHONPATH}", *COMMAND, *command], log=log)
    try:
        vm.wait_until_succeeds("test -e /run/docker-preloader/released.json")
        process.send_signal(signal.SIGINT)
        assert process.wait(ANSWER) == 130
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "log").read_text().endswith("the same command again finishes what was begun\n")
    assert detach(vm, disks[1]) == f"{disks[1].stem} ({disks[1]}): detached\n"
    assert images_of(vm) == ids_of(disks[0])


def test_force_unplugs_what_containers_use(vm: Vm, disks: tuple[Path, Path]) -> None:
    attach(vm, disks[1])
    vm.succeed(f"docker run --detach --name keeper --network none {edge_image().image_id} /bin/busybox sleep 1000")
    assert "keeper" in detach(vm, disks[1].stem, status=1)
    assert detach(vm, "--force", disks[1].stem).endswith(f"{disks[1].stem} ({disks[1]}): detached\n")
    assert images_of(vm) == ids_of(disks[0])
    assert vm.succeed(f"{RUN} app:1 /bin/busybox echo shared layer").strip() == "shared layer"
    vm.succeed("docker rm --force keeper")


def test_a_guest_whose_agent_does_not_run(vm: Vm, disks: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    attach(vm, disks[1])
    vm.succeed("systemctl stop docker-preloader")
    with pytest.raises(AgentSilent, match=r"no answer after 1 s"):
        ControlChannel(vm.files.control, timeout=1)
    refused = detach(vm, disks[1].stem, status=1)
    assert "no answer after 10 s: does docker-preloader run in the guest" in refused
    vm.detach(disks[1])
    assert f"unplugging {disks[1]}, without having asked the guest" in caplog.text
    vm.succeed("systemctl start docker-preloader && systemctl restart docker")
    assert images_of(vm) == ids_of(disks[0])
    assert states_of(vm) == {disks[0].stem: "adopted"}
