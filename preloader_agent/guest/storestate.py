"""What is in Docker's store: read before anything is planned, never changed here.

A shim is a layer whose `diff` is a symlink, which dockerd never makes. An image that we brought has a marker, a file of
ours among what dockerd notes about the image; dockerd does not look at it, and deletes it with the image. What a pass
that was killed left behind is known by the same two signs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from preloader_agent.errors import InvalidValue, StoreError, StoreUnused
from preloader_agent.store.digest import CacheID, ChainID, DiffID, ImageID, chain_ids, sha256_digest
from preloader_agent.store.layout import Store, link_target
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import EMPTY, Repositories, parse_repositories

MARKER = "docker-preloader"
OUR_ATTRIBUTE = "trusted.docker-preloader"  # of repositories.json, when we wrote it
STAGED_PREFIX = "docker-preloader-"  # in layerdb/tmp, beside what dockerd stages there, and among the short links


class StoredLayer(NamedTuple):
    """A layer's record; `shim` is where a shim's `diff` points, None for a layer of docker's own.

    It is whole when all its files are there, and sound when its tree is, too, and is to stay; a shim's with the layer's
    tar-split, on one disk.
    """

    chain_id: ChainID
    cache_id: CacheID | None
    link: str
    lower: str
    shim: str | None
    is_whole: bool
    is_sound: bool

    def is_on(self, mountpoint: str) -> bool:
        """Whether it is a shim of the disk that is mounted there."""
        return self.shim is not None and self.shim.startswith(f"{mountpoint}/")


class BroughtImage(NamedTuple):
    """An image that a disk brought, and the references that came with it; no chain when it is only half there."""

    chain: tuple[ChainID, ...] | None
    references: tuple[Reference, ...]


class StoreState(NamedTuple):
    """The layers, images and references of a store, its short links, and the paths that a killed pass left in it.

    `keep_as` is where repositories.json goes when it is replaced. It is damaged when we wrote it and nobody can read it
    any more; then `repositories` are those of the file before it.
    """

    layers: dict[ChainID, StoredLayer]
    links: frozenset[str]
    images: frozenset[ImageID]
    brought: dict[ImageID, BroughtImage]
    repositories: Repositories
    is_damaged: bool
    keep_as: str
    leftovers: tuple[str, ...]


def read_store(store: Store, leaving: Collection[str] = ()) -> StoreState:
    """Read a store; one that does not exist is empty. Raises StoreError when it cannot be read, or used.

    `leaving` are mount points of disks that are still there, but whose layers count as gone.
    """
    try:
        return _read_state(store, tuple(f"{mountpoint}/" for mountpoint in leaving))
    except OSError as err:
        raise StoreError(err.filename or store.root, f"cannot be read: {err.strerror}; nothing was changed") from err


def read_layers(store: Store, leaving: tuple[str, ...] = ()) -> Iterator[StoredLayer]:
    """The layers that are recorded; `leaving` are paths, shims below which are not sound. Raises OSError."""
    for name in list_names(store.layerdb):
        try:
            chain = ChainID(f"sha256:{name}")
        except InvalidValue:
            continue  # dockerd's own leftovers, "<chain>-<random>-removing"
        if not os.path.islink(store.layer_record(chain)):
            yield _read_layer(store, chain, leaving)


def _read_state(store: Store, leaving: tuple[str, ...]) -> StoreState:
    drivers = list_names(f"{store.root}/image")
    if drivers and "overlay2" not in drivers:
        raise StoreUnused(
            store.root, f"docker keeps its images with {drivers[0]}, not overlay2; its store is left alone"
        )
    layers = {layer.chain_id: layer for layer in read_layers(store, leaving)}
    images = frozenset(_read_images(store))
    repositories, is_damaged = _read_repositories(store)
    return StoreState(
        layers,
        frozenset(list_names(store.links)),
        images,
        dict(_read_brought(store)),
        repositories,
        is_damaged,
        _place_for_damaged(store) if is_damaged else store.kept_repositories,
        (
            *_staged(store.layerdb_staging),
            *_staged(store.links),
            *_shims_without_record(store, {layer.cache_id for layer in layers.values()}),
            *_metadata_of_nothing(store, images),
        ),
    )


def marker_path(store: Store, image: ImageID) -> str:
    """The file that marks an image as brought by a disk."""
    return f"{store.image_metadata(image)}/{MARKER}"


def _read_layer(store: Store, chain: ChainID, leaving: tuple[str, ...]) -> StoredLayer:
    record = store.layer_record(chain)
    try:
        cache_id = CacheID(_read(f"{record}/cache-id"))
    except InvalidValue:
        return StoredLayer(chain, None, "", "", None, is_whole=False, is_sound=False)
    place, diff = store.layer(cache_id), store.diff(cache_id)
    link, lower = _read(f"{place}/link"), _read(f"{place}/lower")
    shim = _read_link(diff)
    # A child without `lower` would silently lose the layers below it.
    has_place = bool(link) and bool(lower) == os.path.exists(f"{record}/parent")
    has_record = bool(_read(f"{record}/diff")) and bool(_read(f"{record}/size"))
    is_whole = has_place and has_record
    is_sound = is_whole and os.path.isdir(diff)
    if shim is not None:
        is_sound = is_sound and not shim.startswith(leaving) and _has_tar_split_of(shim, store, chain)
    return StoredLayer(chain, cache_id, link, lower, shim, is_whole, is_sound)


def _has_tar_split_of(shim: str, store: Store, chain: ChainID) -> bool:
    """Whether both of a layer's links point at one disk: a pass may be killed after it moved the first."""
    disk = Store(shim.rsplit("/", 3)[0])  # .../overlay2/<cache-id>/diff
    return _read_link(store.tar_split(chain)) == disk.tar_split(chain)


def _read_images(store: Store) -> Iterator[ImageID]:
    for image in _image_ids(store.image_configs):
        if os.path.getsize(store.image_config(image)):
            yield image


def _read_brought(store: Store) -> Iterator[tuple[ImageID, BroughtImage]]:
    for image in _image_ids(store.images_metadata):
        content = _read(marker_path(store, image))
        if not content:
            continue
        config = _read_exact(store.image_config(image))
        try:
            references = tuple(Reference(reference) for reference in json.loads(content)["references"])
            # After a power cut a configuration can be cut short; dockerd passes over it, and so do we.
            is_whole = sha256_digest(config) == image
            diff_ids = json.loads(config)["rootfs"]["diff_ids"] or () if is_whole else None
            chain = None if diff_ids is None else tuple(chain_ids(DiffID(diff_id) for diff_id in diff_ids))
        except (ValueError, KeyError, TypeError, RecursionError, InvalidValue):
            continue  # written to by somebody else: then it is not ours to remove
        yield image, BroughtImage(chain, references)


def new_references_path(store: Store) -> str:
    """What is to become repositories.json."""
    return f"{store.layerdb_staging}/{STAGED_PREFIX}repositories.json"


def _image_ids(directory: str) -> Iterator[ImageID]:
    for name in list_names(directory):
        try:
            yield ImageID(f"sha256:{name}")
        except InvalidValue:
            continue


def _staged(directory: str) -> Iterator[str]:
    for name in list_names(directory):
        if name.startswith(STAGED_PREFIX):
            yield f"{directory}/{name}"


def _shims_without_record(store: Store, recorded: set[CacheID | None]) -> Iterator[str]:
    for name in list_names(store.layers):
        try:
            cache_id = CacheID(name)
        except InvalidValue:
            continue
        if cache_id in recorded:
            continue
        if os.path.islink(store.diff(cache_id)):
            link = f"{store.links}/{_read(f'{store.layer(cache_id)}/link') or '-'}"
            if os.path.islink(link) and os.readlink(link) == link_target(cache_id):
                yield link
            yield store.layer(cache_id)
        elif not os.listdir(store.layer(cache_id)):
            yield store.layer(cache_id)


def _metadata_of_nothing(store: Store, images: frozenset[ImageID]) -> Iterator[str]:
    for image in _image_ids(store.images_metadata):
        if image not in images and not os.listdir(store.image_metadata(image)):
            yield store.image_metadata(image)


def _read_repositories(store: Store) -> tuple[Repositories, bool]:
    """What the file holds; the one before it, and True, when it is ours and damaged. Raises StoreError."""
    try:
        return _parse(store.repositories), False
    except FileNotFoundError:
        return EMPTY, False
    except StoreError:
        if not _is_ours(store.repositories):
            raise
        with suppress(FileNotFoundError, StoreError):
            return _parse(store.kept_repositories), True
        raise


def _parse(path: str) -> Repositories:
    with open(path, "rb") as file:
        return parse_repositories(file.read(), path)


def _is_ours(path: str) -> bool:
    """Whether we wrote this very file: whenever dockerd changes a reference, it puts another file in its place."""
    try:
        os.getxattr(path, OUR_ATTRIBUTE)
    except OSError as err:
        if err.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return False
    return True


def _place_for_damaged(store: Store) -> str:
    """Where nothing stands, or what a killed pass has set aside already."""
    number = 1
    while os.path.exists(path := store.damaged_repositories(number)) and not os.path.samefile(path, store.repositories):
        number += 1
    return path


def list_names(directory: str) -> list[str]:
    """The names in a directory of the store; none when it is not there. Raises OSError."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _read_link(path: str) -> str | None:
    """A symlink's target; None when there is none."""
    return os.readlink(path) if os.path.islink(path) else None


def _read(path: str) -> str:
    """A small file's text without the white space around it; "" when it is not there."""
    return _read_exact(path).decode(errors="surrogateescape").strip()


def _read_exact(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
