"""Whether Docker's store on a disk is what the disk's index says, but for what is in the layers."""

from __future__ import annotations

import json
from collections.abc import Iterator

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.ext4.layout import ROOT_INODE
from preloader_agent.host.ext4.reader import Ext4, Inode
from preloader_agent.host.faults import Fault, fault_of
from preloader_agent.host.files import MAX_DOCUMENT
from preloader_agent.host.node import Node
from preloader_agent.host.storetree import DISK, make_directories, put, store_files
from preloader_agent.host.tarstream import DIR, REG
from preloader_agent.host.treecheck import compare_trees
from preloader_agent.store.digest import CacheID, DiffID, Link, sha256_digest
from preloader_agent.store.index import MAX_CONTAINER_BYTES, ContainerRecord, DiskIndex, ImageRecord, encode_index
from preloader_agent.store.layout import LAYERDB_FILE_MODE, PRIVATE_FILE_MODE

_LOST_FOUND = "/lost+found"


def check_store(filesystem: Ext4, index: DiskIndex, content: bytes) -> Iterator[Fault]:
    """The faults of a store, whose index was read from `content`."""
    yield from _check_index(filesystem, index, content)
    used = {chain for image in index.images for chain in image.chain}
    index = index._replace(layers=tuple(layer for layer in index.layers if layer.chain_id in used))
    files = {path: text for path, text, _ in store_files(index) if path != DISK.index_file}
    yield from compare_trees(filesystem, _expected_tree(filesystem, index, content), ROOT_INODE, "")
    for path, expected in files.items():
        yield from _check_content(filesystem, path, expected)
    layers = index.layers_by_chain()
    for image in index.images:
        yield from _check_config(filesystem, image, [layers[chain].diff_id for chain in image.chain])
    for container in index.containers:
        yield from _check_definition(filesystem, container)


def _check_index(filesystem: Ext4, index: DiskIndex, content: bytes) -> Iterator[Fault]:
    """That every byte of the index is the one that was written, and that it says what follows from itself."""
    path = DISK.index_file
    if content not in (encode_index(index), _encode_older(index)):
        yield Fault(path, "is damaged: it is not what its own checksum says")
    if filesystem.label != index.label:
        yield Fault(path, f"goes with the label {index.label}, the file system has {filesystem.label!r}")
    if filesystem.uuid != index.content_digest.hex[:32]:
        yield Fault(path, f"goes with the UUID {index.content_digest.hex[:32]}, the file system has {filesystem.uuid}")
    used = {chain for image in index.images for chain in image.chain}
    sizes = {layer.chain_id: layer.size for layer in index.layers}
    for layer in index.layers:
        if layer.chain_id not in used:
            yield Fault(path, f"lists the layer {layer.chain_id}, which no image has")
        if (layer.cache_id, layer.link) != (CacheID.of_chain(layer.chain_id), Link.of_chain(layer.chain_id)):
            yield Fault(path, f"gives the layer {layer.chain_id} names that do not follow from its ChainID")
    for image in index.images:
        if image.size != sum(sizes[chain] for chain in image.chain):
            yield Fault(path, f"says that image {image.name} has {image.size} bytes, its layers have another sum")


def _encode_older(index: DiskIndex) -> bytes | None:
    """The index as it was written before it had checksums, if it can be one of these."""
    if any(layer.tar_split for layer in index.layers):
        return None
    document = json.loads(encode_index(index))
    del document["checksum"]
    for layer in document["layers"]:
        del layer["tar_split"]
    return json.dumps(document, indent=1).encode() + b"\n"


def _expected_tree(filesystem: Ext4, index: DiskIndex, content: bytes) -> Node:
    """All but the trees of layers. Files whose size nothing says have the one that is found."""
    root = make_directories(index)
    root.mtime_ns = filesystem.inode(ROOT_INODE).mtime_ns  # when the file system was made: older disks have a time
    put(root, _LOST_FOUND, Node(DIR))
    files = [(path, mode, len(text)) for path, text, mode in store_files(index) if path != DISK.index_file]
    files.append((DISK.index_file, LAYERDB_FILE_MODE, len(content)))
    files += [(DISK.container_definition(name), LAYERDB_FILE_MODE, size) for name, size, _ in index.containers]
    for image in index.images:
        path = DISK.image_config(image.image_id)
        files.append((path, PRIVATE_FILE_MODE, _size(filesystem, path)))
    for layer in index.layers:
        path = DISK.tar_split(layer.chain_id)
        files.append((path, LAYERDB_FILE_MODE, _size(filesystem, path)))
        put(root, DISK.diff(layer.cache_id), Node(DIR))
    for path, mode, size in files:
        put(root, path, Node(REG, mode, size=size))
    return root


def _size(filesystem: Ext4, path: str) -> int:
    try:
        inode = _find(filesystem, path)
    except InvalidDisk:
        return 0
    return inode.size if inode else 0


def _find(filesystem: Ext4, path: str) -> Inode | None:
    number = filesystem.find(path.encode())
    return filesystem.inode(number) if number else None


def _check_content(filesystem: Ext4, path: str, expected: bytes) -> Iterator[Fault]:
    try:
        inode = _find(filesystem, path)
        # Whether it is a file of that size was checked already.
        if inode and inode.type == REG and inode.size == len(expected):
            found = b"".join(filesystem.pieces(inode))
            if found != expected:
                yield Fault(path, f"holds {found!r:.200}, expected {expected!r:.200}")
    except InvalidDisk as err:
        yield fault_of(path, err)


def _check_config(filesystem: Ext4, image: ImageRecord, diff_ids: list[DiffID]) -> Iterator[Fault]:
    path = DISK.image_config(image.image_id)
    try:
        config = filesystem.read(path.encode(), MAX_DOCUMENT)
    except InvalidDisk as err:
        yield fault_of(path, err)
        return
    if config is None:
        return  # its absence was found already
    digest = sha256_digest(config)
    if digest != image.image_id:
        yield Fault(path, f"is damaged: its digest is {digest}, expected that of image {image.name}, {image.image_id}")
    elif _diff_ids(config) != diff_ids:
        yield Fault(path, f"names other layers than the index does for image {image.name}")


def _check_definition(filesystem: Ext4, container: ContainerRecord) -> Iterator[Fault]:
    path = DISK.container_definition(container.name)
    try:
        content = filesystem.read(path.encode(), MAX_CONTAINER_BYTES)
    except InvalidDisk as err:
        yield fault_of(path, err)
        return
    if content is not None and (digest := sha256_digest(content)) != container.digest:
        yield Fault(path, f"is damaged: its digest is {digest}, the index says {container.digest}")


def _diff_ids(config: bytes) -> object:
    try:
        return json.loads(config)["rootfs"]["diff_ids"] or []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
