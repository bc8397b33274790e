"""A socket on which another process tells the daemon that Docker's store was changed; what is sent does not matter."""

from __future__ import annotations

import os
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_DGRAM, socket

from preloader_agent.guest import log


def open_wake_socket(path: str) -> socket:
    """The daemon's end, readable when somebody called."""
    if os.path.lexists(path):
        os.unlink(path)
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    wake = socket(AF_UNIX, SOCK_DGRAM)
    wake.bind(path)
    os.chmod(path, 0o600)
    return wake


def wake_daemon(path: str) -> None:
    """Call the daemon, if there is one."""
    with socket(AF_UNIX, SOCK_DGRAM) as wake:
        try:
            wake.sendto(b"merged", MSG_DONTWAIT, path)
        except OSError as err:  # no daemon, or one that has enough calls waiting
            log.debug("not waking the daemon: %s", err)
