"""What a machine is made of, as whoever runs it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from preloader_agent.errors import InvalidValue

# What a guest of `preloader guest build` boots with. condition_needs_update=0: no ldconfig and the like at a boot that
# nobody keeps. mitigations=off and the short list of security modules take a quarter off an emulated boot.
GUEST_APPEND = (
    "root=LABEL=guest-root console=ttyS0 quiet mitigations=off tsc=reliable 8250.nr_uarts=1"
    " lsm=landlock,yama,apparmor systemd.condition_needs_update=0"
)
MIN_MEMORY = 16  # MiB; below, no kernel of this century starts
MAX_PORT = 65535
MAX_ROOT_PORTS = 120  # 15 slots of 8, from vm.qemu's FIRST_PORT_SLOT to the chipset's

Protocol = Literal["tcp", "udp"]
FirmwareKind = Literal["bios", "uefi"]
DiskInterface = Literal["virtio-blk", "virtio-scsi"]
Sharing = Literal["virtiofs", "9p"]


@dataclass(frozen=True)
class Forward:
    """A port of the host that leads to one of the guest."""

    host_port: int
    guest_port: int
    protocol: Protocol = "tcp"
    host_address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for port in (self.host_port, self.guest_port):
            if not 0 < port <= MAX_PORT:
                raise InvalidValue("port", port, f"a number from 1 to {MAX_PORT}")


@dataclass(frozen=True)
class UserNetwork:
    """A network that QEMU makes, without any rights on the host: DHCP, DNS, and whatever the host itself reaches.

    A restricted one has nothing but its forwards.
    """

    forwards: tuple[Forward, ...] = ()
    is_restricted: bool = False


@dataclass(frozen=True)
class SharedFolder:
    """A folder of the host that the guest sees at `target`, an absolute path; see VmConfig."""

    source: Path
    target: str
    is_read_only: bool = False

    def __post_init__(self) -> None:
        if not self.target.startswith("/") or any(character.isspace() for character in self.target):
            raise InvalidValue("shared folder", self.target, "an absolute path in the guest, without white space")


@dataclass(frozen=True)
class VmConfig:
    """A machine and its guest. Raises InvalidValue when its parts do not fit together.

    The root disk is qcow2 or raw. With `snapshot`, what the guest writes to it is thrown away with the machine, else it
    is written to for good. It boots by its own boot loader, from BIOS or UEFI, or directly with `kernel`, `initrd` and
    `append` (the kernel's command line).

    `disks` are attached read-only from the start, and with `announce_disks` the agent in the guest is told to expect
    those that preloader built. `empty_disks` are sizes in bytes: writable, with the serials empty0, empty1, ...; they
    end with the machine. With virtio-blk, `spare_ports` more disks can be hot-plugged, with virtio-scsi as many as
    there are targets. The root disk is on virtio-blk in any case.

    Shared folders have the tags share0, share1, ... systemd 254 and newer mounts them at boot; in an older guest,
    `mount -t virtiofs share0 /target` does. virtiofs needs virtiofsd on the host, 9p a guest's kernel that has it.

    Credentials go through SMBIOS, or through fw_cfg for a guest without; there, names of at most 28 characters.
    `qmp` and `control` are where other programs find the second monitor and the agent's control channel; without, they
    are in the machine's own folder. `is_interactive` puts the guest's serial console on our terminal.
    """

    root_disk: Path
    snapshot: bool = True
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    firmware: FirmwareKind = "bios"
    memory_mib: int = 1024
    cores: int = 2
    disks: tuple[Path, ...] = ()
    announce_disks: bool = True
    empty_disks: tuple[int, ...] = ()
    disk_interface: DiskInterface = "virtio-blk"
    spare_ports: int = 4
    network: UserNetwork | None = None
    shared_folders: tuple[SharedFolder, ...] = ()
    sharing: Sharing = "virtiofs"
    credentials: Mapping[str, str] = field(default_factory=dict)
    fw_cfg_credentials: Mapping[str, str] = field(default_factory=dict)
    has_graphics: bool = False
    is_interactive: bool = False
    console_log: Path | None = None
    qmp: Path | None = None
    control: Path | None = None
    qemu_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kernel is None and (self.initrd is not None or self.append):
            raise InvalidValue("boot", self.initrd or self.append, "a kernel with that, or neither")
        if self.memory_mib < MIN_MEMORY:
            raise InvalidValue("memory", self.memory_mib, f"at least {MIN_MEMORY} MiB")
        if self.cores < 1:
            raise InvalidValue("cores", self.cores, "at least one")
        if self.spare_ports < 0:
            raise InvalidValue("spare ports", self.spare_ports, "none or more")
        if min(self.empty_disks, default=1) < 1:
            raise InvalidValue("empty disk", min(self.empty_disks), "a size in bytes")
        ports = len(self.disks) + self.spare_ports
        if self.disk_interface == "virtio-blk" and ports > MAX_ROOT_PORTS:
            raise InvalidValue(
                "disks and spare ports", ports, f"at most {MAX_ROOT_PORTS} with virtio-blk; virtio-scsi has more"
            )
        if self.qmp is not None and self.qmp == self.control:
            raise InvalidValue("control", str(self.control), "another socket than that of qmp")

    @classmethod
    def of_guest(cls, folder: Path) -> Self:
        """A folder with disk.qcow2, vmlinuz and initrd, with nothing attached; `dataclasses.replace` adds to it."""
        root, kernel, initrd = folder / "disk.qcow2", folder / "vmlinuz", folder / "initrd"
        return cls(root_disk=root, kernel=kernel, initrd=initrd, append=GUEST_APPEND)
