"""The commands for the disks of a running machine."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_QMP = click.option("--qmp", metavar="SOCKET", required=True, type=_PATH, help="A QMP monitor of the machine.")
_CONTROL = click.option("--control", metavar="SOCKET", type=_PATH, help="The control channel to the guest's agent.")


@click.command()
@_QMP
@_CONTROL
@click.option(
    "--force", "is_forced", is_flag=True, help="Unplug the disk even if the guest uses it or does not answer."
)
@click.argument("names", metavar="DISK...", nargs=-1, required=True)
def detach(names: tuple[str, ...], qmp: Path, control: Path | None, is_forced: bool) -> None:
    """Unplug disks from a running QEMU.

    A DISK is a device id, the disk's file or its label. With --control, the agent in the guest first takes its images
    out of Docker's store, which it refuses while a container uses one. Without, the disk is just pulled.
    """
    # The monitor's asyncio takes 60 ms to import, which is for those who need it.
    from preloader_agent.host.vm.attached import detach_disk, find_disk, list_disks  # noqa: PLC0415
    from preloader_agent.host.vm.qmp import Monitor  # noqa: PLC0415

    logging.basicConfig(format="preloader: %(message)s")
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises too
    try:
        with closing(Monitor(qmp)) as monitor:
            attached = list_disks(monitor)
            for disk in dict.fromkeys(find_disk(attached, name) for name in names):
                detach_disk(monitor, disk, control, force=is_forced)
                click.echo(f"{disk.name} ({disk.file}): detached")
    except KeyboardInterrupt as err:
        raise click.Abort("the same command again finishes what was begun") from err
