"""What the system calls that dockerd makes for a member do to an inode: chown, setxattr, chmod and utimes."""

from __future__ import annotations

from preloader_agent.host import acl
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import DIR, REG, SYM

SETGID = 0o2000
_SETUID, _GROUP_EXECUTE = 0o4000, 0o010
_CAPABILITY = b"security.capability"
_CAPABILITY_SIZES = {b"\x02": 20, b"\x03": 24}  # bytes, by the version in the last byte of the first number
_MAX_NAME = 255  # bytes of an xattr's name
_GO_ZERO_TIME = -62135596800 * 10**9  # the year 1, with which dockerd means "leave it", in vain
_UTIME_OMIT = (1 << 30) - 2


def owner(old: int, new: int) -> int:
    """What chown(2) makes of a number: 32 bits of it, and -1 changes nothing."""
    return old if new & 0xFFFFFFFF == 0xFFFFFFFF else new & 0xFFFFFFFF


def chown(node: Node, uid: int, gid: int) -> None:
    """Give an inode to another owner; what raises privileges is dropped, but not of a directory."""
    node.uid, node.gid = owner(node.uid, uid), owner(node.gid, gid)
    if node.type != DIR:
        node.mode &= ~_SETUID & ~(SETGID if node.mode & _GROUP_EXECUTE else 0)
    if _CAPABILITY in node.xattrs and node.type != DIR:
        node.xattrs = {name: value for name, value in node.xattrs.items() if name != _CAPABILITY}


def chmod(node: Node, mode: int) -> None:
    """Set the mode, and keep an access ACL in step with it."""
    node.mode = mode
    if acl.ACCESS in node.xattrs:
        _set_access(node, node.xattrs[acl.ACCESS])


def set_time(node: Node, mtime_ns: int) -> None:
    """dockerd gives what is not in 1970-2262 the time 0, but for symlinks, where it overflows into what ext4 takes."""
    if node.type != SYM:
        node.mtime_ns = mtime_ns if 0 <= mtime_ns < 1 << 63 else 0
    elif mtime_ns == _GO_ZERO_TIME:
        node.mtime_ns = _UTIME_OMIT
    else:
        overflown = (mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)
        node.mtime_ns = max(overflown, -(1 << 31) * 10**9)


def can_have(node: Node, name: bytes, value: bytes) -> bool:
    """Whether the kernel lets an inode have an xattr; dockerd passes over what it calls not permitted or supported."""
    if name.startswith(b"user."):
        return node.type in (REG, DIR)
    if name in (acl.ACCESS, acl.DEFAULT):
        return node.type != SYM and acl.is_known_version(value)
    return not name or name.startswith((b"trusted.", b"security."))


def xattr_problem(node: Node, name: bytes, value: bytes) -> str | None:
    """Why the kernel calls an xattr wrong, so that dockerd refuses the layer."""
    if not 0 < len(name) <= _MAX_NAME:
        return f"with a name of {len(name)} bytes, expected 1 to {_MAX_NAME}"
    if name.endswith(b"."):
        return "without a name behind its namespace"
    if name == _CAPABILITY and _CAPABILITY_SIZES.get(value[:4][3:]) != len(value):
        return f"of {len(value)} bytes that say no capabilities"
    if name in (acl.ACCESS, acl.DEFAULT) and not acl.is_valid(value):
        return "that is no valid ACL"
    if name == acl.DEFAULT and node.type != DIR:
        return "that only a directory can have"
    return None


def inherit(parent: Node, node: Node, mode: int) -> None:
    """What a new inode gets of its directory's default ACL, when it is made with a mode."""
    default = parent.xattrs.get(acl.DEFAULT)
    if default is None or node.type == SYM:
        return
    if node.type == DIR:
        node.xattrs = {acl.DEFAULT: default}
    node.mode = acl.masked_mode(default, mode)
    _set_access(node, default)


def _set_access(node: Node, access: bytes) -> None:
    changed = acl.with_mode(access, node.mode)
    others = {name: value for name, value in node.xattrs.items() if name != acl.ACCESS}
    node.xattrs = others if changed is None else {**others, acl.ACCESS: changed}
