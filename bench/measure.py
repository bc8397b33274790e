"""How long something takes, and how much memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from preloader_agent.host.run import run

_BUILD = """
import sys
from pathlib import Path
from preloader_agent.host.disk import build_disk
build_disk([sys.argv[1]], Path(sys.argv[2]))
# Not getrusage: that counts what the process was before it became this program.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def preloader(*arguments: str | Path) -> None:
    """Run the command as a user does, with Python's start."""
    run([sys.executable, "-c", "from preloader_agent.host.cli import main; main()", *arguments])


def memory_of_build(archive: Path, disk: Path) -> float:
    """The peak resident memory of a build, in MB (10^6 bytes)."""
    return int(run([sys.executable, "-c", _BUILD, archive, disk])) * 1024 / 1e6


def used_bytes(path: Path) -> int:
    """What du counts for a tree."""
    return int(run(["du", "--summarize", "--block-size=1", path]).split()[0])


def read_disk(disk: Path, folder: Path) -> float:
    """How long it takes to read all of a disk, as QEMU does."""
    return seconds(lambda: run(["qemu-img", "convert", "-O", "raw", disk, folder / "read.raw"]))
