"""The README's console blocks, carried out: `make demo` shows them to a person, and the README's test checks them.

The commands for the guest are typed on the console of the machine that `preloader vm run` has started. What the README
shows below a command must be what is printed.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from preloader_agent.errors import PreloaderError
from tests.dockerd import Dockerd
from tests.host.command import PYTHONPATH
from tests.host.terminal import Terminal
from tests.images import tour_images, write_docker_archive
from tests.walkthrough import (
    GUEST_CONSOLE,
    README,
    STEP_BOUND,
    Step,
    check_output,
    host_shell,
    read_blocks,
    run_on_host,
    steps_of,
)

START_MACHINE = "preloader vm run "


class Tour:
    """Both shells, in a folder that holds what the tour makes. A context manager, which leaves no machine behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._terminal: Terminal | None = None
        self._environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Have a docker with the images that the tour saves, which a reader has pulled or built."""
        with ExitStack() as stack:
            dockerd = stack.enter_context(Dockerd(self._folder / "docker"))
            dockerd.docker("load", "-i", write_docker_archive(tour_images(), self._folder / "loaded.tar", "oci"))
            self._environment["DOCKER_HOST"] = dockerd.host
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def carry_out(self, step: Step) -> str:
        """Give the command, and return what it prints."""
        if step.prompt == GUEST_CONSOLE:
            return self._type(step.command)
        if step.command.startswith(START_MACHINE):
            return self._start_machine(step.command)
        return run_on_host(step.command, self._folder, self._environment)

    def _start_machine(self, command: str) -> str:
        shell = host_shell(f"exec {command}", self._folder)
        self._terminal = self._stack.enter_context(Terminal(shell, {"PYTHONPATH": PYTHONPATH}, STEP_BOUND))
        return self._terminal.wait_shown(f"{GUEST_CONSOLE} ")

    def _type(self, command: str) -> str:
        assert self._terminal is not None, "the page has no `preloader vm run` before this"
        self._terminal.type(f"{command}\n")
        if command == "poweroff":
            assert self._terminal.wait_ended() == 0, self._terminal.shown
            return self._terminal.shown
        return self._terminal.wait_shown(f"{GUEST_CONSOLE} ").partition("\n")[2]  # what was typed is shown, too


def main() -> int:
    """Carry out the README, and show it; the exit status."""
    started = time.monotonic()
    with TemporaryDirectory(prefix="dpl-tour-") as name:
        try:
            show_tour(Path(name))
        except PreloaderError as err:
            print(f"\nThe tour failed: {err}", file=sys.stderr)
            return 1
    print(f"\nAll of it was as the README shows it, in {time.monotonic() - started:.0f} s.")
    return 0


def show_tour(folder: Path) -> None:
    """Carry out each step and print it as it goes. Raises PreloaderError where the README shows something else."""
    with Tour(folder) as tour:
        for step in steps_of(read_blocks(README, {})):
            print(f"{step.prompt} {step.command}", flush=True)
            output = tour.carry_out(step)
            print(output, end="" if output.endswith("\n") or not output else "\n", flush=True)
            check_output(step, output)


if __name__ == "__main__":
    sys.exit(main())
