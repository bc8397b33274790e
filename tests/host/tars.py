"""Raw tar blocks for what a sound writer would not write."""

from __future__ import annotations

import io
from collections.abc import Iterable

from preloader_agent.host.tarstream import LayerTar, Member
from preloader_agent.host.tree import LayerTree, Node
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


def read_tree(layers: Iterable[bytes] | Layer) -> tuple[dict[bytes, Node], list[bytes]]:
    """The nodes of a layer by path, as they end up, and its opaque directories."""
    content = layers.content if isinstance(layers, Layer) else b"".join(layers) + END
    assert isinstance(content, bytes)
    tree = LayerTree("layer")
    nodes: dict[bytes, Node] = {}
    tar = LayerTar(io.BytesIO(content), "layer")
    for member in tar:
        nodes |= {node.path: node for node in tree.add(member)}
        b"".join(tar.data())
    nodes |= {node.path: node for node in tree.whiteouts()}
    return nodes, tree.opaque
