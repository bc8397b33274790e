"""Lines over a unix socket, each step with a deadline: what both channels into a guest are made of."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from preloader_agent.errors import VmError

CONNECT_TIMEOUT = 10.0


class LineSocket:
    """A connection to the socket of a virtio-serial port; `peer` is in errors what answers there.

    Deadlines are times of time.monotonic(); whoever is not done by then gets a TimeoutError. Raises VmError when nobody
    listens, when the machine has gone, and for a line of more than `max_line` bytes.
    """

    def __init__(self, path: Path, peer: str, max_line: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._peer = peer
        self._max_line = max_line
        self._unread = b""
        try:
            self._socket.settimeout(CONNECT_TIMEOUT)
            self._socket.connect(str(path))
        except OSError as err:
            self._socket.close()
            raise VmError(f"{peer}: cannot connect to {path}: {err.strerror or err}") from err

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, content: bytes, end: float) -> None:
        """Send some bytes."""
        self._bound(end)
        try:
            self._socket.sendall(content)
        except (BrokenPipeError, ConnectionResetError) as err:
            raise VmError(f"{self._peer}: the machine is gone") from err

    def read_line(self, end: float) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._unread:
            if len(self._unread) > self._max_line:
                raise VmError(f"{self._peer}: an answer of more than {self._max_line} bytes")
            self._bound(end)
            self._unread += self._receive()
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _receive(self) -> bytes:
        try:
            received = self._socket.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        if not received:
            raise VmError(f"{self._peer}: the machine is gone")
        return received

    def _bound(self, end: float) -> None:
        self._socket.settimeout(max(end - time.monotonic(), 0.01))
