"""What the agent tells people and machines: two small files in the run directory, and what is read out of them.

The daemon writes what it knows of devices, whoever made the last pass what the store holds; `status` puts both
together, so that it is true also after a pass that the daemon did not make.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from preloader_agent.guest.apply import write_file
from preloader_agent.guest.paths import Paths

MOUNTED, REFUSED, RELEASED = "mounted", "refused", "released"
OFF, WAITING, INSTALLED = "off", "waiting", "installed"
_HEADLINE_PROBLEM = 160  # characters of a problem in the line that `systemctl status` shows


class DeviceReport(NamedTuple):
    """A disk that was seen: `state` is mounted, refused or released, `reason` says why it was refused."""

    label: str
    device: str
    state: str
    reason: str = ""


class ContainerReport(NamedTuple):
    """A container that a disk brings: `state` is off (the setting says no), waiting (for Docker, or for systemd),
    installed (it has a service) or refused; `reason` says what is wrong.
    """

    name: str
    disk: str
    state: str
    reason: str = ""


class DevicesReport(NamedTuple):
    """What the daemon knows: disks, those that did not come, what is wrong, whether it can merge at all."""

    disks: list[DeviceReport]
    missing: list[str]
    ready_seconds: float | None = None
    problems: tuple[str, ...] = ()
    is_usable: bool = True
    settings: dict[str, Any] | None = None
    containers: tuple[ContainerReport, ...] = ()


class Status(NamedTuple):
    """Both reports, as far as they have been written."""

    devices: tuple[DeviceReport, ...]
    missing: tuple[str, ...]
    ready_seconds: float | None
    images: tuple[dict[str, Any], ...]
    layers: int
    merged: frozenset[str]
    pass_seconds: float | None
    problems: tuple[str, ...]
    is_usable: bool
    refused: dict[str, str]
    settings: dict[str, Any] | None
    containers: tuple[ContainerReport, ...] = ()

    @property
    def pending(self) -> list[str]:
        """The labels of disks that are mounted, and wait for docker's next start."""
        return sorted(self._mounted - self.merged - self.refused.keys()) if self.is_usable else []

    @property
    def lost(self) -> list[str]:
        """The labels of disks whose images docker still shows, though the disk is gone."""
        return sorted(self.merged - self._mounted)

    @property
    def present_images(self) -> list[dict[str, Any]]:
        """The images that can be used."""
        return [image for image in self.images if image["disk"] in self._mounted]

    @property
    def all_problems(self) -> list[str]:
        """Everything that a person should look at."""
        missing = [f"expected and not attached in time: {', '.join(self.missing)}"] if self.missing else []
        refused = [f"{d.label} ({d.device}): {d.reason}" for d in self.devices if d.state == REFUSED]
        no_room = [f"{label} is not in docker's store: {reason}" for label, reason in self.refused.items()]
        lost = [f"{label} was unplugged; its images go at docker's next start" for label in self.lost]
        containers = [f"container {c.name} of {c.disk}: {c.reason}" for c in self.containers if c.reason]
        return [*missing, *refused, *no_room, *lost, *containers, *self.problems]

    @property
    def _mounted(self) -> frozenset[str]:
        return frozenset(device.label for device in self.devices if device.state == MOUNTED)

    def headline(self) -> str:
        """The one line that `systemctl status` shows; ASCII, because sdnotify drops anything else."""
        disks = count_of(len(self.merged & self._mounted), "disk")
        line = f"{count_of(len(self.present_images), 'image')} from {disks}"
        if self.ready_seconds is not None:
            line += f", ready in {self.ready_seconds:.1f} s"
        if self.pending:
            line += f"; {count_of(len(self.pending), 'disk')} more at docker's next start"
        problems = self.all_problems
        if problems:
            first, more = problems[0], len(problems) - 1
            line += f"; {first if len(first) <= _HEADLINE_PROBLEM else first[:_HEADLINE_PROBLEM] + '...'}"
            line += f"; {count_of(more, 'more problem')}, see docker-preloader status" * bool(more)
        return line.encode("ascii", "replace").decode()

    def as_json(self) -> dict[str, Any]:
        """What `status --json` prints."""
        return {
            "disks": [
                {**d._asdict(), "state": self._state(d), "reason": d.reason or self.refused.get(d.label, "")}
                for d in self.devices
            ],
            "images": [{**image, "lost": image["disk"] in self.lost} for image in self.images],
            "layers": self.layers,
            "containers": [container._asdict() for container in self.containers],
            "missing": list(self.missing),
            "problems": self.all_problems,
            "ready_seconds": self.ready_seconds,
            "pass_seconds": self.pass_seconds,
            "settings": self.settings,
        }

    def _state(self, device: DeviceReport) -> str:
        """adopted, pending, refused, released, or unused where docker's store is left alone."""
        if device.state != MOUNTED:
            return device.state
        if device.label in self.refused:
            return REFUSED
        if device.label in self.merged:
            return "adopted"
        return "pending" if self.is_usable else "unused"

    def lines(self) -> Iterator[str]:
        """What `status` prints."""
        yield self.headline()
        if self.pass_seconds is not None:
            yield f"  {count_of(self.layers, 'layer')}, merged into docker's store in {self.pass_seconds:.3f} s"
        for device in self.devices:
            yield f"  disk  {device.label:18} {self._state(device):8} {device.device}"
        for image in self.present_images:
            names = ", ".join(image["references"]) or "<none>"
            yield f"  image {image['id'][7:19]:18} {image['size'] / 1e6:6.1f} MB {names}"
        for container in self.containers:
            hint = " (containers_from_disks=no)" if container.state == OFF else ""
            yield f"  container {container.name:14} {container.state:8} {container.disk}{hint}"
        for problem in self.all_problems:
            yield f"  problem: {problem}"


def write_devices(paths: Paths, report: DevicesReport) -> None:
    """Write what is known of devices."""
    disks = [device._asdict() for device in report.disks]
    containers = [container._asdict() for container in report.containers]
    _write(paths.devices_report, {**report._asdict(), "disks": disks, "containers": containers})


def write_store(paths: Paths, report: dict[str, Any]) -> None:
    """Write what a pass found and did: images, layers, merged, refused, problems and pass_seconds."""
    _write(paths.store_report, report)


def forget_merged(paths: Paths, labels: Collection[str]) -> None:
    """Note that what has these labels now is not what the last pass merged, or had no room for, under them."""
    store = _read(paths.store_report) or {}
    if not {*labels}.isdisjoint((*store.get("merged", ()), *store.get("refused", ()))):
        merged = [label for label in store["merged"] if label not in labels]
        images = [image for image in store["images"] if image["disk"] not in labels]
        refused = {label: reason for label, reason in store.get("refused", {}).items() if label not in labels}
        write_store(paths, {**store, "merged": merged, "images": images, "refused": refused})


def read_status(paths: Paths) -> Status | None:
    """Both reports, or None before the first one was written."""
    devices, store = _read(paths.devices_report), _read(paths.store_report)
    if devices is None and store is None:
        return None
    devices, store = devices or {}, store or {}
    return Status(
        tuple(DeviceReport(**disk) for disk in devices.get("disks", ())),
        tuple(devices.get("missing", ())),
        devices.get("ready_seconds"),
        tuple(store.get("images", ())),
        store.get("layers", 0),
        frozenset(store.get("merged", ())),
        store.get("pass_seconds"),
        (*devices.get("problems", ()), *store.get("problems", ())),
        devices.get("is_usable", True),
        store.get("refused", {}),
        devices.get("settings"),
        tuple(ContainerReport(**container) for container in devices.get("containers", ())),
    )


def count_of(number: int, noun: str) -> str:
    """`1 disk`, `2 disks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _write(path: str, document: dict[str, Any]) -> None:
    write_file(path, json.dumps(document).encode() + b"\n", 0o600)


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            document: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return None
    return document
