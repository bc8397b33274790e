"""The QEMU command line of a machine, and the words for its disks: pure, decided before QEMU runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from preloader_agent.host.vm.accelerator import QEMU, Accelerator
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.diskfile import DiskFile
from preloader_agent.host.vm.files import VmFiles

PORTS_PER_SLOT = 8  # functions of one PCI slot
CONTROL_PORT = "org.docker-preloader.0"  # the virtio-serial port on which the guest's agent listens
FIRST_PORT_SLOT = 0x10  # below are the machine's own devices


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


def disk_device(device: str, port: str) -> dict[str, object]:
    """A virtio-blk disk on a root port; the guest sees its id as its serial.

    The explicit address matters: without it a second device on the same port is accepted, and no guest ever sees it.
    """
    place = {"bus": port, "addr": "0x0"}
    return {"driver": "virtio-blk-pci", "id": device, "drive": node_name(device), **place, "serial": device}


def port_names(config: VmConfig) -> list[str]:
    """The root ports, in order: first those of the disks that are there from the start, then the spare ones."""
    return [f"port{number}" for number in range(len(config.disks) + config.spare_ports)]


def qemu_command(config: VmConfig, disks: Sequence[DiskFile], files: VmFiles, accelerator: Accelerator) -> list[str]:
    """The whole command line; `disks` are those of the configuration, looked at."""
    return [
        *(QEMU, "-no-user-config", "-nodefaults", "-display", "none"),
        # What no guest of ours uses costs it drivers to load: AHCI alone brings libata and scsi_mod.
        *("-machine", "q35,sata=off,smbus=off,i8042=off,vmport=off"),
        *("-accel", accelerator.accel, "-cpu", accelerator.cpu),
        *("-m", str(config.memory_mib), "-smp", str(config.cores)),
        *("-kernel", str(config.kernel), "-initrd", str(config.initrd), "-append", config.append),
        *("-serial", f"file:{_escaped(str(files.console))}"),
        *_socket("qmp", files.qmp, "-mon", "chardev=qmp,mode=control"),
        *_socket("qmp2", files.second_qmp, "-mon", "chardev=qmp2,mode=control"),
        *_root_disk(files),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *_socket("agent", files.agent, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *_socket("control", files.control, "-device", f"virtserialport,chardev=control,name={CONTROL_PORT}"),
        *_network(config),
        *_ports(config),
        *_cold_disks(config, disks),
        *(word for name, value in config.credentials.items() for word in ("-smbios", _credential(name, value))),
        *(word for name, value in config.fw_cfg_credentials.items() for word in ("-fw_cfg", _fw_cfg(name, value))),
    ]


def _escaped(value: str) -> str:
    """A value in QEMU's key=value,... syntax."""
    return value.replace(",", ",,")


def _options(values: Mapping[str, object]) -> str:
    driver, *rest = (_escaped(str(value)) for value in values.values())
    return ",".join([driver, *(f"{key}={value}" for key, value in zip(list(values)[1:], rest, strict=True))])


def _socket(name: str, path: Path, *user: str) -> list[str]:
    """A socket that serves one client after another, and the part of the machine behind it."""
    return ["-chardev", f"socket,id={name},path={_escaped(str(path))},server=on,wait=off", *user]


def _root_disk(files: VmFiles) -> list[str]:
    node = {
        "driver": "qcow2",
        "node-name": "root",
        # Nobody reads the overlay after this machine: a flush to the host's disk is time for nothing.
        "cache": {"no-flush": True},
        "file": {"driver": "file", "filename": str(files.overlay), "cache": {"no-flush": True}},
    }
    return ["-blockdev", json.dumps(node), "-device", "virtio-blk-pci,drive=root,serial=root"]


def _network(config: VmConfig) -> list[str]:
    return ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"] if config.user_network else []


def _ports(config: VmConfig) -> list[str]:
    words = []
    for number, name in enumerate(port_names(config)):
        slot, function = divmod(number, PORTS_PER_SLOT)
        place = f"addr={FIRST_PORT_SLOT + slot:#x}.{function:#x},multifunction=on"
        words += ["-device", f"pcie-root-port,id={name},chassis={number + 1},{place}"]
    return words


def _cold_disks(config: VmConfig, disks: Sequence[DiskFile]) -> list[str]:
    words = []
    for disk, port in zip(disks, port_names(config), strict=False):
        words += ["-blockdev", json.dumps(read_only_node(disk))]
        words += ["-device", _options(disk_device(disk.name, port))]
    return words


def _credential(name: str, value: str) -> str:
    """A system credential for systemd; SMBIOS strings are printable ASCII, all else is sent in base64."""
    if value.isascii() and value.isprintable():
        return f"type=11,value=io.systemd.credential:{_escaped(f'{name}={value}')}"
    encoded = base64.b64encode(value.encode()).decode()
    return f"type=11,value=io.systemd.credential.binary:{_escaped(name)}={encoded}"


def _fw_cfg(name: str, value: str) -> str:
    """The same where there is no SMBIOS: any text but a NUL, and systemd reads it as it is."""
    return f"name=opt/io.systemd.credentials/{name},string={_escaped(value)}"
