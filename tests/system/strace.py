"""The changes that a command makes to the file system, seen and interrupted by strace(1), at the system call.

The agent needs no fault points of its own for that, and nothing is missed: what Python's audit hooks do not show (a
write, an fsync) and what is called through ctypes (mount, umount2, syncfs) are system calls like any other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from preloader_agent.host.run import find_tool

# "?" because each processor has some of them only; openat changes something when it creates or truncates.
CALLS = (
    *("?chmod", "?fchmod", "?fchmodat", "?chown", "?fchown", "?lchown", "?fchownat"),
    *("?fallocate", "?fdatasync", "?fsync", "?ftruncate", "?truncate", "?sync", "?syncfs", "?sync_file_range"),
    *("?fsetxattr", "?lsetxattr", "?setxattr", "?fremovexattr", "?lremovexattr", "?removexattr"),
    *("?creat", "?link", "?linkat", "?mkdir", "?mkdirat", "?mknod", "?mknodat", "?open", "?openat", "?openat2"),
    *("?mount", "?umount2", "?fsmount", "?move_mount", "?open_tree"),
    *("?rename", "?renameat", "?renameat2", "?rmdir", "?symlink", "?symlinkat", "?unlink", "?unlinkat"),
    *("?copy_file_range", "?sendfile", "?pwrite64", "?pwritev", "?splice", "?utimensat", "?write", "?writev"),
)
_LINE = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)$")
_OPENS = re.compile(r"^(creat|open)")
_CHANGING = re.compile(r"O_(CREAT|TRUNC)")
_PROCESS_ID = re.compile(r"^\d+ +")


class Change(NamedTuple):
    """A system call below the folder that is watched: the `number`th (from 1) of this name in the whole process."""

    name: str
    number: int
    line: str


def trace_command(log: Path, kill_at: Change | None = None) -> list[str | Path]:
    """What to put before a command: its calls go to `log`, and it is killed when it enters the call `kill_at`."""
    calls = ",".join(CALLS)
    command: list[str | Path] = [find_tool("strace", "install strace"), "--follow-forks", "--decode-fds=path"]
    command += ["--string-limit=65536", f"--output={log}", f"--trace={calls}", "--signal=none"]
    command.append("--env=PYTHONDONTWRITEBYTECODE=1")  # or the first run would have changes of its own
    # Faster, but strace 6.1 kills nobody with it.
    command.append(
        "--seccomp-bpf" if kill_at is None else f"--inject={kill_at.name}:signal=SIGKILL:when={kill_at.number}"
    )
    return command


def read_changes(log: Path, folder: Path) -> list[Change]:
    """The calls of a log that change something below a folder, in their order."""
    changes, numbers = [], dict[str, int]()
    for line in log.read_text(errors="replace").splitlines():
        call = _LINE.match(line)
        if call is None:
            continue
        name = call["name"]
        numbers[name] = numbers.get(name, 0) + 1
        is_change = not _OPENS.match(name) or _CHANGING.search(call["rest"])
        if is_change and str(folder) in call["rest"]:
            changes.append(Change(name, numbers[name], _PROCESS_ID.sub("", line)))
    return changes
