"""An image adopted from our disk is the image that a real dockerd loads from the same archive."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import environment, run
from tests import images
from tests.agent import Agent, list_store
from tests.dockerd import Dockerd
from tests.images import Image, make_layer
from tests.images.layer import file
from tests.system.conftest import NewDockerd
from tests.tree import tree_differences

IMAGES: dict[str, Callable[[], Image]] = {
    "busybox": images.busybox_image,
    "app": images.app_image,
    "edge": images.edge_image,
    "untagged": images.untagged_image,
    "implied_parents": images.implied_parents_image,
    "debian": images.debian_image,
}
INSPECTED = ("Id", "RepoTags", "RootFS", "Config", "Size", "Architecture", "Os", "Created", "DockerVersion", "Author")
# dockerd gives folders that no entry names the time of the load; on a disk, equal input must give equal bytes.
IMPLIED = (b"implied", b"implied/parents", b"etc")


class Pair(NamedTuple):
    """Two daemons with the same images: loaded by one, adopted from a disk of ours by the other."""

    loaded: Dockerd
    adopted: Dockerd


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-pair-")))
        archive = images.write_docker_archive([make() for make in IMAGES.values()], folder / "all.tar")
        build_disk([archive], folder / "all.qcow2")
        agent = stack.enter_context(Agent(folder / "agent", folder / "adopted" / "root"))
        agent.attach(folder / "all.qcow2")
        loaded = stack.enter_context(Dockerd(folder / "loaded"))
        loaded.docker("load", "--input", archive)
        yield Pair(loaded, stack.enter_context(Dockerd(folder / "adopted")))


@pytest.mark.parametrize("name", IMAGES)
def test_inspect_says_the_same(pair: Pair, name: str) -> None:
    image_id = IMAGES[name]().image_id
    loaded, adopted = (dockerd.inspect(image_id) for dockerd in pair)
    assert {key: adopted[key] for key in INSPECTED} == {key: loaded[key] for key in INSPECTED}


@pytest.mark.parametrize("name", IMAGES)
def test_containers_see_the_same_tree(pair: Pair, name: str) -> None:
    image_id = IMAGES[name]().image_id
    loaded, adopted = (dockerd.container_tree(image_id) for dockerd in pair)
    assert len(adopted) > 100
    differences = tree_differences(loaded, adopted)
    if name == "implied_parents":
        allowed = tuple(f"{path!r}: mtime_ns: expected " for path in IMPLIED)
        assert len(differences) == len(IMPLIED)
        differences = [line for line in differences if not line.startswith(allowed)]
    assert differences == []


def test_list_of_images_is_the_same(pair: Pair) -> None:
    listing = ("images", "--all", "--no-trunc", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}")
    loaded, adopted = (sorted(dockerd.docker(*listing).splitlines()) for dockerd in pair)
    assert adopted == loaded
    assert len(adopted) == 8  # of six images, one has three names


@pytest.mark.parametrize("name", IMAGES)
def test_history_is_the_same(pair: Pair, name: str) -> None:
    history = ("history", "--no-trunc", "--format", "{{json .}}", IMAGES[name]().image_id)
    loaded, adopted = (dockerd.docker(*history) for dockerd in pair)
    assert adopted == loaded


@pytest.mark.parametrize("name", IMAGES)
def test_saved_layers_have_their_diff_ids(pair: Pair, name: str, tmp_path: Path) -> None:
    image = IMAGES[name]()
    pair.adopted.docker("save", "--output", tmp_path / "saved.tar", image.image_id)
    assert saved_diff_ids(tmp_path / "saved.tar") == image.diff_ids


def saved_diff_ids(archive: Path) -> list[str]:
    """The digests of the layers that an archive with one image holds."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        ((entry),) = json.load(manifest)
        found = []
        for name in entry["Layers"]:
            layer = tar.extractfile(name)
            assert layer is not None
            found.append(f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}")  # type: ignore[arg-type]
        return found


# --- one image or two, and what people do with them ------------------------------------------------------------------


class Machine:
    """A data root with an agent, and a dockerd that is stopped while disks are merged, as in a guest."""

    def __init__(self, folder: Path, dockerd: Dockerd, agent: Agent) -> None:
        self.folder = folder
        self.dockerd = dockerd
        self.agent = agent

    def disk(self, name: str, *of: Image) -> Path:
        """A disk of some images."""
        archive = images.write_docker_archive(of, self.folder / f"{name}.tar")
        build_disk([archive], self.folder / f"{name}.qcow2")
        return self.folder / f"{name}.qcow2"

    def plug_in(self, disk: Path) -> str:
        """Attach a disk between a stop and a start of dockerd."""
        self.dockerd.stop()
        label = self.agent.attach(disk)
        self.dockerd.start()
        return label

    def pull_out(self, label: str) -> None:
        """Detach a disk, and make a pass between a stop and a start of dockerd."""
        self.dockerd.stop()
        self.agent.detach(label)
        self.agent.sync()
        self.dockerd.start()

    def listed(self) -> set[str]:
        """What `docker images` lists: names, or the image ID of an image that has none."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        lines = self.dockerd.docker("images", "--no-trunc", "--format", form).splitlines()
        return {name if "<none>" not in name else image_id for name, image_id in (line.split() for line in lines)}

    def load(self, *of: Image) -> None:
        """Load images as a user does."""
        archive = images.write_docker_archive(of, self.folder / "loaded.tar")
        self.dockerd.docker("load", "--input", archive)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    with Agent(tmp_path / "agent", tmp_path / "docker" / "root") as agent, Dockerd(tmp_path / "docker") as dockerd:
        agent.pid_file = dockerd.run_dir / "docker.pid"
        yield Machine(tmp_path, dockerd, agent)


def own_image(text: str, *names: str) -> Image:
    """An image of the user's own, on the same base as all test images."""
    return Image((*images.busybox_image().layers, make_layer([file("own", text)])), names, {"Cmd": ["cat", "/own"]})


def test_commit_build_save_and_remove_on_an_adopted_image(machine: Machine, tmp_path: Path) -> None:
    docker = machine.dockerd.docker
    machine.plug_in(machine.disk("app", images.app_image(), images.busybox_image()))
    docker("run", "--name", "work", "--network", "none", "--user", "0", "app:1", "sh", "-c", "echo new >/app/new")
    docker("commit", "work", "committed:1")
    docker("rm", "work")
    assert machine.dockerd.run("committed:1", "cat", "/app/new", "/app/greeting") == "new\nhello from app\n"

    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text(
        "FROM app:1\nUSER 0\nCOPY Dockerfile /\nRUN rm /app/greeting\nCMD ls /app\n"
    )
    docker("build", "--network", "none", "--tag", "built:1", tmp_path / "context")
    assert machine.dockerd.run("built:1") == "start\n"
    assert machine.dockerd.run("app:1") == "hello from app\n"

    docker("save", "--output", tmp_path / "built.tar", "built:1")
    assert saved_diff_ids(tmp_path / "built.tar")[:3] == images.app_image().diff_ids
    machine.dockerd.stop()
    machine.dockerd.start()
    assert machine.dockerd.run("built:1") == "start\n"

    docker("rmi", "built:1", "committed:1")
    for _ in range(2):
        assert machine.dockerd.run("app:1") == "hello from app\n"
    assert machine.listed() == {*images.app_image().references, "busybox:test"}


def test_removed_images_stay_away_until_the_next_boot(machine: Machine) -> None:
    machine.plug_in(machine.disk("both", images.app_image(), images.busybox_image()))
    machine.dockerd.docker("rmi", "busybox:test")
    machine.dockerd.docker("rmi", "app:1")  # a name of three
    machine.dockerd.stop()
    machine.agent.sync()
    machine.dockerd.start()
    left = {*images.app_image().references} - {"app:1"}
    assert machine.listed() == left
    assert machine.dockerd.run("example/app:1.0") == "hello from app\n"

    machine.dockerd.stop()
    machine.agent.reboot()
    machine.dockerd.start()
    assert machine.listed() == {*images.app_image().references, "busybox:test"}
    assert machine.dockerd.run("busybox:test", "echo", "back") == "back\n"


def test_own_images_survive(machine: Machine) -> None:
    """Also those that share a layer with the disk, and a tag of theirs that the disk claims."""
    mine, other = own_image("mine", "mine:1", "app:1"), own_image("other", "registry.example.com:5000/team/app:mine")
    machine.load(mine, other)
    machine.dockerd.docker("tag", "mine:1", "again/mine:latest")
    machine.plug_in(machine.disk("app", images.app_image()))
    theirs = {*images.app_image().references} - {"app:1"}
    own = {"mine:1", "app:1", "again/mine:latest", "registry.example.com:5000/team/app:mine"}
    assert machine.listed() == own | theirs
    assert machine.dockerd.run("app:1") == "mine"
    assert machine.dockerd.run("again/mine:latest") == "mine"
    assert machine.dockerd.run("registry.example.com:5000/team/app:mine") == "other"
    assert machine.dockerd.run("example/app:1.0") == "hello from app\n"
    (problem,) = machine.agent.status()["problems"]
    assert problem.startswith(
        f"app:1 stays with image {mine.image_id[7:19]}; image {images.app_image().image_id[7:19]}"
    )


def test_second_pass_changes_nothing(machine: Machine) -> None:
    machine.load(own_image("mine", "mine:1"))
    machine.plug_in(machine.disk("edge", images.edge_image(), images.untagged_image()))
    machine.dockerd.run("edge:test", "true")
    machine.dockerd.stop()
    before = list_store(machine.dockerd.data_root)
    machine.agent.sync()
    machine.agent.sync()
    machine.agent.reboot()
    assert list_store(machine.dockerd.data_root) == before


def test_layers_that_are_there_are_not_added_again(machine: Machine) -> None:
    """A layer that the user loaded is used by the disk's image, in whatever directory dockerd has put it."""
    machine.load(images.busybox_image())
    machine.plug_in(machine.disk("app", images.app_image()))
    layers = [path for path in (machine.dockerd.data_root / "overlay2").iterdir() if path.name != "l"]
    assert sorted((path / "diff").is_symlink() for path in layers) == [False, True, True]
    assert machine.dockerd.run("app:1") == "hello from app\n"
    machine.dockerd.docker("rmi", "app:1", "example/app:1.0", "registry.example.com:5000/team/app:latest")
    assert machine.dockerd.run("busybox:test", "echo", "mine") == "mine\n"


def test_two_disks_share_a_layer(machine: Machine) -> None:
    app = machine.plug_in(machine.disk("app", images.app_image()))
    untagged = machine.plug_in(machine.disk("untagged", images.untagged_image()))
    assert machine.dockerd.run("app:1") == "hello from app\n"
    assert machine.dockerd.run(images.untagged_image().image_id) == "no name\n"

    machine.pull_out(app)
    assert machine.listed() == {images.untagged_image().image_id}
    assert machine.dockerd.run(images.untagged_image().image_id) == "no name\n"
    machine.pull_out(untagged)
    assert machine.listed() == set()
    machine.plug_in(machine.folder / "app.qcow2")
    assert machine.dockerd.run("app:1") == "hello from app\n"


def test_pulled_out_and_plugged_in_again(machine: Machine) -> None:
    """Nothing is listed that cannot run, and what a user built on the disk's image works again when it is back."""
    machine.load(own_image("mine", "mine:1"))
    disk = machine.disk("app", images.app_image())
    label = machine.plug_in(disk)
    machine.dockerd.docker("run", "--name", "work", "--network", "none", "--user", "0", "app:1", "touch", "/app/built")
    machine.dockerd.docker("commit", "work", "built:1")
    machine.dockerd.docker("rm", "work")

    machine.pull_out(label)
    assert machine.listed() == {"mine:1"}
    assert machine.dockerd.run("mine:1") == "mine"

    machine.plug_in(disk)
    assert machine.listed() == {"mine:1", "built:1", *images.app_image().references}
    assert machine.dockerd.run("app:1") == "hello from app\n"
    assert machine.dockerd.run("built:1", "ls", "/app") == "built\ngreeting\nstart\n"


def test_nothing_changes_while_dockerd_runs(machine: Machine) -> None:
    disk = machine.disk("app", images.app_image())
    before = machine.listed()
    device = machine.agent.loop(disk)
    with pytest.raises(CommandFailed) as failed:
        machine.agent.sync(device)
    assert failed.value.status == 1
    assert "docker runs; the change is made at its next start" in failed.value.output
    assert machine.listed() == before
    assert not list(machine.dockerd.data_root.glob("image/overlay2/layerdb/sha256/*"))
    assert [disk["state"] for disk in machine.agent.status()["disks"]] == ["pending"]


def test_a_disk_that_is_none_is_refused_and_the_others_served(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "noise.raw").write_bytes(b"\xa5" * (1 << 20))
    machine.dockerd.stop()
    devices: Sequence[str] = [
        machine.agent.loop(tmp_path / "noise.raw"),
        machine.agent.loop(machine.disk("app", images.app_image())),
    ]
    with pytest.raises(CommandFailed) as failed:
        machine.agent.sync(*devices)
    assert failed.value.status == 2
    assert f"not mounting {devices[0]}: {devices[0]}: holds no ext4 file system" in failed.value.output
    machine.dockerd.start()
    assert machine.dockerd.run("app:1") == "hello from app\n"


def test_a_plain_copy_of_a_data_root_is_adopted_too(machine: Machine, new_dockerd: NewDockerd, tmp_path: Path) -> None:
    """What NixOS's dockerPreloader made: image/ and overlay2/ of a dockerd that loaded the images, and no index."""
    builder = new_dockerd()
    archive = images.write_docker_archive([images.app_image(), images.untagged_image()], tmp_path / "plain.tar")
    builder.docker("load", "--input", archive)
    builder.stop()
    plain = tmp_path / "plain"
    plain.mkdir()
    run(["cp", "--archive", builder.data_root / "image", builder.data_root / "overlay2", plain])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "0123456789abcdef", "-d", plain, tmp_path / "plain.img", "64M"])
    machine.plug_in(tmp_path / "plain.img")
    assert machine.listed() == {*images.app_image().references, images.untagged_image().image_id}
    assert machine.dockerd.run("app:1") == "hello from app\n"
    machine.dockerd.docker("save", "--output", tmp_path / "saved.tar", "app:1")
    assert saved_diff_ids(tmp_path / "saved.tar") == images.app_image().diff_ids
