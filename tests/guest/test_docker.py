from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from preloader_agent.guest.docker import DockerInfo, is_running, query_info
from preloader_agent.guest.paths import Paths
from preloader_agent.host.run import start
from preloader_agent.host.waiting import tries


def test_dockerd_runs_while_the_process_of_its_pid_file_is_a_dockerd(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    program = shutil.copy(sleep, tmp_path / "dockerd")
    pidfile, cgroup = tmp_path / "docker.pid", tmp_path / "cgroup.procs"
    paths = Paths(docker_pidfile=str(pidfile), docker_cgroup=str(cgroup))
    assert not is_running(paths)
    with (tmp_path / "log").open("wb") as log:
        dockerd = start([program, "60"], log=log)
        other = start([sleep, "60"], log=log)
    try:
        for _ in tries(
            10, pause=0.01
        ):  # the kernel tells whoever waits for an exec before it gives the process its name
            if Path(f"/proc/{dockerd.pid}/comm").read_text() == "dockerd\n":
                break
        for file in (pidfile, cgroup):
            file.write_text(f"{other.pid}\n")
            assert not is_running(paths), "a process that took over the number of a dead dockerd"
            file.write_text(f"{other.pid}\n{dockerd.pid}\n" if file is cgroup else str(dockerd.pid))
            assert is_running(paths)
            file.unlink()
        pidfile.write_text(str(dockerd.pid))
    finally:
        for process in (dockerd, other):
            process.kill()
            process.wait()
    assert not is_running(paths)
    pidfile.write_text("")
    assert not is_running(paths)


class DockerApi(BaseHTTPRequestHandler):
    """The one answer of dockerd's API that the agent asks for."""

    answer = b"{}"
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/info" else 404)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "local"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with UnixStreamServer(path, DockerApi) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_what_a_running_dockerd_says_of_itself(api: str) -> None:
    DockerApi.answer = json.dumps(
        {"ContainersRunning": 2, "ContainersPaused": 1, "LiveRestoreEnabled": True, "Other": [1]}
    ).encode()
    assert query_info(api) == DockerInfo(3, live_restore=True)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"message": "no"}', b""])
def test_an_answer_that_is_not_dockers_is_an_error(api: str, answer: bytes) -> None:
    DockerApi.answer = answer
    with pytest.raises(OSError, match="dockerd's answer is not one that is understood"):
        query_info(api)


def test_a_refusal_is_an_error_whatever_it_says(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    DockerApi.answer = json.dumps({"ContainersRunning": 0, "ContainersPaused": 0, "LiveRestoreEnabled": True}).encode()
    monkeypatch.setattr(DockerApi, "status", 500)
    with pytest.raises(OSError, match="dockerd answered with status 500"):
        query_info(api)


def test_a_dockerd_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        query_info(str(tmp_path / "none"))
