"""Where a disk can be plugged into a running machine.

QEMU's object tree says it; query-pci would not, before the guest's firmware has numbered the buses. The order is that
of preference: a root port, of which each takes one disk; a virtio-scsi controller; the PCI bus of the old PC.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preloader_agent.errors import InvalidValue
from preloader_agent.host.vm.qemu import Place, port_place, scsi_place
from preloader_agent.host.vm.qmp import Monitor

NAMED, ANONYMOUS = "/machine/peripheral", "/machine/peripheral-anon"  # the devices with an id of the user, and without
_PORTS = frozenset({"pcie-root-port", "ioh3420", "xio3130-downstream"})
_SCSI = "virtio-scsi-"  # -pci, -pci-transitional, -device (on microvm), -ccw
_BACKEND = "virtio-backend"  # the part of a virtio device on a transport such as PCI that has the bus
_OCCUPANT = "child["  # the link from a bus to a device on it
_PC = "i440fx"


def free_places(monitor: Monitor) -> Iterator[Place]:
    """The places that are free now, each asked for only when it is its turn."""
    named = list_parts(monitor, NAMED)
    yield from _free_ports(monitor, [name for name, type_ in named.items() if type_ in _PORTS])
    devices = {f"{NAMED}/{name}": type_ for name, type_ in named.items()}
    devices |= {f"{ANONYMOUS}/{name}": type_ for name, type_ in list_parts(monitor, ANONYMOUS).items()}
    yield from _scsi_buses(monitor, [path for path, type_ in devices.items() if type_.startswith(_SCSI)])
    if _PC in list_parts(monitor, "/machine"):
        yield Place("pci.0", _PC, "virtio-blk-pci")


def find_places(monitor: Monitor, bus: str) -> list[Place]:
    """The free places that a bus, or the id of its device, means. Raises InvalidValue when there is none."""
    free = list(free_places(monitor))
    found = [place for place in free if bus in {place.bus, place.owner}]
    if not found:
        names = ", ".join(dict.fromkeys(place.bus for place in free)) or "none at all"
        raise InvalidValue("bus", bus, f"one where this machine can take a disk now, and that is {names}")
    return found


def list_parts(monitor: Monitor, path: str) -> dict[str, str]:
    """What an object of QEMU's tree is made of: names, and types."""
    parts = [item for item in _list(monitor, path) if item["type"].startswith("child<")]
    return {item["name"]: item["type"].removeprefix("child<").removesuffix(">") for item in parts}


def _list(monitor: Monitor, path: str) -> Any:
    return monitor.execute("qom-list", {"path": path})


def _free_ports(monitor: Monitor, ports: list[str]) -> Iterator[Place]:
    """Those with an id, which is their bus's name too: the others' buses share the name of the machine's first one."""
    for port in ports:
        if not any(item["name"].startswith(_OCCUPANT) for item in _list(monitor, f"{NAMED}/{port}/{port}")):
            yield port_place(port)


def _scsi_buses(monitor: Monitor, controllers: list[str]) -> Iterator[Place]:
    for path in controllers:
        parts = list_parts(monitor, path)
        if _BACKEND in parts:
            parts = list_parts(monitor, f"{path}/{_BACKEND}")
        for name in (name for name, type_ in parts.items() if type_ == "SCSI"):
            yield scsi_place(name, path.removeprefix(f"{NAMED}/"))
