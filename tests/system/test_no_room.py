"""A file system of docker's that runs full: a disk that does not fit leaves no trace, the others are served.

The room grows from nothing to enough, block by block or inode by inode, so that each operation is the one that fails.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.disk import build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import environment, run
from tests import images
from tests.agent import Agent, read_store
from tests.dockerd import Dockerd, containerd_option
from tests.images import Image, make_layer
from tests.images.layer import file

BLOCK = 4096
STEPS = 150  # the disks of this test need about half of these blocks, or inodes
DOCKERD_EVERY = 10  # steps; dockerd itself does not start without any room, so it is lent some

BASE = images.busybox_image().layers
MINE = Image((*BASE, make_layer([file("mine", "mine")])), ("mine:1",), {})
THERE = Image((*BASE, make_layer([file("there", "there")])), ("there:1",), {})
SMALL = Image((*BASE, make_layer([file("small", "small")])), ("small:1",), {})
LARGE = Image((*BASE, *(make_layer([file(f"{n}", "large")]) for n in range(3))), ("large:1", "large:2"), {})


class Room:
    """What is free on a file system: nothing at first, then one unit more with each `give`."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._ballast.mkdir()
        self._given = 0
        self.fill()

    def give(self) -> None:
        """Free one block, or one inode."""
        self._given += 1
        self.free(1)

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Free everything for a while."""
        shutil.rmtree(self._ballast)
        os.sync()
        yield
        self._ballast.mkdir()
        self.fill()
        self.free(self._given)

    def fill(self) -> None:
        """Take all that is free."""
        raise NotImplementedError

    def free(self, count: int) -> None:
        """Give a part of it back."""
        raise NotImplementedError


class Blocks(Room):
    """The room for content and directories."""

    def fill(self) -> None:
        with (self._ballast / "blocks").open("wb", buffering=0) as file, suppress_full():
            while True:
                file.write(bytes(BLOCK))
                os.fsync(file.fileno())  # delayed allocation promises what is not there

    def free(self, count: int) -> None:
        path = self._ballast / "blocks"
        os.truncate(path, path.stat().st_size - count * BLOCK)
        os.sync()  # a freed block is free when the journal says so


class Inodes(Room):
    """The room for files and directories."""

    def fill(self) -> None:
        with suppress_full():
            for number in count():
                (self._ballast / str(number)).touch()

    def free(self, count: int) -> None:
        for path in list(islice(self._ballast.iterdir(), count)):
            path.unlink()


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise


class Machine:
    """A small file system with docker's store, which has an image of the user's and one of a disk that stays."""

    def __init__(self, agent: Agent, dockerd: Dockerd, disks: Sequence[Path]) -> None:
        self.data_root = dockerd.data_root
        self.dockerd = dockerd
        self._agent = agent
        self._devices = [agent.loop(disk) for disk in disks]
        self.labels = [inspect_disk(disk).label for disk in disks]

    def make_pass(self, disks: int) -> dict[str, str]:
        """Make a pass with the first few disks; what became of each, by label."""
        self.unplug()
        with suppress(CommandFailed):  # what went wrong is told by the status, too
            self._agent.sync(*self._devices[:disks])
        status = self._agent.status()
        for disk in status["disks"]:
            if disk["state"] == "refused":
                assert "No space left on device; make room and restart" in disk["reason"]
                assert any(disk["label"] in problem and disk["reason"] in problem for problem in status["problems"])
        return {disk["label"]: disk["state"] for disk in status["disks"]}

    def unplug(self) -> None:
        """Take every disk away."""
        for label in self._agent.mounted():
            run(["umount", self._agent.run_dir / "disks" / label])

    def store(self) -> dict[str, object]:
        """What is in docker's store."""
        return read_store(self.data_root)

    def check_dockerd(self, *images: Image) -> None:
        """dockerd starts, and shows just some images, each of which runs."""
        self.dockerd.start()
        listed = self.dockerd.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        names = {name for image in images for name in image.references}
        assert {*listed} == names
        for name in names:
            assert self.dockerd.run(name, "/bin/busybox", "echo", "ok") == "ok\n"
        self.dockerd.stop()


def mount_tmpfs(folder: Path) -> None:
    run(["mount", "-t", "tmpfs", "-o", "size=16M,nr_inodes=3000", "tmpfs", folder])


def mount_ext4(folder: Path) -> None:
    image = folder.with_suffix(".ext4")
    run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-N", "3000", image, "32M"])
    run(["mount", "-o", "loop", image, folder])


@pytest.fixture(params=[mount_tmpfs, mount_ext4])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-no-room-")))
        run(["mount", "-t", "tmpfs", "tmpfs", folder])
        stack.callback(run, ["umount", "--recursive", "--lazy", folder])
        data_root = folder / "docker" / "root"
        data_root.mkdir(parents=True)
        request.param(data_root)
        agent = stack.enter_context(Agent(folder / "agent", data_root))
        dockerd = stack.enter_context(Dockerd(folder / "docker", options=[stack.enter_context(containerd_option())]))
        agent.pid_file = dockerd.run_dir / "docker.pid"
        dockerd.docker("load", "--input", images.write_docker_archive([MINE], folder / "mine.tar"))
        dockerd.run("mine:1", "/bin/busybox", "true")  # so that dockerd has made every directory that it ever makes
        dockerd.stop()
        disks = [make_disk(folder / str(number), image) for number, image in enumerate((THERE, SMALL, LARGE))]
        yield Machine(agent, dockerd, disks)


def make_disk(path: Path, image: Image) -> Path:
    archive = images.write_docker_archive([image], path.with_suffix(".tar"))
    build_disk([archive], path.with_suffix(".qcow2"))
    return path.with_suffix(".qcow2")


@pytest.mark.parametrize("room_of", [Blocks, Inodes])
def test_a_disk_that_does_not_fit_leaves_no_trace(machine: Machine, room_of: type[Room]) -> None:
    stages = []
    for disks in (1, 2, 3):
        assert set(machine.make_pass(disks).values()) == {"adopted"}
        stages.append(machine.store())
    machine.make_pass(1)
    assert machine.store() == stages[0]
    room = room_of(machine.data_root)
    seen = []
    for step in range(STEPS):
        states = machine.make_pass(3)
        assert machine.store() in stages, "half a disk"
        stage = stages.index(machine.store())
        expected = dict(zip(machine.labels, ["adopted"] * (stage + 1) + ["refused"] * (2 - stage), strict=True))
        assert states == expected
        seen.append(stage)
        if stage == 2:
            break
        if step % DOCKERD_EVERY == 0:
            with room.lend():
                machine.check_dockerd(*(MINE, THERE, SMALL)[: stage + 2])
        room.give()
    assert {*seen} == {0, 1, 2}
    assert seen == sorted(seen)
    with room.lend():
        machine.check_dockerd(MINE, THERE, SMALL, LARGE)


@pytest.mark.parametrize("room_of", [Blocks, Inodes])
def test_a_lost_disk_goes_from_a_full_store(machine: Machine, room_of: type[Room]) -> None:
    machine.make_pass(1)
    before = machine.store()
    machine.make_pass(3)
    room = room_of(machine.data_root)
    assert set(machine.make_pass(1).values()) == {"adopted"}
    assert machine.store() == before
    with room.lend():
        machine.check_dockerd(MINE, THERE)
