"""Raw disks, for loop devices."""

from __future__ import annotations

from pathlib import Path

from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.images import Image, write_docker_archive


def make_raw_disk(path: Path, *images: Image) -> Path:
    """A raw disk with some images: `path` with the suffix .raw."""
    archive = write_docker_archive(images, path.with_suffix(".tar"))
    build_disk([archive], path.with_suffix(".qcow2"))
    run(["qemu-img", "convert", "-O", "raw", path.with_suffix(".qcow2"), path.with_suffix(".raw")])
    return path.with_suffix(".raw")
