"""Where the files of a running machine are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VmFiles:
    """Where a machine's sockets, overlay and logs are: in one throw-away folder, but for a chosen console log."""

    folder: Path
    console_log: Path | None = None

    @property
    def qmp(self) -> Path:
        """The socket of our monitor."""
        return self.folder / "qmp"

    @property
    def second_qmp(self) -> Path:
        """The socket of a monitor for other programs: each serves one client, and we stay connected to ours."""
        return self.folder / "qmp2"

    @property
    def agent(self) -> Path:
        """The socket at the other end of the guest agent's virtio-serial port."""
        return self.folder / "agent"

    @property
    def control(self) -> Path:
        """The socket at the other end of the control channel, the virtio-serial port of docker-preloader."""
        return self.folder / "control"

    @property
    def overlay(self) -> Path:
        """What the guest writes to its root disk."""
        return self.folder / "root.qcow2"

    @property
    def output(self) -> Path:
        """What QEMU itself says."""
        return self.folder / "qemu.log"

    @property
    def console(self) -> Path:
        """What the guest says on its serial console."""
        return self.console_log or self.folder / "console.log"
