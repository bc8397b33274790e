"""Commands in the guest, through qemu-guest-agent on a virtio-serial port: no network, no login, no prompt to guess.

The agent's protocol has no connection: what an earlier client, or the guest before its reboot, left in the channel is
still there. So each command starts with a guest-sync-delimited of its own, and all that comes before its answer is
dropped.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from preloader_agent.errors import VmError
from preloader_agent.host.vm.linesocket import LineSocket
from preloader_agent.host.waiting import tries

ANSWER_TIMEOUT = 30.0
SYNC_TIMEOUT = 2.0  # before the agent runs, a request may be lost: ask again rather than wait
GRACE = 20.0  # from the end of the guest's own bound to the end of ours
MAX_ANSWER = 32 << 20  # bytes; the agent keeps 16 MiB of a command's output, and sends them in base64
TIMED_OUT = frozenset({124, 137})  # timeout(1): ended, or killed after that did not help
PREAMBLE = "exec 2>&1 </dev/null\nexport HOME=/root LC_ALL=C.UTF-8\n"


class GuestShell:
    """A shell in the guest, over the socket of the agent's port.

    `check` is called while we wait, and raises when there is nothing to wait for.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self._lines = LineSocket(path, "guest agent", MAX_ANSWER)
        self._check = check

    def close(self) -> None:
        """Close the socket."""
        self._lines.close()

    def sync(self, timeout: float) -> None:
        """Wait until the agent answers."""
        for left in tries(timeout, pause=0):
            if self._answers(min(max(left, 0.1), SYNC_TIMEOUT)):
                return
            self._check()
        raise VmError(f"guest agent: no answer after {timeout:g} s; is qemu-guest-agent in the guest?")

    def execute(self, command: str, timeout: float) -> tuple[int, str]:
        """Run a shell command; its exit status (128 + the signal that ended it), its output and errors in one text."""
        started = time.monotonic()
        self.sync(ANSWER_TIMEOUT)
        # The guest bounds the command itself: nothing is left running there, and its output so far is not lost.
        words = ["--kill-after=5", f"{timeout:g}", "sh", "-c", PREAMBLE + command]
        answer = self._call("guest-exec", {"path": "timeout", "arg": words, "capture-output": True})
        status, output = self._wait_for_end(int(str(answer["pid"])), command, timeout)
        if status in TIMED_OUT and time.monotonic() - started >= timeout:
            raise VmError(f"{command}: not finished after {timeout:g} s: {output or 'no output'}")
        return status, output

    def order(self, command: str, timeout: float) -> None:
        """Start a shell command and wait for nothing: it takes the machine down, and the agent's answer with it."""
        self.sync(timeout)
        arguments = {"path": "sh", "arg": ["-c", PREAMBLE + command]}
        self._lines.send(_request("guest-exec", arguments), time.monotonic() + ANSWER_TIMEOUT)

    def _wait_for_end(self, pid: int, command: str, timeout: float) -> tuple[int, str]:
        pause = 0.05
        for left in tries(timeout + GRACE, pause=0):
            state = self._call("guest-exec-status", {"pid": pid})
            if state["exited"]:
                return _result(command, state)
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.5)  # short for what is quick, cheap for what is not: the guest has better to do
        raise VmError(f"{command}: the guest did not end it after {timeout:g} s")

    def _answers(self, timeout: float) -> bool:
        nonce = secrets.randbelow(1 << 30)
        end = time.monotonic() + timeout
        with suppress(TimeoutError):
            # The byte 255 ends whatever half of a request stands in the guest's parser.
            self._lines.send(b"\xff" + _request("guest-sync-delimited", {"id": nonce}), end)
            while True:
                if _is_return(self._lines.read_line(end), nonce):
                    return True
        return False

    def _call(self, command: str, arguments: Mapping[str, object]) -> dict[str, object]:
        end = time.monotonic() + ANSWER_TIMEOUT
        try:
            self._lines.send(_request(command, arguments), end)
            answer = json.loads(self._lines.read_line(end))
        except TimeoutError as err:
            raise VmError(f"guest agent: {command}: no answer after {ANSWER_TIMEOUT:g} s") from err
        if "error" in answer:
            raise VmError(f"guest agent: {command}: {answer['error'].get('desc')}")
        result: dict[str, object] = answer["return"]
        return result


def _request(command: str, arguments: Mapping[str, object]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def _is_return(line: bytes, nonce: int) -> bool:
    """Whether a line is the answer to our sync; anything else may be half of an answer that nobody waits for."""
    try:
        answer = json.loads(line.rpartition(b"\xff")[2])
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("return") == nonce


def _result(command: str, state: dict[str, object]) -> tuple[int, str]:
    if state.get("out-truncated"):
        raise VmError(f"{command}: more output than the guest agent keeps (16 MiB); write it to a file there")
    output = base64.b64decode(str(state.get("out-data", ""))).decode(errors="replace")
    if "signal" in state:
        return 128 + int(str(state["signal"])), output
    return int(str(state["exitcode"])), output
