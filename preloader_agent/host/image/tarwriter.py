"""A tree of nodes as a tar stream, the same bytes for the same tree: sorted, and with nothing but what the nodes say.

The header is POSIX ustar; a PAX record says what does not fit into it, as Go's archive/tar writes it
(https://github.com/golang/go/tree/master/src/archive/tar, writer.go), which decides what dockerd reads: names are any
bytes, xattrs are SCHILY.xattr. A layer hides what is below by markers, as in
https://github.com/opencontainers/image-spec/blob/main/layer.md. Nothing is sparse: docker could not save that again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

from preloader_agent.errors import InputError
from preloader_agent.host.image.filesystem import OVERLAY, is_opaque, is_whiteout, walk
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import BLK, BLOCK, CHR, DIR, LNK, REG, SYM, show_name
from preloader_agent.host.tree import OPAQUE_MARKER, WHITEOUT_PREFIX

# Gives the content of a regular file, in pieces.
Read = Callable[[Node], Iterator[bytes]]

_FIELD = 100  # bytes of a name or of a link's target
_MAX_ID, _MAX_SIZE, _MAX_TIME = 8**7 - 1, 8**11 - 1, 8**11 - 1  # what octal digits of a header say
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC = b"ustar\x0000"
_END = bytes(2 * BLOCK)


def tar_chunks(root: Node, read: Read, mtime_ns: int | None = None) -> Iterator[bytes]:
    """The tar of what is below a root, in pieces; `mtime_ns` is the time of all of it, by default each node's own.

    Of a file with several names, the first one has the content. Raises InputError when a file's content has not the
    size that its node says.
    """
    first_names: dict[Node, bytes] = {}
    for path, node in walk(root):
        seen = node if mtime_ns is None else replace(node, mtime_ns=mtime_ns)
        if is_whiteout(node):
            folder, slash, name = path.rpartition(b"/")
            yield _member(folder + slash + WHITEOUT_PREFIX + name, REG, _marker(seen))
        elif node.type == DIR:
            yield _member(path + b"/", DIR, seen)
            if is_opaque(node):
                yield _member(path + b"/" + OPAQUE_MARKER, REG, _marker(seen))
        elif (first := first_names.setdefault(node, path)) != path:
            yield _member(path, LNK, replace(seen, target=first, size=0))
        else:
            yield _member(path, node.type, seen)
            if node.type == REG:
                yield from _content(path, node, read)
    yield _END


def _marker(node: Node) -> Node:
    return Node(REG, 0, mtime_ns=node.mtime_ns)


def _content(path: bytes, node: Node, read: Read) -> Iterator[bytes]:
    """A file's content, up to a whole block."""
    left = node.size
    for chunk in read(node):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise InputError(f"{show_name(path)}: its size is not {node.size} bytes any more; it was changed meanwhile")
    yield bytes(-node.size % BLOCK)


def _member(name: bytes, kind: bytes, node: Node) -> bytes:
    target = node.target if kind in (SYM, LNK) else b""
    records = _records(name, target, node)
    extended = b"".join(_record(key, value) for key, value in sorted(records.items()))
    header = _header(name, kind, target, node)
    if not extended:
        return header
    special = _header(b"PaxHeaders.0", b"x", b"", Node(REG, 0o644, size=len(extended)))
    return special + extended + bytes(-len(extended) % BLOCK) + header


def _records(name: bytes, target: bytes, node: Node) -> dict[bytes, bytes]:
    """What a header cannot say."""
    xattrs = {b"SCHILY.xattr." + key: value for key, value in node.xattrs.items() if not key.startswith(OVERLAY)}
    texts = {key: text for key, text in ((b"path", name), (b"linkpath", target)) if len(text) > _FIELD}
    numbers = ((b"uid", node.uid, _MAX_ID), (b"gid", node.gid, _MAX_ID), (b"size", node.size, _MAX_SIZE))
    seconds, fraction = divmod(node.mtime_ns, 10**9)
    times = {} if 0 <= seconds <= _MAX_TIME and not fraction else {b"mtime": _time(node.mtime_ns)}
    return {**xattrs, **texts, **{key: b"%d" % number for key, number, most in numbers if number > most}, **times}


def _time(mtime_ns: int) -> bytes:
    seconds, fraction = divmod(abs(mtime_ns), 10**9)
    text = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".")
    return (f"-{text}" if mtime_ns < 0 else text).encode()


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a newline, where the length counts its own digits."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _header(name: bytes, kind: bytes, target: bytes, node: Node) -> bytes:
    """A header block; what does not fit is cut, or 0."""
    device = node.device if kind in (CHR, BLK) else (0, 0)
    block = _HEADER.pack(
        name[:_FIELD],
        _octal(node.mode, 8),
        _octal(node.uid, 8),
        _octal(node.gid, 8),
        _octal(node.size if kind in (REG, b"x") else 0, 12),
        _octal(node.mtime_ns // 10**9, 12),
        b" " * 8,
        kind,
        target[:_FIELD],
        _MAGIC,
        b"",
        b"",
        _octal(device[0], 8),
        _octal(device[1], 8),
        b"",
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value if 0 <= value < 8 ** (width - 1) else 0)
