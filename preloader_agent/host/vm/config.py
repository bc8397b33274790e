"""What a machine is made of, as whoever runs it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# What a guest of packaging/build-guest boots with. condition_needs_update=0: no ldconfig and the like at a boot that
# nobody keeps. mitigations=off and the short list of security modules take a quarter off an emulated boot.
GUEST_APPEND = (
    "root=LABEL=guest-root console=ttyS0 quiet mitigations=off tsc=reliable 8250.nr_uarts=1"
    " lsm=landlock,yama,apparmor systemd.condition_needs_update=0"
)


@dataclass(frozen=True)
class VmConfig:
    """A guest to run. `disks` are attached read-only from the start, `spare_ports` more can be hot-plugged.

    Credentials go through SMBIOS, or through fw_cfg for a machine that has none; there, names of at most 28 characters.
    """

    kernel: Path
    initrd: Path
    root_disk: Path
    append: str = GUEST_APPEND
    memory_mib: int = 1024
    cores: int = 2
    disks: tuple[Path, ...] = ()
    spare_ports: int = 4
    credentials: Mapping[str, str] = field(default_factory=dict)
    fw_cfg_credentials: Mapping[str, str] = field(default_factory=dict)
    console_log: Path | None = None
    user_network: bool = False

    @classmethod
    def of_guest(cls, folder: Path) -> Self:
        """A guest that packaging/build-guest made, with nothing attached; `dataclasses.replace` adds to it."""
        return cls(kernel=folder / "vmlinuz", initrd=folder / "initrd", root_disk=folder / "disk.qcow2")
