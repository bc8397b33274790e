"""OCI image layouts: which images are found in one, under which names, and what is refused."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.errors import DigestMismatch, InvalidArchive
from preloader_agent.host.disk import build_disk
from preloader_agent.host.formats import read_images
from preloader_agent.host.images import Image as Found
from preloader_agent.host.inputs import open_input
from preloader_agent.host.selection import parse_platform
from preloader_agent.host.skopeo import Skopeo
from preloader_agent.host.staging import Stager
from tests.images import Image, app_image, archive, busybox_image, make_layer, write_docker_archive
from tests.images.archive import Json, to_json
from tests.images.layer import file
from tests.images.oci import COMPRESSORS, DOCKER, OCI, OciLayout, on

OTHER = "linux/arm64" if archive.ARCHITECTURE != "arm64" else "linux/amd64"
HERE = f"linux/{archive.ARCHITECTURE}"


def small_image(text: str = "small", layers: int = 1) -> Image:
    return Image(tuple(make_layer([file(f"file{n}", f"{text} {n}")]) for n in range(layers)))


def read(path: Path, platform: str = "") -> list[Found]:
    """The images of an input, with their layers staged and checked as a build does."""
    with (
        Stager(path.parent / "content", lambda _: None) as stager,
        open_input(str(path), stager, Skopeo(path.parent)) as files,
    ):
        return read_images(files, parse_platform(platform) if platform else None)


def read_layout(folder: Path, layout: OciLayout, platform: str = "") -> list[Found]:
    return read(layout.write_tar(folder / "layout.tar"), platform)


# --- what it holds, and how it is packed ---


@pytest.mark.parametrize("is_docker", [False, True])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd", "mixed"])
def test_a_disk_is_that_of_the_docker_archive(tmp_path: Path, compression: str, is_docker: bool) -> None:
    """A folder, a tar file and a stream; without a name, since with one comes a repo digest."""
    image = Image(app_image().layers, (), app_image().config)
    ways = ["zstd", "", "gzip"] if compression == "mixed" else compression
    layout = OciLayout()
    layout.add(layout.image(image, ways, is_docker=is_docker))
    build_disk([write_docker_archive([image], tmp_path / "saved.tar")], tmp_path / "saved")
    inputs = {"folder": layout.write_folder(tmp_path / "folder.oci"), "tar": tmp_path / "folder.oci.tar"}
    inputs["stream"] = tmp_path / "layout.tar.bz2"
    inputs["stream"].write_bytes(COMPRESSORS["bzip2"](inputs["tar"].read_bytes()))
    for name, path in inputs.items():
        build_disk([path], tmp_path / name)
        assert (tmp_path / name).read_bytes() == (tmp_path / "saved").read_bytes()


def test_docker_manifest_wins(tmp_path: Path) -> None:
    """As with dockerd; an index.json beside it may say something else."""
    layout = OciLayout()
    layout.add(layout.image(small_image()), name="docker.io/library/oci:1")
    image = Image(busybox_image().layers, ("docker:1",))
    layout.others |= archive.old_members([image])
    assert [found.references for found in read_layout(tmp_path, layout)] == [("docker:1",)]


@pytest.mark.parametrize("manifest", [b"[]", b"null", b"{}"])
def test_a_manifest_without_images_does_not(tmp_path: Path, manifest: bytes) -> None:
    layout = OciLayout()
    layout.add(layout.image(small_image()), name="docker.io/library/oci:1")
    layout.others["manifest.json"] = manifest
    assert [found.references for found in read_layout(tmp_path, layout)] == [("oci:1",)]


# --- names ---


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"name": "docker.io/library/app:1", "ref_name": "1"}, "app:1"),
        ({"name": "docker.io/library/app:1", "ref_name": "other:2"}, "app:1"),
        ({"name": "docker.io/library/app:1@sha256:" + "0" * 64}, "app:1"),
        ({"ref_name": "localhost:5000/team/app:1"}, "localhost:5000/team/app:1"),
        ({"ref_name": "docker.io/user/app:1"}, "user/app:1"),
        ({"name": "not a name", "ref_name": "app:1"}, "app:1"),
        ({"ref_name": "latest"}, None),
        ({"name": "docker.io/library/app"}, None),
        ({}, None),
    ],
)
def test_names(tmp_path: Path, annotations: dict[str, str], expected: str | None) -> None:
    layout = OciLayout()
    manifest = layout.image(small_image())
    (found,) = read_layout(tmp_path, layout.add(manifest, **annotations))
    if expected is None:
        assert (found.references, found.repo_digests) == ((), ())
    else:
        assert found.references == (expected,)
        assert found.repo_digests == (f"{found.references[0].name}@{manifest['digest']}",)


def test_a_digest_for_a_name(tmp_path: Path) -> None:
    layout = OciLayout()
    manifest = layout.image(small_image())
    (found,) = read_layout(tmp_path, layout.add(manifest, name=f"docker.io/library/app@{manifest['digest']}"))
    assert (found.references, found.repo_digests) == ((), (f"app@{manifest['digest']}",))


def test_repo_digest_is_that_of_the_index_with_the_name(tmp_path: Path) -> None:
    layout = OciLayout()
    index = layout.index([on(HERE, layout.image(small_image()))])
    (found,) = read_layout(tmp_path, layout.add(index, name="docker.io/library/app:1"))
    assert found.repo_digests == (f"app@{index['digest']}",)


def test_one_image_with_two_names(tmp_path: Path) -> None:
    layout = OciLayout()
    manifest = layout.image(small_image())
    index = layout.index([on(HERE, manifest)])
    for entry, name in ((manifest, "a:1"), (manifest, "b:1"), (index, "c:1"), (index, "d:1")):
        layout.add(entry, ref_name=name)
    built = build_disk([layout.write_tar(tmp_path / "x.tar")], tmp_path / "x.qcow2")
    (record,) = built.index.images
    assert record.references == ("a:1", "b:1", "c:1", "d:1")
    assert len(record.repo_digests) == 4


def test_images_without_a_name_are_all_taken(tmp_path: Path) -> None:
    layout = OciLayout()
    images = [small_image(text) for text in "abc"]
    for image in images:
        layout.add(layout.image(image))
    assert {found.image_id for found in read_layout(tmp_path, layout)} == {image.image_id for image in images}


def test_one_name_of_two_images_is_refused(tmp_path: Path) -> None:
    layout = OciLayout()
    for text in "ab":
        layout.add(layout.image(small_image(text)), ref_name="app:1")
    with pytest.raises(InvalidArchive, match=r"app:1 names image [0-9a-f]{12} here, and [0-9a-f]{12} in "):
        build_disk([layout.write_tar(tmp_path / "x.tar")], tmp_path / "x.qcow2")


# --- platforms ---


def platform_index(layout: OciLayout, *platforms: str) -> list[Json]:
    return [on(name, layout.image(small_image(name), platform=name)) for name in platforms]


@pytest.mark.parametrize("way", ["index", "nested index", "docker list", "index.json"])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("linux/amd64", "linux/amd64"), ("linux/arm64/v8", "linux/arm64"), ("linux/arm/v7", "linux/arm/v6")],
)
def test_platform_selects(tmp_path: Path, way: str, wanted: str, expected: str) -> None:
    layout = OciLayout()
    manifests = platform_index(layout, "linux/arm/v5", "linux/arm/v6", "linux/arm64", "linux/amd64", "linux/arm/v8")
    if way == "index.json":
        for manifest in manifests:
            layout.add(manifest, ref_name="app:1")
    elif way == "nested index":
        halves = [layout.index(manifests[:2]), layout.index(manifests[2:])]
        layout.add(layout.index(halves), ref_name="app:1")
    else:
        layout.add(layout.index(manifests, is_docker=way == "docker list"), ref_name="app:1")
    (found,) = read_layout(tmp_path, layout, wanted)
    assert str(found.platform) == expected
    assert found.references == ("app:1",)


def test_platform_of_the_host_is_the_default(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.index(platform_index(layout, OTHER, HERE)))
    (found,) = read_layout(tmp_path, layout)
    assert str(found.platform) == HERE


def test_platform_is_that_of_the_configuration_where_the_descriptor_says_none(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.index([layout.image(small_image(name), platform=name) for name in (OTHER, HERE)]))
    (found,) = read_layout(tmp_path, layout)
    assert str(found.platform) == HERE


def test_blobs_of_other_platforms_may_be_missing(tmp_path: Path) -> None:
    layout = OciLayout()
    other, here = platform_index(layout, OTHER, HERE)
    layout.add(layout.index([other, here]))
    del layout.blobs[other["digest"]]
    (found,) = read_layout(tmp_path, layout)
    assert str(found.platform) == HERE


def test_an_index_gives_the_first_of_equals(tmp_path: Path) -> None:
    layout = OciLayout()
    first, second = (on(HERE, layout.image(small_image(text))) for text in "ab")
    (found,) = read_layout(tmp_path, layout.add(layout.index([first, second])))
    assert found.image_id == small_image("a").image_id


def test_tags_may_stand_for_platforms(tmp_path: Path) -> None:
    layout = OciLayout()
    for manifest in platform_index(layout, OTHER, HERE):
        layout.add(manifest, ref_name=manifest["platform"]["architecture"])
    (found,) = read_layout(tmp_path, layout)
    assert str(found.platform) == HERE


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("", rf"app:1 is there for linux/ppc64le, linux/s390x; expected {HERE} \(the platform of this host\); give"),
        ("linux/arm", r"app:1 is there for linux/ppc64le, linux/s390x; expected linux/arm \(--platform\)"),
    ],
)
def test_a_mismatch_lists_what_is_there(tmp_path: Path, wanted: str, message: str) -> None:
    layout = OciLayout()
    layout.add(layout.index(platform_index(layout, "linux/s390x", "linux/ppc64le")), ref_name="app:1")
    with pytest.raises(InvalidArchive, match=message):
        read_layout(tmp_path, layout, wanted)


def test_the_only_image_for_another_platform_is_taken_only_if_asked_for(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.image(small_image(), platform="linux/s390x"), ref_name="latest")
    with pytest.raises(InvalidArchive, match=rf"its image is there for linux/s390x; expected {HERE}"):
        read_layout(tmp_path, layout)
    assert len(read_layout(tmp_path, layout, "linux/s390x")) == 1


def test_a_named_image_is_not_left_out(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.image(small_image()), ref_name="here:1")
    layout.add(layout.image(small_image(), platform=OTHER), ref_name="there:1")
    with pytest.raises(InvalidArchive, match=f"there:1 is there for {OTHER}; expected"):
        read_layout(tmp_path, layout)


def test_windows_is_listed(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.index(platform_index(layout, "windows/amd64")))
    with pytest.raises(InvalidArchive, match="there for windows/amd64"):
        read_layout(tmp_path, layout)
    with pytest.raises(InvalidArchive, match="is an image for windows, expected linux"):
        read_layout(tmp_path, layout, "windows/amd64")


# --- what is no image ---


def test_attestations_are_skipped(tmp_path: Path) -> None:
    layout = OciLayout()
    manifest = on(HERE, layout.image(small_image()))
    unmarked = {**layout.attestation(manifest), "annotations": {}}
    unmarked_too = {**unmarked, "platform": None}
    layout.add(layout.index([layout.attestation(manifest), unmarked, unmarked_too, manifest]))
    layout.add(layout.attestation(manifest)).add(unmarked_too)
    (found,) = read_layout(tmp_path, layout)
    assert found.image_id == small_image().image_id


def test_other_artifacts_are_skipped(tmp_path: Path) -> None:
    layout = OciLayout()
    chart = layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json")
    layout.add(layout.manifest(chart, [])).add(on(HERE, layout.manifest(chart, [])))
    layout.add(layout.blob(b"{}", "application/x-unknown"))
    with pytest.raises(InvalidArchive, match="holds no image"):
        read_layout(tmp_path, layout)
    layout.add(layout.image(small_image()))
    assert len(read_layout(tmp_path, layout)) == 1


def test_an_empty_index(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match="holds no image"):
        read_layout(tmp_path, OciLayout())


# --- what is damaged ---


def test_damaged_documents(tmp_path: Path) -> None:
    for media_type in (f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json", f"{OCI}.config.v1+json"):
        layout = OciLayout()
        layout.add(layout.index([layout.image(small_image())]))
        kinds = {
            json.loads(content).get("mediaType", f"{OCI}.config.v1+json"): digest
            for digest, content in layout.blobs.items()
            if content.startswith(b"{")
        }
        digest = kinds[media_type]
        layout.blobs[digest] = layout.blobs[digest].replace(b"{", b"{ ", 1)
        with pytest.raises(DigestMismatch, match=f"blobs/sha256/{digest[7:]}: expected {digest}, found sha256:"):
            read_layout(tmp_path, layout)


def test_damaged_layer(tmp_path: Path) -> None:
    layout = OciLayout()
    image, other = small_image("a"), small_image("b")
    layer = layout.layer(other.layers[0], "gzip")
    layout.add(layout.manifest(layout.blob(image.config_bytes, f"{OCI}.config.v1+json"), [layer]))
    with pytest.raises(DigestMismatch, match=f"layer blobs/.*expected {image.diff_ids[0]}, found {other.diff_ids[0]}"):
        build_disk([layout.write_tar(tmp_path / "x.tar")], tmp_path / "x.qcow2")


def test_wrong_size(tmp_path: Path) -> None:
    layout = OciLayout()
    manifest = layout.image(small_image())
    layout.add({**manifest, "size": manifest["size"] + 1})
    with pytest.raises(DigestMismatch, match=f"expected {manifest['size'] + 1} bytes, found {manifest['size']} bytes"):
        read_layout(tmp_path, layout)


@pytest.mark.parametrize("number", range(3))
def test_missing_blobs(tmp_path: Path, number: int) -> None:
    """Configuration, layer, manifest, in the order in which they were added."""
    layout = OciLayout()
    layout.add(layout.image(small_image()))
    digest = list(layout.blobs)[number]
    del layout.blobs[digest]
    with pytest.raises(InvalidArchive, match=f"blobs/sha256/{digest[7:]} is missing, though an image needs it"):
        read_layout(tmp_path, layout)


@pytest.mark.parametrize(
    "media_type",
    [f"{OCI}.layer.nondistributable.v1.tar+gzip", f"{DOCKER}.image.rootfs.foreign.diff.tar.gzip"],
)
def test_layers_that_stand_elsewhere(tmp_path: Path, media_type: str) -> None:
    layout = OciLayout()
    image = small_image()
    layer = {**layout.layer(image.layers[0], "gzip"), "mediaType": media_type, "urls": ["https://example.org/layer"]}
    layout.add(layout.manifest(layout.blob(image.config_bytes, f"{OCI}.config.v1+json"), [layer]))
    assert len(read_layout(tmp_path, layout)) == 1
    del layout.blobs[layer["digest"]]
    with pytest.raises(InvalidArchive, match=r"is missing, it must be fetched from https://example\.org/layer"):
        read_layout(tmp_path, layout)


def test_encrypted_layers(tmp_path: Path) -> None:
    layout = OciLayout()
    image = small_image()
    layer = {**layout.layer(image.layers[0], "gzip"), "mediaType": f"{OCI}.layer.v1.tar+gzip+encrypted"}
    layout.add(layout.manifest(layout.blob(image.config_bytes, f"{OCI}.config.v1+json"), [layer]))
    with pytest.raises(InvalidArchive, match="is encrypted; decrypt the image first"):
        read_layout(tmp_path, layout)


def test_another_version_of_the_layout(tmp_path: Path) -> None:
    layout = OciLayout()
    layout.add(layout.image(small_image()))
    layout.others["oci-layout"] = to_json({"imageLayoutVersion": "2.0.0"})
    with pytest.raises(InvalidArchive, match=r"has the layout version '2.0.0'; expected 1.0.0"):
        read_layout(tmp_path, layout)


def test_a_chain_of_many_indexes_and_one_of_many_entries(tmp_path: Path) -> None:
    layout = OciLayout()
    deep = layout.index([on(HERE, layout.image(small_image()))])
    for _ in range(1500):
        deep = layout.index([deep])
    wide = layout.index([deep] * 100)
    for _ in range(20):
        wide = layout.index([wide] * 20)
    (found,) = read_layout(tmp_path, layout.add(wide))
    assert found.image_id == small_image().image_id


WEIRD: list[Any] = [None, True, 0, -1, 1.5, 10**30, "", "\0", "x" * 5000, "\ud800", [], [[]], [None], {}, {"": None}]


@pytest.mark.parametrize("document", ["index.json", "index", "manifest", "config", "oci-layout"])
def test_any_value_may_stand_in_any_place(tmp_path: Path, document: str) -> None:
    """Either it is of no matter, or the error is one for people."""
    chance = random.Random(document)
    messages = [message for number in range(150) if (message := read_spoilt(tmp_path / str(number), document, chance))]
    assert len(messages) > 10
    assert all(message.isprintable() and len(message) < 1000 for message in messages)


def read_spoilt(path: Path, document: str, chance: random.Random) -> str:
    """What is said of a layout in which a document is spoilt; nothing when it does not matter."""
    layout = make_layout(lambda where, content: spoil(content, chance) if where == document else content)
    try:
        read(layout.write_tar(path))
    except (InvalidArchive, DigestMismatch) as err:
        return str(err)
    return ""


def make_layout(change: Callable[[str, Any], Any]) -> OciLayout:
    """A layout with an index; each of its documents is changed on the way, and its digest is right."""
    layout = OciLayout()
    image = small_image(layers=2)

    def blob(where: str, media_type: str, content: Any) -> Json:
        return layout.blob(to_escaped(change(where, content)), f"{OCI}.{media_type}.v1+json")

    config = blob("config", "config", json.loads(image.config_bytes))
    layers = [{**layout.layer(layer, "gzip"), "urls": ["https://example.org"]} for layer in image.layers]
    manifest = blob("manifest", "manifest", {"schemaVersion": 2, "config": config, "layers": layers})
    index = blob("index", "index", {"schemaVersion": 2, "manifests": [on(f"{HERE}/v1", manifest)]})
    layout.add(index, name="docker.io/library/app:1", ref_name="1")
    layout.others["oci-layout"] = to_escaped(change("oci-layout", {"imageLayoutVersion": "1.0.0"}))
    layout.others["index.json"] = to_escaped(change("index.json", {"schemaVersion": 2, "manifests": layout.entries}))
    return layout


def to_escaped(value: object) -> bytes:
    return json.dumps(value).encode()


def spoil(document: Any, chance: random.Random) -> Any:
    """Put a weird value somewhere into a document."""
    document = copy.deepcopy(document)
    place = chance.choice(list(places(document)))
    if place is None:
        return chance.choice(WEIRD)
    container, key = place
    if chance.random() < 0.15 and isinstance(container, dict):
        del container[key]
    else:
        container[key] = chance.choice(WEIRD)
    return document


def places(value: Any) -> Iterator[tuple[Any, Any] | None]:
    yield None
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from (place for place in places(inner) if place)
