"""A repositories.json that dockerd cannot read: ours gives way to the one before it, docker's own is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import environment
from tests import images
from tests.agent import Agent, list_store
from tests.dockerd import Dockerd, DockerdFailed, containerd_option
from tests.images import Image, make_layer
from tests.images.layer import file

MINE = Image((*images.busybox_image().layers, make_layer([file("mine", "mine")])), ("mine:1", "my/own:name"), {})
APP = images.app_image()


def cut(content: bytes) -> bytes:
    """What a write that was not finished leaves."""
    return content[: len(content) // 2]


def empty(_content: bytes) -> bytes:
    """What some file systems leave of a file that was renamed before its content was written."""
    return b""


def zeros(content: bytes) -> bytes:
    """What others leave."""
    return bytes(len(content))


def binary(_content: bytes) -> bytes:
    """Anything."""
    return bytes(range(256))


class Machine:
    """A data root with the agent, and a dockerd that is stopped."""

    def __init__(self, agent: Agent, dockerd: Dockerd, device: str) -> None:
        self.agent = agent
        self.dockerd = dockerd
        self.device = device
        self.references = dockerd.data_root / "image" / "overlay2" / "repositories.json"

    def damage(self, how: Callable[[bytes], bytes]) -> bytes:
        """Damage the file as storage does, which leaves its inode alone; what it holds now."""
        content = how(self.references.read_bytes())
        with self.references.open("r+b") as file:
            file.truncate(0)
            file.write(content)
        with pytest.raises(DockerdFailed):
            self.dockerd.start()
        return content

    def names(self) -> set[str]:
        """What dockerd lists while it runs for a moment."""
        self.dockerd.start()
        names = set(self.dockerd.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())
        for name in names:
            assert self.dockerd.docker("run", "--rm", "--network", "none", name, "/bin/busybox", "true") == ""
        self.dockerd.stop()
        return names

    def set_aside(self) -> list[bytes]:
        """The files that were set aside, in order."""
        paths = self.references.parent.glob("*.docker-preloader-broken-*")
        return [path.read_bytes() for path in sorted(paths)]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    build_disk([images.write_docker_archive([APP], tmp_path / "app.tar")], tmp_path / "app.qcow2")
    with (
        containerd_option() as option,
        Agent(tmp_path / "agent", tmp_path / "docker" / "root") as agent,
        Dockerd(tmp_path / "docker", options=[option]) as dockerd,
    ):
        agent.pid_file = dockerd.run_dir / "docker.pid"
        yield Machine(agent, dockerd, agent.loop(tmp_path / "app.qcow2"))


def load_mine(machine: Machine, folder: Path) -> None:
    machine.dockerd.docker("load", "--input", images.write_docker_archive([MINE], folder / "mine.tar"))
    machine.dockerd.stop()


@pytest.mark.parametrize("how", [cut, empty, zeros, binary])
def test_what_we_wrote_is_set_aside_and_no_name_is_lost(
    machine: Machine, tmp_path: Path, how: Callable[[bytes], bytes]
) -> None:
    load_mine(machine, tmp_path)
    machine.agent.sync(machine.device)
    names = {*MINE.references, *APP.references}
    assert machine.names() == names
    damaged = [machine.damage(how)]
    machine.agent.sync(machine.device)
    assert machine.names() == names
    (problem,) = machine.agent.status()["problems"]
    assert problem.endswith(f"the damaged file is {machine.references}.docker-preloader-broken-1")
    assert machine.set_aside() == damaged
    # Once more, and without the disk.
    damaged.append(machine.damage(how))
    label = machine.agent.mounted().pop()
    machine.agent.unmount(label)
    machine.agent.sync()
    assert machine.names() == {*MINE.references}
    assert machine.set_aside() == damaged


@pytest.mark.parametrize("how", [cut, empty, zeros, binary])
def test_what_docker_wrote_is_left_alone(machine: Machine, tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    """Also when we had written before: a name that only docker's own file holds would be lost."""
    load_mine(machine, tmp_path)
    machine.agent.sync(machine.device)
    machine.dockerd.start()
    machine.dockerd.docker("tag", "mine:1", "only:here")
    machine.dockerd.stop()
    whole = machine.references.read_bytes()
    machine.damage(how)
    before = list_store(machine.dockerd.data_root)
    with pytest.raises(CommandFailed, match=r"repositories\.json: not valid JSON .*: repair or remove it"):
        machine.agent.sync(machine.device)
    assert list_store(machine.dockerd.data_root) == before
    machine.references.write_bytes(whole)
    machine.agent.sync(machine.device)
    assert machine.names() == {*MINE.references, *APP.references, "only:here"}


def test_the_first_file_of_a_new_store(machine: Machine) -> None:
    """Before it there was none, and so no name of the user's."""
    machine.dockerd.stop()
    shutil.rmtree(machine.dockerd.data_root)
    machine.agent.sync(machine.device)
    damaged = machine.damage(cut)
    machine.agent.sync(machine.device)
    assert machine.names() == {*APP.references}
    assert machine.set_aside() == [damaged]


def test_ours_without_the_one_before_it_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    load_mine(machine, tmp_path)
    machine.agent.sync(machine.device)
    Path(f"{machine.references}.docker-preloader-kept").unlink()
    machine.damage(cut)
    before = list_store(machine.dockerd.data_root)
    with pytest.raises(CommandFailed, match="not valid JSON"):
        machine.agent.sync(machine.device)
    assert list_store(machine.dockerd.data_root) == before
