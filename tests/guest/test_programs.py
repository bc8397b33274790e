"""How the agent runs other programs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, ToolMissing
from preloader_agent.guest.programs import run, run_piped


def test_output_comes_back() -> None:
    assert run(["sh", "-c", "cat; echo $LC_ALL"], stdin=b"in ") == "in C.UTF-8\n"
    assert run(["cat"]) == ""  # our own input is not the program's
    assert run_piped(["echo", "a"], ["cat"]) == "a\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo out; echo err >&2; exit 3", "exit status 3: err\nout"), ("kill -9 $$", "signal 9: no output")],
)
def test_a_failure_carries_what_the_program_said(script: str, expected: str) -> None:
    with pytest.raises(CommandFailed) as raised:
        run(["sh", "-c", script])
    assert str(raised.value) == f"sh -c {script}: {expected}"


def test_a_program_that_is_not_there_or_none(tmp_path: Path) -> None:
    for start in (run, partial(run_piped, ["echo"]), partial(run_piped, consumer=["cat"])):
        with pytest.raises(ToolMissing, match="is not installed"):
            start(["/nonexistent/program"])
        with pytest.raises(CommandFailed, match="cannot be executed: Permission denied"):
            start([str(tmp_path)])


def test_a_program_has_its_time() -> None:
    with pytest.raises(CommandFailed, match="not finished after"):
        run(["sleep", "60"], timeout=0.1)


@pytest.mark.parametrize(
    ("producer", "consumer", "failed"),
    [
        ("echo a; exit 3", "cat", "echo a; exit 3: exit status 3"),
        ("exit 3", "exit 4", "exit 3: exit status 3: see what it said above; sh -c exit 4: exit status 4"),
        ("echo a", "exit 4", "exit 4: exit status 4"),
        ("exec yes", "exit 4", "exit 4: exit status 4"),  # which ends the other one
        ("kill -9 $$", "cat", "kill -9 $$: signal 9"),
    ],
)
def test_the_first_that_fails_of_two_is_named(producer: str, consumer: str, failed: str) -> None:
    with pytest.raises(CommandFailed) as raised:
        run_piped(["sh", "-c", producer], ["sh", "-c", consumer])
    assert str(raised.value).startswith(f"sh -c {failed}: ")
