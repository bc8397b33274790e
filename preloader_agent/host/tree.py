"""From the members of a layer tar to the nodes of an overlay2 tree, as dockerd's `ApplyDiff` would unpack them.

Pure: members in, nodes out, in the order in which they can be written. Whiteouts become 0/0 character devices at the
end of the layer (a file of the same name wins over them), opaque markers become `trusted.overlay.opaque` on their
directory, and parents that no member names are implied. What dockerd refuses is refused here (moby pkg/archive,
Unpack and overlayWhiteoutConverter; tar-split, "duplicates of file paths not supported").
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.tarstream import CHR, DIR, GLOBAL_HEADER, LNK, REG, SYM, Member, show_name

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
# Docker gives what no member describes the time of unpacking; the same input must give the same bytes here.
IMPLIED_MTIME_NS = 0
_MAX_NAME, _MAX_TARGET = 255, 4095  # bytes; the kernel's limits, so dockerd's as well
# dockerd sets times before 1970 to 1970, and the kernel those that ext4 cannot hold to the last that it can.
_MAX_MTIME_NS = ((1 << 34) - (1 << 31) - 1) * 10**9
_MAX_XATTRS = 4096 - 32 - 4  # bytes of attributes that fit in the one block that ext4 gives them
# What ext4 can hold, and what debugfs' command language can write.
_XATTR_NAME = re.compile(rb"(?:user|trusted|security)\.[!#-~][ !#-~]{0,200}|system\.posix_acl_(?:access|default)")


@dataclass(frozen=True, slots=True)
class Node:
    """One name in a layer's tree; `path` is relative to it, without "." and "..". `target` is a link's."""

    path: bytes
    type: bytes
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = IMPLIED_MTIME_NS
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class LayerTree:
    """The tree of one layer, as far as its members have been added.

    Raises InvalidArchive, naming `layer`, for members that dockerd refuses.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._names: set[bytes] = set()
        self._types: dict[bytes, bytes] = {b"": DIR}
        self._whiteouts: dict[bytes, Node] = {}
        self.opaque: list[bytes] = []

    def add(self, member: Member) -> Iterator[Node]:
        """The nodes that a member adds; only the last one can have data."""
        self._refuse_duplicate(member)
        path = _clean(member.name)
        if member.type == GLOBAL_HEADER or not path:
            return  # dockerd ignores "./", too: a container's "/" is its own upper directory
        if max(map(len, path.split(b"/"))) > _MAX_NAME:
            raise self._invalid(member, f"has a name of more than {_MAX_NAME} bytes, which no file can have")
        parent, name = posixpath.split(path)
        if name == OPAQUE_MARKER:
            yield from self._imply(parent, member)
            self.opaque.append(parent)
        elif name.startswith(WHITEOUT_PREFIX):
            yield from self._imply(parent, member)
            self._add_whiteout(parent, name[len(WHITEOUT_PREFIX) :], member)
        else:
            yield from self._imply(parent, member)
            yield self._add_node(path, member)

    def whiteouts(self) -> Iterator[Node]:
        """What hides the names of lower layers: written last, because a file of the same name wins."""
        yield from self._whiteouts.values()

    def _invalid(self, member: Member, problem: str) -> InvalidArchive:
        return InvalidArchive(self._layer, f"{show_name(member.name)} {problem}")

    def _refuse_duplicate(self, member: Member) -> None:
        name = posixpath.normpath(member.name)
        if name in self._names:
            raise self._invalid(member, "stands in it twice, which dockerd refuses, too")
        self._names.add(name)

    def _imply(self, path: bytes, member: Member) -> Iterator[Node]:
        """The parents that are not there yet, outermost first."""
        missing = []
        while path not in self._types:
            if path in self._whiteouts:
                raise self._invalid(member, f"is below {show_name(path)}, which a whiteout removes")
            missing.append(path)
            path = posixpath.dirname(path)
        if self._types[path] != DIR:
            raise self._invalid(member, f"is below {show_name(path)}, which is not a directory")
        for parent in reversed(missing):
            self._types[parent] = DIR
            yield Node(parent, DIR)

    def _add_whiteout(self, parent: bytes, name: bytes, member: Member) -> None:
        path = posixpath.join(parent, name)
        if path in self._types or name in (b"", b".", b".."):
            raise self._invalid(member, "removes what the same layer adds, which dockerd refuses, too")
        self._whiteouts[path] = Node(path, CHR, 0, member.uid, member.gid)

    def _add_node(self, path: bytes, member: Member) -> Node:
        # mke2fs cannot take back what it wrote; a folder may come again, with other metadata.
        if path in self._types and not self._types[path] == member.type == DIR:
            raise self._invalid(
                member, f"replaces {show_name(path)} of the same layer; that cannot be written to a disk"
            )
        self._check_xattrs(member)
        if member.type == SYM and not 0 < len(member.linkname) <= _MAX_TARGET:
            raise self._invalid(member, f"is a link to {len(member.linkname)} bytes, expected 1 to {_MAX_TARGET}")
        if member.type == LNK and self._types.get(_clean(member.linkname), DIR) == DIR:
            raise self._invalid(
                member, f"is a hard link to {show_name(_clean(member.linkname))}, which is not in the layer"
            )
        self._whiteouts.pop(path, None)
        self._types[path] = member.type
        node = Node(
            path,
            member.type,
            member.mode,
            member.uid,
            member.gid,
            member.size,
            min(max(member.mtime_ns, 0), _MAX_MTIME_NS),
            member.linkname,
            member.device,
            member.xattrs,
        )
        return replace(node, target=_clean(member.linkname)) if member.type == LNK else node

    def _check_xattrs(self, member: Member) -> None:
        for name in member.xattrs:
            if not _XATTR_NAME.fullmatch(name):
                raise self._invalid(member, f"has an xattr {show_name(name)}, which ext4 cannot hold")
        size = sum(_padded(16 + len(name)) + _padded(len(value)) for name, value in member.xattrs.items())
        if size > _MAX_XATTRS:
            raise self._invalid(member, f"has {size} bytes of xattrs, at most {_MAX_XATTRS} fit on ext4")


def size_of(node: Node) -> int:
    """What a node adds to the size that dockerd reports for its layer, in bytes (moby pkg/directory)."""
    if node.type == REG:
        return node.size
    return len(node.target) if node.type == SYM else 0


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def _clean(name: bytes) -> bytes:
    """A name relative to the layer's root: absolute names and ".." are clamped there, as in a chroot."""
    return posixpath.normpath(b"/" + name).lstrip(b"/")
