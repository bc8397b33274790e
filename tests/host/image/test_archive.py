"""Archives that are written have every blob once, in two formats, and no layer that is not what it claims to be."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from preloader_agent.errors import DigestMismatch
from preloader_agent.host.files import TarFiles
from preloader_agent.host.formats import read_images
from preloader_agent.host.image.archive import ArchivedImage, write_archive
from preloader_agent.host.ocilayout import read_oci_layout
from preloader_agent.store.digest import DiffID, sha256_digest
from preloader_agent.store.reference import Reference
from tests.images import Image, app_image, busybox_image, make_layer, untagged_image
from tests.images.layer import Layer as ImageLayer


@dataclass(frozen=True)
class Claimed:
    """A layer that may claim what is not so."""

    content: bytes
    diff_id: DiffID
    size: int

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), 1000):
            yield self.content[start : start + 1000]


def claimed(layer: ImageLayer) -> Claimed:
    with layer.open() as stream:
        return Claimed(stream.read(), DiffID(layer.diff_id), layer.size)


def archived(image: Image) -> ArchivedImage:
    layers = [claimed(layer) for layer in image.layers]
    return ArchivedImage(image.config_bytes, tuple(map(Reference, image.references)), layers)


def written(*images: Image) -> bytes:
    stream = io.BytesIO()
    write_archive([archived(image) for image in images], stream)
    return stream.getvalue()


def members_of(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        infos = tar.getmembers()
    assert len(infos) == len({info.name for info in infos})
    return {info.name: info for info in infos}


def document(content: bytes, name: str) -> Any:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return json.load(file)


def test_both_formats_say_the_same() -> None:
    files = TarFiles(io.BytesIO(written(app_image(), busybox_image(), untagged_image())), "x.tar")
    expected = {image.image_id: image for image in (app_image(), busybox_image(), untagged_image())}
    index = files.read("index.json")
    assert index is not None
    for found in (read_images(files, None), read_oci_layout(files, index, None)):
        assert {image.image_id for image in found} == expected.keys()
        for image in found:
            assert set(image.references) <= set(expected[image.image_id].references)
            assert [layer.diff_id for layer in image.layers] == expected[image.image_id].diff_ids
        named = {reference for image in found for reference in image.references}
        assert named == {reference for image in expected.values() for reference in image.references}


def test_a_layer_of_two_images_stands_once() -> None:
    members = members_of(written(app_image(), busybox_image()))
    shared = set(app_image().diff_ids) & set(busybox_image().diff_ids)
    assert shared
    blobs = {name.rpartition("/")[2] for name, info in members.items() if info.isreg() and name.startswith("blobs/")}
    assert {diff_id.removeprefix("sha256:") for diff_id in shared} < blobs
    assert list(members) == sorted(members), "and manifest.json behind what it names"


def test_members_are_of_nobody_and_no_time() -> None:
    for info in members_of(written(app_image())).values():
        assert (info.uid, info.gid, info.uname, info.gname, info.mtime) == (0, 0, "", "", 0)
        assert info.mode == (0o755 if info.isdir() else 0o644)


def test_containerd_is_told_the_full_name_and_the_tag() -> None:
    entries = document(written(busybox_image(), untagged_image()), "index.json")["manifests"]
    assert [entry.get("annotations") for entry in entries] == [
        {"io.containerd.image.name": "docker.io/library/busybox:test", "org.opencontainers.image.ref.name": "test"},
        None,
    ]


def test_an_image_without_layers() -> None:
    content = written(Image((), ("empty:1",)))
    (entry,) = document(content, "manifest.json")
    assert (entry["RepoTags"], entry["Layers"]) == (["empty:1"], [])


@pytest.mark.parametrize("change", ["content", "shorter", "longer"])
def test_a_layer_that_is_not_what_it_claims(change: str) -> None:
    whole = claimed(make_layer([]))
    content = whole.content + random.Random(1).randbytes(3000)
    right = Claimed(content, DiffID(sha256_digest(content)), len(content))
    wrong = {
        "content": Claimed(content[:-1] + bytes([content[-1] ^ 1]), right.diff_id, right.size),
        "shorter": Claimed(content[:-1], right.diff_id, right.size),
        "longer": Claimed(content + b"x", right.diff_id, right.size),
    }[change]
    stream = io.BytesIO()
    with pytest.raises(DigestMismatch, match=f"^layer {right.diff_id.hex[:12]}: expected "):
        write_archive([ArchivedImage(b"{}", (), [wrong])], stream)
    assert b"manifest.json" not in stream.getvalue()
    assert len(stream.getvalue()) <= 3 * 512 + right.size + 1024


def test_a_layer_of_many_gigabytes_has_its_size() -> None:
    """Which is why its header is of PAX; the writing stops where the content does."""
    stream = io.BytesIO()
    layer = Claimed(b"", DiffID(sha256_digest(b"")), 9 << 30)
    with pytest.raises(DigestMismatch, match=f"expected {9 << 30} bytes, found 0 bytes"):
        write_archive([ArchivedImage(b"{}", (), [layer])], stream)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue() + bytes(1024))) as tar:
        assert any(info.size == 9 << 30 for info in tar)
