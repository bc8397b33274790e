"""A QEMU that stands still before its first instruction: what its monitor says of disks needs no guest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from preloader_agent.errors import VmError
from preloader_agent.host.run import run, start
from preloader_agent.host.vm.accelerator import QEMU
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries

START_BOUND = 20.0

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")


@contextmanager
def standing_machine(folder: Path, *words: str) -> Iterator[Path]:
    """A machine with these options; the socket of its monitor."""
    given = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-S", *words]
    with (folder / "qemu.log").open("wb") as log:
        process = start([*given, "-qmp", f"unix:{folder}/qmp,server=on,wait=off"], log=log)
    try:
        assert _is_up(process, folder / "qmp"), (folder / "qemu.log").read_text()
        yield folder / "qmp"
    finally:
        process.kill()
        process.wait()


def _is_up(process: subprocess.Popen[bytes], monitor: Path) -> bool:
    for _ in tries(START_BOUND, pause=0.02):
        with suppress(VmError):
            Monitor(monitor).close()
            return True
        if process.poll() is not None:
            break
    return False


def read_only(name: str, path: Path) -> str:
    """A read-only block node, as -blockdev takes it."""
    file = {"driver": "file", "filename": str(path)}
    return json.dumps({"driver": "qcow2", "node-name": name, "read-only": True, "file": file})


def make_others(folder: Path, number: int) -> list[Path]:
    """Files of disks that are not ours."""
    paths = [folder / f"other{n}.qcow2" for n in range(number)]
    for path in paths:
        run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
    return paths
