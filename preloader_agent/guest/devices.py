"""Block devices, through udev: which are ours, and whether all that were there at boot have been seen.

The monitor is started before the enumeration, so nothing falls between them; whoever acts on a device must therefore
take the same one twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyudev

from preloader_agent.store.index import LABEL_PREFIX

_VIRTIO_BLOCK, _VIRTIO_SCSI = "0x0002", "0x0008"
_QUEUE = "/run/udev/queue"  # exists while udev has events to work on


class Device(NamedTuple):
    """A block device that is a disk of ours, by its file system, or any that was removed; `action` is udev's."""

    node: str
    label: str
    action: str


class Devices:
    """The disks of ours that udev knows, and those that come and go."""

    def __init__(self) -> None:
        self._context = pyudev.Context()
        self._monitor = self._start_monitor()

    def fileno(self) -> int:
        """Readable when there is an event."""
        return int(self._monitor.fileno())

    def enumerate(self) -> list[Device]:
        """The disks that are there and initialised by udev."""
        return list(_ours(self._context.list_devices(subsystem="block", ID_FS_TYPE="ext4")))

    def events(self) -> list[Device]:
        """What happened since the last call; after an overflow, everything that is there."""
        found = []
        try:
            while (device := self._monitor.poll(timeout=0)) is not None:
                found.append(device)
        except OSError:
            # pyudev 0.24: a monitor that lost events (ENOBUFS) raises for ever; a new one and an enumeration cure it.
            self._monitor = self._start_monitor()
            return self.enumerate()
        return list(_ours(found))

    def is_settled(self) -> bool:
        """Whether every disk that the VM was started with has been through udev.

        Every virtio-blk function has its disk, and udev knows every disk; with virtio-scsi, whose scan is
        asynchronous, udev must be idle, too.
        """
        virtio = list(_virtio_devices())
        if any(kind == _VIRTIO_BLOCK and not os.path.isdir(f"{path}/block") for kind, path in virtio):
            return False
        if any(kind == _VIRTIO_SCSI for kind, _ in virtio) and os.path.exists(_QUEUE):
            return False
        return all(device.is_initialized for device in self._context.list_devices(subsystem="block"))

    def _start_monitor(self) -> Any:
        monitor = pyudev.Monitor.from_netlink(self._context)
        monitor.filter_by("block")
        monitor.start()
        return monitor


def _ours(devices: Any) -> Iterator[Device]:
    for device in devices:
        node, label = device.device_node, device.properties.get("ID_FS_LABEL", "")
        is_disk = label.startswith(LABEL_PREFIX) and device.properties.get("ID_FS_TYPE") == "ext4"
        if node and (is_disk or device.action == "remove"):
            yield Device(node, label, device.action or "add")


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
