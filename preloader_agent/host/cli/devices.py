"""The commands for the disks of a running machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preloader_agent.errors import AgentSilent, InvalidDisk, InvalidValue, VmError
from preloader_agent.host.cli.output import print_table
from preloader_agent.host.cli.shell import complete_file
from preloader_agent.host.inspection import read_label
from preloader_agent.host.libvirt import BUSES, libvirt_xml
from preloader_agent.host.vm.diskfile import check_content, read_disk_file

if TYPE_CHECKING:
    from preloader_agent.host.vm.attached import AttachedDisk
    from preloader_agent.host.vm.qmp import Monitor

_PATH = click.Path(path_type=Path)
_QMP = click.option(
    "--qmp", metavar="SOCKET", required=True, type=_PATH, help="The unix socket of the machine's QMP monitor."
)
_CONTROL = click.option(
    "--control", metavar="SOCKET", type=_PATH, help="The unix socket of the control channel, if QEMU does not say it."
)
_NO_CHANNEL = (
    "--wait needs a control channel to the guest's agent, and the machine has no virtio-serial port "
    "org.docker-preloader.0 on a unix socket; see preloader(1)"
)


@click.command()
@_QMP
@_CONTROL
@click.option(
    "--bus",
    metavar="BUS",
    help="Where to plug it: a root port or a virtio-scsi controller, instead of the first free place.",
)
@click.option(
    "--wait", "is_waiting", is_flag=True, help="Return when Docker in the guest has the images of all the disks."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=180,
    show_default=True,
    help="How long to wait for that, at most.",
)
@click.argument("disks", metavar="DISK...", nargs=-1, required=True, type=_PATH)
def attach(  # noqa: PLR0913 - each is an option
    *, disks: tuple[Path, ...], qmp: Path, control: Path | None, bus: str | None, is_waiting: bool, timeout: float
) -> None:
    """Plug disks, read-only, into a running QEMU.

    Each goes into a free root port, or to a virtio-scsi controller. With --wait, the agent in the guest is asked until
    the disks' images can be used.
    """
    labels = [read_label(disk) for disk in disks] if is_waiting else []
    with _monitor_of(qmp) as monitor:
        channel = _find_control(monitor, control) if is_waiting else None
        if is_waiting and channel is None:
            raise click.UsageError(_NO_CHANNEL)
        _attach_all(monitor, disks, bus)
    if channel is not None:  # and others can use the monitor
        from preloader_agent.host.vm.adoption import wait_adopted  # noqa: PLC0415

        with _hint("the disks stay attached"):
            wait_adopted(channel, labels, timeout)


def _attach_all(monitor: Monitor, disks: tuple[Path, ...], bus: str | None) -> None:
    from preloader_agent.host.vm.attached import attach_disk  # noqa: PLC0415

    with _hint("what is named above stays attached"):
        for path in disks:
            disk = attach_disk(monitor, path, bus=bus)
            click.echo(f"{disk.name} ({disk.file}): attached")


@click.command()
@_QMP
@_CONTROL
@click.option(
    "--force", "is_forced", is_flag=True, help="Unplug the disk even if the guest uses it or does not answer."
)
@click.argument("names", metavar="DISK...", nargs=-1, required=True, shell_complete=complete_file)
def detach(names: tuple[str, ...], qmp: Path, control: Path | None, is_forced: bool) -> None:
    """Unplug disks from a running QEMU.

    A DISK is a device id, the disk's file or its label. Where the machine has a control channel, the agent in the guest
    first takes its images out of Docker's store, which it refuses while a container uses one.
    """
    from preloader_agent.host.vm.attached import detach_disk, find_disk, list_disks  # noqa: PLC0415

    with _monitor_of(qmp) as monitor, _hint("the same command again finishes what was begun"):
        attached = list_disks(monitor)
        channel = _find_control(monitor, control)
        for disk in dict.fromkeys(find_disk(attached, name) for name in names):
            try:
                detach_disk(monitor, disk, channel, force=is_forced)
            except AgentSilent as err:
                err.problem += "; --force unplugs it all the same"
                raise
            click.echo(f"{disk.name} ({disk.file}): detached")


@click.command("list")
@_QMP
@_CONTROL
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON, and nothing else.")
def list_(qmp: Path, control: Path | None, as_json: bool) -> None:
    """Show the disks of a running QEMU, and what the agent in the guest says of each."""
    from preloader_agent.host.vm.attached import list_disks  # noqa: PLC0415

    with _monitor_of(qmp) as monitor:
        disks = list_disks(monitor)
        try:
            channel = _find_control(monitor, control)
        except InvalidValue as err:
            logging.warning("%s", err)
            channel = None
    rows = _describe(disks, channel)
    if as_json:
        click.echo(json.dumps({"disks": rows}))
        return
    lines = [[_cell(value) for value in row.values()] for row in rows]
    print_table([["DEVICE", "LABEL", "FILE", "READ-ONLY", "STATE", "IMAGES"], *lines])


def _describe(disks: list[AttachedDisk], channel: Path | None) -> list[dict[str, Any]]:
    from preloader_agent.host.vm.adoption import disk_states, image_counts  # noqa: PLC0415

    status = _ask_status(channel) if channel is not None else {}
    states, counts = disk_states(status), image_counts(status)
    rows = []
    for disk in disks:
        label = _label_of(disk.file)
        state = states.get(label) if label else None
        images = counts.get(label or "", 0) if state and not status.get("truncated") else None
        known = {"device": disk.device or None, "label": label, "file": disk.file, "read_only": disk.is_read_only}
        rows.append({**known, "state": state, "images": images})
    return rows


def _ask_status(channel: Path) -> dict[str, Any]:
    """What the agent says; the list is worth something without it, too."""
    from preloader_agent.host.vm.control import ControlChannel  # noqa: PLC0415

    try:
        with closing(ControlChannel(channel)) as agent:
            return agent.status()
    except VmError as err:
        logging.warning("%s", err)
        return {}


def _label_of(file: str) -> str | None:
    try:
        return read_label(Path(file))
    except InvalidDisk:
        return None


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


@click.command("libvirt-xml")
@click.option("--bus", type=click.Choice(list(BUSES)), default="virtio", show_default=True, help="The kind of device.")
@click.option(
    "--target", metavar="NAME", help="The target's name, such as vdb, instead of one that is made of the label."
)
@click.argument("disk", metavar="DISK", type=_PATH)
def libvirt_xml_(disk: Path, bus: str, target: str | None) -> None:
    """Print what `virsh attach-device DOMAIN /dev/stdin` takes to plug a disk into a domain of libvirt."""
    file = read_disk_file(disk)
    check_content(file)
    click.echo(libvirt_xml(file, bus, target))


@contextmanager
def _monitor_of(qmp: Path) -> Iterator[Monitor]:
    # The monitor's asyncio takes 60 ms to import, which is for those who need it.
    from preloader_agent.host.vm.qmp import Monitor  # noqa: PLC0415

    logging.basicConfig(format="preloader: %(message)s")
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises too
    with closing(Monitor(qmp)) as monitor:
        yield monitor


def _find_control(monitor: Monitor, given: Path | None) -> Path | None:
    from preloader_agent.host.vm.controlport import find_control  # noqa: PLC0415

    return given or find_control(monitor)


@contextmanager
def _hint(what_now: str) -> Iterator[None]:
    """Who interrupts is told what that leaves."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise click.Abort(what_now) from err
