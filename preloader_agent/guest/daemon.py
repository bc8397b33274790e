"""The agent's life: see the disks, merge them, be ready, then follow what is plugged, unplugged and asked for.

Until READY=1 docker.service waits for us, so the store may be changed; from then on only the merge unit changes it,
between a stop and a start of docker, and the daemon mounts, prepares, and asks systemd for a restart of docker when the
settings allow it.
"""

from __future__ import annotations

import gc
import os
import signal
import time

from sdnotify import SystemdNotifier

from preloader_agent import __version__
from preloader_agent.errors import DisksMissing, PreloaderError, StoreError, StoreUnused
from preloader_agent.guest import log
from preloader_agent.guest.attachment import Attachments
from preloader_agent.guest.control import MAX_ANSWER, PORT_SUBSYSTEM, Control, Request
from preloader_agent.guest.devices import Devices
from preloader_agent.guest.diskcontainers import DiskContainers
from preloader_agent.guest.disks import Disk
from preloader_agent.guest.loop import Loop
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.releases import Releases
from preloader_agent.guest.report import DevicesReport, Status, forget_merged, read_status, write_devices
from preloader_agent.guest.restart import DockerRestart
from preloader_agent.guest.settings import read_settings
from preloader_agent.guest.sync import merge, prepare
from preloader_agent.guest.wake import MERGED, open_wake_socket

SETTLE_SECONDS = 10.0  # how long docker's start waits for udev to finish with what is there, when nothing was announced
GRACE_SECONDS = 30.0  # from the end of the wait for disks to READY=1: a pass over many disks
TICK_SECONDS = 20.0  # the watchdog is fed at least this often; the unit allows 60 s


class Daemon:
    """The agent. `run` returns when systemd asks for the end, and raises DisksMissing when required ones are."""

    def __init__(self, paths: Paths, unusable: StoreError | None, started: float) -> None:
        """`unusable` says why docker's store must be left alone; `started` is when the process began (monotonic)."""
        self._paths = paths
        self._unusable = unusable
        self._started = started
        self._settings, self._complaints = read_settings()
        self._notifier = SystemdNotifier()
        self._loop = Loop()
        self._devices = Devices(self._settings.labels, PORT_SUBSYSTEM)
        self._attachments = Attachments(paths)
        self._restart = DockerRestart(paths, self._loop, self._settings.hotplug)
        self._containers = DiskContainers(paths, self._loop)
        self._releases = Releases(paths, self._attachments, self._restart, self._containers.have_services)
        self._merged: frozenset[str] = frozenset()
        self._missing: list[str] = []
        self._problem = ""
        self._ready_seconds: float | None = None
        self._monitor = -1
        self._is_stopping = False

    def run(self) -> None:
        """Become ready, then serve, until systemd asks for the end."""
        self._signals = _catch_signals()
        self._loop.watch(self._signals, self._on_signals)
        self._watch_monitor()
        self._complain()
        self._attachments.unmount_dead()
        with open_wake_socket(self._paths.wake_socket) as self._wake:
            self._loop.watch(self._wake.fileno(), self._on_wake)
            self._wait_for_disks()
            if not self._is_stopping:
                self._become_ready()
            while not self._is_stopping:
                self._notifier.notify("WATCHDOG=1")
                waiting = (self._restart, self._releases, self._containers)
                self._loop.wait(min(TICK_SECONDS, *(each.seconds_left() for each in waiting)))
                has_ended = self._restart.act()
                has_ended |= self._see_to_containers()
                if self._releases.settle() or has_ended:
                    self._report()
        # The mounts stay, because dockerd goes on using them.
        self._notifier.notify("STOPPING=1")

    def _complain(self) -> None:
        for complaint in self._complaints:
            log.error("%s", complaint)

    def _become_ready(self) -> None:
        self._attachments.forget_old_releases()
        self._merge()
        if self._missing and self._settings.required:
            self._report()
            raise DisksMissing(self._missing, self._settings.timeout)
        self._ready_seconds = round(time.monotonic() - self._started, 3)
        self._report("READY=1")
        gc.enable()
        self._control = Control(self._loop, self._paths.control_socket, self._on_request)
        self._control.open_port()
        if self._see_to_containers():
            self._report()

    def _see_to_containers(self) -> bool:
        """Those of disks that are in docker's store, and are not to leave it, are to be services; any news?"""
        staying = self._merged - self._releases.labels
        disks = {label: disk for label, disk in self._attachments.disks.items() if label in staying}
        return self._containers.act(disks, is_allowed=self._settings.containers_from_disks)

    def _wait_for_disks(self) -> None:
        """Attach disks until all that are expected are there, at most for the time that docker can wait."""
        expect, seconds = self._settings.expect, self._settings.timeout
        if expect.is_automatic:
            seconds = min(seconds, SETTLE_SECONDS)
        self._notifier.notify(f"EXTEND_TIMEOUT_USEC={(seconds + GRACE_SECONDS) * 1e6:.0f}")
        deadline = time.monotonic() + seconds
        is_settled, devices = self._devices.look()
        self._attachments.attach(devices)
        while not self._is_stopping:
            self._missing = expect.missing(self._attachments.labels)
            if is_settled if expect.is_automatic else not self._missing:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                log.warning("not waiting any longer for %s", ", ".join(self._missing) or "udev")
                return
            # udev finishes a device without an event for us, too, so look again soon.
            self._loop.wait(min(left, 0.1 if expect.is_automatic else left))
            if expect.is_automatic:
                is_settled, devices = self._devices.look()
                self._attachments.attach(devices)  # udev knows a disk before its event is here

    def _merge(self) -> None:
        try:
            if self._unusable is not None:
                raise self._unusable
            merge(self._paths, self._attachments.disks)
        except (PreloaderError, OSError) as err:
            self._note("merging", err)

    def _prepare(self, before: dict[str, Disk]) -> None:
        """Disks have come or gone while dockerd may run; `before` are those there were."""
        now = self._attachments.disks
        is_same = before.keys() == now.keys() and all(before[label] is now[label] for label in now)
        if is_same or self._unusable is not None or self._ready_seconds is None:
            return
        try:
            is_done = prepare(self._paths, now)
            new = [label for label, disk in now.items() if before.get(label) is not disk]
            if new and not is_done:
                forget_merged(self._paths, new)
                self._restart.expect_more()  # what went leaves at docker's next start, whoever asks for it
            self._problem = ""
        except (PreloaderError, OSError) as err:
            self._note("preparing", err)

    def _note(self, what: str, err: Exception) -> None:
        """A pass was not made. Where docker does not use the store, a restart would change nothing: nothing waits."""
        self._problem = str(err)
        if isinstance(err, StoreUnused):
            self._unusable = err
        log.error("not %s: %s", what, err)

    def _on_monitor(self) -> None:
        events = self._devices.events()
        if events is None:
            self._watch_monitor()
            self._look_again()
            return
        if not events:  # those of other disks
            return
        before = dict(self._attachments.disks)
        for event in events:
            if event.action == "remove":
                self._attachments.detach(event.node)
        last = {event.node: event for event in events}  # what came may be gone again
        self._attachments.attach([event for event in last.values() if event.action != "remove" and event.label])
        self._prepare(before)
        if self._ready_seconds is not None:
            self._control.open_port()
            self._report()

    def _look_again(self) -> None:
        """Everything that is there, and what of it is not there any more."""
        before = dict(self._attachments.disks)
        devices = self._devices.enumerate()
        for node in self._attachments.seen.keys() - {device.node for device in devices}:
            self._attachments.detach(node)
        self._attachments.attach(devices)
        self._prepare(before)
        self._report()

    def _watch_monitor(self) -> None:
        """After an overflow the monitor is another one, with another descriptor."""
        self._loop.forget(self._monitor)
        self._monitor = self._devices.fileno()
        self._loop.watch(self._monitor, self._on_monitor)

    def _on_wake(self) -> None:
        """Another process has made a pass, or was not allowed to."""
        if self._wake.recv(64) == MERGED:
            self._problem = ""
        self._attachments.note_released()
        self._releases.settle()
        self._report()

    def _on_signals(self) -> None:
        received = os.read(self._signals, 64)
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._is_stopping = True
        elif self._ready_seconds is not None:  # SIGHUP: read the settings and look at everything again
            self._settings, self._complaints = read_settings()
            self._complain()
            self._devices.labels = self._settings.labels
            self._restart.start_over(self._settings.hotplug)
            self._containers.start_over()
            self._attachments.take_back_released()
            self._look_again()

    def _on_request(self, request: Request) -> None:
        if request.what == "ping":
            request.answer({"ok": True, "version": __version__})
        elif request.what == "status":
            status = read_status(self._paths)
            restarting = {"restarting": True} if self._restart.is_under_way else {}
            request.answer({"ok": True, **_bounded(status), **restarting} if status is not None else {"ok": False})
        else:
            before = dict(self._attachments.disks)
            self._releases.begin(request)
            self._prepare(before)  # a disk that no layer came from is unmounted already
            self._report()

    def _report(self, message: str = "") -> None:
        """Tell systemd, and whoever asks for the status; and see to what waits for docker."""
        missing = self._settings.expect.missing(self._attachments.labels)
        if len(missing) < len(self._missing):  # late, but here; one that went later was not missing
            self._missing = missing
        report = DevicesReport(
            list(self._attachments.seen.values()),
            self._missing,
            self._ready_seconds,
            tuple(filter(None, (self._problem, *self._complaints))),
            self._unusable is None,
            self._settings.as_json(),
            self._containers.reports(self._attachments.disks, is_allowed=self._settings.containers_from_disks),
        )
        try:
            write_devices(self._paths, report)
        except OSError as err:  # /run is full; docker must not wait for us because of that, and disks come and go
            log.error("not writing %s: %s", self._paths.devices_report, err.strerror)
            self._notifier.notify(f"{message}\nSTATUS=the report cannot be written: {err.strerror}".lstrip())
            return
        status = read_status(self._paths)
        assert status is not None
        self._merged = status.merged
        if not self._releases.are_waiting:
            self._restart.withdraw()
            if not status.pending:
                self._restart.forget()
        if status.pending:
            self._restart.keep_looking()
        self._notifier.notify(f"{message}\nSTATUS={status.headline()}".lstrip())


def _bounded(status: Status) -> dict[str, object]:
    """What fits into an answer; the disks do in any case that is none of an attack."""
    document = status.as_json()
    if len(str(document)) < MAX_ANSWER // 2:
        return {"status": document}
    return {"status": {**document, "images": [], "containers": []}, "truncated": True}


def _catch_signals() -> int:
    """A descriptor that becomes readable, with the numbers of the signals that came."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader
