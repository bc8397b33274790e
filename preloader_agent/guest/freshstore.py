"""May an empty store become overlay2's? Asked once, before the first layer goes in, and imported only then.

dockerd looks at what is in its data root to choose how it keeps images: a storage driver whose directory is not empty
goes on being used. So the first disk decides, where nobody has, and that may only happen on purpose.
"""

from __future__ import annotations

import os
import struct

from preloader_agent.errors import StoreUnused, ToolError
from preloader_agent.guest import log
from preloader_agent.guest.dockerconfig import read_config
from preloader_agent.guest.paths import Paths

# From this version on, a data root without a storage driver's directory is containerd's (moby's image_store_choice.go).
CONTAINERD_VERSION = 29
# moby's graphdriver.go takes any of these that was used before, and does not start where there are two.
OTHER_DRIVERS = ("aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "zfs")
# Go notes a program's package in a section of its own; that of version 29 is github.com/moby/moby/v2/cmd/dockerd.
GO_SECTION, OLD_PACKAGE = b".go.buildinfo\0", b"path\tgithub.com/docker/docker/cmd/dockerd\n"
VERSION_TIMEOUT = 5.0  # seconds; it takes 0.06, and much longer where 90 MB are read from a slow disk for it


def check_fresh_store(paths: Paths, root: str = "") -> None:
    """Raise StoreUnused where layers in overlay2's directory would change how docker keeps its images.

    A data root that is not docker.service's was named by hand, which is on purpose. `root` as in `read_paths`.
    """
    config = read_config(root)
    configured = os.path.realpath(config.data_root.value or Paths().docker_root)
    is_explicit = config.storage_driver.value == "overlay2" or config.containerd_snapshotter is False
    if is_explicit or configured != paths.docker_root or _has_entries(f"{paths.docker_root}/overlay2"):
        return
    to_config = 'put "storage-driver": "overlay2" into /etc/docker/daemon.json'
    purpose = f"to use preloaded disks, {to_config}, then restart docker-preloader and docker"
    for driver in OTHER_DRIVERS:
        if _has_entries(folder := f"{paths.docker_root}/{driver}"):
            raise StoreUnused(
                folder, f"docker uses the storage driver {driver} here, so its store is left alone; {purpose}"
            )
    version = None if _is_of_old_package(config.program) else _read_version(config.program)
    if version is not None and version >= CONTAINERD_VERSION:
        why = f"Docker {version} would keep images with containerd, and layers in overlay2/ would change that"
        raise StoreUnused(paths.docker_root, f"{why}; docker's store is left alone: {purpose}")


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:  # not there
        return False


def _is_of_old_package(program: str) -> bool:
    """Whether this is a dockerd before 29: docker waits for the answer, and to read it in the file takes no time.

    False also where it cannot be told, as in all that is no ELF file of 64 bits and little-endian numbers.
    """
    try:
        with open(program, "rb") as file:
            header = file.read(64)
            if header[:6] != b"\x7fELF\x02\x01":
                return False
            (table,), (size, number, names) = (
                struct.unpack_from("<Q", header, 40),
                struct.unpack_from("<3H", header, 58),
            )
            file.seek(table)
            headers = file.read(size * number)
            # name, offset and length of each section (elf(5), Elf64_Shdr)
            sections = [struct.unpack_from("<I20x2Q", headers, size * index) for index in range(number)]
            file.seek(sections[names][1])
            texts = file.read(sections[names][2])
            for name, offset, length in sections:
                if texts.startswith(GO_SECTION, name):
                    file.seek(offset)
                    return OLD_PACKAGE in file.read(min(length, 4096))
    except (OSError, struct.error, IndexError) as err:
        log.debug("not reading %s: %s", program, err)
    return False


def _read_version(program: str) -> int | None:
    """The major version of dockerd, or None when it cannot be told."""
    from preloader_agent.guest.programs import run  # seldom needed, and then docker is not in a hurry

    try:
        # Docker version 29.0.1, build x
        return int(run([program, "--version"], timeout=VERSION_TIMEOUT).split("version ", 1)[1].split(".", 1)[0])
    except (ToolError, ValueError, IndexError) as err:
        log.debug("taking docker's store for overlay2's: %s --version: %s", program, err)
        return None
