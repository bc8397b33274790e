"""Folders of the host in the guest: virtiofs, with a virtiofsd for each, or 9p, which QEMU does by itself.

Debian's kernels for clouds have virtiofs and no 9p.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from preloader_agent.errors import InvalidValue, ToolMissing
from preloader_agent.host.run import environment
from preloader_agent.host.vm.config import SharedFolder, VmConfig
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.syntax import escaped

_MESSAGE_SIZE = 512 << 10  # bytes of a 9p message; the kernel's default is made for small ones
VIRTIOFSD_PLACES = "/usr/libexec:/usr/lib/qemu:/usr/lib"  # Fedora and Debian 13, Debian 12, Arch


def tag_of(number: int) -> str:
    """The name under which the guest mounts the `number`th shared folder."""
    return f"share{number}"


def find_virtiofsd(config: VmConfig) -> str | None:
    """The virtiofsd that a machine needs, if it does. Raises ToolMissing, and InvalidValue for what is no folder."""
    for folder in config.shared_folders:
        if not folder.source.is_dir():
            raise InvalidValue("shared folder", str(folder.source), "a folder of this host")
        if config.sharing == "virtiofs" and "," in str(folder.source.absolute()):
            raise InvalidValue("shared folder", str(folder.source), "a path without commas for virtiofsd; 9p takes any")
    if not config.shared_folders or config.sharing != "virtiofs":
        return None
    found = shutil.which("virtiofsd", path=f"{environment()['PATH']}:{VIRTIOFSD_PLACES}")
    if found is None:
        raise ToolMissing("virtiofsd", "`apt install virtiofsd`, or share folders by 9p")
    return found


def sharing_words(config: VmConfig, files: VmFiles) -> Iterator[str]:
    """QEMU's options for all shared folders."""
    if config.shared_folders and config.sharing == "virtiofs":
        # virtiofsd reads and writes the guest's memory.
        yield from ("-object", f"memory-backend-memfd,id=memory,size={config.memory_mib}M,share=on")
        yield from ("-machine", "memory-backend=memory")
    for number, folder in enumerate(config.shared_folders):
        tag = tag_of(number)
        if config.sharing == "virtiofs":
            yield from ("-chardev", f"socket,id={tag},path={escaped(files.share(tag))}")
            yield from ("-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}")
        else:
            yield from ("-fsdev", _local(tag, folder), "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _local(tag: str, folder: SharedFolder) -> str:
    source = escaped(folder.source.absolute())
    # Owners that only root could set are kept where they can be, and no error where not.
    read_only = ",readonly=on" if folder.is_read_only else ""
    return f"local,id={tag},path={source},security_model=none,multidevs=remap{read_only}"


def virtiofsd_commands(config: VmConfig, files: VmFiles, virtiofsd: str) -> list[tuple[Path, list[str]]]:
    """The daemons for all shared folders, each with the socket that it makes. They end when QEMU does."""
    daemons = []
    for number, folder in enumerate(config.shared_folders):
        socket = files.share(tag_of(number))
        options = [f"--socket-path={socket}", "-o", f"source={folder.source.absolute()}"]
        daemons.append((socket, [virtiofsd, *options]))
    return daemons


def fstab_lines(config: VmConfig) -> Iterator[str]:
    """How the guest mounts the shared folders; one that it cannot mount does not keep it from booting."""
    kind = "virtiofs" if config.sharing == "virtiofs" else "9p"
    for number, folder in enumerate(config.shared_folders):
        options = ["ro" if folder.is_read_only else "rw", "nofail"]
        if kind == "9p":
            options += ["trans=virtio", "version=9p2000.L", f"msize={_MESSAGE_SIZE}"]
        yield f"{tag_of(number)} {folder.target} {kind} {','.join(options)} 0 0"
