"""Layers at the edges of what a tar can say: what dockerd makes of each is not obvious, and often a refusal.

`EDGES` maps a short name to the layers of an image, base first. What is right is not said here but asked of a real
dockerd: see tests/system/test_edges.py.
"""

from __future__ import annotations

from tests.images.edges.attributes import ACLS, NUMBERS, TIMES, XATTRS
from tests.images.edges.names import CONTENT, DEPTH, NAMES
from tests.images.edges.tar import ENDS, EXTENDED_HEADERS, HEADERS
from tests.images.edges.tree import HARD_LINKS, OPAQUE, REPLACED, THROUGH_SYMLINKS, WHITEOUTS

__all__ = ["EDGES"]

EDGES = {
    **WHITEOUTS,
    **OPAQUE,
    **HARD_LINKS,
    **REPLACED,
    **THROUGH_SYMLINKS,
    **NAMES,
    **CONTENT,
    **DEPTH,
    **EXTENDED_HEADERS,
    **HEADERS,
    **ENDS,
    **TIMES,
    **NUMBERS,
    **XATTRS,
    **ACLS,
}
