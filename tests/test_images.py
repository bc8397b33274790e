"""The image builder, checked with Python's own tar reader."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from tests import images
from tests.images import Image, Layout, catalogue, layer

SMALL_IMAGES = [
    images.busybox_image,
    images.app_image,
    images.edge_image,
    images.untagged_image,
    images.implied_parents_image,
]
LAYOUTS: list[Layout] = ["old", "oci"]


def all_images() -> list[Image]:
    return [make() for make in SMALL_IMAGES]


def read_members(archive: Path) -> dict[str, bytes]:
    """An archive's files by name, symlinks followed."""
    with tarfile.open(archive) as tar:
        found = {member.name: tar.extractfile(member) for member in tar if member.isreg() or member.issym()}
        return {name: stream.read() for name, stream in found.items() if stream is not None}


def entries_of(image: Image, number: int) -> dict[str, tarfile.TarInfo]:
    with image.layers[number].open() as stream, tarfile.open(fileobj=stream) as tar:
        return {member.name: member for member in tar}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_manifest_leads_to_layers_with_their_diff_ids(tmp_path: Path, layout: Layout) -> None:
    members = read_members(images.write_docker_archive(all_images(), tmp_path / "all.tar", layout))
    entries = json.loads(members["manifest.json"])
    assert len(entries) == len(SMALL_IMAGES)
    for image, entry in zip(all_images(), entries, strict=True):
        assert f"sha256:{hashlib.sha256(members[entry['Config']]).hexdigest()}" == image.image_id
        digests = [f"sha256:{hashlib.sha256(members[path]).hexdigest()}" for path in entry["Layers"]]
        assert digests == image.diff_ids == json.loads(members[entry["Config"]])["rootfs"]["diff_ids"]
        assert entry["RepoTags"] == (list(image.references) or None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bytes_each_time(tmp_path: Path, layout: Layout) -> None:
    first = images.write_docker_archive(all_images(), tmp_path / "first.tar", layout).read_bytes()
    catalogue.busybox_layer.cache_clear()
    for make in SMALL_IMAGES:
        make.cache_clear()
    assert images.write_docker_archive(all_images(), tmp_path / "second.tar", layout).read_bytes() == first


def test_shared_layer_is_stored_once(tmp_path: Path) -> None:
    both = [images.busybox_image(), images.app_image()]
    archive = images.write_docker_archive(both, tmp_path / "both.tar")
    with tarfile.open(archive) as tar:
        large = [member.size for member in tar if member.name.endswith("layer.tar") and member.size > 1_000_000]
        links = [member.linkname for member in tar.getmembers() if member.issym()]
    assert len(large) == 1
    assert len(links) == 1


def test_oci_index_leads_to_the_manifests(tmp_path: Path) -> None:
    members = read_members(images.write_docker_archive(all_images(), tmp_path / "all.tar", "oci"))
    index = json.loads(members["index.json"])["manifests"]
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index]
    assert names[:3] == ["docker.io/library/busybox:test", "docker.io/library/app:1", "docker.io/example/app:1.0"]
    for entry in index:
        manifest = members[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"]
        assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == entry["digest"]
        assert len(manifest) == entry["size"]


def test_pax_entries() -> None:
    found = entries_of(images.edge_image(), 1)
    assert found["edge/half-second"].mtime == layer.EPOCH_NS / 10**9 + 0.5
    assert found["edge/nanoseconds"].pax_headers["mtime"] == "1700000000.123456789"
    assert (found["edge/large-ids"].uid, found["edge/large-ids"].gid) == (3_000_000, 4_000_000_000)
    assert found["edge/setuid"].mode == 0o4755
    assert found["edge/hard-b"].islnk()
    assert found["edge/hard-b"].linkname == "edge/hard-a"
    assert (found["edge/null"].devmajor, found["edge/null"].devminor) == (1, 3)
    assert len(found["edge/long-target"].linkname) == 1019
    capability = found["edge/ping"].pax_headers["SCHILY.xattr.security.capability"]
    assert capability.encode("utf-8", "surrogateescape") == catalogue.CAP_NET_RAW


def test_names_of_all_kinds() -> None:
    found = entries_of(images.edge_image(), 1)
    assert f"edge/{catalogue.LONG_NAME}" in found
    assert f"{catalogue.LONG_FOLDER}/{catalogue.LONG_NAME}" in found
    assert f"{catalogue.SPLIT_FOLDER}/{'f' * 90}" in found
    assert not found[f"{catalogue.SPLIT_FOLDER}/{'f' * 90}"].pax_headers, "the prefix field is enough for this one"
    assert catalogue.NOT_UTF8.decode("utf-8", "surrogateescape") in found
    assert "edge/new\nline\tand tab" in found


def test_gnu_entries() -> None:
    found = entries_of(images.edge_image(), 4)
    assert not any(member.pax_headers for member in found.values())
    assert f"gnu/{catalogue.LONG_NAME}" in found
    assert (found["gnu/first"].uid, found["gnu/first"].gid) == (2**31, 2**31 + 1)
    assert b"gnu/\xe9\xff".decode("utf-8", "surrogateescape") in found
    assert found["gnu/long-target"].linkname == f"/{catalogue.LONG_NAME}"


def test_markers() -> None:
    found = entries_of(images.edge_image(), 3)
    assert {".wh.gone", "kept/.wh.removed", "emptied/.wh..wh..opq"} <= found.keys()


def test_chain_ids_of_equal_layers_differ() -> None:
    edge = images.edge_image()
    assert edge.diff_ids[2] == edge.diff_ids[5]
    assert len(set(edge.chain_ids)) == len(edge.layers)
