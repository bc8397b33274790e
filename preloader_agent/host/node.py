"""A file system tree in memory: what layers become, and what the ext4 writer writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from preloader_agent.host.tarstream import DIR

_NO_XATTRS: Mapping[bytes, bytes] = {}


class Extent(NamedTuple):
    """Blocks of a file that are not holes; `logical` counts from its start, `start` where its content is kept."""

    logical: int
    start: int
    length: int


@dataclass(slots=True, eq=False)
class Node:
    """An inode; a directory has `children`, a regular file `size` and `extents`, a symlink a `target`."""

    type: bytes
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0  # Docker gives what no member describes the time of unpacking; equal input gives equal bytes here
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    size: int = 0
    extents: tuple[Extent, ...] = ()
    links: int = 1
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: _NO_XATTRS)
    children: dict[bytes, Node] | None = None


def make_directory(mode: int = 0o755) -> Node:
    """An empty directory."""
    return Node(DIR, mode, children={})
