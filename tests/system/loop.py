"""Loop devices of our own: each is new, and gone with the process that made it, however that ends.

losetup takes whatever device is free, and leaves it behind when a test is killed. Here a device is added, configured
with autoclear and kept alive by one descriptor; the kernel lets go of the file when that is closed and nothing has it
mounted any more.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from preloader_agent.errors import VmError
from preloader_agent.host.waiting import tries

# linux/loop.h
_CTL_ADD, _CTL_REMOVE, _CONFIGURE = 0x4C80, 0x4C81, 0x4C0A
_FLUSH_BUFFERS = 0x1261  # linux/fs.h, BLKFLSBUF
_MAJOR = 7
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG = "=II5Q4I64s64s32s2Q8Q"
_RELEASE_TIMEOUT = 10.0


class Loop:
    """A loop device without a file yet: what udev sees of it is first `add`, then `change` when it gets one."""

    def __init__(self) -> None:
        self.number = _control(_CTL_ADD, -1)
        self.node = Path(f"/dev/loop{self.number}")
        self._descriptor = -1
        self._is_our_node = not self.node.exists()
        if self._is_our_node:  # /dev is no devtmpfs in a container
            os.mknod(self.node, stat.S_IFBLK | 0o600, self.device)

    @property
    def device(self) -> int:
        """The device number."""
        return os.makedev(_MAJOR, self.number)

    def open(self, disk: Path) -> None:
        """Give it a raw file, read-only."""
        self._descriptor = os.open(self.node, os.O_RDONLY | os.O_CLOEXEC)
        with disk.open("rb") as file:
            flags = _READ_ONLY | _AUTOCLEAR
            config = struct.pack(_CONFIG, file.fileno(), *[0] * 9, flags, b"", b"", b"", *[0] * 10)
            fcntl.ioctl(self._descriptor, _CONFIGURE, config)

    def reread(self) -> None:
        """Forget what was read of the file, which has changed; nobody may have it mounted."""
        fcntl.ioctl(self._descriptor, _FLUSH_BUFFERS)

    def close(self) -> None:
        """Let go of the file and remove the device. Raises VmError when somebody still uses it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        for left in tries(_RELEASE_TIMEOUT, pause=0.05):
            try:
                _control(_CTL_REMOVE, self.number)
                break
            except OSError as err:
                if left == 0:
                    raise VmError(f"{self.node} is still in use after {_RELEASE_TIMEOUT:g} s: {err.strerror}") from err
        if self._is_our_node:
            with suppress(FileNotFoundError):
                self.node.unlink()


def _control(request: int, number: int) -> int:
    descriptor = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, request, number)
    finally:
        os.close(descriptor)
