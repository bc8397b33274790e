"""A layer that is staged is kept as a file, if it is wanted: uncompressed, under its DiffID."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.staging import Stager
from preloader_agent.store.digest import DiffID
from tests.images import Layer, busybox_image, make_layer
from tests.images.layer import file
from tests.images.oci import COMPRESSORS


@pytest.fixture
def stager(tmp_path: Path) -> Iterator[Stager]:
    (tmp_path / "kept").mkdir()
    with Stager(tmp_path / "content", lambda _: None, tmp_path / "kept") as stager:
        yield stager


def content_of(layer: Layer) -> bytes:
    with layer.open() as stream:
        return stream.read()


def stream_of(content: bytes) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, io.BytesIO(content))))


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_layer_is_kept_uncompressed(stager: Stager, compression: str) -> None:
    layers = [busybox_image().layers[0], make_layer([file("a", "small")])]
    for layer in layers:
        assert stager.stage(stream_of(COMPRESSORS[compression](content_of(layer))), "layer").diff_id == layer.diff_id
    for layer in layers:
        assert stager.kept_file(DiffID(layer.diff_id)).read_bytes() == content_of(layer)


def test_what_follows_a_layers_end_is_kept_as_well(stager: Stager) -> None:
    content = content_of(make_layer([file("a", "small")])) + b"trailing"
    staged = stager.stage(stream_of(content), "layer")
    assert stager.kept_file(staged.diff_id).read_bytes() == content


def test_what_is_no_layer_is_not_kept(stager: Stager, tmp_path: Path) -> None:
    whole = content_of(make_layer([file("a", "x" * 5000)]))
    with pytest.raises(InvalidArchive, match="truncated"):
        stager.stage(stream_of(whole[:2000]), "layer")
    staged = stager.stage(stream_of(whole), "layer")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [staged.diff_id.hex]
