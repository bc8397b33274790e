"""Disks for the guests of this tier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from preloader_agent.host.disk import BuildOptions, build_disk
from tests.diskcontainers import write_definitions
from tests.images import Image, write_docker_archive


def make_disk(folder: Path, *images: Image, containers: Mapping[str, str] | None = None) -> Path:
    """A disk with some images, and with definitions of containers by name, its file named by its label."""
    archive = write_docker_archive(images, folder / "images.tar", "oci")
    options = BuildOptions(containers=write_definitions(folder / "containers", containers or {}))
    return build_disk([archive], folder, options).path
