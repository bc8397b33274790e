"""Block devices, through udev: which are ours, and whether all that were there at boot have been seen.

The monitor is started before the enumeration, so nothing falls between them; whoever acts on a device must therefore
take the same one twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any, NamedTuple

# pyudev asks ctypes.util where libudev is. That imports shutil and tempfile and runs ldconfig: 4 ms of the boot, for a
# name that has been the same since systemd 183.
_answer = ModuleType("ctypes.util")
setattr(_answer, "find_library", {"udev": "libudev.so.1"}.get)  # noqa: B010 - mypy knows no such attribute
_is_first = sys.modules.setdefault("ctypes.util", _answer) is _answer

import pyudev  # noqa: E402

if _is_first:
    del sys.modules["ctypes.util"]

_VIRTIO_BLOCK, _VIRTIO_SCSI = "0x0002", "0x0008"
# virtio-blk on PCI, transitional and modern (virtio 1.2, 4.1.2)
_PCI_VIRTIO_BLOCK = ("pci:v00001AF4d00001001", "pci:v00001AF4d00001042")
_BLOCK_DEVICES = "/sys/class/block"
_QUEUE = "/run/udev/queue"  # exists while udev has events to work on


class Device(NamedTuple):
    """A block device that is a disk of ours, by its file system, or any that was removed; `action` is udev's.

    A device of the other subsystem has no label.
    """

    node: str
    label: str
    action: str


class Devices:
    """The disks of ours that udev knows, and those that come and go; `labels` are glob patterns.

    Events of one more subsystem can be watched: their devices have a node, and no label.
    """

    def __init__(self, labels: Sequence[str], other_subsystem: str = "") -> None:
        self.labels = labels
        self._other_subsystem = other_subsystem
        self._context = pyudev.Context()
        self._monitor = self._start_monitor()

    def fileno(self) -> int:
        """Readable when there is an event."""
        return int(self._monitor.fileno())

    def enumerate(self) -> list[Device]:
        """The disks that are there and initialised by udev."""
        return list(self._ours(self._context.list_devices(subsystem="block", ID_FS_TYPE="ext4")))

    def events(self) -> list[Device] | None:
        """What happened since the last call; None after an overflow, when only an enumeration tells."""
        found = []
        try:
            while (device := self._monitor.poll(timeout=0)) is not None:
                found.append(device)
        except OSError:
            # pyudev 0.24: a monitor that lost events (ENOBUFS) raises for ever; a new one and an enumeration cure it.
            self._monitor = self._start_monitor()
            return None
        return list(self._ours(found))

    def look(self) -> tuple[bool, list[Device]]:
        """Whether every disk that the VM was started with has been through udev; and what `enumerate` gives."""
        is_settled = _is_hardware_complete() and _is_udev_done()  # asked first: what they know of is enumerated then
        return is_settled, self.enumerate()

    def _start_monitor(self) -> Any:
        monitor = pyudev.Monitor.from_netlink(self._context)
        monitor.filter_by("block")
        if self._other_subsystem:
            monitor.filter_by(self._other_subsystem)
        monitor.start()
        return monitor

    def _ours(self, devices: Any) -> Iterator[Device]:
        for device in devices:
            node, label = device.device_node, device.properties.get("ID_FS_LABEL", "")
            is_ext4 = device.properties.get("ID_FS_TYPE") == "ext4"
            is_disk = is_ext4 and label and any(fnmatchcase(label, pattern) for pattern in self.labels)
            if node and (is_disk or device.action == "remove" or device.subsystem == self._other_subsystem):
                yield Device(node, label, device.action or "add")


def _is_hardware_complete() -> bool:
    """Every virtio-blk function has its driver and disk; with virtio-scsi, whose scan is asynchronous, udev is idle."""
    if any(_is_block_function_without_driver(path) for path in _pci_functions()):
        return False
    virtio = list(_virtio_devices())
    if any(kind == _VIRTIO_BLOCK and not os.path.isdir(f"{path}/block") for kind, path in virtio):
        return False
    return not (any(kind == _VIRTIO_SCSI for kind, _ in virtio) and os.path.exists(_QUEUE))


def _is_udev_done() -> bool:
    """Whether udev has a record of every block device, which is what libudev calls initialized.

    A Device of pyudev would cost 0.2 ms for each of them, whatever it is.
    """
    for name in os.listdir(_BLOCK_DEVICES):
        try:
            with open(f"{_BLOCK_DEVICES}/{name}/dev", "rb") as file:
                number = file.read().decode().strip()
        except OSError:  # it was unplugged meanwhile
            continue
        try:
            with open(f"/run/udev/data/b{number}", "rb") as file:
                if b"\nE:ID_PROCESSING=1\n" in b"\n" + file.read():  # a udev that writes its record at the start, too
                    return False
        except FileNotFoundError:
            return False
    return True


def _pci_functions() -> Iterator[str]:
    directory = "/sys/bus/pci/devices"
    if os.path.isdir(directory):
        for name in os.listdir(directory):
            yield f"{directory}/{name}"


def _is_block_function_without_driver(path: str) -> bool:
    if os.path.lexists(f"{path}/driver"):
        return False
    try:
        with open(f"{path}/modalias", encoding="ascii") as file:
            return file.read().startswith(_PCI_VIRTIO_BLOCK)
    except OSError:  # it was unplugged meanwhile
        return False


def _virtio_devices() -> Iterator[tuple[str, str]]:
    """The type and path of every virtio device, with a driver or not."""
    directory = "/sys/bus/virtio/devices"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        try:
            with open(f"{directory}/{name}/device", encoding="ascii") as file:
                yield file.read().strip(), f"{directory}/{name}"
        except OSError:  # it was unplugged meanwhile
            continue
