"""Raw disks, for loop devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.run import run
from tests.diskcontainers import write_definitions
from tests.images import Image, write_docker_archive


def make_raw_disk(path: Path, *images: Image, containers: Mapping[str, str] | None = None) -> Path:
    """A raw disk with some images, and with definitions of containers by name: `path` with the suffix .raw."""
    archive = write_docker_archive(images, path.with_suffix(".tar"))
    options = BuildOptions(containers=write_definitions(path.with_suffix(".d"), containers or {}))
    build_disk([archive], path.with_suffix(".qcow2"), options)
    run(["qemu-img", "convert", "-O", "raw", path.with_suffix(".qcow2"), path.with_suffix(".raw")])
    return path.with_suffix(".raw")
