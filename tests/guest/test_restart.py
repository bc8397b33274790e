"""When docker is restarted, and when it is not again: with a process and an API that look like dockerd's."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from math import inf
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from preloader_agent.guest.loop import Loop
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.restart import DOCKER, MERGE, QUIET_SECONDS, DockerRestart
from preloader_agent.guest.settings import DEFER, IDLE
from preloader_agent.guest.sync import request_pass
from preloader_agent.host.run import start
from preloader_agent.host.waiting import tries


class FakeManager:
    """What ServiceManager is to its caller; a job has ended when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ended: list[tuple[bytes, str]] = []
        self.fileno = -1

    def start(self, unit: str) -> bytes:
        self.asked.append(unit)
        return b"/job/%d" % len(self.asked)

    restart = start

    def close(self) -> None:
        """There is no bus to leave."""

    def finished_jobs(self) -> list[tuple[bytes, str]]:
        ended, self.ended = self.ended, []
        return ended


class IdleDocker(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = json.dumps({"ContainersRunning": 0, "ContainersPaused": 0, "LiveRestoreEnabled": False}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "local"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Where no docker runs."""
    return Paths(
        docker_root=str(tmp_path / "docker"),
        run_dir=str(tmp_path),
        docker_pidfile=str(tmp_path / "docker.pid"),
        docker_cgroup=str(tmp_path / "cgroup.procs"),
        docker_socket=str(tmp_path / "docker.sock"),
    )


@pytest.fixture
def docker(paths: Paths, tmp_path: Path) -> Iterator[None]:
    """A docker that runs, and no container in it."""
    sleep = shutil.which("sleep")
    assert sleep
    with (tmp_path / "log").open("wb") as log:
        process = start([shutil.copy(sleep, tmp_path / "dockerd"), "60"], log=log)
    Path(paths.docker_pidfile).write_text(str(process.pid))
    for _ in tries(10, pause=0.01):  # whoever waits for an exec is told before the process has its name
        if Path(f"/proc/{process.pid}/comm").read_text() == "dockerd\n":
            break
    with UnixStreamServer(paths.docker_socket, IdleDocker) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        server.shutdown()
        thread.join()
    process.kill()
    process.wait()


def make_restart(paths: Paths, policy: str) -> tuple[DockerRestart, FakeManager]:
    restart, manager = DockerRestart(paths, Loop(), policy), FakeManager()
    restart._manager = manager  # type: ignore[assignment]  # the real one needs a system bus
    return restart, manager


def end_job(restart: DockerRestart, manager: FakeManager, result: str = "done") -> None:
    manager.ended.append((b"/job/%d" % len(manager.asked), result))
    assert restart.act()


@pytest.mark.usefixtures("docker")
def test_what_a_restart_did_not_merge_does_not_cost_another_one(paths: Paths) -> None:
    restart, manager = make_restart(paths, IDLE)
    restart.order(is_forced=False)
    assert not restart.act()
    assert manager.asked == [DOCKER]
    restart.keep_looking()  # it still waits, but its turn is now
    end_job(restart, manager)
    assert restart.failure == ""
    restart.keep_looking()
    assert restart.seconds_left() == inf
    restart.expect_more()
    assert restart.seconds_left() < 1


@pytest.mark.usefixtures("docker")
def test_a_disk_that_comes_during_a_restart_has_its_turn_after_it(paths: Paths) -> None:
    restart, manager = make_restart(paths, IDLE)
    restart.order(is_forced=False)
    restart.act()
    restart.expect_more()
    for _ in tries(10, pause=0.01):
        restart.act()
        if restart.seconds_left() > QUIET_SECONDS:  # its time came, and docker is being restarted still
            break
    end_job(restart, manager)
    assert restart.seconds_left() <= QUIET_SECONDS


@pytest.mark.usefixtures("docker")
def test_a_restart_without_a_pass_is_a_failure(paths: Paths) -> None:
    request_pass(paths)
    restart, manager = make_restart(paths, IDLE)
    restart.order(is_forced=False)
    restart.act()
    end_job(restart, manager)
    assert "nothing was merged" in restart.failure
    restart.keep_looking()
    assert restart.seconds_left() == inf


def test_where_docker_does_not_run_only_the_merge_unit_is_started(paths: Paths) -> None:
    restart, manager = make_restart(paths, IDLE)
    restart.order(is_forced=False)
    restart.act()
    assert manager.asked == [MERGE]
    end_job(restart, manager, "failed")
    assert restart.failure.startswith("docker-preloader-merge.service: failed; not trying again")


def test_settings_that_say_defer_from_now_on_are_heeded(paths: Paths) -> None:
    restart, _ = make_restart(paths, IDLE)
    restart.expect_more()
    restart.start_over(DEFER)
    restart.keep_looking()
    assert restart.seconds_left() == inf


def test_a_release_that_was_answered_leaves_no_order_behind(paths: Paths) -> None:
    restart, manager = make_restart(paths, IDLE)
    restart.order(is_forced=True)
    restart.withdraw()
    restart.keep_looking()
    assert not restart.act()
    assert manager.asked == [], "docker does not run, and nobody asked for more"
    restart, _ = make_restart(paths, DEFER)
    restart.order(is_forced=True)
    restart.withdraw()
    assert restart.seconds_left() == inf
