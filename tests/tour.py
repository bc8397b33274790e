"""The README's console blocks, carried out: `make demo` shows them to a person, and the README's test checks them.

A line that starts with "$ " is a command for a shell on the host, one with "root@guest:~# " is typed on the console of
the guest that `preloader vm run` has started. What the README shows below must be what is printed. There, "..." stands
for anything; and sizes, times, versions and ids may be others, since they are those of today's Debian packages.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from preloader_agent.errors import PreloaderError
from preloader_agent.host.run import run
from tests.dockerd import Dockerd
from tests.host.terminal import Terminal
from tests.images import tour_images, write_docker_archive

README = Path(__file__).parents[1] / "README.md"
PROMPTS = {"$ ": "host", "root@guest:~# ": "guest"}
GUEST_PROMPT = "root@guest:~# "
START_MACHINE = "preloader vm run "
BOUND = 600.0  # seconds for one command: `guest build` loads packages, and a busy host emulates the guest slowly
# What a command prints differently from day to day, as the README shows it.
VARIES = re.compile(
    r"(?P<ellipsis>\.\.\.)"
    r"|(?P<id>\b[0-9a-f]{12}\b)"
    r"|(?P<age>\d+ \w+ ago)"
    r"|(?P<number>\b\d+(\.\d+)?(?= ?[kMG]?B\b| s\b))"
    r"|(?P<space>\s+)"
)
VARIANTS = {"ellipsis": ".*", "id": "[0-9a-f]{12}", "age": r"\S+ \w+ ago", "number": r"\d+(\.\d+)?", "space": r"\s+"}


class Step(NamedTuple):
    """A command, where it is given, and what the README shows of its output."""

    prompt: str
    command: str
    shown: tuple[str, ...]


def read_steps(page: Path) -> list[Step]:
    """The commands of a page's console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [step for block in blocks for step in _steps_of(block.splitlines())]


def _steps_of(lines: Sequence[str]) -> Iterator[Step]:
    starts = [number for number, line in enumerate(lines) if line.startswith(tuple(PROMPTS))]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        prompt = next(prompt for prompt in PROMPTS if lines[start].startswith(prompt))
        yield Step(prompt, lines[start].removeprefix(prompt), tuple(lines[start + 1 : end]))


class Tour:
    """Both shells, in a folder that holds what the tour makes. A context manager, which leaves no machine behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._terminal: Terminal | None = None
        self._environment: dict[str, str | None] = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

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
        if step.prompt == GUEST_PROMPT:
            return self._type(step.command)
        if step.command.startswith(START_MACHINE):
            return self._start_machine(step.command)
        shell = ["env", f"--chdir={self._folder}", "sh", "-c", step.command]
        return run(shell, env=self._environment, timeout=BOUND, with_stderr=True)

    def _start_machine(self, command: str) -> str:
        shell = ["env", f"--chdir={self._folder}", "sh", "-c", f"exec {command}"]
        self._terminal = self._stack.enter_context(Terminal(shell, self._environment, BOUND))
        return self._terminal.wait_shown(GUEST_PROMPT)

    def _type(self, command: str) -> str:
        assert self._terminal is not None, "the page has no `preloader vm run` before this"
        self._terminal.type(f"{command}\n")
        if command == "poweroff":
            assert self._terminal.wait_ended() == 0, self._terminal.shown
            return self._terminal.shown
        return self._terminal.wait_shown(GUEST_PROMPT).partition("\n")[2]  # what was typed is shown, too


def check_output(step: Step, output: str) -> None:
    """See that a command printed what the page shows. Raises PreloaderError."""
    if not _pattern(step.shown).fullmatch("".join(f"{line.rstrip()}\n" for line in output.splitlines())):
        shown = "\n".join(step.shown)
        raise PreloaderError(f"{step.command}: expected as the page shows it:\n{shown}\nfound:\n{output}")


def _pattern(shown: Sequence[str]) -> re.Pattern[str]:
    """What the shown lines stand for; a line of "..." for any lines, also none."""
    return re.compile("".join(r"(.*\n)*" if line == "..." else f"{_line_pattern(line)}\n" for line in shown))


def _line_pattern(line: str) -> str:
    end, pattern = 0, ""
    for found in VARIES.finditer(line):
        assert found.lastgroup is not None
        pattern += re.escape(line[end : found.start()]) + VARIANTS[found.lastgroup]
        end = found.end()
    return pattern + re.escape(line[end:])


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
        for step in read_steps(README):
            print(f"{step.prompt}{step.command}", flush=True)
            output = tour.carry_out(step)
            print(output, end="" if output.endswith("\n") or not output else "\n", flush=True)
            check_output(step, output)


if __name__ == "__main__":
    sys.exit(main())
