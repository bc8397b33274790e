"""From device_add to a container of the disk's image, in a running guest, for each policy that the agent has.

As a user does it: `preloader attach --wait` looks twice a second whether docker has the images, and then a container is
run through the guest's agent. With `defer`, somebody restarts docker as soon as the agent says that images wait for it.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

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
PENDING_TIMEOUT = 60.0  # seconds
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
    vm.succeed(CHOOSE.format(policy))
    started = time.monotonic()
    if policy == DEFER:
        vm.attach(disk)
        _wait_pending(vm, read_label(disk))
        vm.succeed(RESTART_DOCKER)
    else:
        vm.attach(disk, wait=True)
    adopted = time.monotonic()
    vm.succeed(RUN)
    ended = time.monotonic()
    vm.succeed(CHOOSE.format(RESTART))  # with `defer`, the agent would not let go of the disk
    vm.detach(disk)
    return {"round": number, "policy": policy, "adopted, s": adopted - started, "container, s": ended - started}


def _wait_pending(vm: Vm, label: str) -> None:
    """Wait until the agent has mounted and checked a disk."""
    for _ in tries(PENDING_TIMEOUT, pause=LOOK):
        with closing(ControlChannel(vm.files.control)) as channel:
            if disk_states(channel.status()).get(label) == PENDING:
                return
    raise VmError(f"{label} is not pending after {PENDING_TIMEOUT:g} s", vm.console())
