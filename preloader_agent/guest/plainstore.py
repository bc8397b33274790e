"""Disks without an index: a copy of `image/` and `overlay2/` of a data root, as NixOS's dockerPreloader made them.

The index that such a disk would have is put together from what dockerd wrote, and checked like any other. Imported only
when there is such a disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from preloader_agent.errors import InvalidDisk, InvalidValue, StoreError
from preloader_agent.guest.beneath import list_beneath, read_beneath
from preloader_agent.store.digest import MAX_LAYERS, CacheID, ChainID, DiffID, ImageID, Link, chain_ids
from preloader_agent.store.index import (
    MAX_CONFIG_BYTES,
    MAX_CONFIGS_BYTES,
    MAX_DISK_LAYERS,
    DiskIndex,
    ImageRecord,
    LayerRecord,
    Platform,
    check_index,
    checked_json,
    checked_size,
    checked_text,
)
from preloader_agent.store.layout import Store
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import EMPTY, Repositories, parse_repositories

_MAX_REPOSITORIES_BYTES = 4 << 20  # it has a line a reference
_MAX_ENTRIES = 2 * MAX_DISK_LAYERS  # of a directory, with dockerd's leftovers
_TOP = Store("")


def read_plain_store(root: str, disk: str) -> DiskIndex:
    """The images of a disk without an index; `disk` names it in errors. Raises InvalidDisk."""
    try:
        layers = {layer.chain_id: layer for layer in _read_layers(root)}
        repositories = _read_repositories(root)
        images = tuple(_read_images(root, layers, repositories))
        used = {chain for image in images for chain in image.chain}
        index = DiskIndex(images, tuple(layer for chain, layer in layers.items() if chain in used), "docker")
        check_index(index)
    except (ValueError, KeyError, TypeError, RecursionError, InvalidValue, StoreError) as err:
        what = f"has no index, and its copy of docker's store is not sound: {err}; build it with `preloader build`"
        raise InvalidDisk(disk, what) from err
    return index


def _read_layers(root: str) -> Iterator[LayerRecord]:
    for name in sorted(list_beneath(root, _relative(_TOP.layerdb), _MAX_ENTRIES)):
        try:
            chain = ChainID(f"sha256:{name}")
        except InvalidValue:
            continue  # dockerd's own leftovers
        record = _relative(_TOP.layer_record(chain))
        values = {key: read_beneath(root, f"{record}/{key}", 200).decode() for key in ("diff", "cache-id", "size")}
        diff_id, cache_id = DiffID(values["diff"]), CacheID(values["cache-id"])
        # dockerd reads the size as strictly, and drops the layer otherwise.
        size = int(values["size"]) if values["size"].isascii() and values["size"].isdecimal() else -1
        yield LayerRecord(diff_id, chain, cache_id, Link.of_chain(chain), checked_size(size))


def _read_images(root: str, layers: dict[ChainID, LayerRecord], repositories: Repositories) -> Iterator[ImageRecord]:
    named: dict[ImageID, list[Reference]] = {}
    for reference, image in repositories.references():
        named.setdefault(image, []).append(reference)
    left = MAX_CONFIGS_BYTES
    for name in sorted(list_beneath(root, _relative(_TOP.image_configs), _MAX_ENTRIES)):
        image_id = ImageID(f"sha256:{name}")
        content = read_beneath(root, _relative(_TOP.image_config(image_id)), min(MAX_CONFIG_BYTES, left))
        left -= len(content)
        config = json.loads(checked_json(content))
        diff_ids = config["rootfs"]["diff_ids"] or ()
        if len(diff_ids) > MAX_LAYERS:
            raise InvalidValue("number of layers", len(diff_ids), f"at most {MAX_LAYERS}")
        chain = tuple(chain_ids(map(DiffID, diff_ids)))
        names = sorted(named.get(image_id, []))
        yield ImageRecord(
            image_id,
            tuple(name for name in names if "@" not in name),
            tuple(name for name in names if "@" in name),
            Platform(checked_text(config.get("os", "linux")), checked_text(config.get("architecture", ""))),
            chain,
            sum(layers[link].size for link in chain),
        )


def _read_repositories(root: str) -> Repositories:
    path = _relative(_TOP.repositories)
    names = list_beneath(root, path.rpartition("/")[0], _MAX_ENTRIES)
    if path.rpartition("/")[2] not in names:
        return EMPTY
    return parse_repositories(checked_json(read_beneath(root, path, _MAX_REPOSITORIES_BYTES)), path)


def _relative(path: str) -> str:
    return path.lstrip("/")
