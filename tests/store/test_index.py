"""preload.json: what was written is read back, and what a hostile disk holds is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from preloader_agent.errors import InvalidDisk
from preloader_agent.store.digest import CacheID, DiffID, ImageID, Link, chain_ids, sha256_digest
from preloader_agent.store.index import (
    MAX_CONTAINER_BYTES,
    MAX_CONTAINERS,
    MAX_IMAGES,
    ContainerRecord,
    DiskIndex,
    ImageRecord,
    LayerRecord,
    Platform,
    content_digest,
    encode_index,
    parse_index,
)
from preloader_agent.store.reference import Reference

DIFF_IDS = [DiffID(sha256_digest(bytes([number]))) for number in range(3)]
CHAIN = tuple(chain_ids(DIFF_IDS))
LAYERS = tuple(
    LayerRecord(diff_id, chain, CacheID.of_chain(chain), Link.of_chain(chain), 10 * number)
    for number, (diff_id, chain) in enumerate(zip(DIFF_IDS, CHAIN, strict=True))
)
IMAGE = ImageRecord(
    ImageID(sha256_digest(b"image")),
    (Reference("app:1"), Reference("ghcr.io/o/app:1")),
    (Reference(f"app@{sha256_digest(b'manifest')}"),),
    Platform("linux", "arm64", "v8"),
    CHAIN,
    30,
)
SCRATCH = ImageRecord(ImageID(sha256_digest(b"scratch")), (), (), Platform("linux", "amd64"), (), 0)
CONTAINERS = tuple(ContainerRecord(name, 20, sha256_digest(name.encode())) for name in ("db", "web"))
INDEX = DiskIndex((IMAGE, SCRATCH), LAYERS, "docker-preloader 0.1", CONTAINERS)

Document = dict[str, Any]


def document() -> Document:
    found: Document = json.loads(encode_index(INDEX))
    return found


def parse(changed: Document) -> DiskIndex:
    return parse_index(json.dumps(changed).encode(), "disk x")


def test_round_trip() -> None:
    assert parse_index(encode_index(INDEX), "disk x") == INDEX


def test_empty_disk() -> None:
    empty = DiskIndex((), (), "")
    assert parse_index(encode_index(empty), "disk x") == empty


def test_unknown_fields_are_ignored() -> None:
    changed = document()
    changed["future"] = {"a": 1}
    for record in (*changed["images"], *changed["layers"], *changed["containers"]):
        record["future"] = [1, 2]
    assert parse(changed) == INDEX


def test_label_follows_from_the_content() -> None:
    """Not from the order of images, nor from who wrote the disk."""
    other = INDEX._replace(images=(SCRATCH, IMAGE), created_by="somebody else", containers=CONTAINERS[::-1])
    assert other.label == INDEX.label == "dpl-" + INDEX.content_digest.hex[:12]
    assert len(INDEX.label.encode()) == 16
    renamed = INDEX._replace(images=(IMAGE._replace(references=(Reference("app:2"),)), SCRATCH))
    assert renamed.label != INDEX.label
    web = CONTAINERS[1]
    for changed in (web._replace(name="www"), web._replace(digest=CONTAINERS[0].digest)):
        assert INDEX._replace(containers=(CONTAINERS[0], changed)).label != INDEX.label


def test_a_disk_without_containers_is_as_it_was_before_there_were_any() -> None:
    without = INDEX._replace(containers=())
    assert "containers" not in json.loads(encode_index(without))
    assert parse_index(encode_index(without), "disk x") == without


def test_content_digest_is_that_of_format_1() -> None:
    """Written out once more: a disk's label must not change with the version that writes it."""
    content = [[IMAGE.image_id, sorted(IMAGE.references), list(IMAGE.repo_digests)], [SCRATCH.image_id, [], []]]
    text = json.dumps([1, sorted(content)], separators=(",", ":"))
    assert content_digest((i.image_id, i.references, i.repo_digests) for i in INDEX.images) == sha256_digest(
        text.encode()
    )
    definitions = [[container.name, container.digest] for container in CONTAINERS]
    text = json.dumps([1, sorted(content), definitions], separators=(",", ":"))
    assert INDEX.content_digest == sha256_digest(text.encode())


def test_image_is_called_by_its_first_reference_or_its_id() -> None:
    assert IMAGE.name == "app:1"
    assert SCRATCH.name == SCRATCH.image_id.hex[:12]


@pytest.mark.parametrize("found", [2, "1", None, 1.5, [1], {}])
def test_other_format(found: object) -> None:
    with pytest.raises(InvalidDisk) as raised:
        parse({**document(), "format": found})
    assert str(raised.value) == (f"disk x: disk format {found!r}, this version reads format 1: update docker-preloader")


def change(*path: str | int, to: object) -> Callable[[Document], None]:
    """Replaces one value of the document."""

    def apply(found: Any) -> None:
        *parents, last = path
        for step in parents:
            found = found[step]
        found[last] = to

    return apply


def remove(*path: str | int) -> Callable[[Document], None]:
    """Removes one value of the document."""

    def apply(found: Any) -> None:
        *parents, last = path
        for step in parents:
            found = found[step]
        del found[last]

    return apply


HOSTILE = {
    "no images": remove("images"),
    "no layers": remove("layers"),
    "no content digest": remove("content_digest"),
    "no platform": remove("images", 0, "platform"),
    "images are a number": change("images", to=3),
    "images are a text": change("images", to="abc"),
    "images are null": change("images", to=None),
    "an image is a list": change("images", 0, to=[]),
    "a layer is a text": change("layers", 0, to="x"),
    "wrong content digest": change("content_digest", to=f"sha256:{'0' * 64}"),
    "content digest is a list": change("content_digest", to=[1]),
    "image ID with a path": change("images", 0, "id", to="sha256:../../../etc/passwd"),
    "another image ID": change("images", 0, "id", to=f"sha256:{'0' * 64}"),
    "another reference": change("images", 0, "references", 0, to="busybox:latest"),
    "a reference that is none": change("images", 0, "references", 0, to="-rf /"),
    "references are a text": change("images", 0, "references", to="app:1"),
    "cache-id with a path": change("layers", 0, "cache_id", to="../../../../etc"),
    "link with a path": change("layers", 0, "link", to="../" + "A" * 23),
    "another DiffID": change("layers", 1, "diff_id", to=f"sha256:{'0' * 64}"),
    "a layer is missing": remove("layers", 1),
    "a layer that no image has": change("images", 0, "chain", to=list(CHAIN[:2])),
    "chain in another order": change("images", 0, "chain", to=[*CHAIN[1:], CHAIN[0]]),
    "chain without its base": change("images", 0, "chain", to=list(CHAIN[1:])),
    "chain of too many layers": change("images", 0, "chain", to=[CHAIN[0]] * 126),
    "chain is a number": change("images", 0, "chain", to=1),
    "huge size": change("layers", 0, "size", to=1 << 56),
    "huge size of an image": change("images", 0, "size", to=1 << 70),
    "negative size": change("layers", 0, "size", to=-1),
    "size is true": change("layers", 0, "size", to=True),
    "size is a text": change("layers", 0, "size", to="1"),
    "size is a fraction": change("layers", 0, "size", to=1.5),
    "escape sequence in the platform": change("images", 0, "platform", "os", to="\x1b[2J"),
    "long architecture": change("images", 0, "platform", "architecture", to="a" * 201),
    "nested deep": change("created_by", to=json.loads("[" * 900 + "]" * 900)),
    "many references": change("images", 0, "references", to=[f"app:{number}" for number in range(10_001)]),
    "many values": change("future", to=[0] * (1 << 19)),
    "newline in the creator": change("created_by", to="a\nb"),
    "containers are null": change("containers", to=None),
    "containers are a text": change("containers", to="web"),
    "a container is a list": change("containers", 0, to=[]),
    "a container's name is a path": change("containers", 0, "name", to="../../etc/cron.d/x"),
    "a container's name is ours": change("containers", 0, "name", to="preloader-merge"),
    "a container's name is no text": change("containers", 0, "name", to=["db"]),
    "a container without a digest": remove("containers", 0, "digest"),
    "another digest of a container": change("containers", 0, "digest", to=f"sha256:{'0' * 64}"),
    "a long definition": change("containers", 0, "size", to=MAX_CONTAINER_BYTES + 1),
    "two containers of a name": change("containers", 0, "name", to="web"),
    "containers left out": remove("containers"),
}


@pytest.mark.parametrize("how", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_index(how: Callable[[Document], None]) -> None:
    changed = document()
    how(changed)
    with pytest.raises(InvalidDisk) as raised:
        parse(changed)
    message = str(raised.value)
    assert message.startswith("disk x: its index is not valid: ")
    assert message.endswith("; build the disk again")
    assert len(message) < 500
    assert message.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"format":' + b"[" * 100_000,
        b'{"format": 1, "layers": ' + b"9" * 10_000 + b"}",
        b'{"format": 1, "layers": [{"diff_id": "\\ud800"}]}',
        b"NaN",
    ],
)
def test_no_index_at_all(content: bytes) -> None:
    with pytest.raises(InvalidDisk, match=r"^disk x: .*(build the disk again|update docker-preloader)$"):
        parse_index(content, "disk x")


def test_more_images_than_docker_shall_wait_for_are_refused() -> None:
    images = tuple(SCRATCH._replace(image_id=ImageID(sha256_digest(b"%d" % number))) for number in range(10_000))
    assert parse_index(encode_index(DiskIndex(images[:MAX_IMAGES], (), "")), "disk x").images == images[:MAX_IMAGES]
    with pytest.raises(InvalidDisk, match="number of images: expected at most 1000, found 10000"):
        parse_index(encode_index(DiskIndex(images, (), "")), "disk x")


def test_more_containers_than_a_guest_shall_run_are_refused() -> None:
    containers = tuple(CONTAINERS[0]._replace(name=f"c{number}") for number in range(MAX_CONTAINERS + 1))
    most = INDEX._replace(containers=containers[:-1])
    assert parse_index(encode_index(most), "disk x") == most
    with pytest.raises(InvalidDisk, match="number of containers: expected at most 100, found 101"):
        parse_index(encode_index(INDEX._replace(containers=containers)), "disk x")
