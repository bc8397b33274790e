"""Disks that no builder makes: a sound one as a tree in memory, changed at will, then written as ext4."""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Sequence
from pathlib import Path

from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.writer import write_filesystem
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.storetree import DISK, make_directories, put, store_files
from preloader_agent.host.tarstream import REG, SYM
from preloader_agent.store.index import DiskIndex
from preloader_agent.store.layout import INDEX_NAME
from tests.guest.disks import config_of, image_id, make_index

ImageSpec = tuple[Sequence[str], Sequence[str]]


class CraftedDisk:
    """A disk with made-up images, each given by its layers' names and its references; their trees are empty."""

    def __init__(self, path: Path, *images: ImageSpec) -> None:
        self.path = path
        self.index: DiskIndex = make_index(*images)
        self.label = self.index.label
        self._blocks = BlockFile(path)
        self._root = make_directories(self.index)
        for layer in self.index.layers:
            put(self._root, DISK.diff(layer.cache_id), make_directory())
            self.put_file(DISK.tar_split(layer.chain_id), b"")
        for names, _ in images:
            self.put_file(DISK.image_config(image_id(names)), config_of(names))
        for file in store_files(self.index):
            self.put_file(file.path, file.content)

    def put_file(self, path: str, content: bytes) -> None:
        """Write a regular file, over whatever is there."""
        self.put(path, Node(REG, 0o644, size=len(content), extents=self._blocks.append([content])))

    def put_symlink(self, path: str, target: str) -> None:
        """Make a symlink, over whatever is there."""
        self.put(path, Node(SYM, 0o777, target=target.encode()))

    def put(self, path: str, node: Node) -> None:
        """Set what stands at a path."""
        put(self._root, path, node)

    def children(self) -> dict[bytes, Node]:
        """What stands at the top."""
        assert self._root.children is not None
        return self._root.children

    def remove(self, path: str) -> None:
        """Take away what stands at a path."""
        children, name = self._place(path)
        del children[name]

    def put_index(self, content: bytes) -> None:
        """Replace preload.json."""
        self.put_file(INDEX_NAME, content)

    def write(self) -> Path:
        """Write the file system; the disk cannot be changed any more."""
        write_filesystem(self._blocks, self._root, {}, [], label=self.label, uuid=uuid.UUID(int=1))
        self._blocks.close()
        return self.path

    def _place(self, path: str) -> tuple[dict[bytes, Node], bytes]:
        folder, name = posixpath.split(path.lstrip("/"))
        children = self._root.children
        assert children is not None
        for part in filter(None, folder.split("/")):
            children = children[part.encode()].children
            assert children is not None
        return children, name.encode()
