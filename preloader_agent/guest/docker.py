"""The Docker daemon beside us: whether it runs, and what it says of itself.

dockerd reads its store once, at start. Whatever changes the store asks `is_running` first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from preloader_agent.guest.paths import Paths


class DockerInfo(NamedTuple):
    """What a running dockerd says of itself; a paused container runs, too."""

    containers_running: int
    live_restore: bool


def is_running(paths: Paths) -> bool:
    """Whether a dockerd runs on this store, or is just being started by systemd.

    dockerd writes its pid file before it opens its store; between its fork and that, its cgroup tells.
    """
    pids = (*_pids(paths.docker_pidfile), *_pids(paths.docker_cgroup))
    return any(_command(pid) in ("dockerd", "(dockerd)") for pid in pids)


def query_info(socket_path: str) -> DockerInfo:
    """Ask the running dockerd. Raises OSError when it does not answer within 5 seconds.

    In HTTP/1.0, whose answer is whole when it ends: http.client would stay in memory, 2.4 MB of it.
    """
    from socket import AF_UNIX, SOCK_STREAM, socket

    response, deadline = b"", time.monotonic() + 5
    with socket(AF_UNIX, SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(socket_path)
        connection.sendall(b"GET /info HTTP/1.0\r\n\r\n")
        while chunk := connection.recv(1 << 16):
            response += chunk
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
    head, _, body = response.partition(b"\r\n\r\n")
    try:
        status = int(head.split(maxsplit=2)[1])
        answer: Any = json.loads(body)
        if status != 200:
            raise OSError(f"dockerd answered with status {status}: {answer!r:.200}")
        running = answer["ContainersRunning"] + answer["ContainersPaused"]
        return DockerInfo(running, bool(answer["LiveRestoreEnabled"]))
    except (ValueError, KeyError, TypeError, IndexError) as err:
        raise OSError(f"dockerd's answer is not one that is understood: {err!r:.200}") from err


def _pids(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="ascii") as file:
            yield from (word for word in file.read().split() if word.isdecimal())
    except (OSError, ValueError):  # not there, or a cgroup that goes while it is read (ENODEV)
        return


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:  # it is gone
        return ""
