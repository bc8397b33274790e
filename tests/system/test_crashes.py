"""kill -9 of the agent at every single change that it makes to the file system: nothing is lost, and all is repaired.

The real command runs on a real dockerd's store, with real disks; strace kills it when it enters its first, second,
third ... system call that changes something, so that every state between two changes is seen, the one before the first
included. On each of these states a real dockerd starts before the agent does.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.disk import build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from tests import images
from tests.agent import Agent, read_store
from tests.dockerd import Dockerd, DockerdFailed, containerd_option
from tests.images import Image, make_layer
from tests.images.layer import file
from tests.system.strace import Change, read_changes, trace_command
from tests.tools import need_tools

KILLED = -9
APP = images.app_image()
# It shares a layer with app, which moves to its disk when that of app goes.
OTHER = Image((*APP.layers[:2], make_layer([file("other", "other")])), ("other:1",), {"Cmd": ["cat", "/other"]})
# The user's own, on a layer that the disks have, too.
MINE = Image((*images.busybox_image().layers, make_layer([file("mine", "mine")])), ("mine:1", "example/app:1.0"), {})
THEIRS = dict.fromkeys(MINE.references, MINE.image_id)  # one of the names is also claimed by a disk, in vain
NAMES = {name: image.image_id for image in (APP, OTHER) for name in image.references} | THEIRS


class Machine:
    """A store with an image of the user's, disks that can be plugged in, and a dockerd that is stopped at first."""

    def __init__(self, folder: Path, agent: Agent, dockerd: Dockerd, disks: list[Path]) -> None:
        self.folder = folder
        self.agent = agent
        self.dockerd = dockerd
        self.devices = [agent.loop(disk) for disk in disks]
        self.labels = [inspect_disk(disk).label for disk in disks]

    def keep(self, name: str) -> None:
        """Keep a copy of the store and of the agent's run directory; disks are not in it."""
        self.unplug()
        self.agent.run_dir.mkdir(exist_ok=True)
        kept = self.folder / "kept" / name
        run(["rm", "--recursive", "--force", kept])
        kept.mkdir(parents=True)
        run(["cp", "--archive", self.dockerd.data_root, self.agent.run_dir, kept])

    def restore(self, name: str) -> None:
        """Go back to such a copy, with every disk unplugged."""
        self.unplug()
        for path in (self.dockerd.data_root, self.agent.run_dir):
            run(["rm", "--recursive", "--force", "--one-file-system", path])
            run(["cp", "--archive", self.folder / "kept" / name / path.name, path])

    def unplug(self) -> None:
        """Take every disk away."""
        for label in self.agent.mounted():
            run(["umount", self.agent.run_dir / "disks" / label])

    def store(self) -> dict[str, object]:
        """All that is in Docker's store."""
        return read_store(self.dockerd.data_root)

    def names(self) -> dict[str, str]:
        """The names that dockerd lists, with their image IDs; an image without a name counts under its ID."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        lines = self.dockerd.docker("images", "--no-trunc", "--format", form).splitlines()
        return {image if "<none>" in name else name: image for name, image in map(str.split, lines)}

    def works(self, name: str) -> bool:
        """Whether a container of an image runs."""
        options = ("--rm", "--network", "none", "--user", "0")
        return self.dockerd.docker("run", *options, name, "/bin/busybox", "echo", "ok") == "ok\n"

    def references_file(self) -> Path:
        """dockerd's file of references."""
        return self.dockerd.data_root / "image" / "overlay2" / "repositories.json"

    def are_references_whole(self) -> bool:
        """Whether dockerd can read them, without which it does not start."""
        try:
            json.loads(self.references_file().read_bytes())
        except ValueError:
            return False
        return True

    def prepare(self, what: Pass) -> list[str]:
        """Have just the disks of a pass plugged in; those that the pass has to mount itself."""
        self.unplug()
        if what.is_rebooted:
            run(["rm", "--recursive", "--force", "--one-file-system", self.agent.run_dir])
        if not what.are_mounted:
            return [*what.devices]
        for device in what.devices:
            place = self.agent.run_dir / "disks" / self.labels[self.devices.index(device)]
            place.mkdir(parents=True, exist_ok=True)
            run(["mount", "-t", "ext4", "-o", "ro,noload", device, place])
        return []

    def make_pass(self, what: Pass) -> None:
        """Make a pass between a stop and a start of dockerd."""
        self.agent.sync(*self.prepare(what))

    def changes_of_a_pass(self, what: Pass) -> list[Change]:
        """Make a pass, and see what it changes."""
        log = self.folder / "trace"
        self.agent.sync(*self.prepare(what), under=trace_command(log))
        return read_changes(log, self.folder)

    def kill_a_pass(self, what: Pass, at: Change) -> list[Change]:
        """Make a pass that is killed when it enters a call, and see what it had changed."""
        log, devices = self.folder / "trace", self.prepare(what)
        with pytest.raises(CommandFailed) as killed:
            self.agent.sync(*devices, under=trace_command(log, at))
        assert killed.value.status == KILLED
        return read_changes(log, self.folder)[:-1]


class Pass(NamedTuple):
    """The disks that are plugged in at a pass; whether they are mounted already, or the machine was just rebooted."""

    devices: Sequence[str]
    are_mounted: bool = False
    is_rebooted: bool = False


class Scenario(NamedTuple):
    """A pass to be killed, and those that may come next, the last of them the same again.

    `names` are all that dockerd may list meanwhile (for a moment, images have none), those of `usable` must run.
    """

    killed: Pass
    next: Sequence[Pass]
    names: Mapping[str, str]
    usable: Collection[str]


def kill_everywhere(machine: Machine, scenario: Scenario) -> int:
    """Kill a pass at each of its changes, always from the same state; how many there are."""
    machine.keep("start")
    outcomes = [(following, stores_after(machine, scenario.killed, following)) for following in scenario.next]
    machine.restore("start")
    changes = machine.changes_of_a_pass(scenario.killed)
    listings: list[set[str]] = []
    for number, change in enumerate(changes):
        try:
            machine.restore("start")
            before = machine.kill_a_pass(scenario.killed, change)
            assert [call[:2] for call in before] == [call[:2] for call in changes[:number]], "killed somewhere else"
            check_with_dockerd(machine, scenario, listings)
            machine.keep("killed")
            for following, stores in outcomes:
                machine.restore("killed")
                machine.make_pass(following)
                differences = [differing(machine.store(), store) for store in stores]
                assert [] in differences, f"after {following}"
            again = machine.changes_of_a_pass(scenario.killed)
            assert [call.line for call in again if str(machine.dockerd.data_root) in call.line] == []
        except BaseException as err:
            err.add_note(f"killed before change {number + 1} of {len(changes)}: {change.line[:500]}")
            raise
    return len(changes)


def stores_after(machine: Machine, killed: Pass, following: Pass) -> list[dict[str, object]]:
    """The store after a pass, if the one that is to be killed before it never began, and if it ended."""
    stores = []
    for passes in ([following], [killed, following]):
        machine.restore("start")
        for each in passes:
            machine.make_pass(each)
        stores.append(machine.store())
    return stores


def differing(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """The paths that are not as expected, with what is there."""
    paths = sorted(found.keys() | expected.keys())
    return [f"{path}: {found.get(path)}" for path in paths if found.get(path) != expected.get(path)]


def check_with_dockerd(machine: Machine, scenario: Scenario, listings: list[set[str]]) -> None:
    """dockerd starts, and shows what is the user's; where it lists what it has not listed before, that runs."""
    if not machine.are_references_whole():
        with pytest.raises(DockerdFailed, match=r"unexpected (end of JSON|EOF)"):
            machine.dockerd.start()
        return
    machine.dockerd.start()
    found = machine.names()
    allowed = {**scenario.names, **{image: image for image in scenario.names.values()}}
    assert THEIRS.items() <= found.items() <= allowed.items()
    if found.keys() not in listings:
        listings.append(set(found))
        assert all(machine.works(name) for name in found if name in scenario.usable)
    machine.dockerd.stop()


def test_an_adoption_can_be_killed_anywhere(machine: Machine) -> None:
    """Also when the disks are gone at the next pass: then it never happened."""
    whole = Pass(machine.devices)
    scenario = Scenario(whole, [Pass([], is_rebooted=True), whole], NAMES, usable=NAMES)
    assert kill_everywhere(machine, scenario) > 100
    machine.dockerd.start()
    assert machine.names() == NAMES
    assert all(machine.works(name) for name in NAMES)


def build_on_app(machine: Machine) -> dict[str, str]:
    """Have the disks adopted, and an image of the user's made on one of app."""
    machine.make_pass(Pass(machine.devices))
    machine.dockerd.start()
    machine.dockerd.docker("run", "--name", "work", "--network", "none", "--user", "0", "app:1", "touch", "/built")
    built = {"built:1": machine.dockerd.docker("commit", "work", "built:1").strip()}
    machine.dockerd.docker("rm", "work")
    assert machine.works("built:1")  # dockerd notes in a layer that a container was made on it
    machine.dockerd.stop()
    return built


def check_that_app_is_gone(machine: Machine, built: dict[str, str]) -> None:
    """Its layer that the other disk has, too, works, and what was built on it does when it is back."""
    machine.dockerd.start()
    assert machine.names() == THEIRS | dict.fromkeys(OTHER.references, OTHER.image_id)
    assert all(machine.works(name) for name in machine.names())
    machine.dockerd.stop()
    machine.make_pass(Pass(machine.devices, is_rebooted=True))
    machine.dockerd.start()
    assert machine.names() == NAMES | built
    assert all(machine.works(name) for name in machine.names())


def test_the_pass_after_a_lost_disk_can_be_killed_anywhere(machine: Machine) -> None:
    """At the next one the disk may be back, or the other lost, too."""
    built = build_on_app(machine)
    first, second = machine.devices
    lost = Pass([second])
    # Before the pass, docker lists what cannot run now.
    scenario = Scenario(lost, [Pass([first, second]), Pass([]), lost], NAMES | built, usable=THEIRS)
    assert kill_everywhere(machine, scenario) > 40
    check_that_app_is_gone(machine, built)


def test_a_release_can_be_killed_anywhere(machine: Machine) -> None:
    """A reboot forgets it: then the disk is used again."""
    built = build_on_app(machine)
    (machine.agent.run_dir / "released.json").write_text(json.dumps({machine.labels[0]: False}))
    release = Pass(machine.devices, are_mounted=True)
    passes = [Pass(machine.devices, is_rebooted=True), release]
    assert kill_everywhere(machine, Scenario(release, passes, NAMES | built, usable=NAMES | built)) > 40
    assert machine.agent.mounted() == {machine.labels[1]}
    check_that_app_is_gone(machine, built)


def test_a_pass_that_sets_references_aside_can_be_killed_anywhere(machine: Machine) -> None:
    """References that we wrote and that storage has cut short: dockerd starts again as soon as they are replaced."""
    whole = Pass(machine.devices)
    machine.make_pass(whole)
    os.truncate(machine.references_file(), 100)
    assert kill_everywhere(machine, Scenario(whole, [Pass([]), whole], NAMES, usable=NAMES)) > 15
    machine.dockerd.start()
    assert machine.names() == NAMES


@pytest.fixture
def machine() -> Iterator[Machine]:
    need_tools("dockerd", "strace")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-crashes-")))
        # In memory: a pass syncs its whole file system, and there are hundreds of passes here.
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder])
        # Lazily: a loop device is let go of late where the mount namespace of another test still has it.
        stack.callback(run, ["umount", "--lazy", folder])
        disks = [make_disk(folder / "first", APP), make_disk(folder / "second", OTHER)]
        agent = stack.enter_context(Agent(folder / "agent", folder / "docker" / "root"))
        option = stack.enter_context(containerd_option())
        dockerd = stack.enter_context(Dockerd(folder / "docker", options=[option]))
        agent.pid_file = dockerd.run_dir / "docker.pid"
        dockerd.docker("load", "--input", images.write_docker_archive([MINE], folder / "mine.tar"))
        machine = Machine(folder, agent, dockerd, disks)
        assert machine.works("mine:1")  # so that dockerd has made every directory that it ever makes
        dockerd.stop()
        yield machine


def make_disk(path: Path, *of: Image) -> Path:
    archive = images.write_docker_archive(of, path.with_suffix(".tar"))
    build_disk([archive], path.with_suffix(".qcow2"))
    return path.with_suffix(".qcow2")
