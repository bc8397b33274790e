"""The disks that are plugged in, and what became of each: mounted, refused, or released.

Mounts outlive the agent, because dockerd goes on using them; what is known here is made anew at each start.
"""

from __future__ import annotations

import os

from preloader_agent.errors import MountError, PreloaderError
from preloader_agent.guest import log
from preloader_agent.guest.devices import Device
from preloader_agent.guest.disks import Disk, attach_disk
from preloader_agent.guest.diskusers import containers_using
from preloader_agent.guest.mounts import list_mounts, mounted_device, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.released import drop_released, read_released
from preloader_agent.guest.report import MOUNTED, REFUSED, RELEASED, DeviceReport
from preloader_agent.guest.sync import exclusive


class Attachments:
    """What the daemon knows of devices: `seen` by device node, `disks` as they were read, by label."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.seen: dict[str, DeviceReport] = {}
        self.disks: dict[str, Disk] = {}

    @property
    def labels(self) -> frozenset[str]:
        """What is there; a disk that was refused is not waited for."""
        return frozenset(report.label for report in self.seen.values())

    def find(self, label: str) -> DeviceReport | None:
        """The device of a label: the one that is served, if there are several."""
        found = [report for report in self.seen.values() if report.label == label]
        return next((report for report in found if report.state != REFUSED), found[0] if found else None)

    def unmount_dead(self) -> None:
        """After a restart of the agent: what was unplugged meanwhile is still mounted."""
        with exclusive(self._paths):
            for mount in list_mounts(self._paths.mounts):
                if not os.path.exists(mount.source):
                    log.warning("unmounting %s: its device %s is gone", mount.target, mount.source)
                    unmount(mount.target)

    def attach(self, devices: list[Device]) -> None:
        """Mount and check disks, each on its own."""
        if not devices:
            return
        for device in devices:
            if device.node in self.seen and self.seen[device.node].label != device.label:
                self.detach(device.node)  # its removal was lost in an overflow of udev's events
        with exclusive(self._paths):
            released = read_released(self._paths)
            new = [device for device in devices if self._attach(device, device.label in released)]
            if new:
                self._check_visibility(new)

    def detach(self, node: str) -> None:
        """A device is gone, and nobody has asked, unless it was released: let go of it.

        Its images leave the store at docker's next start. A disk with the same label, if there is one, takes its place.
        """
        known = self.seen.pop(node, None)
        if known is None or known.state == REFUSED:
            return
        self.disks.pop(known.label, None)
        with exclusive(self._paths):
            if known.state == MOUNTED:
                self._unmount_lost(known)
            drop_released(self._paths, known.label)
        twins = [report for report in self.seen.values() if report.label == known.label]
        for twin in twins:
            del self.seen[twin.device]
        self.attach([Device(twin.device, twin.label, "add") for twin in twins])

    def note_released(self) -> None:
        """Somebody else's pass may have unmounted what was to be released."""
        released = read_released(self._paths)
        for node, report in self.seen.items():
            is_gone = report.state == MOUNTED and report.label in released
            if is_gone and mounted_device(self._paths.mountpoint(report.label)) is None:
                self.seen[node] = report._replace(state=RELEASED)
                self.disks.pop(report.label, None)

    def forget_old_releases(self) -> None:
        """Forget releases that nobody waits for, because the agent has ended meanwhile, and those of absent disks."""
        with exclusive(self._paths):
            for label in read_released(self._paths):
                is_under_way = mounted_device(self._paths.mountpoint(label)) is not None
                if is_under_way or label not in self.labels:
                    drop_released(self._paths, label)

    def take_back_released(self) -> None:
        """Forget every release: disks that are still plugged in are to be used again."""
        with exclusive(self._paths):
            for label in read_released(self._paths):
                drop_released(self._paths, label)
        self.seen = {node: report for node, report in self.seen.items() if report.state != RELEASED}

    def _attach(self, device: Device, is_released: bool) -> bool:
        """The error boundary of a device; whether it was mounted or found mounted, for the first time."""
        known = self.seen.get(device.node)
        if known is not None and known.label == device.label and known.state != REFUSED:
            return False
        try:
            if is_released and mounted_device(self._paths.mountpoint(device.label)) is None:
                self.seen[device.node] = DeviceReport(device.label, device.node, RELEASED)
                return False
            self.disks[device.label] = attach_disk(self._paths, device.node, device.label)
        except (PreloaderError, OSError) as err:
            self._refuse(device, err)
            return False
        self.seen[device.node] = DeviceReport(device.label, device.node, MOUNTED)
        return True

    def _refuse(self, device: Device, problem: Exception) -> None:
        report = DeviceReport(device.label, device.node, REFUSED, str(problem))
        if self.seen.get(device.node) != report:
            log.error("not mounting %s: %s", device.node, problem)
        self.seen[device.node] = report

    def _check_visibility(self, devices: list[Device]) -> None:
        """A sandboxing directive that makes a mount namespace would hide our mounts from dockerd, silently."""
        visible = {mount.target for mount in list_mounts(self._paths.mounts, process="1")}
        for device in devices:
            target = self._paths.mountpoint(device.label)
            if target not in visible:
                del self.disks[device.label]
                unmount(target)
                from preloader_agent.guest.sandbox import explain_namespace

                reason = explain_namespace("docker-preloader.service")
                self._refuse(device, MountError("mount", f"{device.node} on {target}", 0, reason))

    def _unmount_lost(self, known: DeviceReport) -> None:
        target = self._paths.mountpoint(known.label)
        try:
            users = containers_using(self._paths.store, target)
            unmount(target)
        except (PreloaderError, OSError) as err:
            log.error("not unmounting %s: %s", known.label, err)
            return
        log.warning("unmounted %s: %s was unplugged; its images go at docker's next start", known.label, known.device)
        if users:
            log.warning("%s: containers stand on it, and fail: %s", known.label, ", ".join(users))
