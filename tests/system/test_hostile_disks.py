"""Disks that lie, next to a sound one: whatever they hold, they change nothing, and the sound one is served.

Each is an ext4 file system on a loop device, mounted by the kernel, read by the agent's command in a process of its own
that may write to Docker's store and the run directory only. The store must be what the sound disk alone makes of it, so
that one dockerd, started after all of them, speaks for each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.node import Extent, Node, make_directory
from preloader_agent.host.run import run
from preloader_agent.host.storetree import DISK
from preloader_agent.host.tarstream import BLK, CHR, FIFO, REG
from preloader_agent.store.digest import CacheID, ImageID, chain_ids, sha256_digest
from preloader_agent.store.index import MAX_IMAGES, encode_index
from preloader_agent.store.layout import INDEX_NAME
from tests.agent import REPOSITORY
from tests.crafted import CraftedDisk
from tests.dockerd import Dockerd
from tests.folders import folder_in_memory
from tests.guest.disks import config_of, diff_id, image_id, snapshot
from tests.images import app_image, busybox_image, write_docker_archive
from tests.system.disks import make_raw_disk
from tests.system.loop import Loop
from tests.system.nspawn import NspawnGuest
from tests.troubleshooting import find_entry

PASS_BOUND = 30.0  # seconds for a pass over two disks; it takes 0.3
LAYERS = ("base", "app")
BASE, APP = chain_ids(map(diff_id, LAYERS))
IMAGE = image_id(LAYERS)
CACHE_ID = CacheID.of_chain(BASE)
CONFIG = DISK.image_config(IMAGE)
TAR_SPLIT = DISK.tar_split(BASE)
DIFF = DISK.diff(CACHE_ID)

CONFINED_AGENT = """
import sys
from preloader_agent.guest.cli import main
from tests.confinement import confine
confine(sys.argv.pop(1).split(":"))
main()
"""


class Lab(NamedTuple):
    """A data root with an image of the user's, a sound disk, and what the store is once that is adopted."""

    folder: Path
    docker: Path  # what tests.dockerd.Dockerd is given
    template: Path
    good: Loop
    good_label: str
    expected: dict[str, object]

    @property
    def data_root(self) -> Path:
        return self.docker / "root"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def canary(self) -> Path:
        """What the disks point at: symlinks, absolute paths, and so many `../` that they end there."""
        return self.folder / "canary"

    def reset(self) -> None:
        """Forget all disks."""
        disks = self.run_dir / "disks"
        for mount in disks.iterdir() if disks.is_dir() else ():
            if mount.is_mount():
                run(["umount", mount])
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for name in ("image", "overlay2"):
            shutil.rmtree(self.data_root / name)
            shutil.copytree(self.template / name, self.data_root / name, symlinks=True)

    def sync(self, *devices: Path, timeout: float = PASS_BOUND) -> str:
        """One pass over some devices and, last, the sound disk; returns what the agent says."""
        argv = [sys.executable, "-c", CONFINED_AGENT, f"{self.data_root}:{self.run_dir}", "sync"]
        argv += [f"--docker-root={self.data_root}", f"--run-dir={self.run_dir}", "--docker-pidfile=/nonexistent"]
        argv += [f"--device={device}" for device in (*devices, self.good.node)]
        env = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        return run(argv, env=env, ok=(0, 2, 1), timeout=timeout, with_stderr=True)

    def store(self) -> dict[str, object]:
        return {name: snapshot(self.data_root / name) for name in ("image", "overlay2")}

    def mounted(self) -> set[str]:
        return {mount.name for mount in (self.run_dir / "disks").iterdir() if mount.is_mount()}

    def status(self) -> dict[str, Any]:
        """What the agent says of itself: `state` and `reason` by device."""
        found: dict[str, Any] = json.loads((self.run_dir / "devices.json").read_text())
        return {disk["device"]: disk for disk in found["disks"]}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if shutil.which("dockerd") is None:
        pytest.skip("needs dockerd: install docker.io")
    with ExitStack() as stack:
        folder = stack.enter_context(folder_in_memory())
        user_image = write_docker_archive([busybox_image()], folder / "user.tar")
        with Dockerd(folder / "docker") as dockerd:
            dockerd.docker("load", "--input", user_image)
        for name in ("image", "overlay2"):
            shutil.copytree(dockerd.data_root / name, folder / "template" / name, symlinks=True)
        good_disk = make_raw_disk(folder / "good", app_image())
        good = Loop()
        stack.callback(good.close)
        good.open(good_disk)
        label = inspect_disk(good_disk).label
        lab = Lab(folder, dockerd.folder, folder / "template", good, label, {})
        (lab.canary / "directory").mkdir(parents=True)
        (lab.canary / "file").write_text("canary")
        stack.callback(lab.reset)
        lab.sync()
        yield lab._replace(expected=lab.store())


Change = Callable[[CraftedDisk, Path], None]  # the second is the canary


def index_of(**fields: Any) -> Change:
    """Replaces fields of the only image, as somebody would who keeps digest and label right."""

    def change(disk: CraftedDisk, _canary: Path) -> None:
        (image,) = disk.index.images
        index = disk.index._replace(images=(image._replace(**fields),))
        disk.put_index(encode_index(index))
        disk.label = index.label

    return change


def layer_of(**fields: Any) -> Change:
    """Replaces fields of the base layer."""

    def change(disk: CraftedDisk, _canary: Path) -> None:
        base, *others = disk.index.layers
        disk.put_index(encode_index(disk.index._replace(layers=(base._replace(**fields), *others))))

    return change


def document_of(**fields: object) -> Change:
    """Replaces fields at the top of preload.json."""

    def change(disk: CraftedDisk, _canary: Path) -> None:
        disk.put_index(json.dumps({**json.loads(encode_index(disk.index)), **fields}).encode())

    return change


def content_of(content: bytes) -> Change:
    return lambda disk, _canary: disk.put_index(content)


def node_at(path: str, node: Callable[[], Node]) -> Change:
    return lambda disk, _canary: disk.put(path, node())


def link_at(path: str, target: str) -> Change:
    """Puts a symlink into the canary, absolute or with `../`, over what is there."""
    return lambda disk, canary: disk.put_symlink(path, target.format(canary=canary, up="../" * 20 + str(canary)[1:]))


def label_of(label: str) -> Change:
    def change(disk: CraftedDisk, _canary: Path) -> None:
        disk.label = label

    return change


def file_at(path: str, content: bytes) -> Change:
    return lambda disk, _canary: disk.put_file(path, content)


def sparse_file(size: int) -> Node:
    return Node(REG, size=size)


def deep_json(disk: CraftedDisk, _canary: Path) -> None:
    """1 GB of `[`, in 4 MB of blocks: nothing keeps a file system from using a block 256 times."""
    disk.put_index(b"[" * (4 << 20))
    (node,) = [node for name, node in disk.children().items() if name == INDEX_NAME.encode()]
    (extent,) = node.extents
    node.extents = tuple(Extent(n * extent.length, extent.start, extent.length) for n in range(256))
    node.size = 1 << 30


def plain_disk(disk: CraftedDisk, _canary: Path) -> None:
    """A copy of a data root, as NixOS made them."""
    disk.remove(INDEX_NAME)


def both(*changes: Change) -> Change:
    def change(disk: CraftedDisk, canary: Path) -> None:
        for each in changes:
            each(disk, canary)

    return change


def config_is(content: bytes) -> Change:
    """An image whose ID is right for a configuration that is not."""

    def change(disk: CraftedDisk, canary: Path) -> None:
        image = ImageID(sha256_digest(content))
        disk.put_file(DISK.image_config(image), content)
        index_of(image_id=image)(disk, canary)

    return change


def unnamed(disk: CraftedDisk, _canary: Path) -> None:
    """An ext4 file system of somebody else's."""
    for name in list(disk.children()):
        disk.remove(name.decode())
    disk.put_file("hello", b"world")


ESCAPES = "\x1b]0;owned\x07"
DIRECTORIES = ("image", "image/overlay2", "image/overlay2/imagedb/content/sha256", "image/overlay2/layerdb/sha256")
SPECIAL = {
    "character device": lambda: Node(CHR, 0o666, device=(1, 5)),
    "block device": lambda: Node(BLK, 0o666, device=(7, 0)),
    "FIFO": lambda: Node(FIFO, 0o666),
}
NO_DIRECTORY = {**SPECIAL, "file": lambda: Node(REG)}

REFUSED: dict[str, tuple[Change, str]] = {
    "not ours": (unnamed, "preload.json: cannot be read: No such file or directory"),
    "format 2": (document_of(format=2), "disk format 2, this version reads format 1"),
    "format text": (document_of(format=f"1{ESCAPES}"), "disk format '1"),
    "no JSON": (content_of(b"\0" * 5000), "its index is not valid: Expecting value"),
    "empty index": (content_of(b""), "its index is not valid: Expecting value"),
    "sparse JSON of 1 GB": (
        node_at(INDEX_NAME, lambda: sparse_file(1 << 30)),
        "not a regular file of at most 16777216",
    ),
    "sparse JSON of 16 MB": (node_at(INDEX_NAME, lambda: sparse_file(16 << 20)), "its index is not valid: Expecting"),
    "deep JSON of 1 GB": (deep_json, "is not a regular file of at most 16777216 bytes"),
    "deep JSON of 16 MB": (content_of(b"[" * (16 << 20)), "JSON values: expected at most 262144, found 16777216"),
    "deep JSON of 250 kB": (content_of(b'{"format":' + b"[" * 250_000), "maximum recursion depth exceeded"),
    "wide JSON of 16 MB": (content_of(b"[" + b"{}," * (5 << 20) + b"{}]"), "JSON values: expected at most 262144"),
    "huge number": (document_of(format=10**4000), "disk format 1000"),
    # Paths and terminals.
    "cache-id with ../": (layer_of(cache_id="../" * 20 + "etc/"), "CacheID: expected 64 hex digits, found '../"),
    "cache-id is absolute": (layer_of(cache_id="/" + "e" * 63), "CacheID: expected 64 hex digits, found '/eee"),
    "link with ../": (layer_of(link="../../../../../../../../aa"), "Link: expected 26 characters"),
    "image ID with ../": (index_of(image_id="sha256:" + "../" * 21 + "a"), "ImageID: expected sha256: and 64 hex"),
    "ChainID with ../": (layer_of(chain_id="sha256:" + "../" * 21 + "a"), "ChainID: expected sha256: and 64 hex"),
    "image ID with a newline": (index_of(image_id=f"{IMAGE[:-1]}\n"), "ImageID: expected sha256: and 64 hex"),
    "image ID with a zero": (index_of(image_id=f"{IMAGE[:-1]}\0"), "ImageID: expected sha256: and 64 hex"),
    "DiffID with escapes": (layer_of(diff_id=f"{ESCAPES:.71}"), "DiffID: expected sha256: and 64 hex"),
    "reference with a newline": (index_of(references=("x\ny:1",)), r"Reference: expected .*, found 'x\\ny:1'"),
    "reference with escapes": (index_of(references=(f"x:{ESCAPES}",)), r"Reference: expected .*, found 'x:\\x1b"),
    "reference with ../": (index_of(references=("../../x:1",)), "Reference: expected an image reference"),
    "surrogates": (document_of(created_by="\ud800"), "text: expected at most 200 printable characters"),
    # What there is and what is said of it.
    "126 layers": (index_of(chain=(BASE,) * 126), "number of layers: expected at most 125, found 126"),
    "a layer of another disk": (index_of(chain=(APP,)), "layers: expected those of the images, and no others"),
    "image without configuration": (lambda disk, _: disk.remove(CONFIG), "cannot be read: No such file or directory"),
    "configuration of other content": (file_at(CONFIG, b"{}"), "image configuration: expected sha256:"),
    "configuration of other layers": (config_is(config_of(("app",))), "has other layers than its configuration names"),
    "configuration that is no JSON": (config_is(b"\xff"), "is not valid: 'utf-8' codec can't decode"),
    "configuration that is a list": (config_is(b"[]"), "is not valid: list indices must be"),
    "deep configuration": (config_is(b"[" * 100_000), "is not valid: maximum recursion depth"),
    "configuration of 1 GB": (node_at(CONFIG, lambda: sparse_file(1 << 30)), "is not a regular file of at most"),
    "no tree": (lambda disk, _: disk.remove(DIFF), "diff: cannot be read: No such file or directory"),
    "no tar-split": (lambda disk, _: disk.remove(TAR_SPLIT), "tar-split.json.gz: cannot be read: No such file"),
    # Symlinks out of the disk.
    "index is a link": (link_at(INDEX_NAME, "{canary}/file"), "preload.json: cannot be read: Too many levels"),
    "index is a link with ../": (link_at(INDEX_NAME, "{up}/file"), "preload.json: cannot be read: Too many levels"),
    "overlay2 is a link": (link_at("overlay2", "{canary}/directory"), "diff: cannot be read: Not a directory"),
    "layer is a link": (link_at(DISK.layer(CACHE_ID), "{up}/directory"), "diff: cannot be read: Not a directory"),
    "tree is a link": (link_at(DIFF, "{canary}/directory"), "diff is not a directory"),
    "tree is a link with ../": (link_at(DIFF, "{up}/directory"), "diff is not a directory"),
    "tar-split is a link": (link_at(TAR_SPLIT, "{canary}/file"), "tar-split.json.gz is not a regular file"),
    "configuration is a link": (link_at(CONFIG, "{up}/file"), "cannot be read: Too many levels"),
    **{
        f"{path} is a link": (link_at(path, "{canary}/directory"), "cannot be read: Not a directory")
        for path in DIRECTORIES
    },
    # Neither directories nor files.
    **{
        f"index is a {kind}": (node_at(INDEX_NAME, make), "preload.json|index is not valid")
        for kind, make in SPECIAL.items()
    },
    "index is a directory": (node_at(INDEX_NAME, make_directory), "preload.json: is not a regular file"),
    **{
        f"layer is a {kind}": (node_at(DISK.layer(CACHE_ID), make), "diff: cannot be read: Not a directory")
        for kind, make in NO_DIRECTORY.items()
    },
    **{f"tree is a {kind}": (node_at(DIFF, make), "diff is not a directory") for kind, make in NO_DIRECTORY.items()},
    **{
        f"{what} is a FIFO": (node_at(path, SPECIAL["FIFO"]), f"{path.rpartition('/')[2]}.* is not a regular file")
        for what, path in (("tar-split", TAR_SPLIT), ("configuration", CONFIG))
    },
    # Labels.
    "another label": (label_of("dpl-000000000000"), "is not labelled dpl-[0-9a-f]{12}, as its content asks for"),
    "label is ..": (label_of(".."), "label: expected letters, digits, .*, found '..'"),
    "label with a path": (label_of("dpl-/../../etc"), "label: expected letters, digits"),
    "label with escapes": (label_of("dpl-\x1b[2J\n"), "label: expected letters, digits"),
    "no label": (label_of(""), "label: expected letters, digits"),
    # Copies of a data root.
    "plain: cache-id with ../": (
        both(plain_disk, file_at(f"{DISK.layer_record(BASE)}/cache-id", b"../" * 21 + b"a")),
        "its copy of docker's store is not sound: CacheID: expected 64 hex digits",
    ),
    "plain: cache-id is a FIFO": (
        both(plain_disk, node_at(f"{DISK.layer_record(BASE)}/cache-id", SPECIAL["FIFO"])),
        "cache-id: is not a regular file of at most 200 bytes",
    ),
    "plain: size": (both(plain_disk, file_at(f"{DISK.layer_record(BASE)}/size", b"1_0")), "size: expected a number"),
    "plain: layers are a link": (
        both(plain_disk, link_at("image/overlay2/layerdb/sha256", "{canary}/directory")),
        "layerdb/sha256: cannot be read: Not a directory",
    ),
    "plain: wide repositories": (
        both(plain_disk, file_at(DISK.repositories, b'{"Repositories":{"a":[' + b"{}," * 1_000_000 + b"{}]}}")),
        "JSON values: expected at most 262144",
    ),
    "plain: name of an image": (
        both(plain_disk, file_at("image/overlay2/imagedb/content/sha256/x\n\x1b", b"{}")),
        "ImageID: expected sha256: and 64 hex digits",
    ),
    "plain: tree is a link": (both(plain_disk, link_at(DIFF, "{canary}/directory")), "diff is not a directory"),
    "plain: tar-split is a link": (both(plain_disk, link_at(TAR_SPLIT, "{canary}/file")), "is not a regular file"),
}


def write_disk(folder: Path, canary: Path, name: str) -> Path:
    disk = CraftedDisk(folder / f"{re.sub('[^a-z0-9]+', '-', name)}.raw", (LAYERS, ("crafted:1",)))
    REFUSED[name][0](disk, canary)
    return disk.write()


def check_refused(lab: Lab, device: Path, said: str, reason: str) -> None:
    """One line of the log, and the status, say which disk it is and what is wrong with it."""
    (line,) = [line for line in said.splitlines() if line.startswith(f"not mounting {device}: ")]
    assert re.search(reason, line)
    assert line.isprintable()
    assert len(line) < 700
    assert find_entry(line.removeprefix(f"not mounting {device}: ")) is not None, "not in docs/troubleshooting.md"
    report = lab.status()[str(device)]
    assert report["state"] == "refused"
    assert re.search(reason, report["reason"])


def check_untouched(lab: Lab, said: str, canary: dict[str, object]) -> None:
    """Nothing but the sound disk has had an effect."""
    assert "Traceback" not in said
    assert lab.mounted() == {lab.good_label}
    assert lab.store() == lab.expected
    assert snapshot(lab.canary) == canary
    assert {path.name for path in lab.folder.iterdir() if path.suffix not in (".raw", ".qcow2", ".tar")} == {
        "canary",
        "docker",
        "run",
        "template",
    }


@pytest.fixture
def canary(lab: Lab) -> dict[str, object]:
    lab.reset()
    return snapshot(lab.canary)


@pytest.fixture
def loop(lab: Lab) -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        lab.reset()
        loop.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_disk_that_lies_is_named_and_the_sound_one_is_served(
    lab: Lab, canary: dict[str, object], loop: Loop, name: str
) -> None:
    disk = write_disk(lab.folder, lab.canary, name)
    loop.open(disk)
    said = lab.sync(loop.node)
    check_refused(lab, loop.node, said, REFUSED[name][1])
    check_untouched(lab, said, canary)
    disk.unlink()


def no_file_system(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 20))


def too_small(path: Path) -> None:
    path.write_bytes(b"\0" * 512)


def swap_space(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))
    run(["mkswap", "--label", "dpl-0123456789ab", path])


def minix(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))
    run(["mkfs.minix", path])


def journal_device(path: Path) -> None:
    """It has ext4's magic number and a label, and nothing to mount."""
    path.write_bytes(bytes(8 << 20))
    run(["mke2fs", "-q", "-F", "-O", "journal_dev", "-L", "dpl-0123456789ab", path])


def empty_ext2(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))
    run(["mke2fs", "-q", "-F", "-t", "ext2", "-L", "dpl-0123456789ab", path])


def cut_in_half(path: Path) -> None:
    CraftedDisk(path, (LAYERS, ("crafted:1",))).write()
    os.truncate(path, path.stat().st_size // 2)


def cut_by_a_block(path: Path) -> None:
    CraftedDisk(path, (LAYERS, ("crafted:1",))).write()
    os.truncate(path, path.stat().st_size - 4096)


OTHER: dict[Callable[[Path], None], str] = {
    no_file_system: "holds no ext4 file system; expected a disk made by `preloader build`",
    too_small: "cannot be read: Invalid argument",
    swap_space: "holds no ext4 file system",
    minix: "holds no ext4 file system",
    journal_device: "cannot mount /dev/loop.*: Invalid argument",
    empty_ext2: "preload.json: cannot be read: No such file or directory",
    cut_in_half: "cannot mount /dev/loop.*: (Invalid argument|Structure needs cleaning)",
    cut_by_a_block: "cannot mount /dev/loop.*: (Invalid argument|Structure needs cleaning)",
}


@pytest.mark.parametrize("make", OTHER)
def test_what_is_no_disk_of_ours_is_named_and_the_sound_one_is_served(
    lab: Lab, canary: dict[str, object], loop: Loop, make: Callable[[Path], None]
) -> None:
    disk = lab.folder / "other.raw"
    make(disk)
    loop.open(disk)
    said = lab.sync(loop.node)
    check_refused(lab, loop.node, said, OTHER[make])
    check_untouched(lab, said, canary)
    disk.unlink()


def test_a_disk_of_ten_thousand_images_is_refused_at_once(lab: Lab, canary: dict[str, object], loop: Loop) -> None:
    disk = CraftedDisk(lab.folder / "many.raw", (LAYERS, ()))
    (image,) = disk.index.images
    images = tuple(image._replace(image_id=ImageID(sha256_digest(b"%d" % number))) for number in range(10_000))
    index = disk.index._replace(images=images)
    disk.put_index(encode_index(index))
    disk.label = index.label
    loop.open(disk.write())
    said = lab.sync(loop.node)
    check_refused(lab, loop.node, said, f"number of images: expected at most {MAX_IMAGES}, found 10000")
    check_untouched(lab, said, canary)


def make_adopted(lab: Lab) -> list[CraftedDisk]:
    """Disks whose lies do not matter, or that stand just within the limits."""
    deep = CraftedDisk(lab.folder / "deep.raw", (tuple(f"layer {number}" for number in range(125)), ("deep:1",)))
    greedy = CraftedDisk(lab.folder / "greedy.raw", (("greedy",), ("busybox:test", "greedy:1")))
    # Tags of an image that the disk does not have, in a file that we do not read.
    tags = {"app": {"app:1": str(image_id(("nothing",)))}, "stray": {"stray:1": str(image_id(("nothing",)))}}
    greedy.put_file(DISK.repositories, json.dumps({"Repositories": tags}).encode())
    plain = CraftedDisk(lab.folder / "plain.raw", (("plain",), ("plain:1",)))
    plain.remove(INDEX_NAME)
    tags["plain"] = {
        "plain:1": str(image_id(("plain",))),
        "plain:2": "nothing",
        "plain:../3": str(image_id(("plain",))),
    }
    plain.put_file(DISK.repositories, json.dumps({"Repositories": tags}).encode())
    plain.label = "dpl-plain"
    return [deep, greedy, plain]


def test_docker_starts_after_all_of_them_at_once(lab: Lab, canary: dict[str, object]) -> None:
    """What is adopted cannot take the user's names, nor give names to images that it does not have."""
    user, good = busybox_image(), app_image()
    with ExitStack() as stack:
        refused: dict[Path, str] = {}
        adopted = make_adopted(lab)
        for disk, reason in [
            *((write_disk(lab.folder, lab.canary, name), reason) for name, (_, reason) in REFUSED.items()),
            *((disk.write(), "") for disk in adopted),
        ]:
            loop = Loop()
            stack.callback(loop.close)
            loop.open(disk)
            refused[loop.node] = reason
        stack.callback(lab.reset)
        said = lab.sync(*refused, timeout=4 * PASS_BOUND)
        assert "Traceback" not in said
        for device, reason in refused.items():
            if reason:
                check_refused(lab, device, said, reason)
        assert lab.mounted() == {lab.good_label, *(disk.label for disk in adopted)}
        assert snapshot(lab.canary) == canary
        assert re.search("busybox:test stays with image", said)
        with Dockerd(lab.docker) as dockerd:
            listed = dockerd.docker("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
            deep, greedy, plain = (disk.index.images[0].image_id for disk in adopted)
            expected = dict.fromkeys(good.references, good.image_id)
            expected |= {"busybox:test": user.image_id, "deep:1": deep, "greedy:1": greedy, "plain:1": plain}
            assert sorted(listed) == sorted(f"{name} {image}" for name, image in expected.items())
            assert dockerd.run("app:1") == "hello from app\n"
            assert dockerd.run("busybox:test", "echo", "ok") == "ok\n"


def test_the_daemon_lives_on_and_names_each_of_them(tree: Path, tmp_path: Path) -> None:
    """Hot-plugged one after the other; udev shows the daemon those whose label is like ours."""
    plugged: dict[str, str] = {}
    with NspawnGuest(tree, [make_raw_disk(tmp_path / "good", busybox_image())]) as guest:
        for name, (_, reason) in REFUSED.items():
            if not name.startswith(("label", "no label")):
                plugged[guest.attach(write_disk(tmp_path, tmp_path / "canary", name))] = reason
        guest.wait_until_succeeds(f"[ $(docker-preloader status | grep -c '^  disk .* refused ') = {len(plugged)} ]")
        guest.succeed("journalctl --sync")
        journal = guest.journal("docker-preloader", lines=4 * len(plugged))
        assert "Traceback" not in journal
        for device, reason in plugged.items():
            (line,) = [line for line in journal.splitlines() if f"not mounting {device}: " in line]
            assert re.search(reason, line)
        assert guest.succeed("systemctl show --property=NRestarts --value docker-preloader").strip() == "0"
        assert guest.succeed("ls /run/docker-preloader/disks").split() == [inspect_disk(tmp_path / "good.raw").label]
        assert guest.succeed("docker images --all --no-trunc --quiet").split() == [busybox_image().image_id]
        assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"
