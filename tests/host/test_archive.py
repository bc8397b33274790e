"""Archives as other programs write them, too: what is read of them, before any layer is."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.archive import open_images
from preloader_agent.host.disk import build_disk, unique_layers
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from preloader_agent.store.index import Platform
from tests import images
from tests.images import Image, Layer, Layout, archive, write_members


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_images_are_what_was_saved(archives: dict[Layout, Path], layout: Layout) -> None:
    with open_images([archives[layout]]) as found:
        by_id = {image.image_id: image for image in found}
        edge = by_id[images.edge_image().image_id]  # type: ignore[index] # an ImageID is a str
        assert edge.config == images.edge_image().config_bytes
        assert [layer.diff_id for layer in edge.layers] == images.edge_image().diff_ids
        assert [layer.parent for layer in edge.layers] == [None, *images.edge_image().chain_ids[:-1]]
        for source, expected in zip(edge.layers, images.edge_image().layers, strict=True):
            with source.open() as stream:
                assert stream.read() == expected.content


def test_layers_come_after_their_parents_and_once(archives: dict[Layout, Path]) -> None:
    with open_images([archives["old"], archives["oci"]]) as found:
        known: set[str | None] = {None}
        for layer in unique_layers(found):
            assert layer.parent in known
            assert layer.chain_id not in known
            known.add(layer.chain_id)


def test_references_of_all_archives_are_put_together(tmp_path: Path) -> None:
    busybox = images.busybox_image()
    one = Image(busybox.layers, ("one:1", "docker.io/library/both:1"), busybox.config)
    two = Image(busybox.layers, ("two:1", "both:1"), busybox.config)
    paths = [images.write_docker_archive([image], tmp_path / image.references[0]) for image in (one, two)]
    with open_images(paths) as (found,):
        assert found.references == ("both:1", "one:1", "two:1")


def small_archive(folder: Path, layer_tar: bytes, *, config: dict[str, object] | None = None) -> Path:
    """An archive as a program of today might write it: no `repositories`, no folders, names of its own."""
    app = images.untagged_image()
    content = json.loads(app.config_bytes) | (config or {})
    content["rootfs"]["diff_ids"] = [app.diff_ids[1]]
    manifest = [{"Config": "config.json", "RepoTags": ["small:1"], "Layers": ["./layer"]}]
    members = {"config.json": archive.to_json(content), "layer": layer_tar, "manifest.json": archive.to_json(manifest)}
    return write_members(members, folder / "small.tar")


def upper_layer() -> Layer:
    return images.untagged_image().layers[1]


@pytest.mark.usefixtures("ext4_tools")
def test_layers_may_be_compressed_with_gzip(tmp_path: Path) -> None:
    content = upper_layer().content
    assert isinstance(content, bytes)
    for name, layer_tar in (("plain", content), ("gzip", gzip.compress(content))):
        build_disk([small_archive(tmp_path, layer_tar)], tmp_path / name)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "gzip").read_bytes()
    assert [layer.diff_id for layer in inspect_disk(tmp_path / "gzip").layers] == [upper_layer().diff_id]


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, Platform("linux", "arm", "v7")),
        ({"os": "", "architecture": "arm64"}, Platform("linux", "arm64", "")),
        ({"os": None, "architecture": 7, "variant": []}, Platform("linux", "", "")),
    ],
)
def test_platform(tmp_path: Path, config: dict[str, object], platform: Platform) -> None:
    content = upper_layer().content
    assert isinstance(content, bytes)
    with open_images([small_archive(tmp_path, content, config=config)]) as (found,):
        assert found.platform == platform


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"os": "windows"}, "is an image for windows, expected linux"),
        ({"architecture": "a" * 300}, "platform: .*expected at most 200 printable characters"),
        ({"architecture": "amd64\x1b[2J"}, "platform: .*expected at most 200 printable characters"),
    ],
)
def test_a_platform_that_no_guest_would_read_is_refused(
    tmp_path: Path, config: dict[str, object], problem: str
) -> None:
    with (
        pytest.raises(InvalidArchive, match=problem),
        open_images([small_archive(tmp_path, b"", config=config)]),
    ):
        pass


@pytest.mark.usefixtures("ext4_tools")
def test_an_archive_that_was_unpacked_and_packed_again(tmp_path: Path) -> None:
    """tar writes "./" before each name, and the second name of a file as a hard link to the first."""
    saved = images.write_docker_archive([images.app_image(), images.busybox_image()], tmp_path / "saved.tar", "oci")
    (tmp_path / "tree").mkdir()
    run(["tar", "--directory", tmp_path / "tree", "--extract", "--file", saved])
    manifest = tmp_path / "tree" / "manifest.json"
    base = json.loads(manifest.read_text())[0]["Layers"][0]
    os.link(tmp_path / "tree" / base, tmp_path / "tree" / "again")
    manifest.write_text(manifest.read_text().replace(f'"{base}"', '"again"', 1))
    run(["tar", "--directory", tmp_path / "tree", "--create", "--file", tmp_path / "packed.tar", "."])
    for name in ("saved", "packed"):
        build_disk([tmp_path / f"{name}.tar"], tmp_path / f"{name}.qcow2")
    assert (tmp_path / "saved.qcow2").read_bytes() == (tmp_path / "packed.qcow2").read_bytes()
