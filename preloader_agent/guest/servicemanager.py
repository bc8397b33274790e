"""Asking systemd to start, stop and restart services, and to read its units again, over D-Bus with pystemd; imported
when it is first needed, never before READY.

The answer comes as a signal, so the daemon's loop goes on meanwhile. pystemd's facts are those of versions 0.11 to
0.15: it keeps no reference to a callback, a callback must not raise, and signals wait in a queue of the library's own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec, module_from_spec
from typing import Any

# The package itself imports lxml for an interface that is not used here: 4.5 MB of memory, for good.
if "pystemd" not in sys.modules and (_package := find_spec("pystemd")) is not None:
    sys.modules["pystemd"] = module_from_spec(_package)  # and is not executed; its modules are found by it

from pystemd import dbuslib
from pystemd.dbusexc import DBusBaseError, DBusNoSuchUnitError

_SERVICE, _PATH = b"org.freedesktop.systemd1", b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"


@contextmanager
def _bus_errors() -> Iterator[None]:
    """pystemd's errors are no OSErrors, though each carries an errno."""
    try:
        yield
    except DBusNoSuchUnitError as err:
        raise FileNotFoundError(f"D-Bus: {err}") from err
    except DBusBaseError as err:
        raise OSError(f"D-Bus: {err}") from err


class ServiceManager:
    """The system's service manager. After an OSError it is of no use any more: libsystemd aborts on a dead bus."""

    def __init__(self) -> None:
        """Raises OSError when the bus cannot be reached."""
        self._jobs: list[tuple[bytes, str]] = []
        self._bus = dbuslib.DBus()
        self._reloads: list[bool] = []
        jobs, reloads = self._jobs, self._reloads
        # pystemd holds bare pointers to them
        self._on_job_removed = _make_callback(lambda body: jobs.append((bytes(body[1]), body[3].decode())))
        self._on_reloading = _make_callback(lambda body: reloads.append(bool(body)))
        with _bus_errors():
            self._bus.open()
            self._bus.call_method(_SERVICE, _PATH, _MANAGER, b"Subscribe", [])
            self._bus.match_signal(_SERVICE, _PATH, _MANAGER, b"JobRemoved", self._on_job_removed)
            self._bus.match_signal(_SERVICE, _PATH, _MANAGER, b"Reloading", self._on_reloading)
        self.fileno = int(self._bus.get_fd())  # readable when there may be a signal

    def close(self) -> None:
        """Leave the bus, where every job of the guest would be told of; nothing else may be called after that."""
        self._bus.close()

    def start(self, unit: str) -> bytes:
        """Start a unit and return the job. Raises OSError."""
        return bytes(self._call(b"StartUnit", b"ss", [unit.encode(), b"replace"]))

    def stop(self, unit: str) -> bytes | None:
        """Stop a unit and return the job; None where systemd knows no such unit. Raises OSError."""
        try:
            return bytes(self._call(b"StopUnit", b"ss", [unit.encode(), b"replace"]))
        except FileNotFoundError:
            return None

    def forget_failure(self, unit: str) -> None:
        """Take a unit that has failed for one that has not: systemd keeps those that are gone, too. Raises OSError."""
        with suppress(FileNotFoundError):
            self._call(b"ResetFailedUnit", b"s", [unit.encode()])

    def reload(self) -> None:
        """Have systemd read all units again, as `systemctl daemon-reload` does; `has_reloaded` says when it has.

        By a signal (systemd(1)): the method would be answered at its end, which takes seconds on a slow machine.
        """
        os.kill(1, signal.SIGHUP)

    @property
    def has_reloaded(self) -> bool:
        """Whether systemd has read all units since this object was made, as of the last call of `finished_jobs`."""
        return False in self._reloads

    def restart(self, unit: str) -> bytes:
        """Start a restart and return its job; the count of recent starts is reset first. Raises OSError."""
        name = unit.encode()
        # docker.service may start three times a minute; plugging disks must not use that up.
        self._call(b"ResetFailedUnit", b"s", [name])
        return bytes(self._call(b"RestartUnit", b"ss", [name, b"replace"]))

    def finished_jobs(self) -> list[tuple[bytes, str]]:
        """The jobs that ended since the last call, with systemd's word for how: done, failed, timeout, ...

        Raises OSError when the bus is gone.
        """
        with _bus_errors():
            while not self._bus.process().is_empty():
                pass
        jobs, self._jobs[:] = list(self._jobs), []
        return jobs

    def _call(self, method: bytes, signature: bytes, arguments: list[bytes]) -> Any:
        with _bus_errors():
            words = dbuslib.apply_signature(signature, arguments)
            return self._bus.call_method(_SERVICE, _PATH, _MANAGER, method, words).body


def _make_callback(take: Callable[[Any], object]) -> Callable[..., None]:
    def on_signal(message: Any, error: object = None, userdata: object = None) -> None:  # noqa: ARG001 - pystemd's
        try:
            message.process_reply(False)
            take(message.body)
        except Exception:  # libsystemd cannot pass it on, and a lost signal costs a line of status
            pass

    return on_signal
