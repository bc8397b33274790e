"""What a guest shows of itself: of the agent, of docker's images, and of how often docker was started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preloader_agent.host.inspection import inspect_disk
from tests.system.nspawn import NspawnGuest


def label_of(disk: Path) -> str:
    """The label that the agent knows a disk by."""
    return inspect_disk(disk).label


def status_of(guest: NspawnGuest) -> dict[str, Any]:
    """What `docker-preloader status --json` says."""
    status: dict[str, Any] = json.loads(guest.succeed("docker-preloader status --json"))
    return status


def states_of(guest: NspawnGuest) -> dict[str, str]:
    """What became of each disk, by label."""
    return {disk["label"]: disk["state"] for disk in status_of(guest)["disks"]}


def images_of(guest: NspawnGuest) -> set[str]:
    """The IDs of all images that docker has."""
    return set(guest.succeed("docker images --all --no-trunc --quiet").split())


def show(guest: NspawnGuest, unit: str, name: str) -> str:
    """A property of a unit."""
    return guest.succeed(f"systemctl show --property={name} --value {unit}").strip()


def starts_of_docker(guest: NspawnGuest) -> int:
    """How often docker was started since boot, a start that is under way included."""
    guest.succeed("journalctl --sync")
    lines = guest.succeed("journalctl --boot --unit docker.service --output cat").splitlines()
    return sum(line.startswith("Starting docker.service") for line in lines)
