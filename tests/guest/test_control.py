"""The control socket: what comes in is bounded and checked, and nobody at the other end can stop the daemon."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

import pytest

from preloader_agent.errors import PreloaderError, StoreError
from preloader_agent.guest.control import MAX_ANSWER, MAX_REQUEST, Control, Request, ask
from preloader_agent.guest.loop import Loop


class Daemon:
    """The loop of a daemon that answers every request with what it was."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "control")
        self.loop = Loop()
        self.requests: list[Request] = []
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None
        self.control = Control(self.loop, self.path, self.on_request)

    def on_request(self, request: Request) -> None:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        fields = {"what": request.what, "label": request.label, "force": request.is_forced}
        request.answer({"ok": True, **fields, **self.answer})

    def serve(self, rounds: int = 5) -> None:
        for _ in range(rounds):
            self.loop.wait(0.01)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def connect(daemon: Daemon) -> socket:
    client = socket(AF_UNIX)
    client.settimeout(5)
    client.connect(daemon.path)
    return client


def exchange(daemon: Daemon, *chunks: bytes) -> list[dict[str, Any]]:
    """Send, let the daemon work, and return its answers."""
    with connect(daemon) as client:
        for chunk in chunks:
            client.sendall(chunk)
            daemon.serve()
        client.setblocking(False)
        received = b""
        while True:
            try:
                received += client.recv(65536)
            except BlockingIOError:
                return [json.loads(line) for line in received.splitlines()]


def test_requests_are_answered_with_their_ids(daemon: Daemon) -> None:
    answers = exchange(
        daemon,
        b'{"request": "ping", "id": 1}\n{"request": "status"}\n',
        b'{"request": "release", "label": "dpl-1", "force": true, "id": "a"}\n',
    )
    assert answers == [
        {"id": 1, "ok": True, "what": "ping", "label": "", "force": False},
        {"ok": True, "what": "status", "label": "", "force": False},
        {"id": "a", "ok": True, "what": "release", "label": "dpl-1", "force": True},
    ]


def test_a_request_may_come_in_pieces(daemon: Daemon) -> None:
    answers = exchange(daemon, b'{"requ', b'est": "pi', b'ng"}', b"\n")
    assert [answer["what"] for answer in answers] == ["ping"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"hello", "not a request: Expecting value"),
        (b"[]", "not a request"),
        (b"{}", "expected `request` to be ping, status or release"),
        (b'{"request": "run", "command": "sh"}', "expected `request` to be ping"),
        (b'{"request": ["ping"]}', "expected `request` to be ping"),
        (b'{"request": "release"}', "expected the `label` of a disk"),
        (b'{"request": "release", "label": 3}', "expected the `label` of a disk"),
        (b'{"request": "ping", "label": "x"}', "expected the `label` of a disk with release, and with nothing else"),
        (b'{"request": "release", "label": "x", "force": "yes"}', "expected `force` to be true or false"),
        (b'{"request": "ping", "id": {}}', "expected `id` to be a number or a short text"),
        (b'{"request": "ping", "id": "' + b"x" * 200 + b'"}', "expected `id`"),
        (b"[" * 4000, "not a request"),
        (b"\xff\xfe\x00", "not a request"),
    ],
)
def test_what_is_not_a_request_is_refused_and_the_next_one_is_served(daemon: Daemon, line: bytes, error: str) -> None:
    refused, served = exchange(daemon, line + b'\n{"request": "ping"}\n')
    assert refused["ok"] is False
    assert error in refused["error"]
    assert served["what"] == "ping"
    assert [request.what for request in daemon.requests] == ["ping"]


@pytest.mark.parametrize("length", [MAX_REQUEST + 1, 10 * MAX_REQUEST, 300 * MAX_REQUEST])
def test_a_line_that_is_too_long_is_passed_over_and_the_next_one_is_served(daemon: Daemon, length: int) -> None:
    with connect(daemon) as client:
        client.setblocking(False)
        left = b"x" * length + b'\n{"request": "ping"}\n'
        while left:
            try:
                left = left[client.send(left) :]
            except BlockingIOError:
                daemon.serve(1)
        daemon.serve()
        lines = [json.loads(line) for line in client.recv(65536).splitlines()]
    assert [line.get("error", line.get("what")) for line in lines] == [
        f"a request has at most {MAX_REQUEST} bytes"
        if length > MAX_REQUEST + 1
        else f"not a request: a request has at most {MAX_REQUEST} bytes",
        "ping",
    ]


def test_a_problem_of_the_product_is_an_answer(daemon: Daemon) -> None:
    daemon.error = StoreError("/var/lib/docker", "is not there")
    assert exchange(daemon, b'{"request": "ping", "id": 7}\n') == [
        {"id": 7, "ok": False, "error": "/var/lib/docker: is not there"}
    ]


def test_a_client_that_reads_nothing_does_not_stop_the_others(daemon: Daemon) -> None:
    daemon.answer = {"text": "x" * (MAX_ANSWER // 2)}
    with connect(daemon) as silent:
        for _ in range(20):
            silent.sendall(b'{"request": "status"}\n')
            daemon.serve(1)
        daemon.answer = {}
        assert exchange(daemon, b'{"request": "ping"}\n')[0]["what"] == "ping"
    assert len(daemon.requests) == 21


def test_an_answer_to_a_client_that_is_gone_goes_nowhere(daemon: Daemon) -> None:
    with connect(daemon) as client:
        client.sendall(b'{"request": "ping"}\n')
    daemon.serve()
    daemon.requests[0].answer({"ok": True})
    assert exchange(daemon, b'{"request": "ping"}\n')[0]["ok"]


def test_only_so_many_may_be_connected(daemon: Daemon) -> None:
    clients = [connect(daemon) for _ in range(20)]
    daemon.serve(30)
    for client in clients:
        client.setblocking(False)
    refused = 0
    for client in clients:
        with suppress(BlockingIOError):
            refused += client.recv(1) == b""
    assert refused == 4
    for client in clients:
        client.close()
    daemon.serve(30)
    assert exchange(daemon, b'{"request": "ping"}\n')[0]["ok"]


def test_the_socket_is_for_its_owner_alone(daemon: Daemon) -> None:
    assert Path(daemon.path).stat().st_mode & 0o777 == 0o600


def test_asking(daemon: Daemon) -> None:
    thread = threading.Thread(target=daemon.serve, args=(200,))
    thread.start()
    try:
        assert ask(daemon.path, {"request": "ping"}, 10)["what"] == "ping"
    finally:
        thread.join()
    with pytest.raises(PreloaderError, match=r"has not answered within 0\.01 s"):
        ask(daemon.path, {"request": "ping"}, 0.01)


def test_asking_nobody(tmp_path: Path) -> None:
    with pytest.raises(PreloaderError, match=r"docker-preloader\.service does not run: start it"):
        ask(str(tmp_path / "none"), {"request": "ping"}, 1)
