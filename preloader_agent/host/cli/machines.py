"""The options of commands that run something in a machine of their own, named like those of `preloader vm run`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.parsing import MIB, parse_size

_PATH = click.Path(path_type=Path)


def machine_options(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command the options of a machine; it is passed `machine`, a VmConfig, or None without --vm."""

    @click.option("--vm", "guest", metavar="GUEST.qcow2", type=_PATH, help="Run run_as_root in this guest.")
    @click.option("--kernel", metavar="FILE", type=_PATH, help="Boot the guest with this kernel.")
    @click.option("--initrd", metavar="FILE", type=_PATH, help="The initrd of that kernel.")
    @click.option("--append", metavar="TEXT", default="", help="The command line of that kernel.")
    @click.option("--memory", metavar="SIZE", default="1024M", show_default=True, help="The guest's memory.")
    @functools.wraps(command)
    def with_machine(*args: Any, **options: Any) -> object:
        return command(*args, machine=_machine(**{name: options.pop(name) for name in _NAMES}), **options)

    return with_machine


_NAMES = ("guest", "kernel", "initrd", "append", "memory")


def _machine(guest: Path | None, kernel: Path | None, initrd: Path | None, append: str, memory: str) -> VmConfig | None:
    if guest is None:
        if kernel or initrd or append:
            raise click.UsageError("--kernel, --initrd and --append are of a guest: name one with --vm")
        return None
    size = parse_size(memory, MIB) // MIB
    return VmConfig(root_disk=guest, kernel=kernel, initrd=initrd, append=append, memory_mib=size, spare_ports=0)
