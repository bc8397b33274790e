"""Archives of a known size to measure with: the same bytes each time, which do not compress."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.images import Image, Layer, write_docker_archive


class Content(NamedTuple):
    """What a layer holds: so many files of a size in bytes, in so many directories."""

    files: int
    size: int
    directories: int


TWO_LAYERS = (Content(5000, 23000, 60), Content(5000, 23000, 60))  # 230 MB
SMALL_FILES = (Content(50_000, 1024, 500),)
LARGE_FILES = (Content(16, 128 << 20, 1),)  # 2 GB
MANY_FILES = (Content(100_000, 21000, 1000),)  # 2 GB


def write_archive(folder: Path, name: str, contents: tuple[Content, ...]) -> Path:
    """A docker-archive with one image that has a layer of each content."""
    layers = tuple(
        write_layer(folder / f"{name}{number}.layer", content, number) for number, content in enumerate(contents)
    )
    return write_docker_archive([Image(layers, (f"{name}:1",))], folder / f"{name}.tar", "oci")


def write_layer(path: Path, content: Content, number: int) -> Layer:
    """A layer with that content below a folder `layer` and its number; another number has other bytes."""
    noise = random.Random(number).randbytes(content.size + (1 << 20))
    with tarfile.open(path, "w") as tar:
        for member, data in _members(content, noise, f"layer{number}"):
            tar.addfile(member, io.BytesIO(data))
    return Layer(path)


def _members(content: Content, noise: bytes, top: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for name in ("", *(f"/d{number}" for number in range(content.directories))):
        folder = tarfile.TarInfo(top + name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        yield folder, b""
    for number in range(content.files):
        file = tarfile.TarInfo(f"{top}/d{number % content.directories}/file-{number}")
        file.size = content.size
        start = number * 37 % (1 << 20)
        yield file, noise[start : start + content.size]
