"""A socket on which another process tells the daemon that it has made a pass over Docker's store."""

from __future__ import annotations

import os
from socket import AF_UNIX, MSG_DONTWAIT, SOCK_DGRAM, socket

from preloader_agent.guest import log

MERGED, POSTPONED = b"merged", b"postponed"


def open_wake_socket(path: str) -> socket:
    """The daemon's end, readable when somebody called."""
    if os.path.lexists(path):
        os.unlink(path)
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    wake = socket(AF_UNIX, SOCK_DGRAM)
    wake.bind(path)
    os.chmod(path, 0o600)
    return wake


def wake_daemon(path: str, message: bytes) -> bool:
    """Call the daemon; whether there is one. MERGED tells it that nothing stands in the way of a merge any more."""
    with socket(AF_UNIX, SOCK_DGRAM) as wake:
        try:
            wake.sendto(message, MSG_DONTWAIT, path)
        except BlockingIOError:  # it has enough calls waiting
            return True
        except OSError as err:
            log.debug("no daemon to wake: %s", err)
            return False
    return True
