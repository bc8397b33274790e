"""A disk in the words of libvirt: the XML element for `virsh attach-device`, https://libvirt.org/formatdomain.html."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from string import ascii_lowercase
from typing import NamedTuple
from xml.etree import ElementTree

from preloader_agent.errors import InvalidValue
from preloader_agent.host.vm.diskfile import DiskFile

_LETTERS = 5  # of a target's name: 12 million names, and a number that fits into libvirt's index of disks
# On a SCSI controller, but for target 0, where libvirt puts disks of its own accord. Its schema has two digits for a
# target, QEMU's virtio-scsi 16384 units in each.
TARGETS, UNITS = 99, 16384


class _Bus(NamedTuple):
    prefix: str
    has_address: bool


BUSES: Mapping[str, _Bus] = {"virtio": _Bus("vd", has_address=False), "scsi": _Bus("sd", has_address=True)}


def libvirt_xml(disk: DiskFile, bus: str = "virtio", target: str | None = None) -> str:
    """The <disk> element of a disk, read-only. Raises InvalidValue for a path that XML cannot say.

    A read-only disk is one that several domains may have; <shareable/> is for those that are written. The target's name
    must differ from those of the domain's other disks, and says nothing to the guest: it is made of the disk's name.
    """
    root = ElementTree.Element("disk", type="file", device="disk")
    ElementTree.SubElement(root, "driver", name="qemu", type=disk.format)
    ElementTree.SubElement(root, "source", file=_checked(str(disk.path)))
    ElementTree.SubElement(root, "target", dev=target or _target_name(disk.name, bus), bus=bus)
    ElementTree.SubElement(root, "serial").text = disk.name
    ElementTree.SubElement(root, "readonly")
    if BUSES[bus].has_address and target is None:
        # Without one, libvirt takes it from the target's name, and adds controllers until there are that many places.
        ElementTree.SubElement(root, "address", _scsi_address(disk.name))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def _checked(path: str) -> str:
    """XML 1.0 has no control characters, not even escaped ones, and no bytes that are not UTF-8."""
    if not path.isprintable():
        raise InvalidValue("disk", path, "a path of printable characters, which XML can say: rename the file")
    return path


def _number_of(name: str, limit: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) % limit


def _target_name(name: str, bus: str) -> str:
    number = _number_of(name, len(ascii_lowercase) ** _LETTERS)
    letters = ""
    for _ in range(_LETTERS):
        number, letter = divmod(number, len(ascii_lowercase))
        letters += ascii_lowercase[letter]
    return BUSES[bus].prefix + letters


def _scsi_address(name: str) -> dict[str, str]:
    target, unit = divmod(_number_of(name, TARGETS * UNITS), UNITS)
    return {"type": "drive", "controller": "0", "bus": "0", "target": str(target + 1), "unit": str(unit)}
