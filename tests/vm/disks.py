"""Disks for the guests of this tier."""

from __future__ import annotations

from pathlib import Path

from preloader_agent.host.disk import build_disk
from tests.images import Image, write_docker_archive


def make_disk(folder: Path, *images: Image) -> Path:
    """A disk with some images, its file named by its label."""
    archive = write_docker_archive(images, folder / "images.tar", "oci")
    return build_disk([archive], folder).path
