"""The one place that waits: descriptors, and what is to be called when there is something to read or write.

No threads: pystemd holds the interpreter's lock in every call. No asyncio: it would cost 56 ms of the boot.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress

# Each change is told once. A virtio-serial port whose other end is closed is readable all the time (there is an end of
# file to read), so that any other way of waiting would spin.
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class Loop:
    """Descriptors that are watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}

    def watch(self, descriptor: int, handler: Callable[[], object], events: int = select.EPOLLIN) -> None:
        """Call `handler` whenever there is something to read, or one of `events`."""
        self._epoll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def again(self, descriptor: int) -> None:
        """Call the handler of EDGES again, though nothing changes: it has left something for the next turn."""
        self._epoll.modify(descriptor, EDGES)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer; before it is closed, if that is ours to say."""
        if self._handlers.pop(descriptor, None) is not None:
            with suppress(OSError):  # libsystemd closes the one of a bus that is gone
                self._epoll.unregister(descriptor)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for anything, and have it handled."""
        for descriptor, _ in self._epoll.poll(max(seconds, 0.0)):
            handler = self._handlers.get(descriptor)
            if handler is not None:  # one that was called before it may have closed it
                handler()
