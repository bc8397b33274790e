"""What a guest's Python is, and which modules of those that the agent imports it lacks.

Only names are looked at, nothing of the guest is run: it may be of another architecture.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from preloader_agent.errors import InvalidGuest
from preloader_agent.host.guests.roottree import RootTree, has_file, list_names, resolve

NEEDED = ("orjson", "pystemd", "pyudev", "sdnotify")  # as the `guest` extra of setup.cfg
_PYTHON = "usr/bin/python3"  # what the units start
_MIN_MINOR = 11
_PACKAGED = "usr/share/docker-preloader/preloader_agent/__init__.py"  # in the Debian package and in the RPM
# e_machine of ELF (elf.h), and what wheels call it
_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_SITES = (
    "usr/lib/python3/dist-packages",
    "usr/local/lib/python3.{minor}/dist-packages",
    "usr/lib/python3.{minor}/site-packages",
    "usr/lib64/python3.{minor}/site-packages",
    "usr/local/lib/python3.{minor}/site-packages",
    "usr/local/lib64/python3.{minor}/site-packages",
)


@dataclass(frozen=True)
class GuestPython:
    """The guest's /usr/bin/python3: 3.`minor`, for a machine as wheels name it."""

    minor: int
    machine: str

    @property
    def version(self) -> str:
        """Such as 3.13."""
        return f"3.{self.minor}"


def find_python(tree: RootTree) -> GuestPython:
    """The Python of a guest. Raises InvalidGuest when there is none, or one that is too old."""
    path = resolve(tree, _PYTHON)
    header = tree.head(path, 20)
    if header is None:
        raise InvalidGuest(tree.name, f"has no /{_PYTHON}: install python3 in it first")
    version = re.search(r"python3\.(\d+)$", path)
    if version is None or not header.startswith(b"\x7fELF"):
        raise InvalidGuest(tree.name, f"/{_PYTHON} leads to /{path}: expected a program such as /usr/bin/python3.13")
    minor = int(version[1])
    if minor < _MIN_MINOR:
        raise InvalidGuest(tree.name, f"has Python 3.{minor}: the agent needs 3.{_MIN_MINOR} or newer")
    (number,) = struct.unpack_from(">H" if header[5] == 2 else "<H", header.ljust(20, b"\0"), 18)
    return GuestPython(minor, _MACHINES.get(number, f"machine {number}"))


def find_lacking(tree: RootTree, python: GuestPython) -> list[str]:
    """The modules that the agent needs and the distribution's Python does not have."""
    there = {name for site in _SITES for name in list_names(tree, site.format(minor=python.minor))}
    modules = {name.removesuffix(".py") if name.endswith(".py") else name.partition(".")[0] for name in there}
    return [name for name in NEEDED if name not in modules]


def check_system(tree: RootTree) -> list[str]:
    """What the agent needs beside Python: raises InvalidGuest for what is absent, returns warnings."""
    if not has_file(tree, "usr/lib/systemd/systemd"):
        raise InvalidGuest(tree.name, "has no /usr/lib/systemd/systemd: the agent is a service of systemd's")
    if not has_file(tree, "usr/lib/systemd/systemd-udevd"):
        raise InvalidGuest(tree.name, "has no udev, which tells the agent of disks: install udev in it first")
    if has_file(tree, _PACKAGED):
        raise InvalidGuest(
            tree.name, "has the Debian package or RPM docker-preloader: remove it, or install a newer one"
        )
    if not any(has_file(tree, f"{folder}/dockerd") for folder in ("usr/bin", "usr/sbin", "usr/local/bin")):
        return ["it has no dockerd: the agent starts together with docker.service, so install Docker"]
    return []
