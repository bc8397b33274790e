"""What no interruption may divide: a program's start from the note that it is to be ended, a callback of asyncio.

A signal's handler, such as the one of Ctrl-C, raises between any two steps of the main thread.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def put_off(then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Raise at the block's end what handlers of signals raise inside it; `then` is called when one does.

    Signals themselves are not blocked: the program that is started would inherit that.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs there
        yield
        return
    raised: list[BaseException] = []
    handlers = {number: _catching(number, raised, then) for number in _NUMBERS if callable(signal.getsignal(number))}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handlers[number]:  # or a handler has set another one
                signal.signal(number, handler)
        if raised:
            raise raised[0]


def _catching(
    number: int, raised: list[BaseException], then: Callable[[], object]
) -> Callable[[int, FrameType | None], None]:
    """A handler that keeps what the present one raises."""
    handler = signal.getsignal(number)
    assert callable(handler)

    def catch(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as err:
            raised.append(err)
            then()

    return catch
