"""The control channel: what the host asks of the agent in a guest, through a virtio-serial port.

One JSON object a line, each way. The port has no connections: what an earlier client left in it, half a request or an
answer that it did not wait for, is still there. So the first thing sent ends a line, each request has an id of its own,
and answers with another one are skipped.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preloader_agent.errors import AgentRefused, AgentSilent, VmError
from preloader_agent.host.vm.linesocket import LineSocket
from preloader_agent.host.waiting import tries

MAX_ANSWER = 1 << 20  # bytes; the agent shortens what would be longer
PING_TIMEOUT = 10.0  # an agent that runs answers at once, unless it is just merging disks on a busy host
PING_RETRY = 0.5  # an agent that starts, or whose kernel has not seen yet that we connected, loses what is sent
STATUS_TIMEOUT = 30.0
RELEASE_TIMEOUT = 240.0  # the guest bounds what it does by 210 s: services are stopped, docker is stopped and started

_PEER = "control channel"
_MAX_PROBLEM = 2000  # characters of a refusal that a person still reads


class ControlChannel:
    """A connection to the agent in a guest. QEMU serves one at a time, so close it soon.

    Who gets one has an agent that answers: the constructor waits `timeout` seconds for it, and else raises AgentSilent.
    Every request raises AgentRefused when the agent says no, and VmError when there is no answer in time.
    """

    def __init__(self, path: Path, timeout: float = PING_TIMEOUT) -> None:
        try:
            self._lines = LineSocket(path, _PEER, MAX_ANSWER)
        except VmError as err:
            raise AgentSilent(err.problem) from err
        try:
            self._lines.send(b"\n", time.monotonic() + timeout)
            self._wait_for_agent(timeout)
        except TimeoutError as err:
            self.close()
            reasons = f"does docker-preloader run in the guest, and is no other program connected to {path}?"
            raise AgentSilent(f"{_PEER}: no answer after {timeout:g} s: {reasons}") from err
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the next client in."""
        self._lines.close()

    def ping(self, timeout: float = PING_TIMEOUT) -> str:
        """The agent's version."""
        return printable(self._call("ping", {}, timeout).get("version", "?"))

    def status(self, timeout: float = STATUS_TIMEOUT) -> dict[str, Any]:
        """What `docker-preloader status --json` prints in the guest, and what is true of "truncated" and "restarting".

        Truncated, because it would be too long, are the images; restarting is docker, for disks that came or go.
        """
        answer = self._call("status", {}, timeout)
        if not isinstance(answer.get("status"), dict):
            raise VmError(f"{_PEER}: status: an answer without a status")
        return {**answer["status"], **{key: True for key in ("truncated", "restarting") if answer.get(key)}}

    def labels(self) -> frozenset[str]:
        """The labels of the disks that the agent has seen, used or not."""
        disks = self.status().get("disks")
        labels = (disk.get("label") for disk in disks if isinstance(disk, dict)) if isinstance(disks, list) else ()
        return frozenset(label for label in labels if isinstance(label, str))

    def release(self, label: str, *, force: bool = False, timeout: float = RELEASE_TIMEOUT) -> None:
        """Have the agent let go of a disk, even while containers use it if `force`; then it is safe to unplug it.

        A disk that is released already may be released again. Raises AgentRefused, with the containers that use it.
        """
        self._call("release", {"label": label, "force": force}, timeout)

    def _wait_for_agent(self, timeout: float) -> None:
        number = secrets.token_hex(8)  # the same each time: the answer to an earlier ping will do
        for left in tries(timeout, pause=0):
            with suppress(TimeoutError):
                self._ask("ping", {}, min(max(left, 0.1), PING_RETRY), number)
                return
        raise TimeoutError

    def _call(self, request: str, arguments: Mapping[str, object], timeout: float) -> dict[str, Any]:
        try:
            return self._ask(request, arguments, timeout, secrets.token_hex(8))
        except TimeoutError as err:
            raise VmError(f"{_PEER}: {request}: no answer after {timeout:g} s") from err

    def _ask(self, request: str, arguments: Mapping[str, object], timeout: float, number: str) -> dict[str, Any]:
        end = time.monotonic() + timeout
        self._lines.send(json.dumps({"id": number, "request": request, **arguments}).encode() + b"\n", end)
        answer: dict[str, Any] = {}
        while answer.get("id") != number:
            answer = _parse(self._lines.read_line(end))
        if answer.get("ok") is not True:
            raise _refusal(request, answer)
        return answer


def _parse(line: bytes) -> dict[str, Any]:
    """An answer; what is none, such as the end of one that an earlier client did not read, has no id."""
    with suppress(ValueError, RecursionError):
        answer = json.loads(line)
        if isinstance(answer, dict):
            return answer
    return {}


def _refusal(request: str, answer: Mapping[str, Any]) -> AgentRefused:
    """What a guest says is shown on the host's terminal: without control characters, and not without end."""
    names = answer.get("containers")
    containers = tuple(printable(name) for name in names) if isinstance(names, list) else ()
    problem = printable(answer.get("error") or "refused")
    unnamed = [name for name in containers if name not in problem]
    return AgentRefused(f"{_PEER}: {request}: " + ", ".join([problem, *unnamed])[:_MAX_PROBLEM], containers)


def printable(text: object) -> str:
    """What a guest says, as it can be shown on a terminal of the host."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
