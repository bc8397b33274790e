"""Carrying out a plan: each operation is idempotent, and a crash between any two system calls leaves a store that
dockerd can use and the next pass completes.

A layer exists once its record is renamed into place, an image once its configuration is. Layers and markers are on
stable storage before images are there, and images before repositories.json names them.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from preloader_agent.errors import StoreError, StoreFull
from preloader_agent.guest import log
from preloader_agent.guest.mounts import sync_filesystem
from preloader_agent.guest.plan import (
    AddImage,
    AddLayer,
    AddLink,
    ForgetImage,
    MarkImage,
    Operation,
    Plan,
    PointLayer,
    RemoveImage,
    RemoveLayer,
    RemoveLeftover,
    SetReferences,
    Sync,
    WriteReferences,
    describe,
)
from preloader_agent.guest.storestate import OUR_ATTRIBUTE, STAGED_PREFIX, marker_path, new_references_path
from preloader_agent.store.digest import ChainID
from preloader_agent.store.layout import (
    LAYER_DIRECTORY_MODE,
    LAYERDB_DIRECTORY_MODE,
    LAYERDB_FILE_MODE,
    PRIVATE_FILE_MODE,
    STORE_DIRECTORIES,
    Store,
    link_target,
)
from preloader_agent.store.repositories import EMPTY

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def apply_plan(plan: Plan, store: Store) -> None:
    """Change the store as planned; nothing is touched when there is nothing to do. Raises StoreError."""
    if plan.operations:
        with _store_errors(store):
            _make_directories(store)
        apply_operations(plan.operations, store)


def apply_operations(operations: Iterable[Operation], store: Store) -> None:
    """Carry out some operations. Raises StoreError, of which StoreFull says that there is no room."""
    with _store_errors(store):
        for operation in operations:
            log.debug("applying %s", describe(operation))
            _apply(operation, store)


def write_file(path: str, content: bytes, mode: int, *, temporary: str = "") -> None:
    """Write a whole file in one step: under another name, by default in the same directory, then renamed."""
    temporary = temporary or f"{path}.docker-preloader"
    with _removed_on_failure(temporary):
        with open(temporary, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        os.replace(temporary, path)


@contextmanager
def _store_errors(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        path = err.filename or store.root
        if err.errno in _NO_ROOM:
            raise StoreFull(path, f"{err.strerror}; make room and restart docker-preloader.service") from err
        raise StoreError(path, f"cannot be changed: {err.strerror}; the next pass goes on from here") from err


@contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        _remove_file(path)
        raise


def _make_directories(store: Store) -> None:
    if not os.path.isdir(store.root):
        os.makedirs(store.root, mode=0o710)
    for name, mode in STORE_DIRECTORIES:
        _make_directory(f"{store.root}/{name}", mode)


def _apply(operation: Operation, store: Store) -> None:
    if isinstance(operation, Sync):
        sync_filesystem(store.root)
    elif isinstance(operation, PointLayer):
        _replace_symlink(operation.diff, store.diff(operation.cache_id), store.links)
        _replace_symlink(operation.tar_split, store.tar_split(operation.chain_id), store.layerdb_staging)
    elif isinstance(operation, AddLayer):
        _add_layer(operation, store)
    elif isinstance(operation, AddLink):
        _replace_symlink(link_target(operation.cache_id), store.link(operation.link), store.links)
    elif isinstance(operation, MarkImage):
        _mark_image(operation, store)
    elif isinstance(operation, AddImage):
        content = operation.disk.read_config(operation.image_id)
        _write_staged(store.image_config(operation.image_id), content, store)
    elif isinstance(operation, WriteReferences):
        _write_staged(new_references_path(store), operation.repositories.encode(), store)
        _mark_as_ours(new_references_path(store))
    elif isinstance(operation, SetReferences):
        _set_references(operation, store)
    else:
        _remove(operation, store)


def _remove(operation: RemoveLeftover | RemoveImage | ForgetImage | RemoveLayer, store: Store) -> None:
    if isinstance(operation, RemoveLeftover):
        _remove_tree(operation.path)
    elif isinstance(operation, RemoveImage):
        _remove_file(store.image_config(operation.image_id))
    elif isinstance(operation, ForgetImage):
        _remove_tree(store.image_metadata(operation.image_id))
    else:
        _remove_layer(operation, store)


def _add_layer(layer: AddLayer, store: Store) -> None:
    place = store.layer(layer.cache_id)
    _make_directory(place, LAYER_DIRECTORY_MODE)
    _replace_symlink(layer.diff, store.diff(layer.cache_id), store.links)
    _write_new(f"{place}/link", layer.link, LAYERDB_FILE_MODE)
    if layer.lower:
        _write_new(f"{place}/lower", layer.lower, LAYERDB_FILE_MODE)
    _write_new(f"{place}/committed", "", PRIVATE_FILE_MODE)
    _replace_symlink(link_target(layer.cache_id), f"{store.links}/{layer.link}", store.links)
    _add_record(layer, store)


def _add_record(layer: AddLayer, store: Store) -> None:
    """Stage the layer's record, and rename it into place; a broken one that dockerd passes over gives way."""
    staged = _staged_record(layer.chain_id, store)
    _remove_tree(staged)
    _make_directory(staged, LAYERDB_DIRECTORY_MODE)
    values = {"diff": layer.diff_id, "cache-id": layer.cache_id, "size": str(layer.size), "parent": layer.parent}
    for name, value in values.items():
        if value is not None:
            _write_new(f"{staged}/{name}", value, LAYERDB_FILE_MODE)
    os.symlink(layer.tar_split, f"{staged}/tar-split.json.gz")
    _retire_record(layer.chain_id, store)
    os.rename(staged, store.layer_record(layer.chain_id))


def _staged_record(chain: ChainID, store: Store) -> str:
    return f"{store.layerdb_staging}/{STAGED_PREFIX}{chain.hex}"


def _mark_image(image: MarkImage, store: Store) -> None:
    """The marker comes before the image: an image of ours is never taken for the user's."""
    _make_directory(store.image_metadata(image.image_id), 0o700)
    marker = json.dumps({"references": image.references, "disk": image.disk.label}).encode()
    _write_staged(marker_path(store, image.image_id), marker, store)


def _mark_as_ours(path: str) -> None:
    """With the file goes the mark: it survives damage to the content, and not dockerd's own writing."""
    try:
        os.setxattr(path, OUR_ATTRIBUTE, b"1")
    except OSError as err:
        if err.errno not in (errno.ENOTSUP, errno.EPERM):  # then a damaged file is reported, and not set aside
            raise


def _set_references(operation: SetReferences, store: Store) -> None:
    """repositories.json is there at every moment; the file before it holds every reference of the user's, too."""
    if os.path.exists(store.repositories):
        _remove_file(operation.keep_as)
        os.link(store.repositories, operation.keep_as)
    else:
        _write_staged(operation.keep_as, EMPTY.encode(), store)
    os.replace(new_references_path(store), store.repositories)


def _remove_layer(layer: RemoveLayer, store: Store) -> None:
    _remove_tree(_staged_record(layer.chain_id, store))
    _retire_record(layer.chain_id, store)
    if layer.link:
        _remove_file(f"{store.links}/{layer.link}")
    _remove_tree(store.layer(layer.cache_id))


def _retire_record(chain: ChainID, store: Store) -> None:
    """Take a layer's record away in one step: half a record would be nobody's."""
    record, retired = store.layer_record(chain), f"{_staged_record(chain, store)}-retired"
    if os.path.lexists(record):
        _remove_tree(retired)
        os.rename(record, retired)
    _remove_tree(retired)


def _make_directory(path: str, mode: int) -> None:
    if not os.path.isdir(path):
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask


def _write_new(path: str, content: str, mode: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def _write_staged(path: str, content: bytes, store: Store) -> None:
    """Write a file below `image`; what a kill leaves of it is where the next pass looks for leftovers."""
    write_file(path, content, PRIVATE_FILE_MODE, temporary=f"{store.layerdb_staging}/{STAGED_PREFIX}file")


def _replace_symlink(target: str, path: str, staging: str) -> None:
    """Make a symlink in one step, also where one stands; `staging` is a directory where leftovers are looked for."""
    temporary = f"{staging}/{STAGED_PREFIX}symlink"
    _remove_file(temporary)
    with _removed_on_failure(temporary):
        os.symlink(target, temporary)
        os.replace(temporary, path)


def _remove_file(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _remove_tree(path: str) -> None:
    """Remove a file, or a directory whose `diff` goes last: by it a shim is known, should we be killed meanwhile."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        for name in sorted(os.listdir(path), key=lambda name: name == "diff"):
            _remove_tree(f"{path}/{name}")
        os.rmdir(path)
