"""The disks of a running QEMU, anybody's, as its monitor shows them; how one gets into it, and out of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from preloader_agent.errors import InvalidDisk, InvalidValue, VmError
from preloader_agent.host.inspection import read_label
from preloader_agent.host.vm.control import ControlChannel
from preloader_agent.host.vm.diskfile import DiskFile, check_content, read_disk_file
from preloader_agent.host.vm.places import NAMED, find_places, free_places
from preloader_agent.host.vm.qemu import Place, node_name, read_only_node
from preloader_agent.host.vm.qmp import Monitor

UNPLUG_TIMEOUT = 60.0
_VIRTIO_BACKEND = "/virtio-backend"  # the part of a virtio device that QEMU gives its block node to
_NAMED_DEVICES = f"{NAMED}/"
_LOCKED = 'Failed to get shared "write" lock'  # QEMU has no error class for it
_SHOWN = 3  # refusals that a person still reads
_NEEDED = (
    "give QEMU a controller, -device virtio-scsi-pci, or a port for each disk, "
    "-device pcie-root-port,id=port1,chassis=1 with another number each; for `preloader vm run` that is --spare-ports"
)

log = logging.getLogger(__name__)


class AttachedDisk(NamedTuple):
    """A disk of a machine: a device on a block node, or a node whose device has gone."""

    device: str  # what device_del takes, an id or a QOM path; empty if there is none
    nodes: tuple[str, ...]  # what blockdev-del takes, the device's first; empty where QEMU closes the file itself
    file: str  # as QEMU was given it
    is_read_only: bool = True

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.device or self.nodes[0]


def list_disks(monitor: Monitor) -> list[AttachedDisk]:
    """The disks of a machine, first those with a device."""
    return parse_disks(monitor.execute("query-block"), monitor.execute("query-named-block-nodes"))


def parse_disks(blocks: Any, nodes: Any) -> list[AttachedDisk]:
    """The disks that the answers to query-block and query-named-block-nodes show."""
    used = [block for block in blocks if block.get("qdev") and "inserted" in block]
    files = [block["inserted"]["file"] for block in used]
    taken = {block["inserted"]["node-name"] for block in used}
    spare: dict[str, list[str]] = {}
    for node in nodes:
        if not node["node-name"].startswith("#") and node["node-name"] not in taken:  # QEMU's own names start with #
            spare.setdefault(node["file"], []).append(node["node-name"])
    disks = []
    for block, file in zip(used, files, strict=True):
        # A file that one device alone has: its other nodes are below the device's. Else who can tell.
        below = spare.pop(file, []) if files.count(file) == 1 else []
        # Of a drive that has a name of its own, -drive made the node, and the device's end is its end.
        names = [] if block["device"] else [block["inserted"]["node-name"], *below]
        disks.append(AttachedDisk(_device_of(block["qdev"]), tuple(names), file, block["inserted"]["ro"]))
    rest = [AttachedDisk("", tuple(names), file) for file, names in spare.items() if file not in files]
    return [*disks, *rest]


def _device_of(qdev: str) -> str:
    """The id of a device, or its QOM path where it has none."""
    path = qdev.removesuffix(_VIRTIO_BACKEND)
    name = path.removeprefix(_NAMED_DEVICES)
    return path if "/" in name else name


def find_disk(disks: Sequence[AttachedDisk], name: str) -> AttachedDisk:
    """The disk with a device id, a file or a label, in this order. Raises InvalidValue when it is none or several."""
    ways: tuple[Callable[[AttachedDisk, str], bool], ...] = (_is_device, _is_file, _is_label)
    for is_meant in ways:
        found = [disk for disk in disks if is_meant(disk, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidValue("disk", name, f"one disk, and this is {_list(found)}")
    raise InvalidValue(
        "disk", name, f"the device id, file or label of a disk of this machine, which has {_list(disks)}"
    )


def _is_device(disk: AttachedDisk, name: str) -> bool:
    # What we attach has a node that is named after its device, and is found by it when the device has gone.
    return name == disk.device or (not disk.device and name in {disk.nodes[0], disk.nodes[0].removesuffix("-node")})


def _is_file(disk: AttachedDisk, name: str) -> bool:
    with suppress(OSError, ValueError):
        return os.path.samefile(disk.file, name)
    return disk.file == name


def _is_label(disk: AttachedDisk, name: str) -> bool:
    with suppress(InvalidDisk):
        return read_label(Path(disk.file)) == name
    return False


def _list(disks: Sequence[AttachedDisk]) -> str:
    return ", ".join(f"{disk.name} ({disk.file})" for disk in disks) or "none"


def attach_disk(monitor: Monitor, path: Path, *, bus: str | None = None) -> AttachedDisk:
    """Plug a disk, read-only, into a free place of a machine, or into one on the named bus; after a failure into none.

    Raises InvalidDisk for what is no disk or cannot be read, InvalidValue for a bus that is not there or not free, and
    VmError when the disk is attached already, somebody writes it, or there is no free place.
    """
    file = read_disk_file(path)
    check_content(file)
    _check_absent(monitor, file)
    places = free_places(monitor) if bus is None else find_places(monitor, bus)
    _open_node(monitor, file)
    try:
        _plug(monitor, file, places)
    except BaseException:
        with suppress(VmError):  # the first failure is the one to report
            monitor.execute("blockdev-del", {"node-name": node_name(file.name)})
        raise
    return AttachedDisk(file.name, (node_name(file.name),), str(file.path))


def _check_absent(monitor: Monitor, file: DiskFile) -> None:
    """And close what a detach that was interrupted has left open."""
    for disk in list_disks(monitor):
        if disk.device and _is_file(disk, str(file.path)):
            raise VmError(f"{file.path} is attached already, as {disk.device}")
        if disk.device == file.name:
            raise VmError(f"{file.path} cannot be attached: {disk.file} is, and both are {file.name}")
        if not disk.device and node_name(file.name) in disk.nodes:
            _close_nodes(monitor, disk)


def _open_node(monitor: Monitor, file: DiskFile) -> None:
    try:
        monitor.execute("blockdev-add", read_only_node(file))
    except VmError as err:
        reason = "a program writes it; wait until that has ended, because what is attached must stay as it is"
        raise VmError(f"cannot attach {file.path}: {reason if _LOCKED in err.problem else err.problem}") from err


def _plug(monitor: Monitor, file: DiskFile, places: Iterable[Place]) -> None:
    """Into the first place that takes it: some refuse, such as a root port with hotplug=off."""
    refusals = []
    for place in places:
        try:
            monitor.execute("device_add", place.device_of(file.name))
        except VmError as err:
            refusals.append(f"{place.bus}: {err.problem}")
        else:
            return
    problem = "; ".join(refusals[:_SHOWN]) or f"this machine has no free place for a disk: {_NEEDED}"
    raise VmError(f"cannot attach {file.path}: {problem}")


def release_disk(control: Path, file: str, *, force: bool = False) -> None:
    """Have the guest's agent let go of a disk, so that it can be unplugged, if it is one that the agent knows.

    Raises InvalidDisk when the file cannot be read, AgentSilent when the agent cannot be asked, AgentRefused when it
    says no, and VmError when it does not finish. What is released already may be released again.
    """
    if not os.access(file, os.R_OK):
        raise InvalidDisk(file, "cannot be read from here, so the guest cannot be asked for it by its label")
    try:
        label = read_label(Path(file))
    except InvalidDisk as err:
        log.warning("the guest is not asked to let go of a disk: %s", err)
        return
    with closing(ControlChannel(control)) as channel:
        if label in channel.labels():
            channel.release(label, force=force)
        else:
            log.warning("the guest does not use %s (%s)", label, file)


def detach_disk(
    monitor: Monitor,
    disk: AttachedDisk,
    control: Path | None = None,
    *,
    force: bool = False,
    timeout: float = UNPLUG_TIMEOUT,
) -> None:
    """Unplug a disk and have QEMU close its file; with a control channel, after the guest's agent has let go of it.

    With `force`, whatever the agent says; `timeout` bounds what follows that. What an interrupted call has left undone,
    the next one does. Raises what `release_disk` raises, and VmError when the disk cannot be unplugged.
    """
    if disk.device:
        _check_removable(monitor, disk)
        if control is not None:
            try:
                release_disk(control, disk.file, force=force)
            except (VmError, InvalidDisk) as err:
                if not force:
                    raise
                log.warning("%s is unplugged by force: %s", disk.name, err)
        monitor.unplug(disk.device, timeout)
    _close_nodes(monitor, disk)


def _close_nodes(monitor: Monitor, disk: AttachedDisk) -> None:
    for node in disk.nodes:
        monitor.execute("blockdev-del", {"node-name": node})


def _check_removable(monitor: Monitor, disk: AttachedDisk) -> None:
    """Or the guest would let go of a disk that stays."""
    path = disk.device if disk.device.startswith("/") else _NAMED_DEVICES + disk.device
    if not monitor.execute("qom-get", {"path": path, "property": "hotpluggable"}):
        raise VmError(
            f"{disk.name} ({disk.file}) is on a bus without hot-plug, such as pcie.0, and cannot be unplugged"
        )
