"""A watch over a machine's processes: when whoever drives them is gone, they are ended and their folder is removed.

It holds for any end, SIGKILL included, since it hangs on a pipe that the kernel closes. (PR_SET_PDEATHSIG would not do:
it goes with the thread that started QEMU, not with the process.)
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from preloader_agent.host.run import start_guard

# A line is a dismissal, an end of the pipe without one is our end.
_SCRIPT = 'read -r _ && exit; kill -KILL "$@" 2>/dev/null; rm -rf "$DPL_FOLDER"'


class Guard:
    """A process that waits for our end."""

    def __init__(self, pids: Iterable[int], folder: Path) -> None:
        argv = ["sh", "-c", _SCRIPT, "preloader-guard", *map(str, pids)]
        self._process = start_guard(argv, env={"DPL_FOLDER": str(folder)})

    def dismiss(self) -> None:
        """There is nothing to end any more."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b"\n")
        self._process.wait()
