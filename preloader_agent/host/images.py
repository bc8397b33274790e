"""Images as inputs describe them, and which of them go to a disk, under which names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from preloader_agent.errors import InvalidArchive, InvalidValue
from preloader_agent.host.files import Files, missing
from preloader_agent.store.digest import MAX_LAYERS, ChainID, DiffID, ImageID, chain_ids, sha256_digest
from preloader_agent.store.index import Platform, checked_text
from preloader_agent.store.reference import Reference


@dataclass(frozen=True)
class LayerSource:
    """A layer of an image, and the file of an input that holds its tar stream."""

    diff_id: DiffID
    chain_id: ChainID
    files: Files
    file: str

    @property
    def name(self) -> str:
        """What errors call the layer."""
        return f"{self.files.name}: layer {self.file}"


@dataclass(frozen=True)
class Image:
    """An image of an input; `config` is its configuration, byte by byte."""

    image_id: ImageID
    config: bytes
    references: tuple[Reference, ...]
    repo_digests: tuple[Reference, ...]
    platform: Platform
    layers: tuple[LayerSource, ...]

    @property
    def name(self) -> str:
        """What a person calls the image."""
        return self.references[0] if self.references else self.image_id.hex[:12]


def make_image(  # noqa: PLR0913, PLR0917 - each is one part of an image
    files: Files,
    config_name: str,
    config: bytes,
    layer_names: Sequence[str],
    references: Iterable[Reference],
    repo_digests: Iterable[Reference] = (),
) -> Image:
    """An image from its configuration and the files that hold its layers. Raises InvalidArchive."""
    image_id = ImageID(sha256_digest(config))
    document = parse_json(files, config_name, config)
    diff_ids = _diff_ids(files, config_name, document)
    if len(layer_names) != len(diff_ids):
        raise InvalidArchive(
            files.name, f"image {image_id.hex[:12]} has {len(diff_ids)} layers, its manifest names {len(layer_names)}"
        )
    layers = tuple(
        LayerSource(diff_id, chain_id, files, name)
        for diff_id, chain_id, name in zip(diff_ids, chain_ids(diff_ids), layer_names, strict=True)
    )
    platform = _platform(files, config_name, document)
    return Image(image_id, config, tuple(sorted(set(references))), tuple(sorted(set(repo_digests))), platform, layers)


def read_document(files: Files, name: str) -> bytes:
    """A manifest or configuration that an image needs. Raises InvalidArchive."""
    content = files.read(name)
    if content is None:
        raise missing(files.name, name)
    return content


def parse_json(files: Files, name: str, content: bytes) -> Any:
    """The value that a document holds. Raises InvalidArchive."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise InvalidArchive(files.name, f"{name} is not valid JSON: {err}") from err


def _diff_ids(files: Files, name: str, config: Any) -> list[DiffID]:
    try:
        diff_ids = [DiffID(diff_id) for diff_id in config["rootfs"]["diff_ids"] or ()]
    except (KeyError, TypeError, InvalidValue) as err:
        raise InvalidArchive(files.name, f"{name} is not an image configuration: rootfs.diff_ids: {err}") from err
    if len(diff_ids) > MAX_LAYERS:
        raise InvalidArchive(files.name, f"{name} has {len(diff_ids)} layers; docker takes at most {MAX_LAYERS}")
    return diff_ids


def _platform(files: Files, name: str, config: dict[str, Any]) -> Platform:
    values = [config.get(key) for key in ("os", "architecture", "variant")]
    try:
        os, architecture, variant = (checked_text(value if isinstance(value, str) else "") for value in values)
    except InvalidValue as err:
        raise InvalidArchive(files.name, f"{name}: platform: {err}") from err
    if os not in ("", "linux"):
        raise InvalidArchive(
            files.name, f"{name} is an image for {os}, expected linux; docker would not load it either"
        )
    return Platform("linux", architecture, variant)
