"""What the guest's systemd is told in credentials: which disks to expect, what to mount, and what the user says."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.diskfile import DiskFile
from preloader_agent.host.vm.sharing import fstab_lines
from preloader_agent.host.vm.syntax import escaped

EXPECT = "docker-preloader.expect"
FSTAB = "fstab.extra"  # systemd.system-credentials(7), since systemd 254


def credential_words(config: VmConfig, disks: Sequence[DiskFile]) -> Iterator[str]:
    """The options for all credentials of a machine."""
    for name, value in _credentials(config, disks).items():
        yield from ("-smbios", _smbios(name, value))
    for name, value in config.fw_cfg_credentials.items():
        yield from ("-fw_cfg", _fw_cfg(name, value))


def _credentials(config: VmConfig, disks: Sequence[DiskFile]) -> dict[str, str]:
    """What the user gives, and ours where the user says nothing else."""
    credentials = dict(config.credentials)
    labels = [disk.label for disk in disks if disk.label]
    if config.announce_disks and labels and EXPECT not in {*credentials, *config.fw_cfg_credentials}:
        credentials[EXPECT] = " ".join(labels)
    if config.shared_folders:
        credentials[FSTAB] = "\n".join([*fstab_lines(config), credentials.get(FSTAB, "")])
    return credentials


def _smbios(name: str, value: str) -> str:
    """A system credential for systemd; SMBIOS strings are printable ASCII, all else is sent in base64."""
    if value.isascii() and value.isprintable():
        return f"type=11,value=io.systemd.credential:{escaped(f'{name}={value}')}"
    encoded = base64.b64encode(value.encode(errors="surrogateescape")).decode()
    return f"type=11,value=io.systemd.credential.binary:{escaped(name)}={encoded}"


def _fw_cfg(name: str, value: str) -> str:
    """The same where there is no SMBIOS: any text but a NUL, and systemd reads it as it is."""
    return f"name=opt/io.systemd.credentials/{name},string={escaped(value)}"
