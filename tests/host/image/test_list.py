"""What is in an archive, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preloader_agent.host.run import run
from tests import images
from tests.host.command import COMMAND, PYTHONPATH, Preloader
from tests.images.archive import ARCHITECTURE, to_json
from tests.images.oci import COMPRESSORS, OciLayout, on

HERE = f"linux/{ARCHITECTURE}"
OTHER = "linux/s390x"


def test_people_see_a_table(preloader: Preloader, edge_archive: Path, app_archive: Path) -> None:
    status, out, err = preloader("image", "list", app_archive)
    assert (status, err) == (0, "")
    short = images.app_image().image_id.removeprefix("sha256:")[:12]
    assert [line.split() for line in out.splitlines()] == [
        ["IMAGE", "IMAGE", "ID", "PLATFORM", "LAYERS"],
        ["app:1", short, HERE, "3"],
        *([reference] for reference in sorted(images.app_image().references)[1:]),
    ]
    lines = preloader("image", "list", edge_archive).out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["<none>", "IMAGE", "edge:test"]


def test_programs_get_all_of_it(preloader: Preloader, edge_archive: Path) -> None:
    result = preloader("image", "list", "--json", edge_archive)
    document = json.loads(result.out)
    assert (document["archive"], result.err) == (str(edge_archive), "")
    by_id = {image["id"]: image for image in document["images"]}
    for image in (images.edge_image(), images.untagged_image()):
        assert by_id[image.image_id] == {
            "id": image.image_id,
            "references": list(image.references),
            "repo_digests": [],
            "platform": {"os": "linux", "architecture": ARCHITECTURE, "variant": ""},
            "layers": image.diff_ids,
            "chain": image.chain_ids,
            "config": json.loads(image.config_bytes),
        }
    assert len(by_id) == 2


def test_a_stream(edge_archive: Path, tmp_path: Path) -> None:
    """Which is read to its end, and not left anywhere."""
    expected = run([*COMMAND, "image", "list", edge_archive], env={"PYTHONPATH": PYTHONPATH})
    for content in (edge_archive.read_bytes(), COMPRESSORS["zstd"](edge_archive.read_bytes())):
        found = run([*COMMAND, "image", "list", "-"], stdin=content, env=environment(tmp_path))
        assert found == expected
    assert list(tmp_path.iterdir()) == []


def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(folder)}


@pytest.fixture
def two_platforms(tmp_path: Path) -> Path:
    layout = OciLayout()
    both = [on(platform, layout.image(images.app_image(), platform=platform)) for platform in (HERE, OTHER)]
    layout.add(layout.index(both), name="example.org/app:1")
    return layout.write_tar(tmp_path / "both.tar")


def test_one_platform_of_an_index(preloader: Preloader, two_platforms: Path, tmp_path: Path) -> None:
    assert HERE in preloader("image", "list", two_platforms).out
    assert OTHER in preloader("image", "list", "--platform", OTHER, two_platforms).out
    result = preloader("image", "list", "--platform", "linux/arm", two_platforms)
    assert (result.status, result.out) == (2, "")
    assert f"is there for {HERE}, {OTHER}" in result.err
    merged = preloader("image", "merge", "--platform", OTHER, two_platforms, "-o", tmp_path / "x.tar")
    assert OTHER in merged.out
    (image,) = json.loads(preloader("image", "list", "--json", tmp_path / "x.tar").out)["images"]
    assert image["references"] == ["example.org/app:1"]


def test_names_that_docker_would_not_load_stay_behind(preloader: Preloader, tmp_path: Path) -> None:
    """A reference with a digest says which manifest there was; the new archive has another one."""
    layout = OciLayout()
    layout.add(layout.image(images.busybox_image()), name=f"example.org/app@sha256:{'a' * 64}")
    layout.write_tar(tmp_path / "x.tar")
    assert "example.org/app@sha256:" in preloader("image", "list", tmp_path / "x.tar").out
    assert preloader("image", "merge", tmp_path / "x.tar", "-o", tmp_path / "y.tar").status == 0
    (image,) = json.loads(preloader("image", "list", "--json", tmp_path / "y.tar").out)["images"]
    assert (image["references"], image["repo_digests"]) == ([], [])


def test_an_archive_of_nothing(preloader: Preloader, tmp_path: Path) -> None:
    images.write_members({"manifest.json": to_json([])}, tmp_path / "x.tar")
    problem = "holds no image; save at least one"
    assert preloader("image", "list", tmp_path / "x.tar") == (2, "", f"preloader: {tmp_path}/x.tar: {problem}\n")
