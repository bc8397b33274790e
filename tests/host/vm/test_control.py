"""The control channel's client, against the protocol on a real socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from preloader_agent.errors import AgentRefused, AgentSilent, VmError
from preloader_agent.host.vm.control import MAX_ANSWER, ControlChannel
from tests.host.vm.fake_sockets import FakePreloader

LABEL = "dpl-0123456789ab"


@contextmanager
def channel_of(fake: FakePreloader) -> Iterator[ControlChannel]:
    with fake, closing(ControlChannel(fake.path)) as channel:
        yield channel


def test_requests_and_answers(folder: Path) -> None:
    fake = FakePreloader(folder, {"status": {"ok": True, "status": {"disks": []}, "truncated": True}})
    with channel_of(fake) as channel:
        assert channel.ping() == "1.2"
        assert channel.status() == {"disks": [], "truncated": True}
        channel.release(LABEL)
        channel.release(LABEL, force=True)
    assert fake.asked == [
        {"request": "ping"},
        {"request": "ping"},
        {"request": "status"},
        {"request": "release", "label": LABEL, "force": False},
        {"request": "release", "label": LABEL, "force": True},
    ]
    ids = [json.loads(line)["id"] for line in fake.received.splitlines() if line]
    assert len(set(ids)) == len(ids)


def test_a_refusal_names_the_containers(folder: Path) -> None:
    no = {"ok": False, "error": f"{LABEL} is used by web", "containers": ["web", "db"]}
    with (
        channel_of(FakePreloader(folder, {"release": no})) as channel,
        pytest.raises(AgentRefused, match=rf"^control channel: release: {LABEL} is used by web, db$") as refused,
    ):
        channel.release(LABEL)
    assert refused.value.containers == ("web", "db")


@pytest.mark.parametrize("containers", [None, 5, "web", {"a": 1}])
def test_a_refusal_is_shown_without_what_terminals_obey(folder: Path, containers: object) -> None:
    no = {"ok": False, "error": "\x1b[2Jno\n" + "x" * 9000, "containers": containers}
    with channel_of(FakePreloader(folder, {"release": no})) as channel, pytest.raises(AgentRefused) as refused:
        channel.release(LABEL)
    assert str(refused.value).startswith("control channel: release: ?[2Jno?xxx")
    assert len(str(refused.value)) < 2100
    assert refused.value.containers == ()


def test_what_an_earlier_client_left_is_skipped(folder: Path) -> None:
    noise = (
        b'rsion": "0"}\n{"id": "an older one", "ok": true, "version": "0"}\n{"ok": false, "error": "?"}\n'
        b'\n[1]\nnull\n"id"\n\xff\xfe{\n' + b"[" * 100_000 + b"\n"
    )
    with channel_of(FakePreloader(folder, noise=noise)) as channel:
        assert channel.ping() == "1.2"
        channel.release(LABEL)


def test_a_request_that_an_earlier_client_began_is_ended(folder: Path) -> None:
    fake = FakePreloader(folder)
    with fake:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(fake.path))
            client.sendall(b'{"id": 1, "request": "release", "la')
        ControlChannel(fake.path).close()
    assert fake.asked == [{"request": "ping"}]


def test_an_agent_that_starts(folder: Path) -> None:
    """What comes first is lost."""

    class Starting(FakePreloader):
        def answer(self, line: bytes) -> bytes | None:
            answer = super().answer(line)
            return answer if len(self.asked) > 2 else b""

    with channel_of(Starting(folder)) as channel:
        assert channel.ping() == "1.2"


def test_an_agent_that_is_slower_than_we_ask_again(folder: Path) -> None:
    class Slow(FakePreloader):
        first = b""

        def answer(self, line: bytes) -> bytes | None:
            """With the second ping comes the answer to the first, and never that to the second."""
            answer = super().answer(line)
            if len(self.asked) == 1:
                self.first = answer or b""
                return b""
            return self.first if len(self.asked) == 2 else answer

    with channel_of(Slow(folder)) as channel:
        assert channel.ping() == "1.2"


def test_a_guest_that_cannot_be_asked(folder: Path) -> None:
    with pytest.raises(AgentSilent, match=f"cannot connect to {folder}/none: No such file or directory"):
        ControlChannel(folder / "none")
    with pytest.raises(AgentSilent, match=r"AF_UNIX path too long"):
        ControlChannel(folder / ("x" * 200))
    with (
        FakePreloader(folder, {"ping": ""}) as fake,
        pytest.raises(AgentSilent, match=r"no answer after 0\.3 s: does docker-preloader"),
    ):
        ControlChannel(fake.path, timeout=0.3)


def test_an_agent_that_does_not_finish_is_not_one_that_cannot_be_asked(folder: Path) -> None:
    with (
        channel_of(FakePreloader(folder, {"release": ""})) as channel,
        pytest.raises(VmError, match=r"release: no answer after 0\.2 s") as problem,
    ):
        channel.release(LABEL, timeout=0.2)
    assert not isinstance(problem.value, AgentSilent | AgentRefused)


def test_answers_without_what_was_asked_for(folder: Path) -> None:
    with channel_of(FakePreloader(folder, {"ping": {"ok": True}, "status": {"ok": True, "status": 5}})) as channel:
        assert channel.ping() == "?"
        with pytest.raises(VmError, match="an answer without a status"):
            channel.status()


def test_a_machine_that_goes(folder: Path) -> None:
    with (
        channel_of(FakePreloader(folder, {"status": None})) as channel,
        pytest.raises(VmError, match="machine is gone"),
    ):
        channel.status()


def test_the_largest_answer_and_one_that_is_larger(folder: Path) -> None:
    largest = {"ok": True, "status": {"x": "y" * (MAX_ANSWER - 100)}}
    with channel_of(FakePreloader(folder, {"status": largest})) as channel:
        assert channel.status() == largest["status"]
    (folder / "socket").unlink()
    with channel_of(FakePreloader(folder, {"status": "x" * (MAX_ANSWER * 2)})) as channel:
        started = time.monotonic()
        with pytest.raises(VmError, match="an answer of more than 1048576 bytes"):
            channel.status(timeout=20)
        assert time.monotonic() - started < 10
