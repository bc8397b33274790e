"""From a device to a mounted disk whose index and trees have been checked.

A disk is untrusted: what it says of itself is checked against what is there, no symlink on it is followed, and nothing
is read beyond a bound. A disk that fails a check is unmounted again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from preloader_agent.errors import DigestMismatch, InvalidDisk, InvalidValue, MountError, PreloaderError
from preloader_agent.guest import log
from preloader_agent.guest.beneath import is_directory_beneath, is_file_beneath, read_beneath
from preloader_agent.guest.mounts import list_mounts, mount_disk, mounted_device, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.store.digest import DiffID, ImageID, sha256_digest
from preloader_agent.store.index import (
    MAX_CONFIG_BYTES,
    MAX_CONFIGS_BYTES,
    MAX_CONTAINER_BYTES,
    MAX_INDEX_BYTES,
    ContainerRecord,
    DiskIndex,
    ImageRecord,
    LayerRecord,
    checked_json,
    parse_index,
)
from preloader_agent.store.layout import INDEX_NAME, Store

_SUPERBLOCK, _EXT4_MAGIC = 1024, b"\x53\xef"
_LABEL_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


class Disk(NamedTuple):
    """A mounted disk."""

    label: str
    device: str
    store: Store
    contents: DiskIndex

    def read_config(self, image: ImageID) -> bytes:
        """An image's configuration, checked against its ID. Raises InvalidDisk and DigestMismatch."""
        path = Store("").image_config(image).lstrip("/")
        content = read_beneath(self.store.root, path, MAX_CONFIG_BYTES)
        if (found := sha256_digest(content)) != image:
            raise DigestMismatch(f"disk {self.label} ({self.device}): image configuration", image, found)
        return content

    def read_definition(self, container: ContainerRecord) -> bytes:
        """The definition of a container, checked against its digest. Raises InvalidDisk and DigestMismatch."""
        path = Store("").container_definition(container.name).lstrip("/")
        content = read_beneath(self.store.root, path, MAX_CONTAINER_BYTES)
        if (found := sha256_digest(content)) != container.digest:
            raise DigestMismatch(f"disk {self.label} ({self.device}): {path}", container.digest, found)
        return content


def attach_disk(paths: Paths, device: str, label: str) -> Disk:
    """Mount a device and check it. Raises PreloaderError, and leaves nothing mounted, when it is not fit."""
    if not label or not _LABEL_CHARACTERS.issuperset(label) or label.startswith("."):
        raise InvalidValue("label", label, "letters, digits, '.', '_' and '-'")
    target = paths.mountpoint(label)
    number, mounted = _device_number(device), mounted_device(target)
    if mounted not in (None, number):
        other = next((mount.source for mount in list_mounts(paths.mounts) if mount.target == target), "another disk")
        raise MountError("mount", f"{device} on {target}", errno.EBUSY, f"{other} with the same label is there")
    if mounted is None:
        log.debug("mounting %s", device)
        mount_disk(device, target)
    try:
        disk = read_disk(target, device)
    except PreloaderError:
        unmount(target)
        raise
    if mounted is None:
        log.info(
            "mounted %s on %s: %d images, %d layers",
            device,
            target,
            len(disk.contents.images),
            len(disk.contents.layers),
        )
    return disk


def attached_disks(
    paths: Paths, known: Mapping[str, Disk], without: Collection[str]
) -> tuple[list[Disk], dict[str, str]]:
    """Every disk that is mounted now, and why others cannot be read any more, by label.

    `known` are disks by label that were read by this process, `without` the labels of those to leave out.
    """
    disks, refused = [], {}
    for mount in sorted(list_mounts(paths.mounts), key=lambda mount: mount.target):
        label = os.path.basename(mount.target)
        if label in without:
            continue
        try:
            disks.append(known.get(label) or read_disk(mount.target, mount.source))
        except (PreloaderError, OSError) as err:
            refused[label] = str(err)
    return disks, refused


def read_disk(mountpoint: str, device: str) -> Disk:
    """Read and check the disk that is mounted on `mountpoint`. Raises InvalidDisk."""
    label = os.path.basename(mountpoint)
    index = _read_index(mountpoint, f"disk {label} ({device})")
    disk = Disk(label, device, Store(mountpoint), index)
    for layer in index.layers:
        _check_layer(disk, layer)
    by_chain, left = index.layers_by_chain(), MAX_CONFIGS_BYTES
    for image in index.images:
        left -= _check_config(disk, image, [by_chain[chain].diff_id for chain in image.chain])
        if left < 0:
            what = f"its image configurations have more than {MAX_CONFIGS_BYTES} bytes together; make several disks"
            raise InvalidDisk(f"disk {label} ({device})", what)
    return disk


def _read_index(mountpoint: str, disk: str) -> DiskIndex:
    if not os.path.lexists(f"{mountpoint}/{INDEX_NAME}") and os.path.lexists(f"{mountpoint}/image"):
        from preloader_agent.guest.plainstore import read_plain_store

        return read_plain_store(mountpoint, disk)
    index = parse_index(read_beneath(mountpoint, INDEX_NAME, MAX_INDEX_BYTES), disk)
    if index.label != os.path.basename(mountpoint):
        raise InvalidDisk(disk, f"is not labelled {index.label}, as its content asks for; build the disk again")
    return index


def _check_layer(disk: Disk, layer: LayerRecord) -> None:
    """dockerd follows our links to both: to the tree for containers, to the tar-split for `docker save`."""
    for path, is_sound, kind in (
        (Store("").diff(layer.cache_id), is_directory_beneath, "directory"),
        (Store("").tar_split(layer.chain_id), is_file_beneath, "regular file"),
    ):
        if not is_sound(disk.store.root, path.lstrip("/")):
            what = f"{path.lstrip('/')} is not a {kind}; build the disk again"
            raise InvalidDisk(f"disk {disk.label} ({disk.device})", what)


def _check_config(disk: Disk, image: ImageRecord, expected: list[DiffID]) -> int:
    """dockerd goes by the configuration: it must name the very layers that the index gives the image. Its size."""
    content = disk.read_config(image.image_id)
    try:
        diff_ids = json.loads(checked_json(content))["rootfs"]["diff_ids"] or []
    except (ValueError, KeyError, TypeError, RecursionError, InvalidValue) as err:
        what = f"image configuration {image.image_id.hex[:12]} is not valid: {err!s:.100}; build the disk again"
        raise InvalidDisk(f"disk {disk.label} ({disk.device})", what) from err
    if diff_ids != expected:
        what = f"image {image.image_id.hex[:12]} has other layers than its configuration names; build the disk again"
        raise InvalidDisk(f"disk {disk.label} ({disk.device})", what)
    return len(content)


def _device_number(device: str) -> int:
    try:
        return os.stat(device).st_rdev
    except OSError as err:
        raise MountError("mount", device, err.errno or 0, f"{err.strerror}; was it unplugged?") from err


def read_label(device: str) -> str:
    """The label of an ext4 file system, for a device that udev does not know. Raises InvalidDisk."""
    try:
        with open(device, "rb") as file:
            file.seek(_SUPERBLOCK)
            superblock = file.read(1024)
    except OSError as err:
        raise InvalidDisk(device, f"cannot be read: {err.strerror}") from err
    if superblock[0x38:0x3A] != _EXT4_MAGIC:
        raise InvalidDisk(device, "holds no ext4 file system; expected a disk made by `preloader build`")
    label = superblock[0x78:0x88].rstrip(b"\0").decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in label)
