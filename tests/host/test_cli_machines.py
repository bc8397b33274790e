"""The options of a machine, for commands that run something in one."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from preloader_agent.host.cli.machines import machine_options
from preloader_agent.host.vm.config import VmConfig


def chosen(*words: str) -> tuple[VmConfig | None, str]:
    """The machine that some options ask for, and the message if they are wrong."""
    machines: list[VmConfig | None] = []

    @click.command()
    @click.argument("recipe")
    @machine_options
    def command(recipe: str, machine: VmConfig | None) -> None:
        assert recipe == "web.toml"
        machines.append(machine)

    result = CliRunner().invoke(command, ["web.toml", *words])
    return (machines or [None])[0], result.output


def test_there_is_no_machine_without_a_guest() -> None:
    assert chosen() == (None, "")


def test_a_machine_is_what_the_options_say() -> None:
    machine, _ = chosen("--vm", "guest.qcow2", "--kernel", "vmlinuz", "--initrd", "initrd", "--append", "quiet")
    assert machine is not None
    assert (machine.root_disk, machine.kernel, machine.initrd) == (Path("guest.qcow2"), Path("vmlinuz"), Path("initrd"))
    assert (machine.append, machine.memory_mib, machine.network) == ("quiet", 1024, None)
    larger, _ = chosen("--vm", "guest.qcow2", "--memory", "2G")
    assert larger is not None
    assert larger.memory_mib == 2048


@pytest.mark.parametrize("words", [("--kernel", "vmlinuz"), ("--initrd", "initrd"), ("--append", "quiet")])
def test_a_kernel_needs_a_guest(words: tuple[str, str]) -> None:
    _, said = chosen(*words)
    assert "name one with --vm" in said
