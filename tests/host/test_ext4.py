"""The ext4 reader finds what mke2fs wrote, and a damaged file system is refused, whatever the damage."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.diskimage import RawImage, open_image
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.run import find_tool, run

LIMIT = 1 << 24
# Each one makes another kind of directory, extent tree, block number or group descriptor.
KINDS = {
    "as mke2fs does by default": ["-b", "4096"],
    "small blocks": ["-b", "1024"],
    "without 64-bit block numbers": ["-b", "4096", "-O", "^64bit"],
    "without checksums": ["-b", "4096", "-O", "^metadata_csum"],
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sizes, one with many holes, and folders of all sizes."""
    root = tmp_path_factory.mktemp("ext4") / "tree"
    (root / "large folder").mkdir(parents=True)
    for number in range(400):
        (root / "large folder" / f"{number}-{'n' * 40}").touch()
    for size in (0, 1, 1023, 1024, 4096, 4097, 200_000):
        (root / f"{size}").write_bytes(random.Random(size).randbytes(size))
    with (root / "holes").open("wb") as file:
        for number in range(400):
            file.seek(number * 8192)
            file.write(b"%d" % number)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "link").symlink_to("/0")
    (root / "a" / "b" / "café").write_text("deep")
    return root


def make_image(tree: Path, options: list[str], image: Path) -> Path:
    run([find_tool("mke2fs", "install e2fsprogs"), "-q", "-F", "-t", "ext4", *options, "-d", tree, image, "4M"])
    run(["e2fsck", "-fyD", image], ok=(0, 1))  # large folders become hashed ones
    return image


@pytest.fixture(scope="module")
def image(tree: Path) -> Path:
    return make_image(tree, KINDS["small blocks"], tree.parent / "image")


@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_is_there(tree: Path, tmp_path: Path, kind: str) -> None:
    with Ext4(RawImage(make_image(tree, ["-L", "a label", *KINDS[kind]], tmp_path / "x"))) as filesystem:
        assert filesystem.label == "a label"
        for path in (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()):
            name = os.fsencode(path.relative_to(tree))
            assert filesystem.read(name, LIMIT) == path.read_bytes()
        assert len(filesystem.names(b"large folder")) == 400
        assert filesystem.names(b"a") == [b"b", b"link"]


def test_what_is_not_there(image: Path) -> None:
    with Ext4(RawImage(image)) as filesystem:
        for path in (b"missing", b"missing/below", b"0/below a file", b"a/link/below a link"):
            assert filesystem.find(path) is None
            assert filesystem.read(path, LIMIT) is None
            assert filesystem.names(path) == []
        assert filesystem.read(b"a", LIMIT) is None, "a folder"
        assert filesystem.read(b"a/link", LIMIT) is None, "a symlink, which is not followed"


def test_large_files_are_not_read(image: Path) -> None:
    with (
        Ext4(RawImage(image)) as filesystem,
        pytest.raises(InvalidDisk, match="200000 has 200000 bytes, at most 199999"),
    ):
        filesystem.read(b"200000", 199_999)


def test_qcow2_is_read_like_raw(image: Path, tmp_path: Path) -> None:
    run(["qemu-img", "convert", "-O", "qcow2", image, tmp_path / "x.qcow2"])
    with Ext4(open_image(image)) as raw, Ext4(open_image(tmp_path / "x.qcow2")) as qcow:
        for path in (b"200000", b"holes", b"a/b/caf\xc3\xa9"):
            assert qcow.read(path, LIMIT) == raw.read(path, LIMIT)


class Damaged:
    """An image with some of its bytes changed."""

    name = "disk x"

    def __init__(self, content: bytearray) -> None:
        self._content = content

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        return bytes(self._content[offset : offset + length])

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("seed", range(15))
def test_damage_is_refused_or_harmless(image: Path, seed: int) -> None:
    """Superblock, descriptors, inodes, directories and extents: each byte may be anything."""
    content = bytearray(image.read_bytes())
    change = random.Random(seed)
    metadata = [1024, *range(2048, 2560, 64), *range(3072, len(content) // 8, 512)]
    for _ in range(300):
        offset = change.choice(metadata) + change.randrange(512)
        content[offset] = change.choice([0, 1, 0x7F, 0x80, 0xFF, change.randrange(256)])
    content[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    with suppress(InvalidDisk), Ext4(Damaged(content)) as filesystem:
        for path in (b"a/b/caf\xc3\xa9", b"holes", b"large folder/1"):
            found = filesystem.read(path, LIMIT)
            assert found is None or len(found) <= LIMIT


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x18, b"\xff\xff\xff\xff"),
        (0x18, b"\x0a\0\0\0"),
        (0x28, b"\0\0\0\0"),
        (0x58, b"\0\0"),
        (0x58, b"\xff\xff"),
        (0xFE, b"\0\0"),
        (0xFE, b"\x08\0"),
        (0x14, b"\xff\xff\xff\xff"),
    ],
)
def test_impossible_superblocks(image: Path, offset: int, value: bytes) -> None:
    content = bytearray(image.read_bytes())
    content[1024 + offset : 1024 + offset + len(value)] = value
    with pytest.raises(InvalidDisk, match=r"^disk x: its ext4 .* is damaged; build the disk again$"):
        Ext4(Damaged(content)).read(b"200000", LIMIT)
