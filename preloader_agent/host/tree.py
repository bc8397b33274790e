"""File system trees in memory, and the tree of one layer as dockerd unpacks it.

A `LayerTree` does with a layer's members what dockerd does with them in a chroot (moby pkg/archive, Unpack and
createTarFile; overlayWhiteoutConverter), so that the same layers are refused and the others give the same tree: parents
that no member names are made, what stands in the way is replaced, symlinks of the layer are followed, a whiteout
becomes a 0/0 character device and an opaque marker `trusted.overlay.opaque` on its directory.
"""

from __future__ import annotations

import posixpath

from preloader_agent.errors import InvalidArchive
from preloader_agent.host import acl
from preloader_agent.host.ext4.layout import MAX_LINKS
from preloader_agent.host.ext4.xattrs import can_hold
from preloader_agent.host.node import Extent, Node, make_directory
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, GLOBAL_HEADER, LNK, REG, SYM, Member, show_name

WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
CAPABILITY = b"security.capability"
# Docker gives what no member describes the time of unpacking; the same input must give the same bytes here.
IMPLIED_MTIME_NS = 0
_MAX_NAME, _MAX_TARGET = 255, 4095  # bytes; the kernel's limits, so dockerd's as well
_MAX_PATH = 4095 - len("/var/lib/docker/overlay2/") - 64 - len("/diff/")  # dockerd walks its store by such paths
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF  # what the kernel keeps of a device's numbers
_GO_ZERO_TIME = -62135596800 * 10**9  # the year 1, with which dockerd means "leave it", in vain
_UTIME_OMIT = (1 << 30) - 2
_SETUID, _SETGID, _GROUP_EXECUTE = 0o4000, 0o2000, 0o010
_TYPES = frozenset((REG, LNK, SYM, CHR, BLK, DIR, FIFO))
_CAPABILITY_SIZES = {b"\x02": 20, b"\x03": 24}  # bytes, by the version in the last byte of the first number
_MAX_SYMLINKS = 40  # followed in one path; the kernel's MAXSYMLINKS


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
            node.mtime_ns = _checked_time(node, mtime_ns)

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
        made = make_directory(0o755 | parent.mode & _SETGID)
        _inherit(parent, made, made.mode)
        if made.mode & 0o777 != 0o755:
            _chmod(made, 0o755)
        parent.children[name] = made
        return made

    def _follow(self, path: bytes, *, follow_last: bool = True) -> Node | None:
        """What stands at a path, if anything; symlinks are followed as in a chroot."""
        above, left, symlinks = [self.root], path.split(b"/")[::-1], 0
        while left:
            name = left.pop()
            if name == b".." and len(above) > 1:
                above.pop()
            if name in (b"", b".", b".."):
                continue
            node = (above[-1].children or {}).get(name)
            if node is None:
                return None
            if node.type != SYM or not (left or follow_last):
                above.append(node)
                continue
            symlinks += 1
            if symlinks > _MAX_SYMLINKS:
                return None
            if node.target.startswith(b"/"):
                del above[1:]
            left += node.target.split(b"/")[::-1]
        return above[-1]

    def _add_whiteout(self, parent: Node, name: bytes, member: Member) -> None:
        if name in (b"", b".", b"..") or name in _children(parent):
            raise self._invalid(member, "removes what the same layer adds, which dockerd refuses, too")
        node = Node(CHR, 0, _owner(0, member.uid), _owner(0, member.gid))
        _inherit(parent, node, 0)
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
        _inherit(parent, node, member.mode)
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
        """chown, setxattr, chmod and utimes, in dockerd's order; a hard link describes its target anew."""
        node.uid, node.gid = _owner(node.uid, member.uid), _owner(node.gid, member.gid)
        if CAPABILITY in node.xattrs and node.type == REG:  # the kernel drops it with a chown
            node.xattrs = {name: value for name, value in node.xattrs.items() if name != CAPABILITY}
        if member.xattrs:
            self._set_xattrs(node, member)
        # dockerd looks for a hard link's target by the name as it stands there, and passes over what it does not find.
        if member.type == LNK and (node.type == SYM or self._follow(member.linkname, follow_last=False) is None):
            node.mode &= ~_SETUID & ~(_SETGID if node.mode & _GROUP_EXECUTE else 0)  # so does chown(2)
            return
        _chmod(node, 0o777 if node.type == SYM else member.mode)
        node.mtime_ns = _checked_time(node, member.mtime_ns)

    def _set_xattrs(self, node: Node, member: Member) -> None:
        found = dict(node.xattrs)
        for name, value in member.xattrs.items():
            if value and _can_have(node, name, value):  # Go takes a record without a value as none
                self._check_xattr(node, name, value, member)
                found[name] = value
        if not can_hold(found):
            raise self._invalid(member, f"has {sum(map(len, found.values()))} bytes of xattrs; ext4 holds about 4000")
        node.xattrs = found

    def _check_xattr(self, node: Node, name: bytes, value: bytes, member: Member) -> None:
        """What the kernel refuses, so dockerd as well."""
        if not 0 < len(name) <= _MAX_NAME:
            raise self._invalid(member, f"has an xattr with a name of {len(name)} bytes, expected 1 to {_MAX_NAME}")
        if name == CAPABILITY and _CAPABILITY_SIZES.get(value[:4][3:]) != len(value):
            raise self._invalid(member, f"has {show_name(name)} of {len(value)} bytes that say no capabilities")
        if name.endswith(b"."):
            raise self._invalid(member, f"has an xattr {show_name(name)}, which is no name")
        if name in (acl.ACCESS, acl.DEFAULT) and not acl.is_valid(value):
            raise self._invalid(member, f"has {show_name(name)} that is no valid ACL")
        if name == acl.DEFAULT and node.type != DIR:
            raise self._invalid(member, "has a default ACL, but is not a directory")

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


def _owner(old: int, new: int) -> int:
    """What chown(2) makes of a number: 32 bits of it, and -1 changes nothing."""
    return old if new & 0xFFFFFFFF == 0xFFFFFFFF else new & 0xFFFFFFFF


def _checked_time(node: Node, mtime_ns: int) -> int:
    """dockerd gives what is not in 1970-2262 the time 0, but for symlinks, where it overflows into what ext4 takes."""
    if node.type != SYM:
        return mtime_ns if 0 <= mtime_ns < 1 << 63 else 0
    if mtime_ns == _GO_ZERO_TIME:
        return _UTIME_OMIT
    overflown = (mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)
    return max(overflown, -(1 << 31) * 10**9)


def _can_have(node: Node, name: bytes, value: bytes) -> bool:
    """Whether the kernel lets an inode have an xattr; dockerd passes over what it calls not permitted or supported."""
    if name.startswith(b"user."):
        return node.type in (REG, DIR)
    if name in (acl.ACCESS, acl.DEFAULT):
        return node.type != SYM and acl.is_known_version(value)
    return not name or name.startswith((b"trusted.", b"security."))


def _inherit(parent: Node, node: Node, mode: int) -> None:
    """What a new inode gets of its directory's default ACL, when it is made with a mode."""
    default = parent.xattrs.get(acl.DEFAULT)
    if default is None or node.type == SYM:
        return
    if node.type == DIR:
        node.xattrs = {acl.DEFAULT: default}
    node.mode = acl.masked_mode(default, mode)
    _set_access(node, default)


def _chmod(node: Node, mode: int) -> None:
    node.mode = mode
    if acl.ACCESS in node.xattrs:
        _set_access(node, node.xattrs[acl.ACCESS])


def _set_access(node: Node, access: bytes) -> None:
    """Keep an access ACL in step with the mode."""
    changed = acl.with_mode(access, node.mode)
    others = {name: value for name, value in node.xattrs.items() if name != acl.ACCESS}
    node.xattrs = others if changed is None else {**others, acl.ACCESS: changed}
