"""Layers of trees: known before they are written, and checked when they are."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.errors import DigestMismatch, InputError, InvalidArchive
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.image.archive import ArchivedImage, write_archive
from preloader_agent.host.image.content import Content
from preloader_agent.host.image.folder import read_folder
from preloader_agent.host.image.treelayer import make_layer
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import REG
from preloader_agent.store.reference import Reference
from tests.host.tars import read_members


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    blocks = BlockFile(tmp_path / "blocks")
    yield Content(blocks)
    blocks.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "d").mkdir(parents=True)
    (tmp_path / "folder" / "d" / "x").write_bytes(b"x" * 3_000_000)
    return tmp_path / "folder"


def test_what_is_known_of_it_is_what_is_written(folder: Path, content: Content) -> None:
    layer = make_layer(read_folder(folder, content, 7), content, 7, "layer")
    for _ in range(2):
        written = b"".join(layer.chunks())
        assert (len(written), f"sha256:{hashlib.sha256(written).hexdigest()}") == (layer.size, layer.diff_id)
    assert [(member.name, member.mtime_ns, len(data)) for member, data in read_members(written)] == [
        (b"d/", 7 * 10**9, 0),
        (b"d/x", 7 * 10**9, 3_000_000),
    ]


@pytest.mark.parametrize(
    ("change", "error"), [(b"y" * 3_000_000, DigestMismatch), (b"y", InputError), (b"y" * 4_000_000, InputError)]
)
def test_what_changed_since_is_not_written(
    folder: Path, content: Content, change: bytes, error: type[Exception]
) -> None:
    layer = make_layer(read_folder(folder, content, 7), content, 7, "layer")
    (folder / "d" / "x").write_bytes(change)
    with pytest.raises(error):
        write_archive([ArchivedImage(b"{}", (Reference("app:1"),), [layer])], io.BytesIO())


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (replace(make_directory(), children={b"x" * 256: Node(REG)}), "has a name of more than 255 bytes"),
        (
            replace(make_directory(), children={b"x": Node(REG, xattrs={b"user.large": bytes(5000)})}),
            "has 5000 bytes of xattrs; ext4 holds about 4000",
        ),
    ],
)
def test_what_dockerd_would_refuse_is_refused(content: Content, tree: Node, problem: str) -> None:
    with pytest.raises(InvalidArchive, match=f"layer of app:1: .*{problem}"):
        make_layer(tree, content, 1, "layer of app:1")
