"""From QEMU's start to "every image runnable", with the same images brought into the same guest in four ways."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.bootunits import (
    BRINGS,
    CHECK,
    LOAD,
    LOAD_LABEL,
    NOTHING,
    OURS,
    PORT,
    SCRIPT,
    credentials,
    kernel_words,
    parse,
    span,
)
from bench.records import Measured, Record
from bench.stock import Stock, archive_disk, make_stock
from preloader_agent.errors import VmError
from preloader_agent.host.inspection import read_label
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.vm.syntax import escaped
from preloader_agent.host.waiting import tries
from tests.cachedguests import packaged_guest

NUMBERS = (1, 2, 4, 8, 16)
TIMEOUT = 900.0  # seconds
LOOK = 0.01  # seconds between two looks at what the guest has said
SECTOR = 512  # the unit of /sys/block/*/stat
SECTORS_WRITTEN = 6  # its place there
TICKS = os.sysconf("SC_CLK_TCK")


class Case(NamedTuple):
    """One kind of boot."""

    way: str
    number: int  # of images
    disks: tuple[Path, ...]
    label: str = ""  # of the disk that preloader built


def measure_boot(folder: Path, rounds: int) -> Measured:
    """Boot each case once a round, in turn."""
    guest = VmConfig.of_guest(packaged_guest())
    stocks = [make_stock(folder, f"stock{number}", number) for number in NUMBERS]
    cases = [Case(NOTHING, 0, ()), *(case for stock in stocks for case in make_cases(stock))]
    records = [{"round": number, **measure_case(guest, case)} for number in range(rounds) for case in cases]
    return Measured({**stocks[0].about, "guest's memory, MiB": guest.memory_mib, "guest's cores": guest.cores}, records)


def make_cases(stock: Stock) -> list[Case]:
    """One archive with all images, on a disk; and one disk of all images for the script and the agent alike."""
    disk, number = stock.disk(), len(stock.images)
    loaded = (archive_disk(stock.images, stock.folder / "load", LOAD_LABEL),)
    label = read_label(disk)
    return [
        Case(LOAD, number, loaded),
        Case(SCRIPT, number, (disk,), label),
        Case(OURS, number, (disk,), label),
    ]


def measure_case(guest: VmConfig, case: Case) -> Record:
    """One boot."""
    with TemporaryDirectory(prefix="docker-preloader-bench-") as name:
        said, pidfile = Path(name, "said"), Path(name, "pid")
        port = ["-chardev", f"file,id=bench,path={escaped(said)}"]
        port += ["-device", f"virtserialport,chardev=bench,name={PORT}", "-pidfile", str(pidfile)]
        config = replace(
            guest,
            disks=case.disks,
            append=f"{guest.append} {kernel_words(case.way)}",
            credentials=credentials(case.way, case.label, case.number, run_command(case.number)),
            qemu_args=tuple(port),
        )
        with Vm(config) as vm:
            _wait_said(vm, said, "\nready=")
            process = Process.of(int(pidfile.read_text()))
            values = _wait_said(vm, said, "\nend=")
    return {"way": case.way, "images": case.number, **process._asdict(), **figures(case.way, values, process.seconds)}


class Process(NamedTuple):
    """What a process has taken since it was started."""

    seconds: float
    cpu_seconds: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Look now."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system, started = (int(fields[place - 3]) / TICKS for place in (14, 15, 22))  # as proc(5) counts them
        return cls(time.clock_gettime(time.CLOCK_BOOTTIME) - started, user + system)


def run_command(number: int) -> str:
    """A container of the last of so many images reads a file of the image's own layer."""
    last = number - 1
    run = f"docker run --rm --network none bench-{last}:1 wc -c /layer{last}/d0/file-0"
    return run if number else ""


def figures(way: str, values: Mapping[str, str], seconds: float) -> dict[str, float]:
    """The bytes that the guest wrote to its root disk, and the seconds of each stage, which add up to all of them.

    What runs beside another stage is counted once: units that start while the agent does are in the agent's time.
    """
    ready, userspace = float(values["ready"]), int(values["UserspaceTimestampMonotonic"]) / 1e6
    spans = {unit: span(values, unit) for unit in {"docker.service", BRINGS.get(way, CHECK)}}
    docker, own = spans["docker.service"], spans.get(BRINGS.get(way, ""), (0.0, 0.0))
    stages = {
        "kernel, s": seconds - ready + userspace,
        "bringing, s": own[1] - own[0],
        "dockerd, s": docker[1] - docker[0],
        "container, s": ready - span(values, CHECK)[0],
    }
    written = int(values["stat"].split()[SECTORS_WRITTEN]) * SECTOR / 1e6
    return {"written, MB": written, **stages, "other units, s": seconds - sum(stages.values())}


def _wait_said(vm: Vm, path: Path, word: str) -> dict[str, str]:
    """Wait until the guest has said a word at the beginning of a line. Raises VmError when it ended without."""
    for _ in tries(TIMEOUT, pause=LOOK):
        said = "\n" + path.read_text()
        if word in said:
            return parse(said)
        if "\nend=" in said:
            break
    raise VmError(f"the images are not runnable: {said.strip() or 'the guest did not say why'}", vm.console())
