"""A disk is as large as its content needs: never too small, and not much too large."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests import images
from tests.host.conftest import convert_to_raw
from tests.images import Entry, Image, make_layer
from tests.images.layer import directory, file, opaque, symlink, whiteout

RANDOM = random.Random(1)
MEGABYTE = RANDOM.randbytes(1 << 20)

CONTENTS: dict[str, list[Entry]] = {
    "nothing": [],
    "many small files": [file(f"{n}", b"x") for n in range(600)],
    "long names in one folder": [file(f"d/{n:05}" + "n" * 250) for n in range(600)],
    "short names in one folder": [file(f"d/{n}") for n in range(600)],
    "folders": [directory(f"{n // 40}/{n}" if n % 40 else f"{n // 40}") for n in range(600)],
    "one large file": [file("large", MEGABYTE * 8)],
    "zeros": [file("zeros", bytes(8 << 20)), file("holes", (MEGABYTE[:4096] + bytes(4096)) * 1000)],
    "files of one block and a byte": [file(f"{n}", MEGABYTE[:4097]) for n in range(600)],
    "long links": [symlink(f"{n}", "t" * 1000) for n in range(600)],
    "attributes": [file(f"{n}").having(**{"user.a": MEGABYTE[n : n + 2000]}) for n in range(500)],
    "attributes of a block": [file(f"{n}").having(**{"user.a": MEGABYTE[n : n + 3800]}) for n in range(500)],
    "deep": [file("d/" * 1500 + "f")],
    "markers": [*(whiteout(f"w{n}") for n in range(600)), *(opaque(f"o{n}") for n in range(200))],
}


def free_of(raw: Path) -> tuple[int, int, int]:
    """Bytes in the file system, bytes free in it, and free inodes."""
    text = run(["dumpe2fs", "-h", raw])

    def value(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)$", text, re.MULTILINE)
        assert found is not None, text
        return int(found[1])

    return value("Block count") * 4096, value("Free blocks") * 4096, value("Free inodes")


@pytest.mark.parametrize("name", CONTENTS)
def test_size_fits_the_content(ext4_tools: None, tmp_path: Path, name: str) -> None:  # noqa: ARG001
    image = Image((make_layer(CONTENTS[name]),), ("x:1",))
    archive = images.write_docker_archive([image], tmp_path / "x.tar")
    build_disk([archive], tmp_path / "x.qcow2")
    raw = convert_to_raw(tmp_path / "x.qcow2")
    run(["e2fsck", "-fn", raw])
    size, free, free_inodes = free_of(raw)
    assert free_inodes < 100
    # Free space is there for what only mke2fs or gzip know: how much is zeros, and how well the headers in tar-split
    # compress. It costs nothing, see below.
    zeros = 20 << 20 if name == "zeros" else 0
    assert free < (2 << 20) + size // 20 + zeros + 9000 * len(CONTENTS[name])
    assert (tmp_path / "x.qcow2").stat().st_size < size - free + (1 << 20), "it takes no room in a qcow2 file"
