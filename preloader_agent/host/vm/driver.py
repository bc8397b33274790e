"""A guest in QEMU, for as long as a `with` block lasts.

    with Vm(config) as vm:
        vm.wait_booted()
        vm.succeed("docker images")
        device = vm.attach(disk)
        vm.detach(device)  # the guest is asked first; vm.unplug(device) just pulls

Every wait is bounded, and a failure carries the end of the guest's console. The root disk is an overlay in a folder
that the block takes with it: the guest's files, which many machines share, are never written. A machine that was shut
down or crashed can be started again on its overlay, until the block ends.
"""

from __future__ import annotations

import enum
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from preloader_agent.errors import AgentSilent, VmError
from preloader_agent.host.diskimage import large_files_folder
from preloader_agent.host.inspection import read_label
from preloader_agent.host.vm.adoption import wait_adopted
from preloader_agent.host.vm.attached import UNPLUG_TIMEOUT, attach_disk, detach_disk, find_disk, list_disks
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.files import VmFiles
from preloader_agent.host.vm.machine import Machine
from preloader_agent.host.vm.parts import find_parts
from preloader_agent.host.vm.plan import plan_machine
from preloader_agent.host.waiting import tries

BOOT_TIMEOUT = 300.0  # 20 s on an idle host under TCG; a busy one is several times slower
COMMAND_TIMEOUT = 120.0
QUIT_TIMEOUT = 10.0
CONSOLE_LINES = 30
CONTROL_SEQUENCE = re.compile(r"\x1b(\[[0-9;?!]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\)?|[()].|c)|\r")

log = logging.getLogger(__name__)


class State(enum.Enum):
    """Where a machine is in its life."""

    OFF = "off"
    RUNNING = "running"
    CLOSED = "closed"


class Ending(enum.Enum):
    """Which step of the ladder ended a machine."""

    POWEROFF = "the guest powered off"
    QUIT = "QEMU quit"
    KILL = "QEMU was killed"


class Vm:
    """One guest, driven from outside."""

    def __init__(self, config: VmConfig) -> None:
        self.config = config
        self._state = State.OFF
        self._folder = tempfile.TemporaryDirectory(
            prefix="dpl-vm-", dir=large_files_folder(), ignore_cleanup_errors=True
        )
        self._files = VmFiles.of(config, Path(self._folder.name))
        self._machine: Machine | None = None

    @property
    def files(self) -> VmFiles:
        """Where its sockets are, for other programs: those of the second monitor and of the control channel."""
        return self._files

    @property
    def state(self) -> State:
        """Where this machine is in its life."""
        return self._state

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start QEMU, with the disks of the configuration; the guest boots while we return."""
        if self._state is not State.OFF:
            raise VmError(f"cannot start a machine that is {self._state.value}")
        plan = plan_machine(self.config, find_parts(self.config), self._files)
        with self._told():
            self._machine = Machine(plan, self._files, is_interactive=self.config.is_interactive)
        self._enter(State.RUNNING)

    def wait_for_shell(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until commands can be run in the guest: that is long before all its units have come up."""
        with self._told():
            self._running.shell.sync(timeout)

    def wait_booted(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until the guest's jobs at boot are done, whether all its units came up or not."""
        with self._told():
            self._running.shell.sync(timeout)
            for left in tries(timeout):
                _, state = self._running.shell.execute("systemctl is-system-running --wait", max(left, QUIT_TIMEOUT))
                if state.strip() in {"running", "degraded"}:
                    return
            raise VmError(f"the guest has not booted after {timeout:g} s: {state.strip()}")

    def execute(self, command: str, timeout: float = COMMAND_TIMEOUT) -> tuple[int, str]:
        """Run a shell command in the guest; its exit status, and its output and errors in one text."""
        with self._told():
            return self._running.shell.execute(command, timeout)

    def succeed(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command that must succeed, and return its output."""
        status, output = self.execute(command, timeout)
        if status != 0:
            raise self._problem(f"{command}: expected exit status 0, got {status}: {output.strip() or 'no output'}")
        return output

    def fail(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command that must fail, and return its output."""
        status, output = self.execute(command, timeout)
        if status == 0:
            raise self._problem(f"{command}: expected a failure, got exit status 0: {output.strip() or 'no output'}")
        return output

    def wait_for_unit(self, unit: str, timeout: float = COMMAND_TIMEOUT) -> None:
        """Wait until a unit is active; a unit that has failed is not waited for."""
        for _ in tries(timeout):
            state = self.succeed(f"systemctl show --property=ActiveState --value -- {unit}").strip()
            if state == "active":
                return
            if state == "failed":
                raise self._problem(f"{unit} has failed:\n{self.execute(f'systemctl status --no-pager -- {unit}')[1]}")
        raise self._problem(f"{unit} is not active after {timeout:g} s, but {state}")

    def wait_until_succeeds(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command again and again until it succeeds, and return its output."""
        for left in tries(timeout):
            status, output = self.execute(command, max(left, QUIT_TIMEOUT))
            if status == 0:
                return output
        raise self._problem(f"{command}: has not succeeded in {timeout:g} s: {output.strip() or 'no output'}")

    def attach(self, disk: Path, *, wait: bool = False) -> str:
        """Hot-plug a disk, read-only, where there is room, such as one of the spare ports; the id of its device.

        That is the disk's label, and in the guest also its serial. With `wait`, return when docker in the guest has the
        disk's images, or raise what `wait_adopted` raises.
        """
        labels = [read_label(disk)] if wait else []
        with self._told():
            attached = attach_disk(self._running.monitor, disk)
            log.info("attached %s as %s", disk, attached.device)
            if wait:
                wait_adopted(self._files.control, labels)
        return attached.device

    def detach(self, disk: Path | str, *, force: bool = False, timeout: float = UNPLUG_TIMEOUT) -> None:
        """Hot-unplug a disk, by its file, label or device, after the guest's agent has let go of it.

        Raises AgentRefused, which names the containers that use the disk, unless `force`. A disk that is not ours, and
        one of a guest whose agent does not answer, is just unplugged. `timeout` bounds what follows the question.
        """
        try:
            self._unplug(disk, self._files.control, force=force, timeout=timeout)
        except AgentSilent as err:
            log.warning("unplugging %s, without having asked the guest: %s", disk, err.problem)
            self.unplug(disk, timeout)

    def unplug(self, disk: Path | str, timeout: float = UNPLUG_TIMEOUT) -> None:
        """Hot-unplug a disk without asking, and wait until the guest's kernel has let go of it. It cannot refuse."""
        self._unplug(disk, None, timeout=timeout)

    def _unplug(self, disk: Path | str, control: Path | None, *, force: bool = False, timeout: float) -> None:
        with self._told():
            monitor = self._running.monitor
            attached = find_disk(list_disks(monitor), str(disk))
            detach_disk(monitor, attached, control, force=force, timeout=timeout)
        log.info("unplugged %s", attached.name)

    def reboot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Reboot the guest in an orderly way and wait until it is up again. Attached disks stay attached."""
        with self._told():
            monitor = self._running.monitor
            with monitor.listening("RESET") as listener:
                self._running.shell.order("systemctl --no-block reboot", COMMAND_TIMEOUT)
                monitor.next_event(listener, timeout, "reboot")
        self.wait_booted(timeout)

    def wait_ended(self) -> None:
        """Wait, however long, until the guest has powered off. Raises VmError when QEMU fails or stops the guest."""
        with self._told():
            self._running.wait_ended()
        self.crash()

    def shutdown(self, timeout: float = 60.0) -> Ending:
        """Power the guest off; if it does not within the bound, quit QEMU; if that does not, kill it."""
        machine = self._running
        ladder = (
            (Ending.POWEROFF, machine.power_off, timeout),
            (Ending.QUIT, machine.quit, QUIT_TIMEOUT),
        )
        reached = Ending.KILL
        for ending, ask, bound in ladder:
            with suppress(VmError):  # who cannot be asked is dealt with by the next step
                ask()
            if machine.has_ended(bound):
                reached = ending
                break
        self.crash()
        log.info("ended: %s", reached.value)
        return reached

    def crash(self) -> None:
        """Pull the plug: QEMU is killed, and what the guest has not written to its disk is lost."""
        if self._machine is not None:
            self._machine.cut()
            self._machine = None
        if self._state is State.RUNNING:
            self._enter(State.OFF)

    def close(self) -> None:
        """End the machine and remove its folder. Its overlay goes with it, so nothing is powered off first."""
        self.crash()
        self._folder.cleanup()
        self._enter(State.CLOSED)

    def console(self) -> str:
        """What the guest has said on its serial console."""
        with suppress(FileNotFoundError):
            text = self._files.console.read_text(errors="replace")
            return CONTROL_SEQUENCE.sub("", text)
        return ""

    def said(self) -> str:
        """What QEMU itself has said, such as warnings; not the guest."""
        return self._running.said()

    @property
    def _running(self) -> Machine:
        if self._machine is None:
            raise VmError(f"the machine is {self._state.value}")
        return self._machine

    def _enter(self, state: State) -> None:
        log.debug("machine in %s: %s -> %s", self._files.folder, self._state.value, state.value)
        self._state = state

    def _problem(self, problem: str) -> VmError:
        return VmError(problem, self._last_lines())

    def _last_lines(self) -> str:
        return "\n".join(self.console().splitlines()[-CONSOLE_LINES:])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Give the errors of the block the console's last lines, and QEMU's own words if it has ended."""
        try:
            yield
        except VmError as err:
            if self._machine is not None:
                err.problem += self._machine.circumstances(err.problem)
            err.console = self._last_lines()
            raise
