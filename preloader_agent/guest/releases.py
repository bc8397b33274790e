"""Requests to release a disk, from when they come until each is answered.

A release that nothing speaks against is noted; then docker is restarted, and the merge unit takes the disk's images out
of the store and unmounts it, by the same path as they came. The answer is given when no file system of the device is
left: then it is safe to pull.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from preloader_agent.errors import PreloaderError
from preloader_agent.guest.attachment import Attachments
from preloader_agent.guest.control import Request
from preloader_agent.guest.diskusers import containers_using, is_served_from
from preloader_agent.guest.mounts import is_in_use, mounted_device, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.released import add_released, drop_released, read_released
from preloader_agent.guest.report import MOUNTED, DeviceReport
from preloader_agent.guest.restart import DockerRestart
from preloader_agent.guest.sync import exclusive, request_pass

ANSWER_SECONDS = 150.0  # docker's stop and start, and the pass between them
SERVICES_SECONDS = 60.0  # before that, for the services of a disk to stop
IN_USE_SECONDS = 5.0  # what still uses an unmounted disk may be about to let go of it
_LOOK_SECONDS = 0.1


class Releases:
    """Those that are under way, by label. `has_services` says whether services stand on a disk that are to end first;
    who asks it is who has them ended, for each of `labels`.
    """

    def __init__(
        self, paths: Paths, attachments: Attachments, restart: DockerRestart, has_services: Callable[[str], bool]
    ) -> None:
        self._paths = paths
        self._attachments = attachments
        self._restart = restart
        self._has_services = has_services
        self._held: list[tuple[Request, float]] = []  # until services have ended, or at most to a time
        self._requests: dict[str, list[Request]] = {}
        self._deadlines: dict[str, float] = {}

    @property
    def are_waiting(self) -> bool:
        """Whether a request has not been answered yet."""
        return bool(self._requests or self._held)

    @property
    def labels(self) -> frozenset[str]:
        """The disks that are to leave."""
        return frozenset((*self._requests, *(request.label for request, _ in self._held)))

    def seconds_left(self) -> float:
        """How long nothing is to be done here."""
        return min([self._seconds_to_answer(), *(deadline - time.monotonic() for _, deadline in self._held)])

    def _seconds_to_answer(self) -> float:
        if not self._requests:
            return float("inf")
        if any(not self._is_mounted(label) for label in self._requests):
            return _LOOK_SECONDS
        return max(min(self._deadlines.values()) - time.monotonic(), 0.0)

    def begin(self, request: Request) -> None:
        """Note a release, and have docker restarted for it, or say what speaks against it. Raises OSError."""
        label = request.label
        report = self._attachments.find(label)
        if report is None:
            there = ", ".join(sorted(self._attachments.labels)) or "none"
            request.answer(_refusal(f"there is no disk {label}; the disks here are: {there}"))
        elif report.state == MOUNTED and self._has_services(label):
            self._held.append((request, time.monotonic() + SERVICES_SECONDS))
        else:
            self._decide(request, is_mounted=report.state == MOUNTED)

    def _decide(self, request: Request, *, is_mounted: bool) -> None:
        label = request.label
        # Whoever asks again waits with those who have asked before, unless it is to insist.
        if is_mounted and (request.is_forced or label not in self._requests):
            users = containers_using(self._paths.store, self._paths.mountpoint(label))
            if users and not request.is_forced:
                problem = f"containers use {label}: {', '.join(users)}; remove them, or force it"
                request.answer(_refusal(problem, users))
                return
            objection = self._start(label, is_forced=request.is_forced)
            if objection:
                request.answer(_refusal(objection))
                return
        self._requests.setdefault(label, []).append(request)
        self._deadlines[label] = time.monotonic() + ANSWER_SECONDS
        self._settle_requests()

    def settle(self) -> bool:
        """Answer what can be answered, and go on with what services have ended for; whether there was any."""
        held, self._held = self._held, []
        for request, deadline in held:
            if not self._has_services(request.label):
                self._try_begin(request)
            elif time.monotonic() < deadline:
                self._held.append((request, deadline))
            else:
                problem = f"the services of {request.label} have not stopped within {SERVICES_SECONDS:.0f} s"
                request.answer(_refusal(f"{problem}; stop them, and ask again"))
        return self._settle_requests() or self._held != held

    def _try_begin(self, request: Request) -> None:
        try:
            self.begin(request)
        except (PreloaderError, OSError) as err:
            request.answer(_refusal(str(err)))

    def _settle_requests(self) -> bool:
        if self._requests:
            self._attachments.note_released()
        outcomes = {label: self._try_outcome(label) for label in self._requests}
        for label, outcome in outcomes.items():
            if outcome is not None:
                del self._deadlines[label]
                for request in self._requests.pop(label):
                    request.answer(outcome)
        return any(outcomes.values())

    def _start(self, label: str, *, is_forced: bool) -> str:
        """Note the release and see to the pass that carries it out; or why not."""
        with exclusive(self._paths):
            if not is_served_from(self._paths.store, self._paths.mountpoint(label)):
                add_released(self._paths, label, is_forced=is_forced)
                unmount(self._paths.mountpoint(label))
                return ""
        objection = "" if is_forced else self._restart.objection()
        if not objection:
            with exclusive(self._paths):
                add_released(self._paths, label, is_forced=is_forced)
                request_pass(self._paths)
            self._restart.order(is_forced=is_forced)
        return objection

    def _try_outcome(self, label: str) -> dict[str, object] | None:
        try:
            return self._outcome(label)
        except (PreloaderError, OSError) as err:
            return _refusal(str(err))

    def _outcome(self, label: str) -> dict[str, object] | None:
        """The answer, once there is one."""
        report = self._attachments.find(label)
        if report is None:
            return {"ok": True, "label": label}  # it was pulled meanwhile
        if self._is_mounted(label) and report.state == MOUNTED:
            return self._outcome_of_mounted(label)
        return self._outcome_of_unmounted(label, report)

    def _outcome_of_mounted(self, label: str) -> dict[str, object] | None:
        users: list[str] = []
        if label not in read_released(self._paths):  # taken back by the pass, by a reload, or with another disk
            users = containers_using(self._paths.store, self._paths.mountpoint(label))
            problem = f"containers have come to use {label}: {', '.join(users)}; remove them, or force it"
            if not users:
                problem = f"the release of {label} was taken back meanwhile; ask again"
        elif self._restart.failure:
            problem = self._restart.failure
        elif time.monotonic() > self._deadlines[label]:
            problem = f"docker has not been restarted within {ANSWER_SECONDS:.0f} s"
        else:
            return None
        with exclusive(self._paths):
            drop_released(self._paths, label)
        return _refusal(problem, users)

    def _outcome_of_unmounted(self, label: str, report: DeviceReport) -> dict[str, object] | None:
        try:
            if not is_in_use(report.device):
                return {"ok": True, "label": label, "device": report.device}
        except OSError:  # it was pulled meanwhile
            return {"ok": True, "label": label}
        self._deadlines[label] = min(self._deadlines[label], time.monotonic() + IN_USE_SECONDS)
        if time.monotonic() < self._deadlines[label]:
            return None
        return _refusal(f"{label} is out of docker's store and unmounted, but something still uses {report.device}")

    def _is_mounted(self, label: str) -> bool:
        return mounted_device(self._paths.mountpoint(label)) is not None


def _refusal(error: str, containers: list[str] | None = None) -> dict[str, object]:
    return {"ok": False, "error": error, **({"containers": containers} if containers else {})}
