"""docker-archives as other programs write them, too: what is read of them, before any layer is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.errors import DigestMismatch, InvalidArchive
from preloader_agent.host.formats import read_images
from preloader_agent.host.images import Image as Found
from preloader_agent.host.inputs import open_input
from preloader_agent.host.layers import unique_layers
from preloader_agent.host.skopeo import Skopeo
from preloader_agent.host.staging import Stager
from preloader_agent.store.index import Platform
from tests import images
from tests.host.test_ocilayout import spoil
from tests.images import Layer, Layout, archive, write_members


def read(path: Path, scratch: Path) -> list[Found]:
    """The images of an archive."""
    with (
        Stager(scratch / "content", lambda _: None) as stager,
        open_input(str(path), stager, Skopeo(scratch)) as files,
    ):
        return read_images(files, None)


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_images_are_what_was_saved(archives: dict[Layout, Path], tmp_path: Path, layout: Layout) -> None:
    found = {image.image_id: image for image in read(archives[layout], tmp_path)}
    edge = found[images.edge_image().image_id]  # type: ignore[index] # an ImageID is a str
    assert edge.config == images.edge_image().config_bytes
    assert [layer.diff_id for layer in edge.layers] == images.edge_image().diff_ids
    assert [layer.chain_id for layer in edge.layers] == images.edge_image().chain_ids
    assert (edge.references, edge.repo_digests) == (images.edge_image().references, ())


def test_layers_come_after_their_parents_and_once(archives: dict[Layout, Path], tmp_path: Path) -> None:
    found = read(archives["old"], tmp_path)
    chains = [layer.chain_id for layer in unique_layers(found)]
    assert len(chains) == len(set(chains)) == 10
    for image in found:
        positions = [chains.index(layer.chain_id) for layer in image.layers]
        assert positions == sorted(positions)


def small_archive(folder: Path, *, config: dict[str, Any] | None = None, manifest: Any = None) -> Path:
    """An archive as a program of today might write it: no `repositories`, no folders, names of its own."""
    layer = images.untagged_image().layers[1]
    content = {**json.loads(images.untagged_image().config_bytes), **(config or {})}
    if isinstance(content["rootfs"], dict):
        content["rootfs"] = {**content["rootfs"], "diff_ids": [layer.diff_id]}
    members: dict[str, bytes | Layer | archive.SymlinkTo] = {
        "config.json": json.dumps(content).encode(),
        "layer": layer,
        "manifest.json": json.dumps(MANIFEST if manifest is None else manifest).encode(),
    }
    return write_members(members, folder / "small.tar")


MANIFEST = [{"Config": "config.json", "RepoTags": ["small:1"], "Layers": ["./layer"]}]


@pytest.mark.parametrize(
    ("config", "platform"),
    [
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, Platform("linux", "arm", "v7")),
        ({"os": "", "architecture": "arm64"}, Platform("linux", "arm64", "")),
        ({"os": None, "architecture": 7, "variant": []}, Platform("linux", "", "")),
    ],
)
def test_platform(tmp_path: Path, config: dict[str, object], platform: Platform) -> None:
    (found,) = read(small_archive(tmp_path, config=config), tmp_path)
    assert found.platform == platform


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"os": "windows"}, "is an image for windows, expected linux"),
        ({"architecture": "a" * 300}, r"platform: .*expected at most 200 printable characters"),
        ({"architecture": "amd64\x1b[2J"}, r"platform: .*expected at most 200 printable characters"),
    ],
)
def test_a_platform_that_no_guest_would_read_is_refused(
    tmp_path: Path, config: dict[str, object], problem: str
) -> None:
    with pytest.raises(InvalidArchive, match=problem):
        read(small_archive(tmp_path, config=config), tmp_path)


def test_any_value_may_stand_in_any_place(tmp_path: Path) -> None:
    """Of the manifest: either it is of no matter, or the error is one for people."""
    chance = random.Random(2)
    messages = []
    for _ in range(150):
        try:
            read(small_archive(tmp_path, manifest=spoil(MANIFEST, chance)), tmp_path)
        except (InvalidArchive, DigestMismatch) as err:
            messages.append(str(err))
    assert len(messages) > 50
    assert all(message.isprintable() and len(message) < 1000 for message in messages)


def test_config_values_of_any_type(tmp_path: Path) -> None:
    chance = random.Random(3)
    config = json.loads(images.untagged_image().config_bytes)
    for _ in range(100):
        spoilt = spoil(config, chance)
        try:
            read(small_archive(tmp_path, config=spoilt if isinstance(spoilt, dict) else {"rootfs": spoilt}), tmp_path)
        except InvalidArchive as err:
            assert str(err).isprintable()  # noqa: PT017 - it may as well not be raised
