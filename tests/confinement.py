"""A process that ends at its first change of the file system outside of some folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

WROTE_OUTSIDE = 99  # the exit status
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Which arguments of an audit event are paths that change.
_CHANGES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("chmod", "chown", "mkdir", "remove", "rmdir", "setxattr", "truncate", "utime"), (0,)),
    **dict.fromkeys(("link", "symlink"), (1,)),
    "rename": (0, 1),
}


def confine(folders: Iterable[Path | str]) -> None:
    """Let this process change the folders and what is in them, and nothing else, from now on."""
    allowed = tuple(os.path.realpath(folder) + "/" for folder in folders)

    def check(event: str, arguments: tuple[object, ...]) -> None:
        changed = _CHANGES.get(event.removeprefix("os."), ())
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            changed = (0,)
        for path in [arguments[position] for position in changed]:
            if not isinstance(path, int) and not _place(str(path)).startswith(allowed):
                print(f"wrote outside: {event} {path}", file=sys.stderr, flush=True)
                os._exit(WROTE_OUTSIDE)

    sys.addaudithook(check)


def _place(path: str) -> str:
    """Where a change of a path happens: symlinks on the way are followed, the last part is not."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name) + "/"
