"""docs/qemu.md, followed to the letter, with a real guest."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.vm.accelerator import find_accelerator
from preloader_agent.host.vm.guest_shell import GuestShell
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries
from tests.images import example_images, write_docker_archive
from tests.walkthrough import DOCS, HOST, Block, Step, check_output, read_blocks, run_on_host, steps_of

BOOT = 240.0
COMMAND = 120.0
LABELS = {"redis": "dpl-fb212d31a377", "counter": "dpl-988a244d09c7"}  # of the page


@pytest.fixture
def folder(guest: Path) -> Iterator[Path]:
    """The reader's folder, with a short name because it holds sockets; the machine ends with it."""
    with tempfile.TemporaryDirectory(prefix="dpl-qemu-") as name:
        (Path(name) / "guest.qcow2").symlink_to(guest / "disk.qcow2")
        for label, image in zip(LABELS, example_images(), strict=True):
            archive = write_docker_archive([image], Path(name, f"{label}.tar"), "oci")
            build_disk([archive], Path(name, f"{label}.qcow2"))
        try:
            yield Path(name)
        finally:
            _end_machine(Path(name, "qemu.pid"))


def _end_machine(pidfile: Path) -> None:
    """QEMU removes its pid file when it ends."""
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        for _ in tries(30, pause=0.05):
            if not pidfile.exists():
                break


def test_the_page_can_be_followed(folder: Path) -> None:
    own = find_accelerator()
    changes = {label: inspect_disk(folder / f"{name}.qcow2").label for name, label in LABELS.items()}
    changes |= {"/disks/": f"{folder}/", "-accel kvm -cpu host -smp": f"-accel {own.accel} -cpu {own.cpu} -smp"}
    for block in read_blocks(DOCS / "qemu.md", changes):
        for step in steps_of([block]):
            check_output(step, follow(step, folder))
        if block.language == "json":
            say(block, folder)


def follow(step: Step, folder: Path) -> str:
    """Do a step, on the host or in the guest."""
    if step.prompt == HOST:
        return run_on_host(step.command, folder)
    with closing(GuestShell(folder / "agent.sock")) as guest:
        guest.sync(BOOT)
        return guest.execute(step.command, COMMAND)[1]


def say(block: Block, folder: Path) -> None:
    """Say the lines of a block to QEMU's monitor, and wait for the end of a device as the page says."""
    with closing(Monitor(folder / "qmp.sock")) as monitor:
        for line in block.text.splitlines():
            words = json.loads(line)
            if words["execute"] == "device_del":
                monitor.unplug(words["arguments"]["id"], COMMAND)
            elif words["execute"] != "qmp_capabilities":  # Monitor has said that
                monitor.execute(words["execute"], words["arguments"])
