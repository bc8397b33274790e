"""When docker is restarted for disks that were plugged or are to be released, by the policy that the settings ask for.

`restart`: at once. `idle`: as soon as that disturbs nobody. `defer`: never, they wait for a start that somebody else
asks for. While something waits there is always a time at which it is looked at again: docker may be starting just now,
be busy, or have running containers, and the bus may be away for a moment. After a restart, whether it failed or did not
lead to all being merged, nothing is tried again until the next disk: what one pass could not do, another cannot.
"""

from __future__ import annotations

import time

from preloader_agent.guest import log
from preloader_agent.guest.docker import is_running, query_info
from preloader_agent.guest.loop import Loop
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.settings import DEFER, RESTART
from preloader_agent.guest.sync import last_request

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from preloader_agent.guest.servicemanager import ServiceManager

DOCKER, MERGE = "docker.service", "docker-preloader-merge.service"
QUIET_SECONDS = 0.3  # disks plugged within this time of each other cost docker one restart
SILENT_SECONDS = 30.0  # after this a docker that does not answer is restarted, if it was to be whatever runs
LOOK_SECONDS = 10.0  # between two looks at whether docker can be restarted
START_SECONDS = 1.0  # the same while it is starting
JOB_SECONDS = 120.0  # after this a restart is no longer waited for


class DockerRestart:
    """The restart that disks wait for. `failure` says why the last one did not do; "" when it did."""

    def __init__(self, paths: Paths, loop: Loop, policy: str) -> None:
        self.policy = policy
        self.failure = ""
        self._paths = paths
        self._loop = loop
        self._manager: ServiceManager | None = None
        self._due: float | None = None
        self._job: bytes | None = None
        self._unit = ""
        self._waited_for: int | None = None
        self._deadline = 0.0
        self._is_ordered = False
        self._is_forced = False
        self._is_tried = False
        self._silent_since: float | None = None
        self._reason = ""

    def expect_more(self) -> None:
        """A disk was plugged: restart docker soon, others may follow."""
        self.failure, self._is_tried = "", False
        self._wait(QUIET_SECONDS)

    def keep_looking(self) -> None:
        """Something waits: look again, unless that was so when docker was restarted last."""
        if self._due is None and self._job is None and not self._is_tried and not self.failure:
            self._wait(LOOK_SECONDS)

    def forget(self) -> None:
        """Nothing waits any more."""
        self.withdraw()
        self._due, self._is_tried = None, False

    def withdraw(self) -> None:
        """No release waits any more: what else does, does so as the policy says."""
        self._is_ordered = self._is_forced = False
        if self.policy == DEFER:
            self._due = None

    def start_over(self, policy: str) -> None:
        """The settings were read again; what waits is looked at as if it had just come to do so."""
        self.policy, self.failure = policy, ""
        self.forget()

    def order(self, *, is_forced: bool) -> None:
        """A disk is to be released: whatever the policy, do it now; forced, whatever runs."""
        self.failure, self._is_tried = "", False
        self._is_ordered = True
        self._is_forced |= is_forced
        self._due = time.monotonic()

    def objection(self) -> str:
        """Why docker should not be restarted now, and that will not be otherwise by itself; "" if nothing is known."""
        if not is_running(self._paths) or self.policy == RESTART:
            return ""
        if self.policy == DEFER:
            return "docker would have to be restarted, and the setting hotplug=defer says no: stop docker first"
        try:
            info = query_info(self._paths.docker_socket)
        except OSError:  # it is starting, or stopping
            return ""
        if info.containers_running and not info.live_restore:
            return (
                f"docker would have to be restarted, which stops containers, and {info.containers_running} run: "
                "stop them, or set live-restore"
            )
        return ""

    @property
    def is_under_way(self) -> bool:
        """Whether docker is being restarted: what is merged already can be used only when that has ended."""
        return self._job is not None

    def seconds_left(self) -> float:
        """How long nothing is to be done here."""
        times = [self._due] if self._due is not None else []
        times += [self._deadline] if self._job is not None else []
        return max(min(times, default=float("inf")) - time.monotonic(), 0.0)

    def act(self) -> bool:
        """Do what is due; whether a restart has ended."""
        has_ended = self._finish()
        if self._due is not None and time.monotonic() >= self._due:
            reason, seconds = self._reason_to_wait()
            self._due = time.monotonic() + seconds
            if reason and reason != self._reason:
                log.info("not restarting docker: %s; looking again every %g s", reason, seconds)
            self._reason = reason
            if not reason:
                has_ended |= self._start()
        return has_ended

    def _wait(self, seconds: float) -> None:
        if self.policy != DEFER:
            self._due = time.monotonic() + seconds

    def _reason_to_wait(self) -> tuple[str, float]:
        """Why nothing can be done now, and how many seconds later to look again."""
        if self._job is not None:
            return "it is being restarted", LOOK_SECONDS
        if not is_running(self._paths):
            return ("", LOOK_SECONDS) if self._is_ordered else ("it does not run", LOOK_SECONDS)
        try:
            info = query_info(self._paths.docker_socket)
        except OSError as err:
            return self._reason_of_silence(err)
        self._silent_since = None
        is_disturbed = info.containers_running and not info.live_restore
        if is_disturbed and not self._is_forced and self.policy != RESTART:
            return f"{info.containers_running} containers run", LOOK_SECONDS
        return "", LOOK_SECONDS

    def _reason_of_silence(self, err: OSError) -> tuple[str, float]:
        """It is starting, or serves another socket than its unit says, or hangs."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > SILENT_SECONDS and (self._is_forced or self.policy == RESTART):
            return "", LOOK_SECONDS
        is_starting = now - self._silent_since < LOOK_SECONDS
        return f"it does not answer: {err}", START_SECONDS if is_starting else LOOK_SECONDS

    def _start(self) -> bool:
        """Have docker restarted, or the merge unit started where it does not run; whether that has failed already."""
        try:
            if self._manager is None:
                from preloader_agent.guest.servicemanager import ServiceManager

                self._manager = ServiceManager()
                self._loop.watch(self._manager.fileno, lambda: None)  # `act` follows, and looks at what came
            self._unit = DOCKER if is_running(self._paths) else MERGE
            if self._unit == DOCKER:
                log.info("restarting docker for the disks that were plugged or released")
                self._job = self._manager.restart(DOCKER)
            else:
                self._job = self._manager.start(MERGE)
        except (OSError, ImportError) as err:
            problem = f"docker cannot be restarted: {err}; `systemctl restart docker` makes the change"
            log.warning("%s", problem)
            self._drop_manager()
            self.failure = problem if self._is_ordered else ""  # for plugged disks it is tried again
            return self._is_ordered
        self._waited_for = last_request(self._paths)
        self._deadline = time.monotonic() + JOB_SECONDS
        self._due = None  # only for what comes from now on
        self._is_ordered = self._is_forced = False
        return False

    def _finish(self) -> bool:
        if self._manager is None:
            return False
        try:
            jobs = self._manager.finished_jobs()
        except OSError as err:
            log.warning("not waiting for docker's restart: %s", err)
            if self._job is not None:
                self._due = time.monotonic() + LOOK_SECONDS
            self._drop_manager()
            return True
        results = [result for job, result in jobs if job == self._job]
        if self._job is not None and time.monotonic() > self._deadline:
            results.append(f"not ended after {JOB_SECONDS:.0f} s")
        if not results or self._job is None:
            return False
        self._note_result(results[0])
        return True

    def _note_result(self, result: str) -> None:
        self._drop_manager()
        self.failure = ""
        self._is_tried = self._due is None
        if self._due is not None:  # what has come meanwhile was put off until now
            self._due = min(self._due, time.monotonic() + QUIET_SECONDS)
        if result != "done":
            self.failure = f"{self._unit}: {result}; not trying again: see `systemctl status {self._unit}`"
        elif self._waited_for is not None and last_request(self._paths) == self._waited_for:
            self.failure = f"{self._unit} was started, but nothing was merged: see `journalctl --unit {MERGE}`"
        if self.failure:
            self._due = None
            log.error("%s", self.failure)

    def _drop_manager(self) -> None:
        if self._manager is not None:
            self._loop.forget(self._manager.fileno)
            self._manager.close()
        self._manager = self._job = None
