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


def wake_daemon(path: str) -> bool:
    """Call the daemon; whether there is one."""
    with socket(AF_UNIX, SOCK_DGRAM) as wake:
        try:
            wake.sendto(b"merged", MSG_DONTWAIT, path)
        except BlockingIOError:  # it has enough calls waiting
            return True
        except OSError as err:
            log.debug("no daemon to wake: %s", err)
            return False
    return True
