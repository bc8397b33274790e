"""A watch over a machine's processes: when whoever drives them is gone, they are ended and their folder is removed.

It holds for any end, SIGKILL included, since it hangs on a pipe that the kernel closes. (PR_SET_PDEATHSIG would not do:
it goes with the thread that started QEMU, not with the process.)
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from preloader_agent.host.run import start_guard

# Each line is a process to end, and the last one a dismissal; an end of the pipe without that is our end.
_SCRIPT = """
while read -r word; do
    [ "$word" != dismissed ] || exit 0
    pids="$pids $word"
done
kill -KILL $pids
rm -rf "$DPL_FOLDER"
"""


class Guard:
    """A process that waits for our end."""

    def __init__(self, folder: Path) -> None:
        self._process = start_guard(["sh", "-c", _SCRIPT], env={"DPL_FOLDER": str(folder), "pids": None})

    def watch(self, pid: int) -> None:
        """End this process, too."""
        self._tell(str(pid))

    def dismiss(self) -> None:
        """There is nothing to end any more."""
        self._tell("dismissed")
        self._process.wait()

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has ended it
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
