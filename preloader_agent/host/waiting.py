"""Bounded waiting: the one loop behind every wait for a machine.

The clock is monotonic, and the last try comes after the time is up: a host that was busy for the whole time still
gets to see that what it waited for has happened.
"""

from __future__ import annotations

import time
from collections.abc import Iterator


def tries(timeout: float, pause: float = 0.5) -> Iterator[float]:
    """Yield the seconds that are left, again and again with a pause between, and at last 0.0."""
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(max(0.0, min(pause, end - time.monotonic())))
    yield 0.0
