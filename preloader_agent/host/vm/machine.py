"""One run of QEMU, from its start to its end: the process, and the sockets to its monitor and to the guest's agent."""

from __future__ import annotations

from contextlib import suppress

from preloader_agent.errors import VmError
from preloader_agent.host.run import start
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.guest_shell import GuestShell
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.vm.waiting import tries

START_TIMEOUT = 30.0
POWER_OFF_TIMEOUT = 10.0


class Machine:
    """A running QEMU, or what is left of one."""

    def __init__(self, command: list[str], files: VmFiles) -> None:
        self._files = files
        for socket in (files.qmp, files.second_qmp, files.agent, files.control):
            socket.unlink(missing_ok=True)
        with files.output.open("wb") as output:
            self._process = start(command, log=output)
        try:
            self.monitor = self._connect()
        except BaseException:
            self._kill()
            raise
        try:
            self.shell = GuestShell(files.agent)
        except BaseException:
            self.monitor.close()
            self._kill()
            raise

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
        return any(self._process.poll() is not None for _ in tries(timeout, pause=0.1))

    def last_words(self) -> str:
        """What QEMU itself has said, and its exit status if it has ended."""
        status = self._process.poll()
        said = self._files.output.read_text(errors="replace").strip()
        return f"{said or 'no output'}" + ("" if status is None else f", exit status {status}")

    def power_off(self) -> None:
        """Ask the guest to power off: its agent, and if that does not answer its power button."""
        try:
            self.shell.order("systemctl --no-block poweroff", POWER_OFF_TIMEOUT)
        except VmError:
            self.monitor.execute("system_powerdown")

    def quit(self) -> None:
        """Ask QEMU to end now."""
        self.monitor.execute("quit")

    def cut(self) -> None:
        """Kill the process, if it is there, and close the sockets."""
        self._kill()
        self.shell.close()
        self.monitor.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
