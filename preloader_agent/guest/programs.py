"""The agent's one door to other programs; no part of it runs one on the way to READY.

Each is started with a list (no shell), without our standard input, in the C.UTF-8 locale, and with its own output in
the error.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, Any

from preloader_agent.errors import CommandFailed, ToolMissing

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # systemd's own
_OUTPUT_TAIL = 4000  # characters of a failed program's output that a person still reads


def run(argv: Sequence[str], *, stdin: IO[bytes] | bytes | None = None, timeout: float | None = None) -> str:
    """Run a program to its end and return its standard output.

    Raises CommandFailed when it fails or `timeout` seconds have passed, ToolMissing when it is not there.
    """
    words = list(argv)
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout, env=_environment(), check=False, **given)
    except OSError as err:
        raise _cannot_start(words, err) from err
    except subprocess.TimeoutExpired as err:
        raise CommandFailed(words, -9, f"not finished after {timeout:g} s") from err
    if done.returncode != 0:
        output = (done.stderr + done.stdout).decode(errors="replace")
        raise CommandFailed(words, done.returncode, output[-_OUTPUT_TAIL:])
    return str(done.stdout, errors="replace")


def run_piped(producer: Sequence[str], consumer: Sequence[str]) -> str:
    """Run two programs, the first one's standard output being the second one's input; returns the second one's output.

    Raises CommandFailed for the first that fails, ToolMissing when one is not there.
    """
    words = list(producer)
    try:
        source = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=_environment())
    except OSError as err:
        raise _cannot_start(words, err) from err
    assert source.stdout is not None
    try:
        with source:
            output = run(consumer, stdin=source.stdout)
    except CommandFailed as err:
        # Perhaps because what it was given ended early; or the other one had nobody to write to.
        if source.returncode in (0, -signal.SIGPIPE):
            raise
        raise CommandFailed(words, source.returncode, f"see what it said above; {err}") from err
    if source.returncode != 0:
        raise CommandFailed(words, source.returncode, "see what it said above")
    return output


def _environment() -> dict[str, str]:
    return {"PATH": PATH, **os.environ, "LC_ALL": "C.UTF-8"}


def _cannot_start(words: list[str], err: OSError) -> CommandFailed | ToolMissing:
    if isinstance(err, FileNotFoundError):
        return ToolMissing(words[0], "install it, or put it on PATH")
    return CommandFailed(words, 126, f"cannot be executed: {err.strerror}")
