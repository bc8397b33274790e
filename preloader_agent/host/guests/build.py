"""A guest from nothing: `build_guest` is the pipeline, top to bottom.

Debian's packages -> a tree -> with the agent -> kernel and initrd -> a disk that boots. Nothing but the finished disk
ever has the output's name, and a failure leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preloader_agent.errors import InvalidValue
from preloader_agent.host.guests.base import BaseConfig, compile_agent, install_package, make_base
from preloader_agent.host.guests.boot import BootFiles, make_boot_files
from preloader_agent.host.guests.bootdisk import check_tools, write_disk
from preloader_agent.host.guests.install import install_into_tar
from preloader_agent.host.guests.wheels import check_wheels
from preloader_agent.host.progress import Progress
from preloader_agent.host.publishing import publish, stage_beside
from preloader_agent.host.run import run

GIB = 1 << 30
MIN_SIZE = GIB  # the smallest guest takes a little more; what a disk needs is known when its tree is there


@dataclass(frozen=True)
class GuestConfig:
    """What a guest is made of: a base, the agent, and a disk of `size` bytes.

    The agent is this installation's own, with wheels from a folder for what the guest lacks, or a Debian package.
    """

    base: BaseConfig
    package: Path | None = None
    wheels: Path | None = None
    size: int = 8 * GIB


def build_guest(
    config: GuestConfig,
    output: Path,
    *,
    boot_folder: Path | None = None,
    is_forced: bool = False,
    progress: Progress = lambda *_: None,
) -> None:
    """Write a guest's disk, and its kernel and initrd to a folder if one is given.

    An existing `output` is replaced only if forced. Raises InvalidValue, ReleaseExpired, ToolError, InvalidGuest, and
    PreloaderError when something cannot be written.
    """
    _check_files(config, output, boot_folder, is_forced=is_forced)
    check_tools()
    with stage_beside(output) as folder:
        progress(f"installing Debian {config.base.suite.value}", 0, 0)
        base = folder / "base.tar"
        make_base(config.base, base)
        progress("adding the agent", 0, 0)
        tree = folder / "root.tar"
        add_agent(config, base, tree)
        base.unlink()
        progress("writing the disk", 0, 0)
        boot = make_boot_files(tree, folder)
        disk = folder / "disk.qcow2"
        make_disk(tree, boot, config.size, disk)
        if boot_folder:
            _publish_boot_files(boot, boot_folder)
        publish(disk, output, 0o666)


def add_agent(config: GuestConfig, base: Path, tree: Path) -> None:
    """Write the tree of a tar file, with the agent, to another."""
    if config.package:
        install_package(config.base.suite, base, config.package, tree)
        return
    tree.hardlink_to(base)  # which is replaced, not written to
    if not install_into_tar(tree, config.wheels).is_compiled:  # else a guest that keeps nothing does it at each boot
        source = tree.rename(tree.with_name("installed.tar"))
        compile_agent(config.base.suite, source, tree)
        source.unlink()


def make_disk(tree: Path, boot: BootFiles, size: int, disk: Path) -> None:
    """Write the qcow2 image of a disk that boots; what stands beside it is removed again."""
    raw = disk.with_suffix(".raw")
    try:
        write_disk(tree, boot, size, raw)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk])
    finally:
        raw.unlink(missing_ok=True)


def _check_files(config: GuestConfig, output: Path, boot_folder: Path | None, *, is_forced: bool) -> None:
    """Fail before the work, not after it. A guest that exists may hold what somebody did in it."""
    if not output.parent.is_dir():
        raise InvalidValue("output", str(output), "a file in a directory that exists")
    if "@@" in str(output.absolute()):
        raise InvalidValue("output", str(output), "a path without @@, after which mtools expect an offset")
    if output.exists() and not (is_forced and output.is_file()):
        raise InvalidValue("output", str(output), "a file that is not there yet; --force replaces it")
    if boot_folder and not boot_folder.is_dir():
        raise InvalidValue("folder for the kernel and the initrd", str(boot_folder), "a directory that exists")
    if config.package and not config.package.is_file():
        raise InvalidValue("package", str(config.package), "a Debian package's file")
    check_wheels(config.wheels)
    if config.size < MIN_SIZE:
        raise InvalidValue("size", f"{config.size >> 20}M", "at least 1G for any guest")


def _publish_boot_files(boot: BootFiles, boot_folder: Path) -> None:
    for path in (boot.kernel, boot.initrd):
        with stage_beside(boot_folder / path.name) as folder:
            copy = folder / path.name
            copy.write_bytes(path.read_bytes())
            publish(copy, boot_folder / path.name, 0o666)
