"""The `preloader` command, in this process and in its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

COMMAND = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()"]
PYTHONPATH = os.pathsep.join(filter(None, sys.path))
NOBODY = 65534
# The command for an ordinary user, who need not be able to get at our modules: they are loaded by then.
_DROP = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
NOBODYS_COMMAND = [
    sys.executable,
    "-c",
    f"from preloader_agent.host.cli import main; {_DROP if os.geteuid() == 0 else 'pass'}; main()",
]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Preloader = Callable[..., Result]
