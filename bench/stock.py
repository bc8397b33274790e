"""The images that machines are measured with: a common base of Debian packages, and a layer of each image's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.inputs import Content, write_layer
from bench.records import Value
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.images import Image, Layer, debian_base_image, write_docker_archive

OWN = Content(400, 20_000, 20)  # of each image alone: 8 MB
_ROOM = 32 << 20  # bytes; what a file system takes beside one large file


class Stock(NamedTuple):
    """Some images, and the archive that has all of them."""

    folder: Path
    images: tuple[Image, ...]
    archive: Path

    @property
    def about(self) -> dict[str, Value]:
        """How large they are."""
        base, own = self.images[0].layers
        return {"shared layer, MB": base.size / 1e6, "own layer, MB": own.size / 1e6, "files in it": OWN.files}

    def disk(self, name: str = "disk.qcow2") -> Path:
        """What `preloader build` makes of the archive."""
        return build_disk([self.archive], self.folder / name).path


def archive_disk(images: Sequence[Image], path: Path, label: str) -> Path:
    """An ext4 disk on which the images stand as an archive, images.tar, for `docker load` in a guest."""
    path.mkdir()
    archive = write_docker_archive(images, path / "images.tar", "oci")
    raw = path.with_suffix(".raw")
    size = archive.stat().st_size + _ROOM
    run(["mke2fs", "-q", "-t", "ext4", "-L", label, "-d", path, raw, f"{size >> 10}K"])
    return raw


def make_stock(folder: Path, name: str, number: int) -> Stock:
    """So many images, of one base; their files are below a new folder."""
    own = folder / name
    own.mkdir()
    images = tuple(make_image(own, place) for place in range(number))
    return Stock(own, images, write_docker_archive(images, own / "images.tar", "oci"))


def make_image(folder: Path, number: int) -> Image:
    """The base and one layer, which no image of another number has."""
    base = debian_base_image()
    return replace(base, layers=(*base.layers, _own_layer(folder, number)), references=(f"bench-{number}:1",))


def _own_layer(folder: Path, number: int) -> Layer:
    return write_layer(folder / f"{number}.layer", OWN, number)
