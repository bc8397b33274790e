"""The control channel: requests to the daemon, a JSON object a line, from a unix socket and a virtio-serial port.

Root in the guest uses the socket, whoever runs the VM the port. Both can ask for `ping`, `status` and `release`, for
nothing else. The other end may be slow, silent, gone, or send anything: nothing here waits for it, and all that is kept
of it is bounded.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from socket import AF_UNIX, SO_PEERCRED, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any, NamedTuple

from preloader_agent.errors import PreloaderError
from preloader_agent.guest import log
from preloader_agent.guest.loop import EDGES, Loop

# udev makes this link for the virtio-serial port `org.docker-preloader.0`.
PORT = "/dev/virtio-ports/org.docker-preloader.0"
PORT_SUBSYSTEM = "virtio-ports"
MAX_REQUEST = 4096  # bytes of a line
MAX_ANSWER = 1 << 20
_MAX_UNSENT = 2 * MAX_ANSWER
_MAX_CLIENTS = 16
_CHUNK, _CHUNKS = 4096, 64  # what is read from one stream before the others have their turn


class Request(NamedTuple):
    """What was asked for; `answer` is called once, with the fields of the answer."""

    what: str
    label: str
    is_forced: bool
    answer: Callable[[dict[str, Any]], None]


class Control:
    """The daemon's end of the socket and of the port. `on_request` is called with each well-formed request."""

    def __init__(self, loop: Loop, socket_path: str, on_request: Callable[[Request], None]) -> None:
        self._loop = loop
        self._on_request = on_request
        self._streams: dict[int, _Stream] = {}
        self._port: int | None = None
        if os.path.lexists(socket_path):
            os.unlink(socket_path)
        self._listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        self._listener.bind(socket_path)
        os.chmod(socket_path, 0o600)
        self._listener.listen()
        loop.watch(self._listener.fileno(), self._accept)

    def open_port(self) -> None:
        """Open the virtio-serial port, if the machine has it and it is not open yet."""
        if self._port is not None:
            return
        try:
            descriptor = os.open(PORT, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as err:  # only one process can have it open
            log.warning("not listening on %s: %s", PORT, err.strerror)
            return
        self._port = descriptor
        self._add(descriptor)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        _, user, _ = struct.unpack("3i", client.getsockopt(SOL_SOCKET, SO_PEERCRED, struct.calcsize("3i")))
        # The daemon's own user is root.
        if user != os.geteuid() or len(self._streams) >= _MAX_CLIENTS:
            client.close()
            return
        client.setblocking(False)
        self._add(client.detach())

    def _add(self, descriptor: int) -> None:
        stream = _Stream(descriptor, self._on_request)
        self._streams[descriptor] = stream
        self._loop.watch(descriptor, lambda: self._serve(stream), EDGES)

    def _serve(self, stream: _Stream) -> None:
        is_port = stream.descriptor == self._port
        try:
            stream.flush()
            is_at_end, has_more = stream.read()
        except OSError as err:  # the port was unplugged, or a client is gone
            log.debug("closing a control stream: %s", err)
            is_at_end, has_more, is_port = True, False, False
        if is_at_end and is_port:
            stream.reset()  # the host has closed its end, and may open it again
        elif is_at_end:
            self._close(stream)
        elif has_more:
            self._loop.again(stream.descriptor)

    def _close(self, stream: _Stream) -> None:
        if stream.descriptor == self._port:
            self._port = None
        self._loop.forget(stream.descriptor)
        del self._streams[stream.descriptor]
        stream.close()


class _Stream:
    """Lines in, lines out, through a descriptor that does not block."""

    def __init__(self, descriptor: int, on_request: Callable[[Request], None]) -> None:
        self.descriptor = descriptor
        self._on_request = on_request
        self._is_open = True
        self.reset()

    def reset(self) -> None:
        """Forget what is half received and half sent."""
        self._received, self._unsent = b"", b""
        self._is_skipping = False

    def close(self) -> None:
        """Close the descriptor; answers that are still to come go nowhere."""
        self._is_open = False
        os.close(self.descriptor)

    def read(self) -> tuple[bool, bool]:
        """Take what is there: whether the other end has closed, and whether there may be more. Raises OSError."""
        for _ in range(_CHUNKS):
            try:
                received = os.read(self.descriptor, _CHUNK)
            except BlockingIOError:
                return False, False
            if not received:
                return True, False
            self._take(received)
        return False, True

    def flush(self) -> None:
        """Send what the other end takes. Raises OSError."""
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self.descriptor, self._unsent) :]
            except BlockingIOError:
                return

    def send(self, document: dict[str, Any]) -> None:
        """Answer; whoever does not read its answers loses them."""
        if not self._is_open:
            return
        if len(self._unsent) > _MAX_UNSENT:
            self.reset()
        self._unsent += json.dumps(document).encode() + b"\n"
        try:
            self.flush()
        except OSError as err:  # reading says so, too, and closes it
            log.debug("not answering: %s", err)

    def _take(self, received: bytes) -> None:
        *lines, rest = (self._received + received).split(b"\n")
        for line in lines:
            if self._is_skipping:
                self._is_skipping = False
            elif line.strip():
                self._take_line(line)
        if len(rest) > MAX_REQUEST and not self._is_skipping:
            self._is_skipping = True
            self._refuse(None, f"a request has at most {MAX_REQUEST} bytes")
        self._received = b"" if self._is_skipping else rest

    def _take_line(self, line: bytes) -> None:
        number = None
        try:
            if len(line) > MAX_REQUEST:
                raise ValueError(f"a request has at most {MAX_REQUEST} bytes")
            document = json.loads(line)
            number = _checked_id(document.get("id"))
            request = _parse(document, lambda fields: self.send({**_id(number), **fields}))
        except (ValueError, AttributeError, RecursionError) as err:
            self._refuse(number, f"not a request: {err}")
            return
        try:
            self._on_request(request)
        except (PreloaderError, OSError) as err:
            self._refuse(number, str(err))

    def _refuse(self, number: str | int | None, error: str) -> None:
        self.send({**_id(number), "ok": False, "error": f"{error:.300}"})


def ask(socket_path: str, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Ask the daemon in this guest, and wait for its answer. Raises PreloaderError."""
    with socket(AF_UNIX, SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            client.connect(socket_path)
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as answers:
                line = answers.readline(MAX_ANSWER + 1)
        except (FileNotFoundError, ConnectionRefusedError) as err:
            raise PreloaderError("docker-preloader.service does not run: start it, and try again") from err
        except TimeoutError as err:
            raise PreloaderError(f"docker-preloader.service has not answered within {timeout:g} s") from err
        except (BrokenPipeError, ConnectionResetError):
            line = b""
    if not line.endswith(b"\n"):
        raise PreloaderError("docker-preloader.service has ended, or does not talk to you: only root may ask")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _parse(document: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> Request:
    what, label, is_forced = document.get("request"), document.get("label", ""), document.get("force", False)
    if what not in ("ping", "status", "release"):
        raise ValueError("expected `request` to be ping, status or release")
    if not isinstance(label, str) or (what == "release") != bool(label):
        raise ValueError("expected the `label` of a disk with release, and with nothing else")
    if not isinstance(is_forced, bool):
        raise ValueError("expected `force` to be true or false")
    return Request(what, label, is_forced, answer)


def _checked_id(value: object) -> str | int | None:
    is_number = isinstance(value, int) and abs(value) < 1 << 53
    if value is None or is_number or (isinstance(value, str) and len(value) <= 100):
        return value  # type: ignore[return-value]
    raise ValueError("expected `id` to be a number or a short text")


def _id(number: str | int | None) -> dict[str, Any]:
    return {} if number is None else {"id": number}
