"""When docker is restarted for disks that were plugged: as soon as that disturbs nobody, but not after it failed.

While something waits there is always a time at which it is looked at again: docker may be starting just now, be busy,
or have running containers, and the bus may be away for a moment.
"""

from __future__ import annotations

import select
import time

from preloader_agent.guest import log
from preloader_agent.guest.docker import is_running, query_info
from preloader_agent.guest.paths import Paths

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from preloader_agent.guest.servicemanager import ServiceManager

QUIET_SECONDS = 0.3  # disks plugged within this time of each other cost docker one restart
LOOK_SECONDS = 10.0  # between two looks at whether docker can be restarted
JOB_SECONDS = 120.0  # after this a restart is no longer waited for


class DockerRestart:
    """The restart that plugged disks wait for; `poll` is told of the bus once there is one."""

    def __init__(self, paths: Paths, poll: select.poll) -> None:
        self._paths = paths
        self._poll = poll
        self._manager: ServiceManager | None = None
        self._due: float | None = None
        self._job: bytes | None = None
        self._deadline = 0.0
        self._has_failed = False
        self._reason = ""

    def expect_more(self) -> None:
        """A disk was plugged: restart docker soon, others may follow."""
        self._due = time.monotonic() + QUIET_SECONDS
        self._has_failed = False

    def keep_looking(self) -> None:
        """Something waits: look again, unless the last restart failed."""
        if self._due is None and not self._has_failed:
            self._due = time.monotonic() + LOOK_SECONDS

    def forget(self) -> None:
        """Nothing waits any more."""
        self._due = None

    def seconds_left(self) -> float:
        """How long nothing is to be done here."""
        times = [self._due] if self._due is not None else []
        times += [self._deadline] if self._job is not None else []
        return max(min(times, default=float("inf")) - time.monotonic(), 0.0)

    def act(self) -> bool:
        """Do what is due; whether a restart has ended."""
        has_ended = self._finish()
        if self._due is not None and time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK_SECONDS
            reason = self._reason_to_wait()
            if reason and reason != self._reason:
                log.info("not restarting docker: %s; looking again every %d s", reason, LOOK_SECONDS)
            self._reason = reason
            if not reason:
                self._start()
        return has_ended

    def _reason_to_wait(self) -> str:
        if self._job is not None:
            return "it is being restarted"
        if not is_running(self._paths):
            return "it does not run"
        try:
            info = query_info()
        except OSError as err:
            return f"it does not answer: {err}"
        if info.containers_running and not info.live_restore:
            return f"{info.containers_running} containers run"
        return ""

    def _start(self) -> None:
        try:
            if self._manager is None:
                from preloader_agent.guest.servicemanager import ServiceManager

                self._manager = ServiceManager()
                self._poll.register(self._manager.fileno, select.POLLIN)
            self._job = self._manager.restart("docker.service")
            self._deadline = time.monotonic() + JOB_SECONDS
            log.info("restarting docker for the disks that were plugged")
        except (OSError, ImportError) as err:
            log.warning("not restarting docker: %s; `systemctl restart docker` makes the new images usable", err)
            self._drop_manager()

    def _finish(self) -> bool:
        if self._manager is None:
            return False
        try:
            jobs = self._manager.finished_jobs()
        except OSError as err:
            log.warning("not waiting for docker's restart: %s", err)
            self._drop_manager()
            return True
        results = [result for job, result in jobs if job == self._job]
        if self._job is not None and time.monotonic() > self._deadline:
            results.append(f"not ended after {JOB_SECONDS:.0f} s")
        if not results or self._job is None:
            return False
        self._job = None
        self._has_failed = results[0] != "done"
        if self._has_failed:
            self._due = None
            log.error("restarted docker: %s; not trying again: see `systemctl status docker`", results[0])
        else:
            log.info("restarted docker: done")
        return True

    def _drop_manager(self) -> None:
        if self._manager is not None:
            self._poll.unregister(self._manager.fileno)
        self._manager = self._job = None
