"""Which images go to a disk, under which names: what inputs say together, and what a user adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidArchive, InvalidValue
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.selection import NewName, parse_name, parse_platform, parse_tag
from preloader_agent.store.index import Platform
from tests.images import Image, make_layer, write_docker_archive
from tests.images.layer import file
from tests.images.oci import OciLayout


def image(text: str, *references: str) -> Image:
    return Image((make_layer([file("text", text)]),), references)


def build(folder: Path, inputs: Sequence[Image | Sequence[Image]], *names: NewName) -> dict[str, tuple[str, ...]]:
    """The names on the disk of some archives (0.tar, 1.tar, ...), by image ID."""
    archives = [
        write_docker_archive([found] if isinstance(found, Image) else found, folder / f"{number}.tar")
        for number, found in enumerate(inputs)
    ]
    index = build_disk(archives, folder / "x.qcow2", BuildOptions(names=names, is_forced=True)).index
    return {record.image_id: record.references for record in index.images}


A, B, UNNAMED = image("a", "a:1"), image("b", "b:1", "b:2"), image("unnamed")


def test_names_of_inputs_are_kept(tmp_path: Path) -> None:
    expected = {A.image_id: ("a:1",), B.image_id: ("b:1", "b:2"), UNNAMED.image_id: ()}
    assert build(tmp_path, [A, B, UNNAMED]) == expected
    assert build(tmp_path, [[A, UNNAMED], B]) == expected


def test_an_input_may_list_an_image_twice(tmp_path: Path) -> None:
    again = image("a", "docker.io/library/a:1", "a:2")
    assert build(tmp_path, [[A, again]]) == {A.image_id: ("a:1", "a:2")}


# --- duplicates and conflicts name both --------------------------------------------------------------------------


def test_an_image_of_two_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match=r"1.tar: image a:2 is in \S+/0.tar and in \S+/1.tar; give it once"):
        build(tmp_path, [A, [image("a", "a:2"), B]])


def test_an_image_of_an_archive_and_a_layout_is_refused(tmp_path: Path) -> None:
    layout = OciLayout()
    folder = layout.add(layout.image(A), ref_name="other:1").write_folder(tmp_path / "layout")
    archive = write_docker_archive([A], tmp_path / "a.tar")
    with pytest.raises(InvalidArchive, match=r"image other:1 is in \S+/a.tar and in \S+/layout; give it once"):
        build_disk([archive, folder], tmp_path / "x.qcow2")


def test_the_same_input_twice_is_refused(tmp_path: Path) -> None:
    archive = write_docker_archive([A], tmp_path / "a.tar")
    with pytest.raises(InvalidArchive, match=r"image a:1 is in \S+/a.tar and in \S+/a.tar; give it once"):
        build_disk([archive, archive], tmp_path / "x.qcow2")


@pytest.mark.parametrize("name", ["b:1", "docker.io/library/b:1"])
def test_a_name_of_two_images_is_refused(tmp_path: Path, name: str) -> None:
    message = (
        rf"1.tar: b:1 names image {B.image_id[7:19]} here, and {image('a', name).image_id[7:19]} in \S+/0.tar; "
        "tag one of them anew, or keep them apart"
    )
    with pytest.raises(InvalidArchive, match=message):
        build(tmp_path, [image("a", name), B])


def test_a_new_name_of_another_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match=rf"--tag b:2=a:1: b:2 names image {A.image_id[7:19]} here, and "):
        build(tmp_path, [A, B], parse_tag("b:2=a:1"))


# --- new names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["a:1", "docker.io/library/a:1", A.image_id, A.image_id[7:], A.image_id[7:11]])
def test_tag(tmp_path: Path, old: str) -> None:
    found = build(tmp_path, [A, B], parse_tag(f"ghcr.io/team/new={old}"))
    assert found[A.image_id] == ("a:1", "ghcr.io/team/new:latest")


def test_tags_follow_each_other(tmp_path: Path) -> None:
    names = [parse_tag("first:1=a:1"), parse_tag("second:1=first:1"), parse_tag("a:1=a:1")]
    assert build(tmp_path, [A], *names) == {A.image_id: ("a:1", "first:1", "second:1")}


def test_name(tmp_path: Path) -> None:
    found = build(tmp_path, [[A, UNNAMED]], NewName(parse_name("new"), None), parse_tag("new:2=new"))
    assert found[UNNAMED.image_id] == ("new:2", "new:latest")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            parse_tag("new=c:1"),
            r"--tag new:latest=c:1: expected one of: 20a8d0c1bbed, a:1, b:1, .*, found 'no image matches c:1'",
        ),
        (parse_tag("new=0"), r"--tag new:latest=0: .*no image matches 0'"),
        (parse_tag("new=UPPER"), "no image matches UPPER"),
        (NewName(parse_name("new"), None), "--name new:latest: .*2 images match an image without a name"),
    ],
)
def test_a_new_name_of_no_image_or_of_several_is_refused(tmp_path: Path, name: NewName, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        build(tmp_path, [A, B, UNNAMED, image("too")], name)


# --- what options take -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", "app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("docker.io/library/app:1", "app:1"),
        ("app@sha256:" + "0" * 64, "app@sha256:" + "0" * 64),
    ],
)
def test_parse_name(text: str, expected: str) -> None:
    assert parse_name(text) == expected


@pytest.mark.parametrize("text", ["", ":1", "App", "a b", "-", "app:", "app@sha256:12"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_name(text)


@pytest.mark.parametrize("text", ["", "new", "new=", "=old"])
def test_tags_that_are_none(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_tag(text)


def test_parse_platform() -> None:
    assert parse_platform("linux/arm64") == Platform("linux", "arm64")
    assert parse_platform("linux/arm/v7") == Platform("linux", "arm", "v7")
    for text in ("", "linux", "linux/", "/amd64", "linux//v7", "a/b/c/d"):
        with pytest.raises(InvalidValue, match="--platform: expected OS/ARCH"):
            parse_platform(text)
