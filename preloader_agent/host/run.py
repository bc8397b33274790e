"""The one door to other programs.

Every program is started with a list (no shell), without our standard input, in the C.UTF-8 locale, and with its own
output in the error: a message such as "qemu-img ...: exit status 1: ... No space left on device" needs no second look.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from preloader_agent.errors import CommandFailed, PreloaderError, ToolMissing
from preloader_agent.host.interruptions import put_off

_END_BOUND = 1.0  # seconds that a program has to end, once its output has
_SAID_ABOVE = "see what it said above"
OUTPUT_TAIL = 4000  # characters of a failed program's output that a person still reads


# What a program is given beside our environment; None takes a variable away.
Environment = Mapping[str, str | None]


def environment(extra: Environment | None = None) -> dict[str, str]:
    """Our environment with a fixed locale; /usr/sbin is where e2fsck is, and not on every user's PATH."""
    path = os.environ.get("PATH", os.defpath)
    given = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"{path}:/usr/sbin:/sbin", **(extra or {})}
    return {name: value for name, value in given.items() if value is not None}


def find_tool(name: str, hint: str) -> str:
    """The path of a program, or ToolMissing with the hint on how to get it."""
    found = shutil.which(name, path=environment()["PATH"])
    if found is None:
        raise ToolMissing(name, hint)
    return found


def run(  # noqa: PLR0913 - each is one property of a process
    argv: Sequence[str | Path],
    *,
    stdin: IO[bytes] | bytes | None = None,
    env: Environment | None = None,
    ok: Sequence[int] = (0,),
    timeout: float | None = None,
    with_stderr: bool = False,
    grace: float = 0,
) -> str:
    """Run a program to its end and return its standard output, and before it its standard error if asked.

    If we are interrupted, it is killed; with `grace`, it and what it started have so many seconds to end in an orderly
    way before. Raises CommandFailed when its exit status is not in `ok` or `timeout` seconds have passed, ToolMissing
    when it is not there.
    """
    words = [str(word) for word in argv]
    data = stdin if isinstance(stdin, bytes) else None
    source = subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL
    streams: dict[str, Any] = {"stdin": source, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        with _attended(lambda: _start(words, env, process_group=0 if grace else None, **streams), grace) as program:
            output, errors = program.communicate(data, timeout)
    except subprocess.TimeoutExpired as err:
        raise CommandFailed(words, -9, f"not finished after {timeout:g} s") from err
    if program.returncode not in ok:
        raise CommandFailed(words, program.returncode, (errors + output).decode(errors="replace")[-OUTPUT_TAIL:])
    return str(errors + output if with_stderr else output, errors="surrogateescape")


@contextmanager
def _attended(begin: Callable[[], subprocess.Popen[bytes]], grace: float = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A program for a block, whose end waits for it, and which it does not survive if it fails.

    No interruption falls between the program's start and our care for it.
    """
    program = None
    try:
        with put_off():
            program = begin()
        yield program
    except BaseException:
        if program is not None:
            _end(program, grace)
        raise
    finally:
        if program is not None:
            with program:  # which closes its pipes
                pass


def _end(program: subprocess.Popen[bytes], grace: float) -> None:
    """End a program; one with a grace leads a process group, in which who waits for others ends once they have."""
    if grace:
        os.killpg(program.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            program.communicate(timeout=grace)  # not wait: what it says then must not fill a pipe
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    program.kill()


def run_aloud(argv: Sequence[str | Path], say: Callable[[str], None]) -> None:
    """Run a program to its end, and pass on each line of its standard output as it comes.

    Raises CommandFailed with what it printed on standard error; if it succeeds, that is passed on as well.
    """
    with _kept_errors() as errors:
        with _checked(argv, errors, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            for line in program.stdout:
                say(line.decode(errors="replace").rstrip())
        for warning in _read_text(errors).splitlines():
            say(warning)


def feed(argv: Sequence[str | Path], chunks: Iterable[bytes]) -> None:
    """Run a program to its end with a stream of ours as its standard input. Raises CommandFailed."""
    with _kept_errors() as errors:
        # Without a buffer, which could not be closed once nobody reads.
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "bufsize": 0}
        with _checked(argv, errors, **streams) as program, suppress(BrokenPipeError):  # it says itself why it ended
            assert program.stdin is not None
            for chunk in chunks:
                left = memoryview(chunk)
                while left:
                    left = left[program.stdin.write(left) :]


def _kept_errors() -> IO[bytes]:
    return open(os.memfd_create("stderr"), "w+b")


def _read_text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")


@contextmanager
def _checked(argv: Sequence[str | Path], errors: IO[bytes], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program for a block, whose end waits for it. Raises CommandFailed with what it said on standard error."""
    words = [str(word) for word in argv]
    with _attended(lambda: _start(words, stderr=errors, **streams)) as program:
        yield program
    if program.returncode != 0:
        raise CommandFailed(words, program.returncode, _read_text(errors)[-OUTPUT_TAIL:])


@contextmanager
def stream_output(argv: Sequence[str | Path]) -> Iterator[IO[bytes]]:
    """Run a program whose standard output is a stream for us; what it says on standard error is passed on.

    Leaving the block waits for it. Raises CommandFailed when the program fails, whatever the block made of its output.
    """
    words = [str(word) for word in argv]
    with _attended(lambda: _start_stream(words)) as program:
        assert program.stdout is not None
        try:
            yield program.stdout
        except PreloaderError as err:
            with suppress(subprocess.TimeoutExpired):
                # A program that failed ended its output early: that is what is wrong, not what was read of it.
                if program.wait(_END_BOUND) != 0:
                    raise CommandFailed(words, program.returncode, _SAID_ABOVE) from err
            raise
        if program.wait() != 0:
            raise CommandFailed(words, program.returncode, _SAID_ABOVE)


def _start_stream(words: list[str]) -> subprocess.Popen[bytes]:
    """Start what a user names, without a buffer, which could not be closed while a thread reads it."""
    try:
        return subprocess.Popen(words, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment())
    except OSError as err:
        raise CommandFailed(words, 126, f"cannot be executed: {err.strerror}") from err


def start(argv: Sequence[str | Path], *, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that runs beside us (QEMU, dockerd); its output goes to `log`. The caller ends it."""
    return _start(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def start_on_terminal(argv: Sequence[str | Path], *, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that has our standard input and output; what it says on standard error goes to `log`."""
    return _start(argv, stderr=log)


def start_apart(argv: Sequence[str | Path], *, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, which Ctrl-C on our terminal does not reach. The caller ends it."""
    return _start(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def start_guard(argv: Sequence[str | Path], *, env: Environment) -> subprocess.Popen[bytes]:
    """Start a program like that, with a pipe from us as its standard input: its end of file is our end."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return _start(argv, env, stdin=subprocess.PIPE, start_new_session=True, **silent)


def start_attended(argv: Sequence[str | Path], *, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program like that, with a pipe to us as its standard output as well; its errors go to `log`."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    return _start(argv, stderr=log, start_new_session=True, **pipes)


def _start(argv: Sequence[str | Path], env: Environment | None = None, **options: Any) -> subprocess.Popen[bytes]:
    words = [str(word) for word in argv]
    try:
        return subprocess.Popen(words, env=environment(env), **options)
    except FileNotFoundError as err:
        raise ToolMissing(words[0], "install it, or put it on PATH") from err
