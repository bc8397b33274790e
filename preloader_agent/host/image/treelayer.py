"""Layers that are made of trees: never stored, but written from the tree each time their content is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from preloader_agent.host.image.content import Content
from preloader_agent.host.image.tarwriter import tar_chunks
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import LayerTar
from preloader_agent.host.tree import LayerTree
from preloader_agent.store.digest import ALGORITHM, DiffID


@dataclass(frozen=True)
class TreeLayer:
    """The layer of a tree. See archive.Layer, whose writer checks that its content is still the same."""

    diff_id: DiffID
    size: int
    root: Node
    content: Content
    mtime_ns: int

    def chunks(self) -> Iterator[bytes]:
        """The tar stream."""
        return tar_chunks(self.root, self.content.read, self.mtime_ns)


def make_layer(root: Node, content: Content, epoch: int, name: str) -> TreeLayer:
    """The layer of a tree, all of it of one time, in seconds since 1970; `name` is what errors call it.

    Raises InvalidArchive for a tree that dockerd would not load, and what `tar_chunks` and reading the content raise.
    """
    stream = _Stream(tar_chunks(root, content.read, epoch * 10**9))
    tree = LayerTree(name)
    tar = LayerTar(stream, name)
    for member in tar:
        tree.add(member)
        for _ in tar.data():
            pass
    for _ in tar.tail():
        pass
    tree.finish()
    return TreeLayer(stream.diff_id, stream.size, root, content, epoch * 10**9)


class _Stream:
    """Chunks as a stream that knows how many bytes were read, and their digest."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self._chunk = memoryview(b"")
        self.size = 0

    @property
    def diff_id(self) -> DiffID:
        return DiffID(ALGORITHM + self._hash.hexdigest())

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        parts: list[memoryview] = []
        while size and (self._chunk or self._take()):
            parts.append(self._chunk[:size])
            self._chunk = self._chunk[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _take(self) -> bool:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            self._chunk = memoryview(chunk)
            if chunk:
                return True
        return False
