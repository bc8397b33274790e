"""QEMU's monitor: commands, events, and a device's way out of a running machine.

`qemu.qmp` is asyncio; who drives a test is not. This facade owns a loop that runs only while somebody waits, bounds
each wait, and turns each failure into a VmError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from preloader_agent.errors import VmError
from preloader_agent.host.interruptions import put_off
from preloader_agent.host.waiting import tries

ANSWER_TIMEOUT = 30.0
GREETING_TIMEOUT = 10.0
_UNDER_WAY = "already in the process of unplug"  # QEMU has no error class for it
UNPLUG_RETRY = 10.0  # a request that comes before the guest listens to its hot-plug controller is lost

T = TypeVar("T")


class Monitor:
    """A connection to the monitor of one running QEMU."""

    def __init__(self, socket: Path) -> None:
        with put_off():
            self._loop = asyncio.new_event_loop()
        self._client = QMPClient("vm")
        try:
            self._run(self._client.connect(str(socket)), GREETING_TIMEOUT, f"QMP monitor at {socket}")
        except VmError as err:
            self._loop.close()
            if isinstance(err.__cause__, TimeoutError):
                err.problem += "; it serves one client at a time: is another program connected?"
            else:
                err.problem += "; expected the socket of a running QEMU's -qmp unix:SOCKET,server=on,wait=off"
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect. The other end may be gone already."""
        if self._loop.is_closed():
            return
        with suppress(VmError):
            self._run(self._client.disconnect(), ANSWER_TIMEOUT, "QMP disconnect")
        self._loop.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command and return its answer."""
        what = f"QMP {command}"
        return self._run(self._client.execute(command, dict(arguments or {})), ANSWER_TIMEOUT, what)

    @contextmanager
    def listening(self, *names: str) -> Iterator[EventListener]:
        """Collect the events of these names that happen inside the block, none that happened before."""
        self.execute("query-status")  # events arrive in order: after this answer, the old ones have been dispatched
        with self._client.listener(names) as listener:
            yield listener

    def next_event(self, listener: EventListener, timeout: float, what: str) -> Message:
        """Wait for the next event of a listener."""
        return self._run(listener.get(), timeout, what)

    def unplug(self, device: str, timeout: float) -> None:
        """Unplug a device, an id or a QOM path. The guest has to let go of it: it cannot refuse, but it can be slow.

        A request that is under way already is waited for.
        """
        with self.listening("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") as listener:
            for left in tries(timeout, pause=0):
                if self._has_gone(device) or self._is_deleted(listener, device, min(left, UNPLUG_RETRY)):
                    return
        raise VmError(f"unplug {device}: the guest has not let go of it after {timeout:g} s")

    def _has_gone(self, device: str) -> bool:
        """Ask for an unplug; whether there is nothing to wait for."""
        try:
            self.execute("device_del", {"id": device})
        except VmError as err:
            if isinstance(err.__cause__, ExecuteError) and err.__cause__.error_class == "DeviceNotFound":
                return True
            if _UNDER_WAY not in err.problem:
                raise
        return False

    def _is_deleted(self, listener: EventListener, device: str, timeout: float) -> bool:
        """Wait for the event that is about `device`; a virtio device's backend sends one of its own, without an id."""
        for left in tries(timeout, pause=0):
            try:
                event = self.next_event(listener, max(left, 0.1), f"unplug {device}")
            except VmError as err:
                if isinstance(err.__cause__, TimeoutError):
                    return False
                raise
            if not _is_about(event, device):
                continue
            if event["event"] == "DEVICE_UNPLUG_GUEST_ERROR":
                raise VmError(f"unplug {device}: the guest refused")
            return True
        return False

    def _run(self, work: Coroutine[object, object, T], timeout: float, what: str) -> T:
        task = self._loop.create_task(asyncio.wait_for(work, timeout))
        try:
            # What is raised in one of the client's own tasks would end that, and whoever waits for it would wait on.
            with put_off(lambda: self._loop.call_soon_threadsafe(task.cancel)):
                return self._loop.run_until_complete(task)
        except TimeoutError as err:
            raise VmError(f"{what}: no answer after {timeout:g} s") from err
        except (QMPError, OSError, EOFError) as err:
            raise VmError(f"{what}: {err or 'QEMU is gone'}") from err


def _is_about(event: Message, device: str) -> bool:
    """Whether an event is about a device; one that has no id is told by its QOM path."""
    about = event.get("data")
    return isinstance(about, dict) and device in {about.get("device"), about.get("path")}
