"""Where the content of the files of trees stands: in the blocks that layers were staged to, or in files of the host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from preloader_agent.errors import InputError
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.node import Node

_PIECE = 1 << 20


class Content:
    """The content of regular files, by node. Reading raises InputError for a file of the host that cannot be read."""

    def __init__(self, blocks: BlockFile) -> None:
        self._blocks = blocks
        self._paths: dict[Node, Path] = {}
        self._digests: dict[Node, bytes] = {}

    def add(self, node: Node, path: Path) -> None:
        """Say that a node is a file of the host."""
        self._paths[node] = path

    def read(self, node: Node) -> Iterator[bytes]:
        """The content of a regular file, in pieces."""
        path = self._paths.get(node)
        return self._blocks.read(node.extents, node.size) if path is None else _read_file(path)

    def is_same(self, one: Node, other: Node) -> bool:
        """Whether two nodes have equal content, which they have if they are no regular files."""
        return one.size == other.size and (not one.size or self._digest(one) == self._digest(other))

    def _digest(self, node: Node) -> bytes:
        if node not in self._digests:
            digest = hashlib.sha256()
            for piece in self.read(node):
                digest.update(piece)
            self._digests[node] = digest.digest()
        return self._digests[node]


def _read_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err
