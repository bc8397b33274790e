"""The tree of one layer, as dockerd unpacks it.

A `LayerTree` does with a layer's members what dockerd does with them in a chroot (moby pkg/archive, Unpack and
createTarFile; overlayWhiteoutConverter), so that the same layers are refused and the others give the same tree: parents
that no member names are made, what stands in the way is replaced, symlinks of the layer are followed, a whiteout
becomes a 0/0 character device and an opaque marker `trusted.overlay.opaque` on its directory.
"""

from __future__ import annotations

import posixpath

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.attributes import SETGID, can_have, chmod, chown, inherit, owner, set_time, xattr_problem
from preloader_agent.host.ext4.layout import MAX_LINKS
from preloader_agent.host.ext4.xattrs import can_hold
from preloader_agent.host.node import Extent, Node, make_directory
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, GLOBAL_HEADER, LNK, REG, SYM, Member, show_name

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
_MAX_NAME, _MAX_TARGET = 255, 4095  # bytes; the kernel's limits, so dockerd's as well
_MAX_PATH = 4095 - len("/var/lib/docker/overlay2/") - 64 - len("/diff/")  # dockerd walks its store by such paths
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF  # what the kernel keeps of a device's numbers
_TYPES = frozenset((REG, LNK, SYM, CHR, BLK, DIR, FIFO))
_MAX_SYMLINKS = 40  # followed in one path; the kernel's MAXSYMLINKS


def trace_path(root: Node, path: bytes, *, follow_last: bool = True) -> list[tuple[bytes, Node]]:
    """The nodes on the real path to what stands at a path, each with its name, the root first; empty if nothing does.

    Symlinks are followed as in a chroot.
    """
    above, left, symlinks = [(b"", root)], path.split(b"/")[::-1], 0
    while left:
        name = left.pop()
        if name == b".." and len(above) > 1:
            above.pop()
        if name in (b"", b".", b".."):
            continue
        node = (above[-1][1].children or {}).get(name)
        if node is None:
            return []
        if node.type != SYM or not (left or follow_last):
            above.append((name, node))
            continue
        symlinks += 1
        if symlinks > _MAX_SYMLINKS:
            return []
        if node.target.startswith(b"/"):
            del above[1:]
        left += node.target.split(b"/")[::-1]
    return above


class LayerTree:
    """The tree of one layer, as far as its members have been added; `unused` is the content of what was replaced.

    Raises InvalidArchive, naming `layer`, for members that dockerd refuses.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._names: set[bytes] = set()
        self._parents: dict[bytes, Node] = {}  # directories that were found already, by path
        self._times: list[tuple[bytes, bytes, int]] = []  # member, path and time of directories
        self.root = make_directory()
        self.unused: list[Extent] = []

    def add(self, member: Member) -> Node | None:
        """Add a member; returns the regular file whose data follow, if it is one."""
        name = posixpath.normpath(member.name)
        self._refuse_duplicate(name, member)
        if member.type == GLOBAL_HEADER or name == b".":
            return None  # dockerd ignores "./", too: a container's "/" is its own upper directory
        path = name
        if name.startswith((b"/", b"..")):  # they stay within the layer, as in a chroot
            path = posixpath.normpath(b"/" + name).lstrip(b"/")
        if not path:
            self._describe_root(member)
            return None
        folder, name = posixpath.split(path)
        self._check_lengths(path, folder, name, member)
        parent = self._parents.get(folder) or self._find_parent(folder, member)
        old = (parent.children or {}).get(name)
        if old is not None and not old.type == member.type == DIR:
            self._remove(_children(parent), name)
        if name == OPAQUE_MARKER:
            parent.xattrs = {**parent.xattrs, **dict([OPAQUE_XATTR])}
            return None
        if parent.children is None:
            raise self._invalid(member, f"is below {show_name(folder)}, which is not a directory")
        if name.startswith(WHITEOUT_PREFIX):
            self._add_whiteout(parent, name[len(WHITEOUT_PREFIX) :], member)
            return None
        return self._add_node(parent, name, path, member)

    def find(self, name: bytes) -> Node | None:
        """What a member's name leads to by now."""
        return self._follow(posixpath.normpath(b"/" + name))

    def finish(self) -> None:
        """Set the times of directories, which dockerd does last, by path: it may lead elsewhere by then."""
        for name, path, mtime_ns in self._times:
            node = self._follow(path)
            if node is None:
                problem = f"{show_name(name)} is replaced by a symlink to nothing, which dockerd refuses, too"
                raise InvalidArchive(self._layer, problem)
            set_time(node, mtime_ns)

    def size(self) -> int:
        """What dockerd reports as the size of the layer, in bytes: each inode once (moby pkg/directory)."""
        total, seen = 0, set()
        directories = [self.root]
        while directories:
            for node in _children(directories.pop()).values():
                if node.children is not None:
                    directories.append(node)
                elif node.links == 1 or id(node) not in seen:
                    seen.add(id(node))
                    total += len(node.target) if node.type == SYM else node.size
        return total

    def _invalid(self, member: Member, problem: str) -> InvalidArchive:
        return InvalidArchive(self._layer, f"{show_name(member.name)} {problem}")

    def _refuse_duplicate(self, name: bytes, member: Member) -> None:
        """tar-split refuses "duplicates of file paths"."""
        if name in self._names:
            raise self._invalid(member, "stands in it twice, which dockerd refuses, too")
        self._names.add(name)

    def _check_lengths(self, path: bytes, folder: bytes, name: bytes, member: Member) -> None:
        made = name.removeprefix(WHITEOUT_PREFIX)
        if len(path) > _MAX_PATH:
            raise self._invalid(member, f"is a path of {len(path)} bytes; dockerd can use at most {_MAX_PATH}")
        if len(path) > _MAX_NAME and max(len(made), *map(len, folder.split(b"/"))) > _MAX_NAME:
            raise self._invalid(member, f"has a name of more than {_MAX_NAME} bytes, which no file can have")

    def _describe_root(self, member: Member) -> None:
        if member.type != DIR:
            raise self._invalid(member, "would replace the layer's root, which dockerd refuses, too")
        self._times.append((member.name, b"", member.mtime_ns))
        self._describe(self.root, member)

    def _find_parent(self, path: bytes, member: Member) -> Node:
        """What stands at the path of a parent; directories that no member named are made."""
        found = self._follow(path)
        if found is None:
            found = self._imply(path, member)
        if found.type == DIR:
            self._parents[path] = found
        return found

    def _imply(self, path: bytes, member: Member) -> Node:
        folder, name = posixpath.split(path)
        parent = self._find_parent(folder, member)
        if parent.children is None or name in parent.children:
            wrong = folder if parent.children is None else path
            raise self._invalid(member, f"is below {show_name(wrong)}, which is not a directory")
        made = make_directory(0o755 | parent.mode & SETGID)
        inherit(parent, made, made.mode)
        if made.mode & 0o777 != 0o755:
            chmod(made, 0o755)
        parent.children[name] = made
        return made

    def _follow(self, path: bytes, *, follow_last: bool = True) -> Node | None:
        """What stands at a path, if anything; symlinks are followed as in a chroot."""
        found = trace_path(self.root, path, follow_last=follow_last)
        return found[-1][1] if found else None

    def _add_whiteout(self, parent: Node, name: bytes, member: Member) -> None:
        if name in (b"", b".", b"..") or name in _children(parent):
            raise self._invalid(member, "removes what the same layer adds, which dockerd refuses, too")
        node = Node(CHR, 0, owner(0, member.uid), owner(0, member.gid))
        inherit(parent, node, 0)
        _children(parent)[name] = node

    def _add_node(self, parent: Node, name: bytes, path: bytes, member: Member) -> Node | None:
        children = _children(parent)
        if member.type == DIR:
            self._times.append((member.name, path, member.mtime_ns))
        node = children.get(name)  # a directory that is described anew
        if node is None:
            node = self._link_target(member) if member.type == LNK else self._new_node(parent, member)
        children[name] = node
        self._describe(node, member)
        return node if member.type == REG else None

    def _new_node(self, parent: Node, member: Member) -> Node:
        if member.type not in _TYPES:
            raise self._invalid(member, f"has tar type {member.type!r}, which dockerd refuses, too")
        if member.type == SYM and not 0 < len(member.linkname) <= _MAX_TARGET:
            raise self._invalid(member, f"is a link to {len(member.linkname)} bytes, expected 1 to {_MAX_TARGET}")
        target = member.linkname if member.type == SYM else b""
        children: dict[bytes, Node] | None = {} if member.type == DIR else None
        major, minor = member.device
        device = (major & _MAX_MAJOR, minor & _MAX_MINOR)
        node = Node(member.type, target=target, device=device, size=member.size, children=children)
        inherit(parent, node, member.mode)
        return node

    def _link_target(self, member: Member) -> Node:
        node = self._follow(posixpath.normpath(b"/" + member.linkname), follow_last=False)
        if node is None or node.type == DIR:
            problem = "a directory" if node else "not in the layer before it"
            raise self._invalid(member, f"is a hard link to {show_name(member.linkname)}, which is {problem}")
        if node.links == MAX_LINKS:
            raise self._invalid(member, f"is one of more than {MAX_LINKS} names of a file, which ext4 cannot hold")
        node.links += 1
        return node

    def _describe(self, node: Node, member: Member) -> None:
        """What dockerd does to an inode once it is there, in its order; a hard link describes its target anew."""
        chown(node, member.uid, member.gid)
        if member.xattrs:
            self._set_xattrs(node, member)
        # dockerd looks for a hard link's target by the name as it stands there, and passes over what it does not find.
        if member.type == LNK and (node.type == SYM or self._follow(member.linkname, follow_last=False) is None):
            return
        chmod(node, 0o777 if node.type == SYM else member.mode)
        set_time(node, member.mtime_ns)

    def _set_xattrs(self, node: Node, member: Member) -> None:
        found = dict(node.xattrs)
        for name, value in member.xattrs.items():
            if value and can_have(node, name, value):  # Go takes a record without a value as none
                if problem := xattr_problem(node, name, value):
                    raise self._invalid(member, f"has an xattr {show_name(name)} {problem}")
                found[name] = value
        if not can_hold(found):
            raise self._invalid(member, f"has {sum(map(len, found.values()))} bytes of xattrs; ext4 holds about 4000")
        node.xattrs = found

    def _remove(self, children: dict[bytes, Node], name: bytes) -> None:
        """What RemoveAll does."""
        self._parents.clear()
        removed = [children.pop(name)]
        while removed:
            node = removed.pop()
            node.links -= 1
            self.unused += node.extents if not node.links else ()
            removed += (node.children or {}).values()


def _children(node: Node) -> dict[bytes, Node]:
    assert node.children is not None
    return node.children
