"""The file system of an image's containers, as one tar; tests/system compares it with what Docker's have."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from preloader_agent.host.cli.output import human_size
from tests import images
from tests.host.command import Preloader
from tests.images.oci import OciLayout


def exported(preloader: Preloader, *arguments: str | Path, to: Path) -> dict[str, tarfile.TarInfo]:
    result = preloader("image", "export", *arguments, "-o", to)
    assert (result.status, result.err) == (0, ""), result.err
    with tarfile.open(to) as tar:
        members = tar.getmembers()
    assert len(members) == len({member.name for member in members})
    return {member.name: member for member in members}


def test_layers_are_laid_over_each_other(preloader: Preloader, edge_archive: Path, tmp_path: Path) -> None:
    members = exported(preloader, "--image", "edge:test", edge_archive, to=tmp_path / "x.tar")
    assert not [name for name in members if ".wh." in name]
    assert members["kept/stays"].isreg()
    assert "gone" not in members
    assert {name for name in members if name.startswith("emptied/")} == {"emptied/new"}
    assert members["replaced-by-folder"].isdir()
    assert members["edge/hard-a"].isreg()
    assert (members["edge/sub/hard-c"].islnk(), members["edge/sub/hard-c"].linkname) == (True, "edge/hard-a")
    assert (members["edge/setuid"].mode, members["edge/large-ids"].gid) == (0o4755, 4_000_000_000)


def test_the_same_image_is_the_same_bytes(preloader: Preloader, edge_archive: Path, tmp_path: Path) -> None:
    exported(preloader, "--image", "edge:test", edge_archive, to=tmp_path / "x.tar")
    layout = OciLayout()
    layout.add(layout.image(images.edge_image(), "zstd"), name="other.example/name:1")
    other = layout.write_folder(tmp_path / "layout")
    umask = os.umask(0o077)
    try:
        exported(preloader, other, to=tmp_path / "y.tar")
    finally:
        os.umask(umask)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_what_is_printed(preloader: Preloader, app_archive: Path, tmp_path: Path) -> None:
    result = preloader("image", "export", app_archive, "-o", tmp_path / "x.tar")
    size = human_size((tmp_path / "x.tar").stat().st_size)
    assert result == (0, f"{tmp_path}/x.tar: the file system of app:1, {size}\n", "")


@pytest.mark.parametrize("name", ["id", "edge:test", "docker.io/library/edge:test"])
def test_one_image_of_several(preloader: Preloader, edge_archive: Path, tmp_path: Path, name: str) -> None:
    wanted = images.edge_image().image_id[:19] if name == "id" else name
    assert "edge/hard-a" in exported(preloader, "--image", wanted, edge_archive, to=tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "2 images"),
        (["--image", "none:1"], "no image matches none:1"),
        (["--image", ""], "no image matches "),
    ],
)
def test_no_image_or_several(
    preloader: Preloader, edge_archive: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    untagged = images.untagged_image().image_id.removeprefix("sha256:")[:12]
    result = preloader("image", "export", *options, edge_archive, "-o", tmp_path / "x.tar")
    known = ", ".join(sorted([untagged, "edge:test"]))
    assert result == (2, "", f"preloader: --image: expected one of: {known}, found {problem!r}\n")
    assert list(tmp_path.iterdir()) == []
