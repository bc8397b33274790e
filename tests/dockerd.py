"""A real dockerd of the test's own, beside whatever runs on the machine, and what its containers see.

Nothing is shared with another dockerd: data-root, exec-root, socket, pid file, configuration and containerd are all
below two temporary folders. By default it has no network, so it changes no firewall rule, bridge or sysctl.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from preloader_agent.errors import CommandFailed, ToolError
from preloader_agent.host.run import find_tool, run, start
from tests.tree import Tree, describe_tree

if TYPE_CHECKING:
    from subprocess import Popen

HINT = "install docker.io"
START_BOUND = 60.0  # seconds; a start takes 0.5 to 2
STOP_BOUND = 40.0  # dockerd gives its containers 10
POLL = 0.1
LOG_TAIL = 3000
CONTAINERD_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/socket"
"""
NO_NETWORK = ("--bridge=none", "--iptables=false", "--ip-forward=false")


class Dockerd:
    """One dockerd on the data root `folder/root`; a context manager that leaves no process and no mount behind."""

    def __init__(self, folder: Path, *, options: Sequence[str] = (), network: bool = False) -> None:
        self.folder = folder
        self.data_root = folder / "root"
        self.log = folder / "dockerd.log"
        self.options = [*([] if network else NO_NETWORK), *options]
        self._run_dir: Path | None = None
        self._process: Popen[bytes] | None = None

    def __enter__(self) -> Dockerd:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run_dir = Path(tempfile.mkdtemp(prefix="dpl-dockerd-"))
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run_dir(self) -> Path:
        """Its sockets and exec-root, apart from the data root because a socket's path has at most 107 bytes."""
        assert self._run_dir is not None, "use it in a with statement"
        return self._run_dir

    @property
    def host(self) -> str:
        """The value of DOCKER_HOST for its clients."""
        return f"unix://{self.run_dir}/docker.sock"

    def start(self) -> None:
        """Start it, also again on the same data root, and wait until it answers. Raises DockerdFailed."""
        config = self.run_dir / "daemon.json"  # instead of the machine's
        config.write_text("{}")
        with self.log.open("ab") as log:
            self._process = start([find_tool("dockerd", HINT), *self._options(config)], log=log)
        try:
            self._wait_until_ready(time.monotonic() + START_BOUND)
        except DockerdFailed:
            _unmount_below(self.folder)  # it mounts its data root on itself, and ended without undoing that
            raise

    def stop(self) -> None:
        """Stop it as systemd does; its containers are stopped as well."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a crash does; containerd dies with it, containers and mounts stay."""
        self._end(signal.SIGKILL)
        # A dockerd that starts before the kernel has killed the old one's containerd believes that it still runs.
        pid_file = self.run_dir / "exec" / "containerd" / "containerd.pid"
        with suppress(FileNotFoundError):
            _kill_all({int(pid_file.read_text())})
            pid_file.unlink()

    def close(self) -> None:
        """Stop it and undo what it left: processes, mounts, sockets. The data root stays."""
        try:
            self.stop()
        finally:
            _kill_all(_processes_of(self.run_dir / "exec"))
            _unmount_below(self.folder)
            _unmount_below(self.run_dir)
            shutil.rmtree(self.run_dir)

    def docker(self, *args: str | Path, stdin: IO[bytes] | bytes | None = None, timeout: float = 300) -> str:
        """Run the docker command against it; returns its standard output, raises CommandFailed."""
        env = {"DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.run_dir / "cli")}
        return run([find_tool("docker", HINT), *args], env=env, stdin=stdin, timeout=timeout)

    def run(self, image: str, *command: str) -> str:
        """What a new container of the image prints."""
        return self.docker("run", "--rm", "--network", "none", image, *command)

    def inspect(self, name: str, kind: str = "image") -> dict[str, Any]:
        """What `docker inspect` says of an image or a container."""
        found = json.loads(self.docker("inspect", "--type", kind, name))
        assert isinstance(found[0], dict)
        return found[0]

    def container_tree(self, image: str) -> Tree:
        """The tree that a new container of the image sees, without what dockerd adds to each container.

        The layers are mounted as dockerd would for the container that it just made; only its two own layers (the
        init layer with /etc/hosts and the like, and the writable one) are left away. Nothing runs, so that images
        without a shell can be compared as well.
        """
        container = self.docker("create", "--network", "none", image, "command-that-never-runs").strip()
        try:
            lower = self.inspect(container, "container")["GraphDriver"]["Data"]["LowerDir"].split(":")
            with _mounted_layers(lower[1:]) as root:
                return describe_tree(root)
        finally:
            self.docker("rm", "--force", container)

    def running_tree(self, image: str, *command: str) -> Tree:
        """The tree that a running container sees, without what is mounted in it; the command must not end by itself."""
        container = self.docker("run", "--detach", "--network", "none", image, *command).strip()
        try:
            process = Path("/proc", str(self.inspect(container, "container")["State"]["Pid"]))
            inner = {mount.lstrip(b"/") for mount in _mount_points(process / "mountinfo")}
            return describe_tree(process / "root", skip=inner)
        finally:
            self.docker("rm", "--force", container)

    def _options(self, config: Path) -> list[str]:
        return [
            f"--config-file={config}",
            f"--data-root={self.data_root}",
            f"--exec-root={self.run_dir / 'exec'}",
            f"--host={self.host}",
            f"--pidfile={self.run_dir / 'docker.pid'}",
            "--storage-driver=overlay2",
            "--exec-opt=native.cgroupdriver=cgroupfs",  # systemd's needs systemd as PID 1 and its private socket
            *self.options,
        ]

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            is_last_try = time.monotonic() > deadline
            try:
                self.docker("version", "--format", "{{.Server.Version}}", timeout=10)
            except CommandFailed as err:
                assert self._process is not None
                if is_last_try or self._process.poll() is not None:
                    raise DockerdFailed(self._log_tail()) from err
            else:
                return
            time.sleep(POLL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        deadline = time.monotonic() + STOP_BOUND
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
            time.sleep(POLL)
        self._process = None

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL:]


@contextmanager
def containerd_option() -> Iterator[str]:
    """The option for a dockerd to use a containerd of its own that lives longer: a stop takes 0.1 s then, not 1.1 s."""
    with tempfile.TemporaryDirectory(prefix="dpl-containerd-") as name:
        folder, config = Path(name), Path(name, "config.toml")
        config.write_text(CONTAINERD_CONFIG.format(folder=folder))
        with (folder / "log").open("wb") as log:
            process = start([find_tool("containerd", HINT), "--config", config], log=log)
        try:
            yield f"--containerd={folder}/socket"  # dockerd waits for it
        finally:
            process.terminate()
            process.wait(STOP_BOUND)


class DockerdFailed(ToolError):
    """dockerd did not become ready."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.log = log

    def __str__(self) -> str:
        return f"dockerd did not become ready within {START_BOUND:g} s; the end of its log:\n{self.log}"


@contextmanager
def _mounted_layers(layers: Sequence[str]) -> Iterator[Path]:
    """The layers (top first) as one read-only overlay; an empty one is added, since the kernel wants two."""
    with tempfile.TemporaryDirectory(prefix="dpl-tree-") as folder:
        root, empty = Path(folder, "root"), Path(folder, "empty")
        root.mkdir()
        empty.mkdir()
        # util-linux since 2.39 would give the option to fsconfig(2), which takes no more than 255 bytes.
        old_call = {"LIBMOUNT_FORCE_MOUNT2": "always"}
        run(
            ["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={':'.join([*layers, str(empty)])}", root],
            env=old_call,
        )
        try:
            yield root
        finally:
            run(["umount", root])


def _mount_points(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[bytes]:
    """Mount points, oldest first; the kernel writes blanks and the like as three octal digits."""
    points = [line.split()[4] for line in mountinfo.read_bytes().splitlines()]
    return [point.decode("latin-1").encode().decode("unicode_escape").encode("latin-1") for point in points]


def _unmount_below(folder: Path) -> None:
    below = os.fsencode(folder.resolve()) + b"/"
    for point in reversed([point for point in _mount_points() if point.startswith(below)]):
        run(["umount", "--lazy", os.fsdecode(point)])


def _processes_of(exec_root: Path) -> set[int]:
    """The processes with the exec-root in their arguments (dockerd, containerd, shims), and all their descendants."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            parents[int(process.name)] = int(_stat(process)[1])
            if os.fsencode(exec_root) in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _kill_all(pids: set[int]) -> None:
    """Kill and wait until they are gone, because their mounts go with them."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + STOP_BOUND
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL)


def is_running(pid: int) -> bool:
    """A zombie does not count: it has neither files nor mounts, and not every PID 1 (of a container) reaps."""
    try:
        return _stat(Path("/proc", str(pid)))[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _stat(process: Path) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    return (process / "stat").read_text().rpartition(")")[2].split()
