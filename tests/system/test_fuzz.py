"""A short search with atheris; `python -m bench.fuzz` goes on for as long as it is told to."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from preloader_agent.host.run import run
from tests.agent import REPOSITORY

SECONDS = 16


@pytest.mark.skipif(not find_spec("atheris"), reason="needs atheris (extra fuzz), which has no wheel for every Python")
def test_a_short_search_finds_nothing() -> None:
    path = {"PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-m", "bench.fuzz", "--seconds", str(SECONDS)]
    found = run(argv, env=path, timeout=10 * SECONDS).splitlines()
    executed = {line.split()[0]: int(line.split()[1]) for line in found}
    assert len(executed) == 8
    assert executed["index"] > 100
    assert executed["merge"] > 0
