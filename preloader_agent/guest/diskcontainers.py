"""The containers that disks bring, as far as the daemon has to know of them before it is ready: that there are some.

What makes them services reads TOML and asks systemd; it is imported when it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from preloader_agent.guest.disks import Disk
from preloader_agent.guest.loop import Loop
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.report import OFF, WAITING, ContainerReport

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from preloader_agent.guest.services import DiskServices


class DiskContainers:
    """The containers of disks, and their services if they have some."""

    def __init__(self, paths: Paths, loop: Loop) -> None:
        self._paths = paths
        self._loop = loop
        self._services: DiskServices | None = None

    def have_services(self, label: str) -> bool:
        """Whether services stand on a disk, or are about to."""
        return self._services is not None and self._services.holds(label)

    def reports(self, disks: Mapping[str, Disk], *, is_allowed: bool) -> tuple[ContainerReport, ...]:
        """What became of each container of some disks; `is_allowed` is the setting."""
        state = WAITING if is_allowed else OFF
        known = self._services.states() if self._services else {}
        return tuple(
            known.get((label, container.name)) or ContainerReport(container.name, label, state)
            for label, disk in sorted(disks.items())
            for container in disk.contents.containers
        )

    def start_over(self) -> None:
        """Look at everything again."""
        if self._services is not None:
            self._services.start_over()

    def seconds_left(self) -> float:
        """How long nothing is to be done here."""
        return self._services.seconds_left() if self._services else float("inf")

    def act(self, disks: Mapping[str, Disk], *, is_allowed: bool) -> bool:
        """Bring the services to what these disks ask for, by label, if it is allowed; whether there is news."""
        wanted = {label: disk for label, disk in disks.items() if is_allowed and disk.contents.containers}
        if self._services is None:
            # What an earlier agent has left is to be seen to, too.
            if not wanted and not os.path.lexists(self._paths.containers):
                return False
            from preloader_agent.guest.services import DiskServices

            self._services = DiskServices(self._paths, self._loop)
        return self._services.act(wanted)
