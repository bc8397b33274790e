"""The commands that run machines."""

from __future__ import annotations

import logging
import secrets
import shlex
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from preloader_agent.host.vm.config import UserNetwork, VmConfig
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.parsing import (
    MIB,
    parse_credential,
    parse_forward,
    parse_shared_folder,
    parse_size,
)

POWER_OFF_TIMEOUT = 20.0  # seconds that an interrupted guest has to power off, if what it wrote is to stay
_PATH = click.Path(path_type=Path)


@click.group()
def vm() -> None:
    """Run virtual machines in QEMU."""


@vm.command("run", context_settings={"show_default": True})
@click.argument("image", metavar="IMAGE", type=_PATH)
@click.option("--disk", "disks", metavar="DISK", multiple=True, type=_PATH, help="Attach a disk of `preloader build`.")
@click.option("--memory", metavar="SIZE", default="1024M", help="The guest's memory; a plain number is of MiB.")
@click.option("--cores", metavar="N", type=int, default=2, help="How many processors the guest has.")
@click.option("--snapshot/--persistent", default=True, help="Throw away what the guest writes to IMAGE, or keep it.")
@click.option(
    "--empty-disk", "empty_disks", metavar="SIZE", multiple=True, help="Attach an empty disk, thrown away later."
)
@click.option(
    "--disk-interface",
    type=click.Choice(["virtio-blk", "virtio-scsi"]),
    default="virtio-blk",
    help="How all disks but the root are attached.",
)
@click.option(
    "--spare-ports",
    metavar="N",
    type=int,
    default=4,
    help="How many more disks can be plugged in later, with virtio-blk.",
)
@click.option(
    "--announce/--no-announce",
    "announce_disks",
    default=True,
    help="Tell the agent in the guest which disks to expect, or not.",
)
@click.option("--kernel", metavar="FILE", type=_PATH, help="Boot this kernel, not the image's boot loader.")
@click.option("--initrd", metavar="FILE", type=_PATH, help="The initrd of that kernel.")
@click.option("--append", metavar="TEXT", default="", show_default=False, help="The command line of that kernel.")
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), default="bios", help="How the image's boot loader is started."
)
@click.option(
    "--network/--no-network", "has_network", default=True, help="Give the guest a network with DHCP, or none."
)
@click.option(
    "--restrict-network",
    "is_restricted",
    is_flag=True,
    help="Give the guest a network with nothing but the forwarded ports.",
)
@click.option(
    "--forward",
    "forwards",
    metavar="[PROTOCOL:][ADDRESS:]PORT:GUEST-PORT",
    multiple=True,
    help="Lead a port of the host to one of the guest.",
)
@click.option(
    "--share",
    "shared_folders",
    metavar="FOLDER:TARGET[:ro]",
    multiple=True,
    help="Show a folder of the host to the guest.",
)
@click.option(
    "--share-by", "sharing", type=click.Choice(["virtiofs", "9p"]), default="virtiofs", help="How folders are shared."
)
@click.option(
    "--credential",
    "credentials",
    metavar="NAME=VALUE",
    multiple=True,
    help="Pass a credential to the guest's systemd, through SMBIOS.",
)
@click.option("--graphics", "has_graphics", is_flag=True, help="Open a window, instead of a console on the terminal.")
@click.option("--console-log", metavar="FILE", type=_PATH, help="Write what the serial console says to a file, too.")
@click.option(
    "--qmp", metavar="SOCKET", type=_PATH, help="Where to have a QMP monitor, for `preloader attach` and others."
)
@click.option("--control", metavar="SOCKET", type=_PATH, help="Where to have the control channel to the guest's agent.")
@click.option("--qemu-arg", "qemu_args", metavar="WORD", multiple=True, help="Add a word to QEMU's command line.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Print what would be run, as a shell script.")
def run_vm(image: Path, is_dry_run: bool, **chosen: Any) -> None:
    """Run a guest until it powers off.

    IMAGE is its root disk, qcow2 or raw. Its serial console is on this terminal: Ctrl-A x ends the machine, Ctrl-A c is
    QEMU's monitor. Without --persistent, IMAGE is only read, and any number of machines can run it.
    """
    config = _config(image, **chosen)
    if is_dry_run:
        _print_plan(config)
    else:
        _run(config)


def _config(  # noqa: PLR0913 - each is one option
    image: Path,
    *,
    memory: str,
    empty_disks: Sequence[str],
    has_network: bool,
    is_restricted: bool,
    forwards: Sequence[str],
    shared_folders: Sequence[str],
    credentials: Sequence[str],
    **same: Any,
) -> VmConfig:
    """The configuration that the options ask for; those that need no reading are named like its fields."""
    if not has_network and (forwards or is_restricted):
        raise click.UsageError("--no-network has neither forwards nor restrictions")
    network = UserNetwork(tuple(map(parse_forward, forwards)), is_restricted) if has_network else None
    return VmConfig(
        root_disk=image,
        memory_mib=parse_size(memory, MIB) // MIB,
        empty_disks=tuple(map(parse_size, empty_disks)),
        network=network,
        shared_folders=tuple(map(parse_shared_folder, shared_folders)),
        credentials=dict(map(parse_credential, credentials)),
        is_interactive=not same["has_graphics"],
        **same,
    )


def _print_plan(config: VmConfig) -> None:
    """A script that does what a run does, in a folder that stays; nobody can have made that before."""
    from preloader_agent.host.vm.parts import find_parts  # noqa: PLC0415
    from preloader_agent.host.vm.plan import plan_machine  # noqa: PLC0415

    folder = Path(tempfile.gettempdir(), f"preloader-vm-{secrets.token_hex(4)}")
    plan = plan_machine(config, find_parts(config), VmFiles.of(config, folder))
    click.echo(shlex.join(["mkdir", "-m", "700", str(folder)]))
    for making in plan.files:
        click.echo(shlex.join(making.command))
    for daemon in plan.daemons:
        click.echo(f"{shlex.join(daemon.command)} &")
        click.echo(f"until test -S {shlex.quote(str(daemon.path))}; do sleep 0.1; done")
    click.echo(" \\\n  ".join(map(shlex.join, _lines_of(plan.command))))


def _lines_of(command: Sequence[str]) -> Iterator[list[str]]:
    """The words of a command, each option with its value."""
    line: list[str] = []
    for word in command:
        if word.startswith("-") and line:
            yield line
            line = []
        line.append(word)
    yield line


def _run(config: VmConfig) -> None:
    # The monitor's asyncio takes 60 ms to import, which is for those who need it.
    from preloader_agent.host.vm.driver import Vm  # noqa: PLC0415

    logging.basicConfig(format="preloader: %(message)s")
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises too
    ended = "the machine was ended"
    try:
        with _kept_terminal(), Vm(config) as machine:
            click.echo(f"preloader: --qmp {machine.files.second_qmp} --control {machine.files.control}", err=True)
            if said := machine.said():
                click.echo(f"preloader: QEMU says: {said}", err=True)
            try:
                machine.wait_ended()
            except KeyboardInterrupt:
                if not config.snapshot:
                    ended = machine.shutdown(POWER_OFF_TIMEOUT).value
                raise
    except KeyboardInterrupt as err:
        raise click.Abort(ended) from err


@contextmanager
def _kept_terminal() -> Iterator[None]:
    """Leave the terminal as it was; a QEMU that is killed leaves it raw."""
    if not sys.stdin or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
