"""docker-preloader.service natively: its start with any number of disks, and what it costs while nothing happens.

The guest is a whole Debian in systemd-nspawn (tests.system.nspawn), with the shipped, sandboxed unit and real loop
devices; Docker's store is on a tmpfs there, so what a flush to a disk costs is not in these figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.disks import LAYERS_OF_FOUR, LAYERS_OF_MANY, four_disks, many_disks, raw_copy
from bench.records import Measured
from bench.startjob import FLOOR, INSTALL_FLOOR, OURS, Guest, properties, start_job
from preloader_agent.guest.daemon import TICK_SECONDS
from tests.cachedguests import packaged_guest
from tests.system.nspawn import NspawnGuest, unpack_tree

STARTS = 5  # of each unit in a round, in turn
NUMBERS = (10, 100)
IDLE_SECONDS = 60.0


def measure_readiness(folder: Path, rounds: int) -> Measured:
    """Start with no disk, with four, and with many."""
    tree = unpack_tree(packaged_guest())
    four = [raw_copy(disk) for disk in four_disks(folder)]
    many = [raw_copy(disk) for disk in many_disks(folder, NUMBERS[-1])]
    about = {"layers of the 4 disks": sum(LAYERS_OF_FOUR), "layers of each of many": LAYERS_OF_MANY}
    return Measured(about, [{"round": number, **measure_starts(tree, four, many)} for number in range(rounds)])


def measure_starts(tree: Path, four: Sequence[Path], many: Sequence[Path]) -> dict[str, float]:
    """A round: some starts of each, of which the median counts."""
    with NspawnGuest(tree) as guest:
        none = median(start_job(guest, OURS) for _ in range(STARTS))
    figures = {"no disk, ms": none}
    with NspawnGuest(tree, four) as guest:
        guest.succeed(INSTALL_FLOOR)
        pairs = [(start_job(guest, OURS), start_job(guest, FLOOR)) for _ in range(STARTS)]
        ours, floor = (median(times) for times in zip(*pairs, strict=True))
        _check_images(guest, OURS, len(four))
    figures |= {"4 disks, ms": ours, "READY=1 alone, ms": floor, "4 disks / READY=1 alone": ours / floor}
    for number in NUMBERS:
        with NspawnGuest(tree, many[:number]) as guest:
            whole = median(start_job(guest, OURS) for _ in range(STARTS))
            pass_seconds = _check_images(guest, OURS, number)
        figures[f"{number} disks, ms"] = whole
        figures[f"{number} disks, the pass, ms"] = pass_seconds * 1000
        figures[f"{number} disks, ms a layer"] = whole / (number * LAYERS_OF_MANY)
    return figures


def measure_idle(folder: Path) -> dict[str, float]:
    """Wake-ups and memory without disks, with four and with many, and memory after a disk was plugged."""
    tree = unpack_tree(packaged_guest())
    four = [raw_copy(disk) for disk in four_disks(folder)]
    many = [raw_copy(disk) for disk in many_disks(folder, NUMBERS[-1])]
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        guests = {
            len(disks): (stack.enter_context(_quiet_guest(tree, disks)), spare)
            for disks, spare in (([], four[0]), (four, many[0]), (many, four[0]))
        }
        before = {number: _of_process(guest, "voluntary_ctxt_switches") for number, (guest, _) in guests.items()}
        time.sleep(IDLE_SECONDS)
        for number, (guest, spare) in guests.items():
            wakes = _of_process(guest, "voluntary_ctxt_switches") - before[number]
            figures[f"{number} disks, wake-ups in {IDLE_SECONDS:.0f} s"] = float(wakes)
            figures[f"{number} disks, of them the watchdog's"] = IDLE_SECONDS / TICK_SECONDS
            figures[f"{number} disks, RSS, MB"] = _of_process(guest, "VmRSS") * 1024 / 1e6
            figures[f"{number} disks, peak RSS, MB"] = _of_process(guest, "VmHWM") * 1024 / 1e6
            guest.succeed("systemctl start systemd-udevd.service")
            guest.attach(spare)
            guest.wait_until_succeeds(f"docker-preloader status | grep '^{number + 1} images* from {number + 1} disk'")
            figures[f"{number} disks and one plugged, RSS, MB"] = _of_process(guest, "VmRSS") * 1024 / 1e6
    return figures


@contextmanager
def _quiet_guest(tree: Path, disks: Sequence[Path]) -> Iterator[NspawnGuest]:
    """A guest whose udev passes on no events: those of every loop device of the host reach it, a VM sees its own."""
    with NspawnGuest(tree, disks) as guest:
        guest.succeed("systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service")
        yield guest


def _of_process(guest: Guest, field: str) -> int:
    """A number of the daemon's /proc/PID/status."""
    pid = properties(guest, OURS)["MainPID"]
    status = guest.succeed(f"cat /proc/{pid}/status").splitlines()
    return int(next(line.split()[1] for line in status if line.startswith(f"{field}:")))


def _check_images(guest: Guest, unit: str, number: int) -> float:
    """All disks are adopted after another start of the unit; the seconds that the pass took."""
    start_job(guest, unit)
    status = json.loads(guest.succeed("docker-preloader status --json"))
    assert len(status["images"]) == number, status["problems"]
    return float(status["pass_seconds"])
