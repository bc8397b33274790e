"""From device_add to a container of the disk's image, in a running guest, for each policy that the agent has.

As a user does it: `preloader attach --wait` looks twice a second whether docker has the images, and then a container is
run through the guest's agent. With `defer`, somebody restarts docker as soon as the agent says that images wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.records import Measured, Record
from bench.stock import make_stock
from preloader_agent.errors import VmError
from preloader_agent.host.inspection import read_label
from preloader_agent.host.vm.adoption import PENDING, disk_states
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.control import ControlChannel
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.waiting import tries
from tests.cachedguests import packaged_guest

RESTART, IDLE, DEFER = "restart", "idle", "defer"
POLICIES = (RESTART, IDLE, DEFER)
CHOOSE = "echo hotplug={} >/etc/docker-preloader.conf && systemctl reload docker-preloader"
RESTART_DOCKER = "systemctl reset-failed docker && systemctl restart docker"
RUN = "docker run --rm --network none bench-0:1 wc -c /layer0/d0/file-0"
STATUS_TIMEOUT = 60.0  # seconds
LOOK = 0.1  # seconds


def measure_hotplug(folder: Path, rounds: int) -> Measured:
    """Plug one disk with one image, once for each policy in each round, into a guest that has no other."""
    stock = make_stock(folder, "stock", 1)
    disk = stock.disk()
    with Vm(VmConfig.of_guest(packaged_guest())) as vm:
        vm.wait_booted()
        vm.succeed("docker version")
        records = [measure_policy(vm, disk, policy, number) for number in range(rounds) for policy in POLICIES]
    return Measured(stock.about, records)


def measure_policy(vm: Vm, disk: Path, policy: str, number: int) -> Record:
    """One disk in and, unmeasured, out again."""
    choose(vm, policy)
    started = time.monotonic()
    if policy == DEFER:
        vm.attach(disk)
        label = read_label(disk)
        _wait_status(vm, f"{label} is pending", lambda status: disk_states(status).get(label) == PENDING)
        vm.succeed(RESTART_DOCKER)
    else:
        vm.attach(disk, wait=True)
    adopted = time.monotonic()
    vm.succeed(RUN)
    ended = time.monotonic()
    choose(vm, RESTART)  # with `defer`, the agent would not let go of the disk
    vm.detach(disk)
    return {"round": number, "policy": policy, "adopted, s": adopted - started, "container, s": ended - started}


def choose(vm: Vm, policy: str) -> None:
    """Change the agent's setting, and wait until it has taken it and docker rests, as if it had always been so."""
    vm.succeed(CHOOSE.format(policy))
    _wait_status(vm, f"hotplug is {policy} and docker is not being restarted", lambda status: _rests(status, policy))
    vm.succeed("docker version")


def _rests(status: dict[str, Any], policy: str) -> bool:
    return status["settings"]["hotplug"] == policy and not status.get("restarting")


def _wait_status(vm: Vm, what: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the agent's status shows something. Raises VmError."""
    for _ in tries(STATUS_TIMEOUT, pause=LOOK):
        with closing(ControlChannel(vm.files.control)) as channel:
            if is_so(channel.status()):
                return
    raise VmError(f"after {STATUS_TIMEOUT:g} s, the agent does not say that {what}", vm.console())
