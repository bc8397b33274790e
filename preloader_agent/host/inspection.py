"""What is on a disk: `inspect_disk` reads a raw or qcow2 image, without a mount and without root."""

from __future__ import annotations

from pathlib import Path

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.diskimage import open_image
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.store.index import MAX_INDEX_BYTES, DiskIndex, parse_index
from preloader_agent.store.layout import INDEX_NAME, Store


def inspect_disk(path: Path) -> DiskIndex:
    """The index of a disk. Raises InvalidDisk for anything that is not a sound disk of a known format."""
    with Ext4(open_image(path)) as filesystem:
        index, _ = read_index(filesystem)
        if filesystem.label != index.label:
            raise InvalidDisk(path, f"is labelled {filesystem.label!r:.40}, its content says {index.label}")
    return index


def read_label(path: Path) -> str:
    """The label under which guests know a disk. Raises InvalidDisk for anything but a disk of ours, or a plain one."""
    with Ext4(open_image(path)) as filesystem:
        if all(filesystem.find(name.encode()) is None for name in (INDEX_NAME, Store("").layerdb)):
            raise InvalidDisk(path, f"has no {INDEX_NAME} and no image store")
        return filesystem.label


def read_index(filesystem: Ext4) -> tuple[DiskIndex, bytes]:
    """The index of a file system, and the bytes that it was read from. Raises InvalidDisk."""
    content = filesystem.read(INDEX_NAME.encode(), MAX_INDEX_BYTES)
    if content is None:
        raise InvalidDisk(filesystem.name, f"has no {INDEX_NAME}; expected a disk made by `preloader build`")
    return parse_index(content, filesystem.name), content
