"""A disk may lie: what it claims is checked, and nothing outside it is touched or read."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preloader_agent.errors import DigestMismatch, InvalidDisk, PreloaderError
from preloader_agent.guest.beneath import read_beneath
from preloader_agent.guest.disks import Disk, read_disk
from preloader_agent.guest.plan import plan_merge
from preloader_agent.guest.storestate import read_store
from preloader_agent.store.digest import sha256_digest
from preloader_agent.store.index import (
    MAX_CONTAINER_BYTES,
    MAX_INDEX_BYTES,
    ContainerRecord,
    DiskIndex,
    encode_index,
)
from preloader_agent.store.layout import Store
from tests.guest.disks import image_id, make_disk, snapshot

APP = ("base", "app")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return make_disk(tmp_path / "disks", (APP, ("app:1",)))


def diff_of(disk: Disk) -> Path:
    return Path(disk.store.diff(disk.contents.layers[0].cache_id))


def make_diff_a_symlink(disk: Disk) -> None:
    diff_of(disk).rmdir()
    diff_of(disk).symlink_to("/etc")


def make_overlay2_a_symlink(disk: Disk) -> None:
    elsewhere = Path(disk.store.root).with_name("elsewhere")
    Path(disk.store.layers).rename(elsewhere)
    Path(disk.store.layers).symlink_to(elsewhere)


def make_index_a_symlink(disk: Disk) -> None:
    index = Path(disk.store.index_file)
    index.rename(index.with_name("other"))
    index.symlink_to("other")


def make_index_a_fifo(disk: Disk) -> None:
    os.unlink(disk.store.index_file)
    os.mkfifo(disk.store.index_file)


def make_index_huge(disk: Disk) -> None:
    os.truncate(disk.store.index_file, MAX_INDEX_BYTES + 1)


def make_tar_split_a_symlink(disk: Disk) -> None:
    """dockerd reads it for `docker save`, and would follow the link."""
    path = Path(disk.store.tar_split(disk.contents.layers[0].chain_id))
    path.unlink()
    path.symlink_to("/etc/shadow")


def make_tar_split_a_fifo(disk: Disk) -> None:
    path = disk.store.tar_split(disk.contents.layers[0].chain_id)
    os.unlink(path)
    os.mkfifo(path)


def remove_a_layer(disk: Disk) -> None:
    diff_of(disk).rmdir()


def remove_the_index(disk: Disk) -> None:
    os.unlink(disk.store.index_file)


@pytest.mark.parametrize(
    "damage",
    [
        make_diff_a_symlink,
        make_overlay2_a_symlink,
        make_index_a_symlink,
        make_index_a_fifo,
        make_index_huge,
        make_tar_split_a_symlink,
        make_tar_split_a_fifo,
        remove_a_layer,
        remove_the_index,
    ],
)
def test_a_disk_that_lies_is_refused(disk: Disk, damage: Callable[[Disk], None]) -> None:
    damage(disk)
    with pytest.raises(InvalidDisk, match="build the disk again"):
        read_disk(disk.store.root, disk.device)


def test_a_configuration_that_is_not_the_images_is_refused(disk: Disk) -> None:
    Path(disk.store.image_config(image_id(APP))).write_bytes(b"{}")
    with pytest.raises(DigestMismatch, match="image configuration: expected sha256:"):
        read_disk(disk.store.root, disk.device)


def test_a_configuration_that_names_other_layers_than_the_index_is_refused(disk: Disk) -> None:
    (image,) = disk.contents.images
    base = disk.contents.layers_by_chain()[image.chain[0]]
    index = DiskIndex((image._replace(chain=image.chain[:1]),), (base,), "tests")
    Path(disk.store.index_file).write_bytes(encode_index(index))
    with pytest.raises(InvalidDisk, match="has other layers than its configuration names"):
        read_disk(disk.store.root, disk.device)


def test_a_label_that_is_not_the_contents_is_refused(disk: Disk) -> None:
    other = disk.store.root.replace(disk.label, "dpl-000000000000")
    os.rename(disk.store.root, other)
    with pytest.raises(InvalidDisk, match=f"is not labelled {disk.label}, as its content asks for"):
        read_disk(other, disk.device)


def test_planning_reads_and_writes_nothing_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    before = snapshot(Path(disk.store.root))
    plan_merge([disk], read_store(Store(str(tmp_path / "docker"))), {})
    assert snapshot(Path(disk.store.root)) == before


def test_a_path_with_a_symlink_in_it_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert read_beneath(str(tmp_path), "real/file", 10) == b"x"
    with pytest.raises(InvalidDisk, match="link/file: cannot be read"):
        read_beneath(str(tmp_path), "link/file", 10)


DEFINITION = b'image = "app:1"'


@pytest.fixture
def definition(disk: Disk) -> tuple[Disk, Path]:
    """A disk that brings a container, and its definition."""
    path = Path(disk.store.container_definition("web"))
    path.parent.mkdir()
    path.write_bytes(DEFINITION)
    record = ContainerRecord("web", len(DEFINITION), sha256_digest(DEFINITION))
    return disk._replace(contents=disk.contents._replace(containers=(record,))), path


def test_a_definition_is_what_the_index_says(definition: tuple[Disk, Path]) -> None:
    disk, path = definition
    (record,) = disk.contents.containers
    assert disk.read_definition(record) == DEFINITION
    path.write_bytes(DEFINITION + b"\nprivileged = true")
    with pytest.raises(DigestMismatch, match=r"containers/web\.toml: expected sha256:"):
        disk.read_definition(record)


@pytest.mark.parametrize("how", ["is absent", "is a symlink", "is below a symlink", "is a FIFO", "is huge"])
def test_a_definition_that_is_no_file_of_its_own_is_not_read(definition: tuple[Disk, Path], how: str) -> None:
    """Even where what it leads to would have the right content."""
    disk, path = definition
    path.rename(path.with_name("elsewhere"))
    if how == "is a symlink":
        path.symlink_to("elsewhere")
    elif how == "is below a symlink":
        path.with_name("elsewhere").rename(path)
        path.parent.rename(path.parent.with_name("elsewhere"))
        path.parent.symlink_to("elsewhere")
    elif how == "is a FIFO":
        os.mkfifo(path)
    elif how == "is huge":
        path.write_bytes(bytes(MAX_CONTAINER_BYTES + 1))
    with pytest.raises(InvalidDisk, match=r"containers/web\.toml: .*build the disk again"):
        disk.read_definition(disk.contents.containers[0])


def test_descriptors_are_closed(disk: Disk) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what other tests have left open
    before = count()
    for _ in range(20):
        read_disk(disk.store.root, disk.device)
    remove_a_layer(disk)
    for _ in range(20):
        with pytest.raises(PreloaderError):
            read_disk(disk.store.root, disk.device)
    assert count() == before
