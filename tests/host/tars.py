"""Raw tar blocks for what a sound writer would not write."""

from __future__ import annotations

import io

from preloader_agent.host.ext4.layout import BLOCK_SIZE
from preloader_agent.host.node import Extent, Node
from preloader_agent.host.tarstream import LayerTar, Member
from preloader_agent.host.tree import LayerTree
from tests.images.layer import Layer

END = bytes(1024)


def header(
    name: bytes,
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    major: bytes = b"0000000\0",
    minor: bytes = b"0000000\0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    checksum: int | None = None,
) -> bytes:
    """A header block; fields that are given as bytes are written as they are."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    for offset, value in (
        (0, name),
        (100, mode),
        (108, uid),
        (116, b"0000000\0"),
        (124, field),
        (136, mtime),
        (148, b" " * 8),
        (156, kind),
        (157, link),
        (257, magic),
        (329, major),
        (337, minor),
        (345, prefix),
    ):
        block[offset : offset + len(value)] = value
    block[148:156] = b"%06o\0 " % (sum(block) if checksum is None else checksum)
    return bytes(block)


def padded(content: bytes) -> bytes:
    """Data, up to a whole block."""
    return content + bytes(-len(content) % 512)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header with some records."""
    content = b""
    for key, value in records:
        rest = b" %b=%b\n" % (key, value)
        length = len(rest) + len(str(len(rest)))
        length = len(rest) + len(str(length))
        content += b"%d%b" % (length, rest)
    return raw_pax(content, kind)


def raw_pax(content: bytes, kind: bytes = b"x") -> bytes:
    """An extended header with any content."""
    return header(b"PaxHeaders/x", len(content), kind) + padded(content)


def long_name(kind: bytes, text: bytes) -> bytes:
    """GNU's long name (L) or long link target (K)."""
    return header(b"././@LongLink", len(text) + 1, kind, magic=b"ustar  \0") + padded(text + b"\0")


def read_members(content: bytes) -> list[tuple[Member, bytes]]:
    """Every member of a layer, with its data."""
    tar = LayerTar(io.BytesIO(content), "layer")
    return [(member, b"".join(tar.data())) for member in tar]


def read_member(content: bytes) -> Member:
    """The only member of a layer."""
    ((member, _),) = read_members(content + END)
    return member


def read_tree(content: bytes | Layer) -> LayerTree:
    """The tree of a layer; the content of the file of its n-th member is an extent at block n, of as many blocks."""
    found = content.content if isinstance(content, Layer) else content
    assert isinstance(found, bytes)
    tree = LayerTree("layer")
    for number, (member, data) in enumerate(read_members(found)):
        node = tree.add(member)
        if node is not None and data:
            node.extents = (Extent(0, number, -(-len(data) // BLOCK_SIZE)),)
    tree.finish()
    return tree


def nodes_below(root: Node) -> dict[bytes, Node]:
    """The nodes of a tree by path, without its root."""
    nodes: dict[bytes, Node] = {}
    for name, node in (root.children or {}).items():
        nodes |= {name: node, **{name + b"/" + path: below for path, below in nodes_below(node).items()}}
    return nodes
