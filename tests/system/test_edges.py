"""At the edges of what a tar can say: a disk holds what a real dockerd unpacks, and what it refuses is refused.

The layers' own trees are compared, whiteouts and opaque directories as they are on disk, and not what a container sees.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from preloader_agent.errors import CommandFailed, InputError
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import environment, run
from preloader_agent.store.digest import CacheID, ChainID, ImageID
from preloader_agent.store.layout import Store
from tests.agent import Agent
from tests.dockerd import Dockerd
from tests.images import Image, write_docker_archive
from tests.images.edges import EDGES
from tests.system.test_differential import saved_diff_ids
from tests.tree import Node, Tree, describe_tree, tree_differences

IMAGES = {name: Image(layers) for name, layers in EDGES.items()}
# dockerd loads sparse members of PAX form, and can never save them again; we say so before it is too late.
REFUSED_BY_US = frozenset({"sparse_pax_0", "sparse_pax_1"})
# dockerd records data that a directory, link or device does not have, or padding that is not there, so it cannot save
# them again (with a fifo it waits for ever; with /dev/null it is lucky). Our tar-split is another, and right.
SAVED_BY_US = frozenset(
    {
        "link_with_size",
        "pax_size_of_directory",
        "size_of_device",
        "size_of_directory",
        "size_of_fifo",
        "size_of_symlink",
        "size_of_whiteout_directory",
        "truncated_in_padding",
        "truncated_pax_padding",
    }
)
# What Docker changed after 20.10: an attribute without a value is one, and one that the file system does not know is
# refused and not passed over; zstd is recognised. We do as the old one did with attributes, as the new one with zstd.
UNLIKE_NEW_DOCKER = frozenset(
    {
        "acl_access_bad",
        "acl_access_of_symlink",
        "xattr_empty",
        "xattr_no_namespace",
        "xattr_system",
        "xattr_trusted_overlay",
        "xattr_unknown_namespace",
    }
)
UNLIKE_OLD_DOCKER = frozenset({"name_like_zstd"})
NEW_DOCKER = 23  # the major version; 20.10 and 26.1 are those that were tried
SAVE_BOUND = 60.0  # seconds; a save takes 0.02
SEGMENT = 2  # tar-split's type of raw bytes


@dataclass(frozen=True)
class Outcome:
    """What became of all edges; a disk holds those that both accept, and the second dockerd has adopted it."""

    archives: Mapping[str, Path]
    disks: Mapping[str, Path]
    failures: Mapping[str, Exception]  # of preloader
    refusals: Mapping[str, str]  # of dockerd
    load: range  # when it loaded, in nanoseconds
    version: str  # of Docker
    loaded: Dockerd
    adopted: Dockerd


class StoredLayer(NamedTuple):
    """What a data root holds of a layer."""

    tree: Tree  # with the directory "diff" itself
    size: bytes
    tar_split: bytes


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-edges-")))
        archives = {
            name: write_docker_archive([image], folder / f"{name.replace('_', '-')}.tar")
            for name, image in IMAGES.items()
        }
        disks = {name: archive.with_suffix(".qcow2") for name, archive in archives.items()}
        failures = build_disks(archives, disks)
        loaded = stack.enter_context(Dockerd(ext4(stack, folder) / "loaded"))
        began = time.time_ns() - 10**9  # the kernel's clock for files lags behind by a few milliseconds
        refusals = load([[name for name in EDGES if name not in failures], *([name] for name in failures)], loaded)
        window = range(began, time.time_ns() + 1)
        both = [archive for name, archive in archives.items() if name not in failures and name not in refusals]
        build_disk(both, folder / "all.qcow2")
        agent = stack.enter_context(Agent(folder / "agent", folder / "adopted" / "root"))
        agent.attach(folder / "all.qcow2")
        adopted = stack.enter_context(Dockerd(folder / "adopted"))
        version = loaded.docker("version", "--format", "{{.Server.Version}}").strip()
        yield Outcome(archives, disks, failures, refusals, window, version, loaded, adopted)


def ext4(stack: ExitStack, folder: Path) -> Path:
    """An empty file system of the kind that a disk has, because it decides which times and attributes there can be."""
    mount = folder / "ext4"
    mount.mkdir()
    run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-I", "256", folder / "ext4.raw", "1G"])
    run(["mount", "-o", "loop", folder / "ext4.raw", mount])
    stack.callback(run, ["umount", mount])
    return mount


def build_disks(archives: Mapping[str, Path], disks: Mapping[str, Path]) -> dict[str, Exception]:
    """A disk of each archive, and why there is none of the others."""
    failures: dict[str, Exception] = {}
    for name, archive in archives.items():
        try:
            build_disk([archive], disks[name])
        except Exception as err:  # whatever it is, it fails the test of this edge and of no other
            failures[name] = err
    return failures


def load(batches: Iterable[Sequence[str]], dockerd: Dockerd) -> dict[str, str]:
    """Load images, a batch at once while dockerd refuses none of it; returns what it says of those that it refuses."""
    refusals: dict[str, str] = {}
    for batch in batches:
        left = list(batch)
        while left:
            message = load_archive([IMAGES[name] for name in left], dockerd)
            while left and is_loaded(IMAGES[left[0]], dockerd):
                left.pop(0)
            if message:
                refusals[left.pop(0)] = message
    return refusals


def load_archive(images: Sequence[Image], dockerd: Dockerd) -> str:
    """Load images until one is refused; returns dockerd's message."""
    archive = write_docker_archive(images, dockerd.folder / "batch.tar")
    try:
        dockerd.docker("load", "--input", archive)
    except CommandFailed as err:
        return err.output
    return ""


def is_loaded(image: Image, dockerd: Dockerd) -> bool:
    return Path(Store(str(dockerd.data_root)).image_config(ImageID(image.image_id))).exists()


# --- one edge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDGES)
def test_edge(outcome: Outcome, name: str, tmp_path: Path) -> None:
    failure = outcome.failures.get(name)
    if failure and not isinstance(failure, InputError):
        raise failure
    skip_unlike(outcome.version, name)
    if name in REFUSED_BY_US:
        assert failure is not None
        assert not is_saved(IMAGES[name], outcome.loaded, tmp_path)
    elif failure or name in outcome.refusals:
        assert_both_refuse(outcome, name)
    else:
        assert_sound(outcome.disks[name], tmp_path)
        assert_same_layers(outcome, name)
        if name in SAVED_BY_US or is_saved(IMAGES[name], outcome.loaded, tmp_path):
            assert is_saved(IMAGES[name], outcome.adopted, tmp_path)


def skip_unlike(version: str, name: str) -> None:
    is_new = int(version.partition(".")[0]) >= NEW_DOCKER
    if name in (UNLIKE_NEW_DOCKER if is_new else UNLIKE_OLD_DOCKER):
        pytest.skip(f"Docker {version} makes something else of it")


def assert_both_refuse(outcome: Outcome, name: str) -> None:
    """A message of ours says in which file of which archive the trouble is; dockerd's does not."""
    failure, refusal = outcome.failures.get(name), outcome.refusals.get(name)
    assert failure, f"dockerd refuses it: {refusal}"
    assert refusal, f"dockerd accepts it, but not preloader: {failure}"
    assert str(failure).startswith(f"{outcome.archives[name]}: ")


def assert_sound(disk: Path, folder: Path) -> None:
    run(["qemu-img", "convert", "-O", "raw", disk, folder / "disk.raw"])
    run(["e2fsck", "-f", "-n", folder / "disk.raw"])


def assert_same_layers(outcome: Outcome, name: str) -> None:
    for chain_id in IMAGES[name].chain_ids:
        loaded, adopted = stored_layer(outcome.loaded, chain_id), stored_layer(outcome.adopted, chain_id)
        expected = {path: without_time_of(outcome.load, node) for path, node in loaded.tree.items()}
        assert tree_differences(expected, adopted.tree) == []
        assert adopted.size == loaded.size
        assert name in SAVED_BY_US or split(adopted.tar_split) == split(loaded.tar_split)


def is_saved(image: Image, dockerd: Dockerd, folder: Path) -> bool:
    """Whether `docker save` gives each layer bit by bit."""
    try:
        dockerd.docker("save", "--output", folder / "saved.tar", image.image_id, timeout=SAVE_BOUND)
    except CommandFailed:
        return False
    return saved_diff_ids(folder / "saved.tar") == image.diff_ids


def stored_layer(dockerd: Dockerd, chain_id: str) -> StoredLayer:
    store = Store(str(dockerd.data_root))
    record = Path(store.layer_record(ChainID(chain_id)))
    diff = Path(store.diff(CacheID((record / "cache-id").read_text()))).resolve()
    beside = {path.name.encode() for path in diff.parent.iterdir()} - {b"diff"}
    tree = describe_tree(diff.parent, skip=beside)
    return StoredLayer(tree, (record / "size").read_bytes(), (record / "tar-split.json.gz").read_bytes())


def without_time_of(load: range, node: Node) -> Node:
    """Where no member gives a directory or whiteout its time, dockerd leaves that of the load; a disk has 1970."""
    is_whiteout = node.type == "character device" and node.device == (0, 0)
    is_now = node.mtime_ns in load and (node.type == "directory" or is_whiteout)
    return replace(node, mtime_ns=0) if is_now else node


def split(tar_split: bytes) -> tuple[list[list[tuple[str, object]]], bytes]:
    """The records of tar-split up to the last member, and the raw bytes behind it, however they are cut into segments.

    Records are parsed, because Go 1.22 changed how it writes some control characters in a name.
    """
    records = [json.loads(line, object_pairs_hook=list) for line in gzip.decompress(tar_split).splitlines()]
    tail = b""
    while records and ("type", SEGMENT) in records[-1]:
        tail = b64decode(dict(records.pop())["payload"]) + tail
    return records, tail
