"""The other ends of a machine's sockets, speaking the real protocols: QEMU's monitor, the guest's agent, and ours."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from preloader_agent.errors import CommandFailed
from preloader_agent.host.run import run

Message = dict[str, Any]
GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


class FakeServer:
    """One client, until it goes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._unread = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()

    def greet(self) -> bytes:
        """What the server says first."""
        return b""

    def answer(self, line: bytes) -> bytes | None:
        """What it says to a line; None hangs up."""
        raise NotImplementedError

    def end_of_message(self, unread: bytes) -> int:
        """How long the first message is, 0 while it is not whole."""
        return unread.find(b"\n") + 1

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        self._serve_client(client)

    def _serve_client(self, client: socket.socket) -> None:
        with client, suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(self.greet())
            while received := client.recv(1 << 16):
                self._unread += received
                while end := self.end_of_message(self._unread):
                    message, self._unread = self._unread[:end], self._unread[end:]
                    answer = self.answer(message)
                    if answer is None:
                        return
                    client.sendall(answer)


class FakeMonitor(FakeServer):
    """A QMP server. `answers[command]` is an error text, or a list of the events that follow its empty answer."""

    def __init__(self, folder: Path, answers: Mapping[str, str | list[Message]], dies_at: str = "") -> None:
        super().__init__(folder)
        self.answers = answers
        self.dies_at = dies_at
        self.asked: list[tuple[str, Message]] = []

    def greet(self) -> bytes:
        return _line(GREETING)

    def end_of_message(self, unread: bytes) -> int:
        """A QMP client ends its objects with nothing."""
        try:
            return json.JSONDecoder().raw_decode(unread.decode())[1]
        except ValueError:
            return 0

    def answer(self, line: bytes) -> bytes | None:
        message = json.loads(line)
        command = message["execute"]
        if command == self.dies_at:
            return None
        if command not in {"qmp_capabilities", "query-status"}:
            self.asked.append((command, message.get("arguments", {})))
        answer = self.answers.get(command, [])
        if isinstance(answer, str):
            return _line({"error": {"class": "GenericError", "desc": answer}, "id": message.get("id")})
        return _line({"return": {}, "id": message.get("id")}) + b"".join(_line(stamped(event)) for event in answer)


class FakeAgent(FakeServer):
    """A guest agent. It runs what it is asked to run, here, and tells the result at the second question."""

    def __init__(self, folder: Path, noise: bytes = b"", change: Callable[[Message], Message] = lambda state: state):
        super().__init__(folder)
        self.noise = noise
        self.change = change
        self.asked = 0
        self.state: Message = {}

    def greet(self) -> bytes:
        return self.noise

    def answer(self, line: bytes) -> bytes | None:
        if line.startswith(b"\xff"):
            nonce = json.loads(line[1:])["arguments"]["id"]
            # The real agent complains about the byte first, too.
            return (
                _line({"error": {"class": "GenericError", "desc": "JSON parse error"}})
                + b"\xff"
                + _line({"return": nonce})
            )
        message = json.loads(line)
        if message["execute"] == "guest-exec":
            self.asked = 0
            self.state = execute([message["arguments"]["path"], *message["arguments"]["arg"]])
            return _line({"return": {"pid": 42}})
        assert message == {"execute": "guest-exec-status", "arguments": {"pid": 42}}
        self.asked += 1
        return _line({"return": self.change(self.state) if self.asked > 1 else {"exited": False}})


class FakePreloader(FakeServer):
    """Our agent behind the control channel, for one client after another: what one has not ended, the next one does.

    `answers[request]` are the fields of the answer, "" for none, or None to hang up.
    """

    def __init__(self, folder: Path, answers: Mapping[str, Message | str | None] = {}, noise: bytes = b"") -> None:
        super().__init__(folder)
        self.answers = {"ping": {"ok": True, "version": "1.2"}, "release": {"ok": True}, **answers}
        self.noise = noise
        self.asked: list[Message] = []
        self.received = b""

    def greet(self) -> bytes:
        return self.noise

    def answer(self, line: bytes) -> bytes | None:
        self.received += line
        try:
            message = json.loads(line)
        except ValueError:
            return _line({"ok": False, "error": "not a JSON object"})
        number, request = message.pop("id"), message["request"]
        self.asked.append(message)
        answer = self.answers[request]
        if isinstance(answer, dict):
            return _line({"id": number, **answer})
        return None if answer is None else answer.encode()

    def _serve(self) -> None:
        with suppress(OSError):  # the end of the test
            while True:
                self._serve_client(self._listener.accept()[0])

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # or accept() would go on
        super().__exit__(None, None, None)


def execute(argv: list[str]) -> Message:
    """Run a program, and describe its end as guest-exec-status does."""
    try:
        status, output = 0, run(argv)
    except CommandFailed as err:
        status, output = err.status, err.output
    end = {"exitcode": status} if status >= 0 else {"signal": -status}
    return {"exited": True, **end, "out-data": base64.b64encode(os.fsencode(output)).decode()}


def stamped(event: Message) -> Message:
    """An event as it is sent."""
    return {"timestamp": {"seconds": 1, "microseconds": 2}, **event}


def deleted(device: str | None) -> Message:
    """The event of a device's end, or of its virtio backend's, which has no id."""
    about = {"path": "/machine/peripheral/x/virtio-backend"} if device is None else {"device": device, "path": "/x"}
    return {"event": "DEVICE_DELETED", "data": about}


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\r\n"
