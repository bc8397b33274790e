"""Raw and qcow2 images are read alike, wherever something stands in them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.diskimage import as_raw, is_qcow2, open_image
from preloader_agent.host.run import run

MIB = 1 << 20
SIZE = 21 * MIB + 512


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with something at its start, at its end, and over each fourth MiB, which are read separately."""
    path = tmp_path_factory.mktemp("images") / "raw"
    change = random.Random(1)
    with path.open("wb") as file:
        for offset in (0, 4 * MIB - 2048, 8 * MIB - 2048, 16 * MIB - 2048, SIZE - 4096):
            file.seek(offset)
            file.write(change.randbytes(4096))
    return path


@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "compat=0.10"]])
def test_every_part(raw: Path, tmp_path: Path, options: list[str]) -> None:
    disk = tmp_path / "with,comma and:colon.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, disk])
    expected, found = open_image(raw), open_image(disk)
    for offset in (0, 4 * MIB - 2048, 8 * MIB - 2048, 8 * MIB, 16 * MIB - 2048, SIZE - 4096, SIZE - 10, SIZE, 9 * SIZE):
        assert found.read_at(offset, 4096) == expected.read_at(offset, 4096), offset
    assert expected.read_at(SIZE - 10, 4096) != b""
    assert expected.read_at(1 << 70, 4096) == found.read_at(1 << 70, 4096) == b""
    found.close()
    expected.close()


def test_copy_is_temporary(raw: Path, tmp_path: Path) -> None:
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, tmp_path / "x"])
    with as_raw(tmp_path / "x") as copy:
        assert copy.read_bytes() == raw.read_bytes()
        assert copy.stat().st_blocks * 512 < 2 * MIB, "holes stay holes"
    assert not copy.exists()
    with as_raw(raw) as same:
        assert same.samefile(raw)
    assert raw.exists()


def test_images_that_read_other_files(raw: Path, tmp_path: Path) -> None:
    run(["qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", raw, tmp_path / "x"])
    with pytest.raises(InvalidDisk, match="x: keeps its data in another file; flatten it first: qemu-img convert"):
        is_qcow2(tmp_path / "x")
