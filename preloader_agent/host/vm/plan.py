"""All that is run to have a machine, decided before any of it runs: what makes its files, its daemons, and QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.parts import Parts
from preloader_agent.host.vm.qemu import qemu_command
from preloader_agent.host.vm.sharing import virtiofsd_commands


class Making(NamedTuple):
    """A program that makes a file: one that ends, or a daemon with its socket."""

    path: Path
    command: list[str]


class VmPlan(NamedTuple):
    """What is run, in this order; the files only if they are not there yet."""

    files: tuple[Making, ...]
    daemons: tuple[Making, ...]
    command: list[str]


def plan_machine(config: VmConfig, parts: Parts, files: VmFiles) -> VmPlan:
    """The plan for a machine: pure."""
    daemons = virtiofsd_commands(config, files, parts.virtiofsd) if parts.virtiofsd else []
    return VmPlan(
        tuple(_makings(config, parts, files)),
        tuple(Making(socket, command) for socket, command in daemons),
        qemu_command(config, parts, files),
    )


def _makings(config: VmConfig, parts: Parts, files: VmFiles) -> Iterator[Making]:
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if config.snapshot:
        backing = ["-F", parts.root_format, "-b", str(config.root_disk.absolute())]
        yield Making(files.overlay, [*create, *backing, str(files.overlay)])
    for number, size in enumerate(config.empty_disks):
        path = files.empty_disk(number)
        yield Making(path, [*create, str(path), str(size)])
    if parts.firmware is not None:
        yield Making(files.variables, ["install", "-m", "600", str(parts.firmware.variables), str(files.variables)])
