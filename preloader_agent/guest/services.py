"""The containers that disks bring, as services: what is there, what is wanted, and what leads from one to the other.

What is there is what files in the run directory say: systemd's generator makes the services of them. So a change is
always the same steps, and goes on where a kill has ended it: stop the services that leave, change the files, have
systemd read its units again, start what has come. The loop goes on meanwhile. A disk's image is only taken out of
Docker's store when no service is left on it (`holds`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

from preloader_agent.containers.definition import MAX_STOP_TIMEOUT, NEVER, parse_container, unit_name
from preloader_agent.errors import InvalidFile, PreloaderError
from preloader_agent.guest import log
from preloader_agent.guest.definitions import OWN, SUFFIX, check_unit, read_container
from preloader_agent.guest.disks import Disk
from preloader_agent.guest.loop import Loop
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.report import INSTALLED, REFUSED, WAITING, ContainerReport
from preloader_agent.guest.servicefiles import (
    Key,
    read_installed,
    read_unfinished,
    remove_container,
    write_container,
    write_unfinished,
)
from preloader_agent.guest.serviceplan import ServicePlan, plan_services

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from preloader_agent.guest.servicemanager import ServiceManager

# systemd ends a stop by itself, and a reload has its own limits; these are for when nobody says so.
STOP_SECONDS = MAX_STOP_TIMEOUT + 300.0
RELOAD_SECONDS = 90.0
RETRY_SECONDS = 10.0  # until a bus that failed is asked again


class DiskServices:
    """The services of disks. `act` brings them to what is wanted, step by step."""

    def __init__(self, paths: Paths, loop: Loop) -> None:
        self._paths = paths
        self._loop = loop
        self._manager: ServiceManager | None = None
        self._installed = read_installed(paths)
        self._faults: dict[Key, tuple[Disk, str]] = {}  # definitions that cannot be used
        self._failures: dict[Key, str] = {}  # services that systemd does not start
        self._refused: Mapping[Key, str] = {}
        self._settled: Mapping[str, Disk] | None = None  # what nothing is to be done for
        self._due = 0.0  # when to look for something to do
        self._plan: ServicePlan | None = None  # the one that is being carried out, for these disks
        self._disks: Mapping[str, Disk] = {}
        self._jobs: set[bytes] = set()
        self._is_reloading = False
        self._deadline = 0.0

    def holds(self, label: str) -> bool:
        """Whether services stand on a disk, or are about to."""
        changing = (*self._plan.leaving, *self._plan.coming) if self._plan else ()
        return any(label == key.label for key in (*self._installed, *changing))

    def states(self) -> dict[tuple[str, str], ContainerReport]:
        """What became of the containers that this has had to do with, by label and name."""
        coming = self._plan.coming if self._plan else ()
        states = {
            **{key: (INSTALLED, self._failures.get(key, "")) for key in self._installed},
            **{key: (REFUSED, reason) for key, reason in self._refused.items()},
            **dict.fromkeys(coming, (WAITING, "")),
        }
        return {key: ContainerReport(key.name, key.label, *state) for key, state in states.items()}

    def start_over(self) -> None:
        """Look at everything again, also at what could not be used."""
        self._settled = None
        self._faults.clear()

    def seconds_left(self) -> float:
        """How long nothing is to be done here."""
        if self._plan is None and self._settled is not None:
            return float("inf")
        return max((self._due if self._plan is None else self._deadline) - time.monotonic(), 0.0)

    def act(self, wanted: Mapping[str, Disk]) -> bool:
        """Do what can be done for the containers of these disks, by label; whether there is something to tell."""
        if self._plan is None and (self._settled == wanted or time.monotonic() < self._due):
            return False
        try:
            return self._begin(wanted) if self._plan is None else self._go_on()
        except (OSError, ImportError) as err:
            log.warning("not changing the services of disks: %s; trying again later", err)
            self._end(retry_after=RETRY_SECONDS)
            return True

    def _begin(self, wanted: Mapping[str, Disk]) -> bool:
        """Make a plan, and take its first step."""
        containers = {label: disk.contents.containers for label, disk in wanted.items()}
        objections = dict(self._objections(wanted))
        plan = plan_services(containers, self._installed, read_unfinished(self._paths), objections)
        has_news = plan.refused != self._refused
        for key in plan.refused.keys() - self._refused.keys():
            log.error("not running the container %s of %s: %s", key.name, key.label, plan.refused[key])
        self._refused = plan.refused
        if not plan.is_needed:
            self._settled = wanted
            return has_news
        write_unfinished(self._paths, plan.touched)
        self._plan, self._disks = plan, wanted
        self._stop(plan)
        self._go_on()
        return True

    def _go_on(self) -> bool:
        assert self._plan is not None
        ended = {job for job, _ in self._manager.finished_jobs()} if self._manager else set()
        self._jobs -= ended
        is_late = time.monotonic() >= self._deadline
        if not self._is_reloading:
            if not self._jobs or is_late:
                self._forget_failures(self._plan)
                self._change_files(self._plan)
                self._reload()
            return False
        if not (self._manager and self._manager.has_reloaded) and not is_late:
            return False
        self._start(self._plan)
        write_unfinished(self._paths, ())
        self._end()
        return True

    def _end(self, retry_after: float = 0.0) -> None:
        """Nothing is being changed any more; there may be more to do."""
        self._drop_manager()
        self._installed = read_installed(self._paths)
        self._plan, self._settled = None, None
        self._jobs, self._is_reloading = set(), False
        self._due = time.monotonic() + retry_after

    def _objections(self, wanted: Mapping[str, Disk]) -> Iterator[tuple[Key, str]]:
        """Why containers cannot be services, but for what they are to each other."""
        for label, disk in wanted.items():
            for container in disk.contents.containers:
                key = Key(label, container.name)
                known, fault = self._faults.get(key, (None, ""))
                if known is disk:
                    yield key, fault
                elif _is_own(container.name):
                    yield key, f"{_own_file(container.name)} describes a container of that name"
                else:
                    try:
                        check_unit(self._paths.container(*key), "")
                    except InvalidFile as err:
                        yield key, err.problem

    def _stop(self, plan: ServicePlan) -> None:
        self._deadline = time.monotonic() + STOP_SECONDS
        leaving = [key for key in plan.leaving if not _is_own(key.name)]  # that service is the administrator's by now
        if leaving:
            manager = self._open_manager()
            log.info("stopping %s", ", ".join(unit_name(key.name) for key in leaving))
            self._jobs = {job for key in leaving if (job := manager.stop(unit_name(key.name))) is not None}

    def _forget_failures(self, plan: ServicePlan) -> None:
        """A service may have ended badly, but nobody can look at it any more."""
        for key in plan.leaving:
            if not _is_own(key.name):
                self._open_manager().forget_failure(unit_name(key.name))

    def _change_files(self, plan: ServicePlan) -> None:
        for key in plan.leaving:
            remove_container(self._paths, key)
            self._failures.pop(key, None)
        for key in plan.coming:
            disk = self._disks[key.label]
            try:
                write_container(self._paths, key, _read_definition(disk, key.name))
                self._faults.pop(key, None)
            except PreloaderError as err:
                self._faults[key] = disk, str(err)  # said with the next plan

    def _reload(self) -> None:
        """By another connection: what it hears of began after the files were changed."""
        self._drop_manager()
        self._open_manager().reload()
        self._is_reloading = True
        self._deadline = time.monotonic() + RELOAD_SECONDS

    def _start(self, plan: ServicePlan) -> None:
        for key in (*plan.coming, *plan.resumed):
            if key in self._faults:
                continue
            self._failures.pop(key, None)
            try:
                container = read_container(self._paths.container(*key))
                if container.is_started:
                    self._open_manager().start(container.unit)
                    log.info("starting %s of %s", container.unit, key.label)
            except (OSError, ImportError, InvalidFile) as err:
                self._failures[key] = f"cannot be started: {err}"
                log.warning("not starting %s of %s: %s", unit_name(key.name), key.label, err)
                self._drop_manager()  # it may be of no use any more

    def _open_manager(self) -> ServiceManager:
        if self._manager is None:
            from preloader_agent.guest.servicemanager import ServiceManager  # where pystemd is missing, it is told

            self._manager = ServiceManager()
            self._loop.watch(self._manager.fileno, lambda: None)  # `act` follows, and looks at what came
        return self._manager

    def _drop_manager(self) -> None:
        if self._manager is not None:
            self._loop.forget(self._manager.fileno)
            self._manager.close()
        self._manager = None


def _read_definition(disk: Disk, name: str) -> bytes:
    """What the disk says of a container, if it can be used. Raises PreloaderError."""
    record = next(container for container in disk.contents.containers if container.name == name)
    content = disk.read_definition(record)
    parse_container(content, f"disk {disk.label} ({disk.device}): {name}.toml", name, NEVER)
    return content


def _own_file(name: str) -> str:
    return f"{OWN}/{name}{SUFFIX}"


def _is_own(name: str) -> bool:
    return os.path.lexists(_own_file(name))
