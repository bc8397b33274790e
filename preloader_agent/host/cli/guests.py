"""The commands that make guests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preloader_agent import __version__
from preloader_agent.host.cli.output import human_size, progress_bar
from preloader_agent.host.cli.shell import complete_file
from preloader_agent.host.vm.parsing import parse_size

if TYPE_CHECKING:
    from preloader_agent.host.guests.build import GuestConfig

_FILE = click.Path(path_type=Path)


@click.group()
def guest() -> None:
    """Make guests for tests: virtual machines with Docker and the agent."""


@guest.command()
@click.option(
    "--suite", type=click.Choice(["bookworm", "trixie", "forky"]), required=True, help="The release of Debian."
)
@click.option("-o", "--output", metavar="GUEST.qcow2", required=True, type=_FILE, help="The disk to write.")
@click.option("--include", metavar="PACKAGE", multiple=True, help="Install a further Debian package.")
@click.option("--package", metavar="FILE.deb", type=_FILE, help="Install the agent from its Debian package.")
@click.option("--wheels", metavar="FOLDER", type=_FILE, help="Where to look for Python packages that the guest lacks.")
@click.option(
    "--size", metavar="SIZE", default="8G", show_default=True, help="The size of the disk: a number with M, G or T."
)
@click.option(
    "--boot-files", "boot_folder", metavar="FOLDER", type=_FILE, help="Write the kernel and initrd to a folder as well."
)
@click.option(
    "--check-valid-until/--no-check-valid-until",
    "is_validity_checked",
    default=True,
    help="Refuse a mirror whose package lists are out of date (the default), or take their packages.",
)
@click.option("--force", "is_forced", is_flag=True, help="Replace an existing GUEST.qcow2.")
def build(output: Path, boot_folder: Path | None, *, is_forced: bool, **chosen: Any) -> None:
    """Write a disk with Debian, Docker and the agent, which boots by BIOS, by UEFI, and with -kernel and -initrd.

    Debian's packages come from its mirror. No root is needed, but mmdebstrap and what `apt install` gives it.
    """
    # What reads archives takes 20 ms to import, which is for those who need it.
    from preloader_agent.host.guests.build import build_guest  # noqa: PLC0415

    config = _guest_config(**chosen)
    with progress_bar(is_shown=sys.stderr.isatty()) as (progress, _):
        build_guest(config, output, boot_folder=boot_folder, is_forced=is_forced, progress=progress)
    suite, size = config.base.suite.value, human_size(output.stat().st_size)
    click.echo(f"{output}: Debian {suite} with docker-preloader, {size}; root needs no password")


@guest.command()
@click.option(
    "--root", metavar="FOLDER", shell_complete=complete_file, help="The root of the guest's file system, in a folder."
)
@click.option("--tar", metavar="ROOT.tar", shell_complete=complete_file, help="A tar file of the root, not compressed.")
@click.option(
    "--image",
    metavar="GUEST.qcow2",
    shell_complete=complete_file,
    help="A disk image, qcow2 or raw, whose root is ext4.",
)
@click.option("--wheels", metavar="FOLDER", type=_FILE, help="Where to look for Python packages that the guest lacks.")
def install(wheels: Path | None, **places: str | None) -> None:
    """Put the agent into a guest that exists, and enable it.

    The guest needs systemd, and Python 3.11 or newer. Nothing of it is run. An image must have been shut down, and is
    as it was if anything fails.
    """
    from preloader_agent.host.guests.install import (  # noqa: PLC0415
        install_into_folder,
        install_into_image,
        install_into_tar,
    )

    installs = {"root": install_into_folder, "tar": install_into_tar, "image": install_into_image}
    given = [(kind, place) for kind, place in places.items() if place is not None]
    if len(given) != 1 or not given[0][1]:  # an empty one is a variable that is not set, not the current folder
        raise click.UsageError("give one of --root, --tar and --image")
    [(kind, place)] = given
    path = Path(place)
    try:
        installed = installs[kind](path, wheels)
    except KeyboardInterrupt as err:
        raise click.Abort(f"{path} is as it was, or has all of the agent") from err
    for warning in installed.warnings:
        click.echo(f"preloader: warning: {path}: {warning}", err=True)
    brought = f", with {', '.join(installed.carried)}" * bool(installed.carried)
    click.echo(f"{path}: docker-preloader {__version__} for Python {installed.python.version}{brought}")


def _guest_config(
    *, suite: str, include: tuple[str, ...], is_validity_checked: bool, size: str, **others: Any
) -> GuestConfig:
    from preloader_agent.host.guests.base import BaseConfig, Suite  # noqa: PLC0415
    from preloader_agent.host.guests.build import GuestConfig  # noqa: PLC0415

    return GuestConfig(BaseConfig(Suite(suite), include, is_validity_checked), size=parse_size(size), **others)
