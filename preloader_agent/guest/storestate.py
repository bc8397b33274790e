"""What is in Docker's store: read before anything is planned, never changed here.

A shim is a layer whose `diff` is a symlink, which dockerd never makes. An image that we brought has a file of ours
among what dockerd notes about the image; dockerd does not look at it, and deletes it with the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from preloader_agent.errors import InvalidValue
from preloader_agent.store.digest import CacheID, ChainID, DiffID, ImageID, chain_ids
from preloader_agent.store.layout import Store
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import EMPTY, Repositories, parse_repositories

MARKER = "docker-preloader"


class StoredLayer(NamedTuple):
    """A layer's record; `shim` is where a shim's `diff` points, None for a layer of docker's own."""

    chain_id: ChainID
    cache_id: CacheID | None
    link: str
    lower: str
    shim: str | None
    is_sound: bool


class BroughtImage(NamedTuple):
    """An image that a disk brought, and the references that came with it."""

    chain: tuple[ChainID, ...]
    references: tuple[Reference, ...]


class StoreState(NamedTuple):
    """The layers, images and references of a store."""

    layers: dict[ChainID, StoredLayer]
    images: frozenset[ImageID]
    brought: dict[ImageID, BroughtImage]
    repositories: Repositories


def read_store(store: Store) -> StoreState:
    """Read a store; one that does not exist is empty. Raises StoreError for an unusable repositories.json."""
    images = frozenset(_read_images(store))
    return StoreState(
        {layer.chain_id: layer for layer in _read_layers(store)},
        images,
        dict(_read_brought(store, images)),
        _read_repositories(store),
    )


def marker_path(store: Store, image: ImageID) -> str:
    """The file that marks an image as brought by a disk."""
    return f"{store.image_metadata(image)}/{MARKER}"


def _read_layers(store: Store) -> Iterator[StoredLayer]:
    for name in _list(store.layerdb):
        try:
            chain = ChainID(f"sha256:{name}")
        except InvalidValue:
            continue  # dockerd's own leftovers, "<chain>-<random>-removing"
        if not os.path.islink(store.layer_record(chain)):
            yield _read_layer(store, chain)


def _read_layer(store: Store, chain: ChainID) -> StoredLayer:
    record = store.layer_record(chain)
    try:
        cache_id = CacheID(_read(f"{record}/cache-id"))
    except InvalidValue:
        return StoredLayer(chain, None, "", "", None, is_sound=False)
    place, diff = store.layer(cache_id), store.diff(cache_id)
    link, lower = _read(f"{place}/link"), _read(f"{place}/lower")
    shim = os.readlink(diff) if os.path.islink(diff) else None
    # A child without `lower` would silently lose the layers below it.
    has_place = bool(link) and bool(lower) == os.path.exists(f"{record}/parent")
    has_record = bool(_read(f"{record}/diff")) and bool(_read(f"{record}/size"))
    return StoredLayer(chain, cache_id, link, lower, shim, has_place and has_record and os.path.isdir(diff))


def _read_images(store: Store) -> Iterator[ImageID]:
    for name in _list(store.image_configs):
        try:
            image = ImageID(f"sha256:{name}")
        except InvalidValue:
            continue
        if os.path.getsize(store.image_config(image)):
            yield image


def _read_brought(store: Store, images: frozenset[ImageID]) -> Iterator[tuple[ImageID, BroughtImage]]:
    for image in images:
        content = _read(marker_path(store, image))
        if not content:
            continue
        try:
            references = tuple(Reference(reference) for reference in json.loads(content)["references"])
            config = json.loads(_read(store.image_config(image)))
            chain = chain_ids(DiffID(diff_id) for diff_id in config["rootfs"]["diff_ids"] or ())
        except (ValueError, KeyError, TypeError, InvalidValue):
            continue  # written to by somebody else: then it is not ours to remove
        yield image, BroughtImage(tuple(chain), references)


def _read_repositories(store: Store) -> Repositories:
    try:
        with open(store.repositories, "rb") as file:
            return parse_repositories(file.read(), store.repositories)
    except FileNotFoundError:
        return EMPTY


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    """A small file's text without the white space around it; "" when it is not there."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
