"""What holds for the tests of all tiers."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let the programs that tests start be interrupted, also where we are not to be.

    Who is started in a shell's background or by nohup ignores these signals, and so would whoever it starts. What is
    handled here, by doing nothing, is the default there (execve(2)).
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
