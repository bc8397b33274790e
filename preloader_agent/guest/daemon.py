"""The agent's life: see the disks, merge them, be ready, then follow what is plugged and unplugged.

One loop, no threads: pystemd holds the interpreter's lock in every call. Until READY=1 docker.service waits for us, so
the store may be changed; from then on only the merge unit changes it, between a stop and a start of docker, and the
daemon mounts, marks what is pending, and asks systemd for a restart of docker when that disturbs nobody.
"""

from __future__ import annotations

import os
import select
import signal
import time

from sdnotify import SystemdNotifier

from preloader_agent.errors import InvalidValue, MountError, PreloaderError, StoreError
from preloader_agent.guest import log
from preloader_agent.guest.devices import Device, Devices
from preloader_agent.guest.disks import attach_disk
from preloader_agent.guest.expectation import Expectation, read_expectation
from preloader_agent.guest.mounts import list_mounts, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.report import DeviceReport, DevicesReport, read_status, write_devices
from preloader_agent.guest.restart import DockerRestart
from preloader_agent.guest.sync import exclusive, mark_pending, merge
from preloader_agent.guest.wake import MERGED, open_wake_socket

EXPECTED_SECONDS = 30.0  # how long docker's start waits for disks that were announced
SETTLE_SECONDS = 10.0  # and for udev to finish with what is there, when nothing was announced
TICK_SECONDS = 15.0  # the watchdog is fed at least this often; the unit allows 60 s


class Daemon:
    """The agent. `run` returns when systemd asks for the end."""

    def __init__(self, paths: Paths, unusable: StoreError | None, started: float) -> None:
        """`unusable` says why docker's store must be left alone; `started` is when the process began (monotonic)."""
        self._paths = paths
        self._unusable = unusable
        self._started = started
        self._notifier = SystemdNotifier()
        self._devices = Devices()
        self._seen: dict[str, DeviceReport] = {}
        self._missing: list[str] = []
        self._problem = ""
        self._ready_seconds: float | None = None
        self._expectation = Expectation()
        self._poll = select.poll()
        self._restart = DockerRestart(paths, self._poll)
        self._monitor: int | None = None
        self._is_stopping = False

    def run(self) -> None:
        """Become ready, then serve, until systemd asks for the end."""
        self._signals = _catch_signals()
        with open_wake_socket(self._paths.wake_socket) as self._wake:
            self._poll.register(self._signals, select.POLLIN)
            self._poll.register(self._wake.fileno(), select.POLLIN)
            self._watch_monitor()
            self._unmount_dead()
            self._expectation = _read_expectation()
            self._wait_for_disks()
            if not self._is_stopping:
                self._become_ready()
            while not self._is_stopping:
                self._notifier.notify("WATCHDOG=1")
                self._take_events(min(self._restart.seconds_left(), TICK_SECONDS))
                if self._restart.act():
                    self._report()
        # The mounts stay, because dockerd goes on using them.
        self._notifier.notify("STOPPING=1")

    def _take_events(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for anything, and act on it."""
        readable = {descriptor for descriptor, _ in self._poll.poll(timeout * 1000)}
        if self._signals in readable:
            self._on_signals(os.read(self._signals, 64))
        if self._wake.fileno() in readable:
            if self._wake.recv(64) == MERGED:
                self._problem = ""
            self._report()
        if self._monitor in readable:
            events = self._devices.events()
            self._watch_monitor()
            self._on_devices(events)

    def _watch_monitor(self) -> None:
        """After an overflow the monitor is another one, with another descriptor."""
        if self._monitor != self._devices.fileno():
            if self._monitor is not None:
                self._poll.unregister(self._monitor)
            self._monitor = self._devices.fileno()
            self._poll.register(self._monitor, select.POLLIN)

    def _become_ready(self) -> None:
        self._merge()
        self._ready_seconds = round(time.monotonic() - self._started, 3)
        self._report("READY=1")

    def _unmount_dead(self) -> None:
        """After a restart of the agent: what was unplugged meanwhile is still mounted."""
        with exclusive(self._paths):
            for mount in list_mounts(self._paths.mounts):
                if os.path.exists(mount.source):
                    continue
                log.warning("unmounting %s: its device %s is gone", mount.target, mount.source)
                unmount(mount.target)

    def _wait_for_disks(self) -> None:
        """Attach disks until all that are expected are there, at most for the time that docker can wait."""
        is_automatic = self._expectation.is_automatic
        deadline = time.monotonic() + (SETTLE_SECONDS if is_automatic else EXPECTED_SECONDS)
        self._attach_all()
        while not self._is_stopping:
            if is_automatic and self._devices.is_settled():
                self._attach_all()  # udev's database knows a disk before its event is here
                return
            self._missing = self._expectation.missing(self._labels())
            if not is_automatic and not self._missing:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                log.warning("not waiting any longer for %s", ", ".join(self._missing) or "udev")
                return
            # udev finishes a device without an event for us, too, so look again soon.
            self._take_events(min(left, 0.1 if is_automatic else left))

    def _labels(self) -> frozenset[str]:
        """What is there; a disk that was refused is not waited for."""
        return frozenset(report.label for report in self._seen.values())

    def _attach_all(self) -> None:
        for device in self._devices.enumerate():
            self._attach(device)

    def _merge(self) -> None:
        try:
            if self._unusable is not None:
                raise self._unusable
            merge(self._paths)
        except (PreloaderError, OSError) as err:
            self._problem = str(err)
            log.error("not merging: %s", err)

    def _on_devices(self, events: list[Device]) -> None:
        for device in events:
            if device.action == "remove":
                self._detach(device)
            else:
                self._attach(device)
        if self._ready_seconds is not None:
            self._report()

    def _attach(self, device: Device) -> None:
        """Mount and check a disk; the error boundary of a device."""
        known = self._seen.get(device.node)
        if known is not None and known.label == device.label and known.state == "mounted":
            return
        try:
            with exclusive(self._paths):
                attach_disk(self._paths, device.node, device.label)
                self._check_visibility(device)
                if self._ready_seconds is not None and self._unusable is None:
                    mark_pending(self._paths)
                    self._restart.expect_more()
        except (PreloaderError, OSError) as err:
            log.error("not mounting %s: %s", device.node, err)
            self._seen[device.node] = DeviceReport(device.label, device.node, "refused", str(err))
        else:
            self._seen[device.node] = DeviceReport(device.label, device.node, "mounted")

    def _check_visibility(self, device: Device) -> None:
        """A sandboxing directive that makes a mount namespace would hide our mounts from dockerd, silently."""
        target = self._paths.mountpoint(device.label)
        if target not in {mount.target for mount in list_mounts(self._paths.mounts, process="1")}:
            unmount(target)
            reason = "dockerd cannot see it, because a drop-in of the unit makes a mount namespace; remove that"
            raise MountError("mount", f"{device.node} on {target}", 0, reason)

    def _detach(self, device: Device) -> None:
        """A device is gone, and nobody asked: let go of it; its images leave the store at docker's next start."""
        known = self._seen.pop(device.node, None)
        if known is None or known.state != "mounted":
            return
        try:
            with exclusive(self._paths):
                unmount(self._paths.mountpoint(known.label))
                mark_pending(self._paths)
        except (PreloaderError, OSError) as err:
            log.error("not unmounting %s: %s", known.label, err)
            return
        log.warning("unmounted %s: %s was unplugged; its images go at docker's next start", known.label, known.device)
        for other in [report for report in self._seen.values() if report.label == known.label]:
            del self._seen[other.device]
            self._attach(Device(other.device, other.label, "add"))

    def _on_signals(self, received: bytes) -> None:
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._is_stopping = True
        else:  # SIGHUP: look at everything again
            self._on_devices(self._devices.enumerate())

    def _report(self, message: str = "") -> None:
        """Tell systemd, and whoever asks for the status; and see to what waits for docker."""
        missing = self._expectation.missing(self._labels())
        if len(missing) < len(self._missing):  # late, but here; one that went later was not missing
            self._missing = missing
        seen = list(self._seen.values())
        is_usable = self._unusable is None
        write_devices(self._paths, DevicesReport(seen, self._missing, self._ready_seconds, self._problem, is_usable))
        status = read_status(self._paths)
        if status is not None and status.pending:
            self._restart.keep_looking()
        else:
            self._restart.forget()
        headline = status.headline() if status is not None else "no pass yet"
        self._notifier.notify(f"{message}\nSTATUS={headline}".lstrip())


def _read_expectation() -> Expectation:
    try:
        return read_expectation()
    except InvalidValue as err:
        log.error("waiting for what is there: %s", err)
        return Expectation()


def _catch_signals() -> int:
    """A descriptor that becomes readable, with the numbers of the signals that came."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader
