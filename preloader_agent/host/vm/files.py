"""Where the files of a running machine are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from preloader_agent.host.vm.config import VmConfig


@dataclass(frozen=True)
class VmFiles:
    """Where a machine's sockets, disks and logs are: in one throw-away folder, but for what whoever runs it chose."""

    folder: Path
    console_log: Path | None = None
    chosen_qmp: Path | None = None
    chosen_control: Path | None = None

    @classmethod
    def of(cls, config: VmConfig, folder: Path) -> Self:
        """The files of a machine that has a folder."""
        chosen = (path.absolute() if path else None for path in (config.console_log, config.qmp, config.control))
        return cls(folder, *chosen)

    @property
    def qmp(self) -> Path:
        """The socket of our monitor."""
        return self.folder / "qmp"

    @property
    def second_qmp(self) -> Path:
        """The socket of a monitor for other programs: each serves one client, and we stay connected to ours."""
        return self.chosen_qmp or self.folder / "qmp2"

    @property
    def agent(self) -> Path:
        """The socket at the other end of the guest agent's virtio-serial port."""
        return self.folder / "agent"

    @property
    def control(self) -> Path:
        """The socket at the other end of the control channel, the virtio-serial port of docker-preloader."""
        return self.chosen_control or self.folder / "control"

    @property
    def overlay(self) -> Path:
        """What the guest writes to its root disk."""
        return self.folder / "root.qcow2"

    def empty_disk(self, number: int) -> Path:
        """What the guest writes to an empty disk."""
        return self.folder / f"empty{number}.qcow2"

    @property
    def variables(self) -> Path:
        """What UEFI writes to its flash memory."""
        return self.folder / "variables"

    def share(self, tag: str) -> Path:
        """The socket of a shared folder's virtiofsd."""
        return self.folder / tag

    @property
    def sockets(self) -> tuple[Path, ...]:
        """Those that QEMU listens on."""
        return (self.qmp, self.second_qmp, self.agent, self.control)

    @property
    def output(self) -> Path:
        """What QEMU itself says."""
        return self.folder / "qemu.log"

    @property
    def console(self) -> Path:
        """What the guest says on its serial console."""
        return self.console_log or self.folder / "console.log"
