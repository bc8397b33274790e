"""The `preloader` command, in this process and in its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

COMMAND = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()"]
PYTHONPATH = os.pathsep.join(filter(None, sys.path))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Preloader = Callable[..., Result]
