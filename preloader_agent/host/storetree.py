"""Docker's store as a tree: what a disk of format 1 holds besides the trees of its layers."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.staging import StagedLayer
from preloader_agent.host.tarstream import REG, SYM
from preloader_agent.store.digest import ChainID, ImageID, Link
from preloader_agent.store.index import DiskIndex, LayerRecord, encode_index
from preloader_agent.store.layout import (
    CONTAINERS_DIRECTORY,
    CONTAINERS_MODE,
    LAYER_DIRECTORY_MODE,
    LAYERDB_DIRECTORY_MODE,
    LAYERDB_FILE_MODE,
    PRIVATE_FILE_MODE,
    STORE_DIRECTORIES,
    Store,
    link_target,
    lower_of,
)
from preloader_agent.store.repositories import EMPTY

DISK = Store("")  # paths from the file system's top


class StoreFile(NamedTuple):
    """A small file of the store."""

    path: str
    content: bytes
    mode: int = LAYERDB_FILE_MODE


def store_files(index: DiskIndex) -> Iterator[StoreFile]:
    """The files that follow from the index: all but definitions of containers, image configurations, tar-splits and the
    layers' trees.
    """
    parents = {
        chain: parent
        for image in index.images
        for chain, parent in zip(image.chain, (None, *image.chain), strict=False)
    }
    for layer in index.layers:
        yield from _layer_files(layer, parents)
    references = {
        reference: image.image_id for image in index.images for reference in (*image.references, *image.repo_digests)
    }
    repositories = EMPTY.with_changes(remove={}, add=references)
    yield StoreFile(DISK.repositories, repositories.encode(), PRIVATE_FILE_MODE)
    yield StoreFile(DISK.index_file, encode_index(index))


def _layer_files(layer: LayerRecord, parents: Mapping[ChainID, ChainID | None]) -> Iterator[StoreFile]:
    """A layer's place in the overlay and its record; `committed` keeps dockerd from mounting a layer for writing."""
    place, record = DISK.layer(layer.cache_id), DISK.layer_record(layer.chain_id)
    lower, parent = "", parents[layer.chain_id]
    for below in reversed(_below(layer.chain_id, parents)):
        lower = lower_of(Link.of_chain(below), lower)
    yield StoreFile(f"{place}/link", layer.link.encode())
    if parent:
        yield StoreFile(f"{place}/lower", lower.encode())
        yield StoreFile(f"{record}/parent", parent.encode())
    yield StoreFile(f"{place}/committed", b"", PRIVATE_FILE_MODE)
    yield StoreFile(f"{record}/diff", layer.diff_id.encode())
    yield StoreFile(f"{record}/cache-id", layer.cache_id.encode())
    yield StoreFile(f"{record}/size", str(layer.size).encode())


def _below(chain: ChainID, parents: Mapping[ChainID, ChainID | None]) -> list[ChainID]:
    """The layers below one, nearest first."""
    below = []
    parent = parents[chain]
    while parent:
        below.append(parent)
        parent = parents[parent]
    return below


def make_store(
    blocks: BlockFile,
    index: DiskIndex,
    configs: Mapping[ImageID, bytes],
    definitions: Mapping[str, bytes],
    staged: Sequence[StagedLayer],
) -> Node:
    """The tree of a disk, with each layer of the index as it was staged; the content of its files goes to `blocks`."""
    root = make_directories(index)
    layers = list(zip(index.layers, staged, strict=True))
    for record, layer in layers:
        put(root, DISK.diff(record.cache_id), layer.root)
    files = [StoreFile(DISK.tar_split(record.chain_id), layer.tar_split) for record, layer in layers]
    files += [StoreFile(DISK.image_config(image), config, PRIVATE_FILE_MODE) for image, config in configs.items()]
    files += [StoreFile(DISK.container_definition(name), content) for name, content in definitions.items()]
    for path, content, mode in (*files, *store_files(index)):
        put(root, path, Node(REG, mode, size=len(content), extents=blocks.append([content])))
    return root


def make_directories(index: DiskIndex) -> Node:
    """What is neither a file nor in a layer's tree: directories and short links."""
    root = make_directory()
    for path, mode in STORE_DIRECTORIES:
        put(root, path, make_directory(mode))
    if index.containers:
        put(root, CONTAINERS_DIRECTORY, make_directory(CONTAINERS_MODE))
    for record in index.layers:
        put(root, DISK.layer(record.cache_id), make_directory(LAYER_DIRECTORY_MODE))
        put(root, DISK.link(record.link), Node(SYM, 0o777, target=link_target(record.cache_id).encode()))
        put(root, DISK.layer_record(record.chain_id), make_directory(LAYERDB_DIRECTORY_MODE))
    return root


def put(root: Node, path: str, node: Node) -> None:
    """Set what stands at a path; its parent is there."""
    folder, name = posixpath.split(path.lstrip("/"))
    directory = root
    for part in filter(None, folder.split("/")):
        assert directory.children is not None
        directory = directory.children[part.encode()]
    assert directory.children is not None
    directory.children[name.encode()] = node
