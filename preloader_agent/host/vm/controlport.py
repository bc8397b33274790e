"""Where a machine's control channel is: its monitor says it, so that nobody has to."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from preloader_agent.errors import InvalidValue
from preloader_agent.host.vm.places import ANONYMOUS, NAMED, list_parts
from preloader_agent.host.vm.qemu import CONTROL_PORT
from preloader_agent.host.vm.qmp import Monitor

_PORT = "virtserialport"
# What query-chardev says of a socket on which QEMU listens; before QEMU 6.0 it ended with ",server".
_LISTENING = re.compile(r"(?:disconnected:)?unix:(?P<path>.+),server(?:=on)?", re.DOTALL)

log = logging.getLogger(__name__)


def find_control(monitor: Monitor) -> Path | None:
    """The socket of the control channel, if the machine has the port and QEMU listens for it on a unix socket.

    Raises InvalidValue for a relative path, which is of QEMU's own folder: a socket of that name here may be another's.
    """
    for container in (NAMED, ANONYMOUS):
        ports = [name for name, type_ in list_parts(monitor, container).items() if type_ == _PORT]
        for port in (f"{container}/{name}" for name in ports):
            if _property(monitor, port, "name") == CONTROL_PORT:
                return _find_socket(monitor, _property(monitor, port, "chardev"))
    return None


def _property(monitor: Monitor, path: str, name: str) -> object:
    return monitor.execute("qom-get", {"path": path, "property": name})


def _find_socket(monitor: Monitor, chardev: object) -> Path | None:
    chardevs: Any = monitor.execute("query-chardev")
    filename = next((entry["filename"] for entry in chardevs if entry["label"] == chardev), "nothing")
    found = _LISTENING.fullmatch(filename)
    if found is None:
        log.warning("the port %s leads to %s, not to a unix socket on which QEMU listens", CONTROL_PORT, filename)
        return None
    if not found["path"].startswith("/"):
        expected = "an absolute path, or --control: this one is relative to where QEMU was started"
        raise InvalidValue("control channel", found["path"], expected)
    return Path(found["path"])
