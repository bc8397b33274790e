"""POSIX ACLs, as setxattr(2) takes them: what the kernel makes of one when it is set or inherited, and chmod follows.

The kernel keeps an ACL and the mode bits in step (fs/posix_acl.c, posix_acl_valid and posix_acl_chmod), and stores none
that says no more than the mode bits.
"""

from __future__ import annotations

import re
import struct

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_LETTERS = {_USER_OBJ: "u", _USER: "n", _GROUP_OBJ: "g", _GROUP: "m", _MASK: "k", _OTHER: "o"}
_ORDER = re.compile("ugo|un*gm*ko")


def is_known_version(value: bytes) -> bool:
    """Whether the kernel looks at a value at all; it refuses others as not supported, which dockerd passes over."""
    return value.startswith(_VERSION) or len(value) < len(_VERSION)


def is_valid(value: bytes) -> bool:
    """Whether the kernel takes a value: entries in order, each permission known, a mask where one is needed."""
    entries = value[len(_VERSION) :]
    if not value.startswith(_VERSION) or len(entries) % _ENTRY.size:
        return False
    parsed = list(_ENTRY.iter_unpack(entries))
    order = "".join(_LETTERS.get(tag, "?") for tag, _, _ in parsed)
    return all(permissions <= 7 for _, permissions, _ in parsed) and (not order or bool(_ORDER.fullmatch(order)))


def with_mode(value: bytes, mode: int) -> bytes | None:
    """A valid ACL after chmod, or None when the mode bits say as much."""
    parsed = list(_ENTRY.iter_unpack(value[len(_VERSION) :]))
    tags = {tag for tag, _, _ in parsed}
    if tags <= {_USER_OBJ, _GROUP_OBJ, _OTHER}:
        return None
    group = _MASK if _MASK in tags else _GROUP_OBJ
    changed = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return _VERSION + b"".join(_ENTRY.pack(tag, changed.get(tag, old), number) for tag, old, number in parsed)


def masked_mode(value: bytes, mode: int) -> int:
    """The mode of what is made with a mode in a directory that has a valid default ACL."""
    permissions: dict[int, int] = {tag: found for tag, found, _ in _ENTRY.iter_unpack(value[len(_VERSION) :])}
    group = permissions.get(_MASK, permissions.get(_GROUP_OBJ, 0))
    granted = permissions.get(_USER_OBJ, 0) << 6 | group << 3 | permissions.get(_OTHER, 0)
    return mode & (granted | ~0o777)
