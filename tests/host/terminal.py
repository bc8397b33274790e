"""A program on a terminal, as a person has it before them."""

from __future__ import annotations

import os
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from preloader_agent.host.run import environment
from preloader_agent.host.vm.driver import CONTROL_SEQUENCE


class Terminal:
    """Types, and reads what is shown; `before` is how the terminal was set when the program came."""

    def __init__(self, argv: Sequence[str | Path], env: dict[str, str | None], timeout: float) -> None:
        self._master, self._terminal = os.openpty()
        self.before = self.settings()
        self.shown = ""
        self._timeout = timeout
        self.process = subprocess.Popen(
            list(map(str, argv)),
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
            env=environment(env),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._terminal)

    def settings(self) -> list[Any]:
        """How the terminal is set now."""
        return termios.tcgetattr(self._terminal)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def wait_shown(self, text: str) -> str:
        """Wait until a text has come since the last one that was waited for; what was shown before it."""
        end = time.monotonic() + self._timeout
        while text not in self.shown:
            assert self._read(max(end - time.monotonic(), 0)), f"{text!r} is not in {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait_ended(self) -> int:
        """The exit status; what is shown meanwhile is read, or the program could not go on."""
        end = time.monotonic() + self._timeout
        while self.process.poll() is None:
            assert time.monotonic() < end, self.shown
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.wait()

    def _read(self, timeout: float) -> bool:
        """Whether something came. A serial console and a terminal each put a carriage return before a line's end."""
        ready, _, _ = select.select([self._master], [], [], timeout)
        if ready:
            self.shown = CONTROL_SEQUENCE.sub("", self.shown + os.read(self._master, 4096).decode(errors="replace"))
        return bool(ready)
