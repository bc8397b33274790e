"""One run of QEMU, from its start to its end: the processes, and the sockets to the monitor and the guest's agent."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from preloader_agent.errors import CommandFailed, VmError
from preloader_agent.host.interruptions import put_off
from preloader_agent.host.run import run, start_apart, start_on_terminal
from preloader_agent.host.vm.complaints import explain, explain_stop
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.guard import Guard
from preloader_agent.host.vm.guest_shell import GuestShell
from preloader_agent.host.vm.plan import Making, VmPlan
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries

START_TIMEOUT = 30.0
POWER_OFF_TIMEOUT = 10.0
CHECK_INTERVAL = 5.0
END_TIMEOUT = 1.0


class Machine:
    """A running QEMU, or what is left of one. With `is_interactive` it has our terminal."""

    def __init__(self, plan: VmPlan, files: VmFiles, *, is_interactive: bool = False) -> None:
        self._files = files
        with ExitStack() as undo:
            guard = Guard(files.folder)
            undo.callback(guard.dismiss)
            _make_files(plan)
            for daemon in plan.daemons:
                undo.enter_context(_running(daemon, guard))
            _remove(files.sockets)
            undo.callback(_remove, files.sockets)
            begin = start_on_terminal if is_interactive else start_apart
            with files.output.open("wb") as output, put_off():
                self._process = begin(plan.command, log=output)
                undo.callback(self._kill)
                guard.watch(self._process.pid)
            self.monitor = undo.enter_context(closing(self._connect()))
            self.shell = undo.enter_context(closing(GuestShell(files.agent, self.check)))
            self._undo = undo.pop_all()

    def _connect(self) -> Monitor:
        for _ in tries(START_TIMEOUT, pause=0.05):
            if self._files.qmp.exists():
                with suppress(VmError):
                    return Monitor(self._files.qmp)
            if self.has_ended(0):
                raise VmError(f"QEMU ended at its start: {self.last_words()}")
        raise VmError(f"QEMU opened no monitor after {START_TIMEOUT:g} s: {self.last_words()}")

    def has_ended(self, timeout: float) -> bool:
        """Whether the process has ended, or ends within the bound."""
        if self._process.poll() is None:
            descriptor = os.pidfd_open(self._process.pid)
            try:
                select.select([descriptor], [], [], timeout)
            finally:
                os.close(descriptor)
        return self._process.poll() is not None

    def wait_ended(self) -> None:
        """Wait for the end of QEMU, however long. Raises VmError when it failed, or when the guest cannot go on."""
        while not self.has_ended(CHECK_INTERVAL):
            hindrance = ""
            with suppress(VmError):  # of a QEMU that has just ended
                hindrance = self.hindrance()
            if hindrance:
                raise VmError(hindrance)
        if self._process.returncode != 0:
            raise VmError(f"QEMU failed: {self.last_words()}")

    def said(self) -> str:
        """What QEMU itself has said: where its window is if it has none here, and warnings."""
        return self._files.output.read_text(errors="replace").strip()

    def last_words(self) -> str:
        """The same, explained, and its exit status if it has ended."""
        status = self._process.poll()
        return explain(self.said() or "no output") + ("" if status is None else f", exit status {status}")

    def hindrance(self) -> str:
        """Why the guest cannot go on, if it cannot."""
        return explain_stop(self.monitor.execute("query-status"), self.monitor.execute("query-block"))

    def circumstances(self, problem: str) -> str:
        """What else is to be said of a problem: that QEMU has ended, or why the guest cannot go on."""
        if self.has_ended(0):
            more = self.last_words()
            return "" if more in problem else f" (QEMU ended: {more})"
        with suppress(VmError):
            if (more := self.hindrance()) and more not in problem:
                return f" ({more})"
        return ""

    def check(self) -> None:
        """Raises VmError when the guest cannot go on: nothing that it was asked for will be answered."""
        if hindrance := self.hindrance():
            raise VmError(hindrance)

    def power_off(self) -> None:
        """Ask the guest to power off: its agent, and if there is none that answers by its power button."""
        chardevs: Any = self.monitor.execute("query-chardev")
        if any(chardev["label"] == "agent" and chardev["frontend-open"] for chardev in chardevs):
            with suppress(VmError):
                self.shell.order("systemctl --no-block poweroff", POWER_OFF_TIMEOUT)
                return
        self.monitor.execute("system_powerdown")

    def quit(self) -> None:
        """Ask QEMU to end now."""
        self.monitor.execute("quit")

    def cut(self) -> None:
        """Kill the process, if it is there, and what goes with it."""
        self._kill()
        self._undo.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _remove(sockets: Iterable[Path]) -> None:
    for socket in sockets:
        socket.unlink(missing_ok=True)


def _make_files(plan: VmPlan) -> None:
    """Make what is not there yet: a machine that is started again has its disks."""
    for making in plan.files:
        if not making.path.exists():
            try:
                run(making.command)
            except CommandFailed as err:
                making.path.unlink(missing_ok=True)
                raise VmError(f"cannot make {making.path}: {explain(err.output)}") from err


@contextmanager
def _running(daemon: Making, guard: Guard) -> Iterator[None]:
    """A daemon that listens on its socket. It ends when QEMU does; if not, it is ended."""
    daemon.path.unlink(missing_ok=True)
    log = daemon.path.with_suffix(".log")
    with log.open("wb") as output, put_off():
        process = start_apart(daemon.command, log=output)
        guard.watch(process.pid)
    try:
        _wait_listening(daemon, process, log)
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)
        process.kill()
        process.wait()


def _wait_listening(daemon: Making, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in tries(START_TIMEOUT, pause=0.02):
        if daemon.path.exists():
            return
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip()
            raise VmError(f"{daemon.command[0]} ended at its start: {said or 'no output'}")
    raise VmError(f"{daemon.command[0]} has made no socket after {START_TIMEOUT:g} s")
