"""The QEMU command line of a machine, and the words for its disks: pure, decided before QEMU runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from preloader_agent.host.vm.accelerator import QEMU
from preloader_agent.host.vm.config import Forward, UserNetwork, VmConfig
from preloader_agent.host.vm.credentials import credential_words
from preloader_agent.host.vm.diskfile import DiskFile
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.firmware import Firmware
from preloader_agent.host.vm.parts import Parts
from preloader_agent.host.vm.sharing import sharing_words
from preloader_agent.host.vm.syntax import escaped, join_options, socket_of

PORTS_PER_SLOT = 8  # functions of one PCI slot
CONTROL_PORT = "org.docker-preloader.0"  # the virtio-serial port on which the guest's agent listens
FIRST_PORT_SLOT = 0x10  # below are the machine's own devices
SCSI = "scsi"  # the controller


def read_only_node(file: DiskFile) -> dict[str, object]:
    """A disk's block node. Read-only nodes of one file are shared by any number of machines, and lock writers out."""
    return {
        "driver": file.format,
        "node-name": node_name(file.name),
        "read-only": True,
        "file": {"driver": "file", "filename": str(file.path)},
    }


def node_name(device: str) -> str:
    """The block node of a device."""
    return f"{device}-node"


class Place(NamedTuple):
    """A bus that takes a disk."""

    bus: str  # what QEMU's command line and device_add call it
    owner: str  # the device that the bus belongs to, as its user calls it
    driver: str  # of a disk there
    options: Mapping[str, str] = {}

    def device_of(self, name: str) -> dict[str, object]:
        """The device of a disk here; the guest sees its id as its serial."""
        named = {"driver": self.driver, "id": name, "drive": node_name(name)}
        return {**named, "bus": self.bus, **self.options, "serial": name}


def port_place(port: str) -> Place:
    """A root port, whose id is its bus's name.

    The explicit address matters: without it a second device on the same port is accepted, and no guest ever sees it.
    """
    return Place(port, port, "virtio-blk-pci", {"addr": "0x0"})


def scsi_place(bus: str, controller: str) -> Place:
    """The bus of a virtio-scsi controller, which finds a target for each disk."""
    return Place(bus, controller, "scsi-hd")


SCSI_PLACE = scsi_place(f"{SCSI}.0", SCSI)


def port_names(config: VmConfig) -> list[str]:
    """The root ports, in order: first those of the disks that are there from the start, then the spare ones."""
    if config.disk_interface != "virtio-blk":
        return []
    return [f"port{number}" for number in range(len(config.disks) + config.spare_ports)]


def qemu_command(config: VmConfig, parts: Parts, files: VmFiles) -> list[str]:
    """The whole command line."""
    return [
        *(QEMU, "-no-user-config", "-nodefaults"),
        *("-machine", _machine(config)),
        *("-accel", parts.accelerator.accel, "-cpu", parts.accelerator.cpu),
        *("-m", str(config.memory_mib), "-smp", str(config.cores)),
        *_boot(config),
        *_flash(parts.firmware, files),
        *_display(config),
        *_console(config, files),
        *socket_of("qmp", files.qmp, "-mon", "chardev=qmp,mode=control"),
        *socket_of("qmp2", files.second_qmp, "-mon", "chardev=qmp2,mode=control"),
        *_root_disk(config, parts, files),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *socket_of("agent", files.agent, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *socket_of("control", files.control, "-device", f"virtserialport,chardev=control,name={CONTROL_PORT}"),
        *_network(config.network),
        *_ports(config),
        *_cold_disks(config, parts.disks),
        *_empty_disks(config, files),
        *sharing_words(config, files),
        *credential_words(config, parts.disks),
        *config.qemu_args,
    ]


def _machine(config: VmConfig) -> str:
    # What no guest of ours uses costs it drivers to load: AHCI alone brings libata and scsi_mod.
    words = ["q35,sata=off,smbus=off,vmport=off"]
    if not config.has_graphics:
        words.append("i8042=off")
    if config.kernel is None and not config.has_graphics:
        words.append("graphics=off")  # the BIOS, and what it loads, speak on the serial console
    return ",".join(words)


def _boot(config: VmConfig) -> list[str]:
    if config.kernel is None:
        return ["-boot", "strict=on"]  # from the root disk, or not at all
    initrd = [] if config.initrd is None else ["-initrd", str(config.initrd.absolute())]
    append = ["-append", config.append] if config.append else []
    return ["-kernel", str(config.kernel.absolute()), *initrd, *append]


def _flash(firmware: Firmware | None, files: VmFiles) -> Iterator[str]:
    if firmware is not None:
        yield from _node("uefi", firmware.code_format, firmware.code, {"read-only": True})
        yield from _node("variables", firmware.variables_format, files.variables, {})
        yield from ("-machine", "pflash0=uefi,pflash1=variables")


def _display(config: VmConfig) -> list[str]:
    if not config.has_graphics:
        return ["-display", "none"]
    # Any window that this QEMU has; a tablet, or the mouse would have to be caught.
    return ["-device", "VGA", "-device", "qemu-xhci", "-device", "usb-tablet"]


def _console(config: VmConfig, files: VmFiles) -> list[str]:
    log = escaped(files.console)
    if not config.is_interactive:
        return ["-serial", f"file:{log}"]
    # Ctrl-C is the guest's, Ctrl-A x ends QEMU, Ctrl-A c is its monitor.
    terminal = f"stdio,id=console,mux=on,signal=off,logfile={log},logappend=off"
    return ["-chardev", terminal, "-serial", "chardev:console", "-mon", "chardev=console,mode=readline"]


def _node(name: str, driver: str, path: Path, options: dict[str, object], **of_file: object) -> list[str]:
    file = {"driver": "file", "filename": str(path.absolute()), **of_file}
    return ["-blockdev", json.dumps({"driver": driver, "node-name": name, **options, "file": file})]


def _root_disk(config: VmConfig, parts: Parts, files: VmFiles) -> list[str]:
    if config.snapshot:
        node = _thrown_away("root", files.overlay)
    else:
        node = _node("root", parts.root_format, config.root_disk, {})
    first = ",bootindex=0" if config.kernel is None else ""
    return [*node, "-device", f"virtio-blk-pci,drive=root,serial=root{first}"]


def _thrown_away(name: str, path: Path) -> list[str]:
    """Nobody reads this file after the machine: a flush to the host's disk is time for nothing."""
    unflushed = {"no-flush": True}
    return _node(name, "qcow2", path, {"cache": unflushed}, cache=unflushed)


def _network(network: UserNetwork | None) -> list[str]:
    if network is None:
        return []
    restrict = ",restrict=on" if network.is_restricted else ""
    forwards = "".join(f",hostfwd={_forward(forward)}" for forward in network.forwards)
    # Without its ROM: nobody boots from the network.
    return ["-netdev", f"user,id=net{restrict}{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="]


def _forward(forward: Forward) -> str:
    return f"{forward.protocol}:{forward.host_address}:{forward.host_port}-:{forward.guest_port}"


def _ports(config: VmConfig) -> Iterator[str]:
    if config.disk_interface == "virtio-scsi":
        yield from ("-device", f"virtio-scsi-pci,id={SCSI}")
    for number, name in enumerate(port_names(config)):
        slot, function = divmod(number, PORTS_PER_SLOT)
        place = f"addr={FIRST_PORT_SLOT + slot:#x}.{function:#x},multifunction=on"
        yield from ("-device", f"pcie-root-port,id={name},chassis={number + 1},{place}")


def _cold_disks(config: VmConfig, disks: Sequence[DiskFile]) -> Iterator[str]:
    ports = port_names(config)
    for number, disk in enumerate(disks):
        device = (port_place(ports[number]) if ports else SCSI_PLACE).device_of(disk.name)
        yield from ("-blockdev", json.dumps(read_only_node(disk)), "-device", join_options(device))


def _empty_disks(config: VmConfig, files: VmFiles) -> Iterator[str]:
    for number in range(len(config.empty_disks)):
        name = f"empty{number}"
        device = SCSI_PLACE.device_of(name)
        if config.disk_interface == "virtio-blk":
            device = {"driver": "virtio-blk-pci", "id": name, "drive": node_name(name), "serial": name}
        yield from _thrown_away(node_name(name), files.empty_disk(number))
        yield from ("-device", join_options(device))
