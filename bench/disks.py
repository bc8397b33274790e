"""Disks to attach: four of a realistic size, or any number of tiny ones, with no layer in common.

No two share a layer, because the shell script that the agent is compared to fails where they do.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.images import Image, Layer, debian_image, make_layer, write_docker_archive
from tests.images.layer import file

LAYERS_OF_FOUR = (1, 2, 2, 2)
LAYERS_OF_MANY = 10


def four_disks(folder: Path) -> list[Path]:
    """Four qcow2 disks, each with an image of Debian packages: 7 layers in all, 190 MB unpacked."""
    disks = []
    for number, layers in enumerate(LAYERS_OF_FOUR):
        own = tuple(
            own_layer(layer, number, folder / f"{number}-{place}.layer")
            for place, layer in enumerate(debian_image().layers[:layers])
        )
        disks.append(_build(folder / f"four-{number}", Image(own, (f"bench-{number}:1",), {"Cmd": ["bash"]})))
    return disks


def many_disks(folder: Path, number: int) -> list[Path]:
    """Qcow2 disks with an image of ten tiny layers each."""
    return [
        _build(
            folder / f"many-{disk}",
            Image(
                tuple(make_layer([file(f"{disk}-{layer}", "tiny")]) for layer in range(LAYERS_OF_MANY)),
                (f"bench-many-{disk}:1",),
            ),
        )
        for disk in range(number)
    ]


def raw_copy(disk: Path) -> Path:
    """The same disk beside it, as a loop device needs it."""
    raw = disk.with_suffix(".raw")
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    return raw


def own_layer(layer: Layer, number: int, path: Path) -> Layer:
    """A layer that is on one disk only: the same tree with one more file."""
    assert isinstance(layer.content, Path)
    path.write_bytes(layer.content.read_bytes())
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo(f"bench-{number}"))
    return Layer(path)


def _build(path: Path, image: Image) -> Path:
    archive = write_docker_archive([image], path.with_suffix(".tar"), "oci")
    build_disk([archive], path.with_suffix(".qcow2"))
    archive.unlink()
    return path.with_suffix(".qcow2")
