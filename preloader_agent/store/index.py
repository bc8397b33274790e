"""preload.json: the index of a disk, the contract between host and guest.

Everything read here comes from a disk and is untrusted: `parse_index` returns only values that were checked, with
ChainIDs that follow from the DiffIDs and a content digest that follows from the images. A reader refuses an unknown
format number, and ignores fields that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from preloader_agent.errors import InvalidDisk, InvalidValue
from preloader_agent.store.containername import checked_name
from preloader_agent.store.digest import (
    MAX_LAYERS,
    CacheID,
    ChainID,
    DiffID,
    Digest,
    ImageID,
    Link,
    chain_ids,
    sha256_digest,
)
from preloader_agent.store.reference import Reference

FORMAT = 1
LABEL_PREFIX = "dpl-"

# Limits of a disk. docker's start waits for all of it: 5000 layers take 7 s to adopt. A layer or an image has some 350
# bytes of the index; an image configuration has some kB (containerd's limit for a manifest is 4 MB, too).
MAX_IMAGES, MAX_DISK_LAYERS, MAX_REFERENCES = 1000, 5000, 10_000
MAX_INDEX_BYTES = 16 << 20
MAX_CONFIG_BYTES, MAX_CONFIGS_BYTES = 4 << 20, 64 << 20  # one, and all together
MAX_CONTAINERS, MAX_CONTAINER_BYTES = 100, 1 << 16  # definitions, and bytes of one (tables.MAX_BYTES)
_MAX_JSON_VALUES = 1 << 18  # Python needs up to 170 bytes for each: 16 MB of `{},` became 460 MB
_MAX_SIZE = 1 << 56  # bytes; the sum of 125 layers fits the 63 bits that dockerd has for it


class Platform(NamedTuple):
    """What an image runs on."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class LayerRecord(NamedTuple):
    """A layer on a disk; `size` is the sum that dockerd would report, in bytes.

    `tar_split` is the digest of its tar-split.json.gz, so that damage to it can be found; a plain disk has none.
    """

    diff_id: DiffID
    chain_id: ChainID
    cache_id: CacheID
    link: Link
    size: int
    tar_split: Digest | None = None


class ImageRecord(NamedTuple):
    """An image on a disk; `chain` is the ChainIDs of its layers, base first."""

    image_id: ImageID
    references: tuple[Reference, ...]
    repo_digests: tuple[Reference, ...]
    platform: Platform
    chain: tuple[ChainID, ...]
    size: int

    @property
    def name(self) -> str:
        """What a person calls the image: its first reference, or the short image ID that Docker shows."""
        return self.references[0] if self.references else self.image_id.hex[:12]


class ContainerRecord(NamedTuple):
    """The definition of a container that is to be a service: the disk's file `containers/NAME.toml`."""

    name: str
    size: int
    digest: Digest


class DiskIndex(NamedTuple):
    """What is on a disk. Images and layers are sorted; a layer that images share stands once."""

    images: tuple[ImageRecord, ...]
    layers: tuple[LayerRecord, ...]
    created_by: str
    containers: tuple[ContainerRecord, ...] = ()

    @property
    def content_digest(self) -> Digest:
        """What two disks with the same images, references and containers have in common, and no others."""
        images = ((image.image_id, image.references, image.repo_digests) for image in self.images)
        return content_digest(images, self.containers)

    @property
    def label(self) -> str:
        """The file system label that goes with the content digest."""
        return disk_label(self.content_digest)

    def layers_by_chain(self) -> dict[ChainID, LayerRecord]:
        """The layers by ChainID."""
        return {layer.chain_id: layer for layer in self.layers}


def content_digest(
    images: Iterable[tuple[ImageID, Iterable[Reference], Iterable[Reference]]],
    containers: Iterable[ContainerRecord] = (),
) -> Digest:
    """The digest of the format, of each image's ID, references and repo digests, and of each container's name and
    definition, whatever their order. A disk without containers has the digest that it had before there were any.
    """
    content = sorted([image, sorted(references), sorted(repo_digests)] for image, references, repo_digests in images)
    definitions = sorted([container.name, container.digest] for container in containers)
    document = [FORMAT, content, definitions] if definitions else [FORMAT, content]
    return sha256_digest(json.dumps(document, separators=(",", ":")).encode())


def disk_label(digest: Digest) -> str:
    """The file system label that goes with a content digest: 16 bytes, `dpl-` and 12 hex digits."""
    return LABEL_PREFIX + digest.hex[:12]


def encode_index(index: DiskIndex) -> bytes:
    """The bytes of preload.json; the same index gives the same bytes.

    A reader needs no `checksum`: it is there so that damage to any byte can be found, by encoding the index again.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "content_digest": index.content_digest,
        "created_by": index.created_by,
        "images": [
            {
                "id": image.image_id,
                "references": image.references,
                "repo_digests": image.repo_digests,
                "platform": image.platform._asdict(),
                "chain": image.chain,
                "size": image.size,
            }
            for image in index.images
        ],
        "layers": [layer._asdict() for layer in index.layers],
    }
    if index.containers:
        document["containers"] = [container._asdict() for container in index.containers]
    checksum = sha256_digest(json.dumps(document, separators=(",", ":")).encode())
    return json.dumps({**document, "checksum": checksum}, indent=1).encode() + b"\n"


def parse_index(content: bytes, disk: str) -> DiskIndex:
    """Read and check preload.json; `disk` names it in errors. Raises InvalidDisk."""
    try:
        document = json.loads(checked_json(content))
        found = document["format"]
        if found != FORMAT:
            raise InvalidDisk(
                disk, f"disk format {found!r:.20}, this version reads format {FORMAT}: update docker-preloader"
            )
        layers = tuple(_parse_layer(layer) for layer in document["layers"])
        images = tuple(_parse_image(image) for image in document["images"])
        containers = tuple(_parse_container(container) for container in document.get("containers", ()))
        index = DiskIndex(images, layers, checked_text(document.get("created_by", "")), containers)
        check_index(index)
        if document["content_digest"] != index.content_digest:
            raise InvalidValue("content digest", document["content_digest"], index.content_digest)
    except (InvalidValue, KeyError, TypeError, ValueError, AttributeError, RecursionError) as err:
        reason = f"field {err} is missing" if isinstance(err, KeyError) else str(err)
        raise InvalidDisk(disk, f"its index is not valid: {reason:.300}; build the disk again") from err
    return index


def _parse_layer(layer: dict[str, Any]) -> LayerRecord:
    return LayerRecord(
        DiffID(layer["diff_id"]),
        ChainID(layer["chain_id"]),
        CacheID(layer["cache_id"]),
        Link(layer["link"]),
        checked_size(layer["size"]),
        Digest(layer["tar_split"]) if layer.get("tar_split") else None,
    )


def _parse_image(image: dict[str, Any]) -> ImageRecord:
    platform = image["platform"]
    chain = tuple(ChainID(chain) for chain in image["chain"])
    if len(chain) > MAX_LAYERS:
        raise InvalidValue("number of layers", len(chain), f"at most {MAX_LAYERS}")
    return ImageRecord(
        ImageID(image["id"]),
        tuple(Reference(reference) for reference in image["references"]),
        tuple(Reference(reference) for reference in image["repo_digests"]),
        Platform(
            checked_text(platform["os"]),
            checked_text(platform["architecture"]),
            checked_text(platform.get("variant", "")),
        ),
        chain,
        checked_size(image["size"]),
    )


def _parse_container(container: dict[str, Any]) -> ContainerRecord:
    size = checked_size(container["size"])
    if size > MAX_CONTAINER_BYTES:
        raise InvalidValue("size of a container's definition", size, f"at most {MAX_CONTAINER_BYTES} bytes")
    return ContainerRecord(checked_name(container["name"]), size, Digest(container["digest"]))


def check_index(index: DiskIndex) -> None:
    """Nothing stands twice or is too much, and the layers are those of the images, each with the ChainID that follows.

    A layer that no image used would be one whose ChainID nobody has checked. Raises InvalidValue.
    """
    layers = index.layers_by_chain()
    for kind, ids, number, limit in (
        ("layers", layers.keys(), len(index.layers), MAX_DISK_LAYERS),
        ("images", {image.image_id for image in index.images}, len(index.images), MAX_IMAGES),
        ("containers", {each.name for each in index.containers}, len(index.containers), MAX_CONTAINERS),
    ):
        if number > limit:
            raise InvalidValue(f"number of {kind}", number, f"at most {limit}")
        if len(ids) != number:
            raise InvalidValue(f"number of {kind}", number, f"{len(ids)}, each once")
    references = sum(len(image.references) + len(image.repo_digests) for image in index.images)
    if references > MAX_REFERENCES:  # each gets a line in docker's repositories.json
        raise InvalidValue("number of references", references, f"at most {MAX_REFERENCES}")
    if unused := layers.keys() - {chain for image in index.images for chain in image.chain}:
        raise InvalidValue("layers", min(unused), "those of the images, and no others")
    for image in index.images:
        expected = tuple(chain_ids(layers[chain].diff_id for chain in image.chain))
        if image.chain != expected:
            raise InvalidValue(f"chain of image {image.name}", image.chain[-1], expected[-1])


def checked_size(value: object) -> int:
    """A number of bytes. Raises InvalidValue."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MAX_SIZE:
        raise InvalidValue("size", value, "a number of bytes")
    return value


def checked_text(value: object) -> str:
    """A short text that cannot harm a terminal or a log. Raises InvalidValue."""
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise InvalidValue("text", value, "at most 200 printable characters")
    return value


def checked_json(content: bytes) -> bytes:
    """A JSON document that takes a bounded amount of memory once it is parsed. Raises InvalidValue."""
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > _MAX_JSON_VALUES:
        raise InvalidValue("JSON values", values, f"at most {_MAX_JSON_VALUES}")
    return content
