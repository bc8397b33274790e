"""The one place that mounts: mount(2) and umount2(2), and what the kernel says is mounted.

The agent mounts by itself, not through systemd's mount units, which cost 12-31 ms each and stall for up to a second
when many mounts appear, as they do at boot.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

from preloader_agent.errors import MountError

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME = 1, 2, 4, 8, 1024
_MNT_DETACH = 2
# Containers do not see nosuid, nodev and noexec: an overlay uses a private clone of its lower mounts.
_FLAGS = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A line of mountinfo; `device` is the kernel's major:minor."""

    device: str
    target: str
    filesystem: str
    source: str


def mount_disk(device: str, target: str) -> None:
    """Mount an ext4 device read-only, without a journal replay. Raises MountError.

    A damaged disk shall not take the guest down, whatever its superblock asks for: errors=continue.
    """
    os.makedirs(target, mode=0o755, exist_ok=True)
    arguments = (os.fsencode(device), os.fsencode(target), b"ext4", _FLAGS, b"noload,errors=continue")
    if _libc.mount(*arguments) != 0:
        raise _mount_error("mount", f"{device} on {target}")


def unmount(target: str) -> None:
    """Unmount lazily: containers that still use the disk keep it until they end. Raises MountError."""
    if _libc.umount2(os.fsencode(target), _MNT_DETACH) != 0 and ctypes.get_errno() != errno.EINVAL:
        raise _mount_error("unmount", target)
    try:
        os.rmdir(target)
    except OSError as err:  # still a mount point of another mount: that one stays
        if err.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise


def mounted_device(target: str) -> int | None:
    """The number of the device that is mounted on a directory, None where nothing is. Raises OSError."""
    try:
        device = os.stat(target).st_dev
    except FileNotFoundError:
        return None
    return device if device != os.stat(os.path.dirname(target)).st_dev else None


def is_in_use(device: str) -> bool:
    """Whether a file system of the device is mounted somewhere, lazily unmounted ones that are in use among them.

    Raises OSError when the device cannot be opened for another reason.
    """
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))  # open(2): EBUSY for a mounted block device
    except OSError as err:
        if err.errno != errno.EBUSY:
            raise
        return True
    return False


def sync_filesystem(path: str) -> None:
    """Write everything of the file system that holds `path` to stable storage (syncfs(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _libc.syncfs(descriptor)
    finally:
        os.close(descriptor)


def list_mounts(directory: str, process: str = "self") -> list[Mount]:
    """What is mounted right below a directory, in the mount namespace of a process."""
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        return parse_mountinfo(file.read(), directory)


def parse_mountinfo(content: bytes, directory: str) -> list[Mount]:
    """The mounts right below a directory; of those on one target the last one, which hides the others.

    Bytes, because a path holds any of them but those that are escaped: a carriage return ended the line of a text.
    """
    found = {}
    for line in content.split(b"\n")[:-1]:
        fields, _, rest = line.partition(b" - ")
        words, (filesystem, source, *_) = fields.split(b" "), rest.split(b" ")
        target = _unescape(words[4])
        if os.path.dirname(target) == directory:
            found[target] = Mount(words[2].decode(), target, filesystem.decode(), _unescape(source))
    return list(found.values())


def _unescape(word: bytes) -> str:
    """proc(5): space, tab, newline and backslash are written as octal escapes."""
    return os.fsdecode(word if b"\\" not in word else word.decode("unicode_escape").encode("latin-1"))


def _mount_error(action: str, what: str) -> MountError:
    number = ctypes.get_errno()
    return MountError(action, what, number, os.strerror(number))
