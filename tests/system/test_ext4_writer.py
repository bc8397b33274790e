"""The kernel finds in our file systems what was put there, and looks up every name of a large directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preloader_agent.host.ext4.layout import BLOCK_SIZE, BLOCKS_PER_GROUP
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.run import run
from preloader_agent.host.tarstream import FIFO, REG
from tests.filesystem import COLLISION, Filesystem, check, colliding_names, fill
from tests.images.raw import acl
from tests.system.loop import Loop
from tests.tree import describe_tree, tree_differences

NO_ID = 0xFFFFFFFF
ACL = acl((1, 7, NO_ID), (2, 6, 1000), (2, 5, 70_000), (4, 4, NO_ID), (8, 3, 50), (16, 5, NO_ID), (32, 0, NO_ID))


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """The folder where a sound file system is mounted."""
    check(image)
    folder = image.with_name("mounted")
    folder.mkdir()
    loop = Loop()
    try:
        loop.open(image)
        run(["mount", "-t", "ext4", "-o", "ro", loop.node, folder])
        try:
            yield folder
            assert Path(f"/sys/fs/ext4/{loop.node.name}/errors_count").read_text() == "0\n"
        finally:
            run(["umount", folder])
    finally:
        loop.close()


def test_everything_is_there(tmp_path: Path) -> None:
    filesystem = Filesystem(tmp_path / "x.raw")
    fill(filesystem)
    file, folder = filesystem.put(b"acl/f", filesystem.file(b"text", 0o750)), filesystem.put(b"acl/d", make_directory())
    file.xattrs = {b"system.posix_acl_access": ACL}
    folder.xattrs = {b"system.posix_acl_default": ACL, b"user.note": b"v" * 4000}
    with mounted(filesystem.write()) as found:
        assert tree_differences(filesystem.expected(), describe_tree(found)) == []


def test_content_behind_many_groups(tmp_path: Path) -> None:
    filesystem = Filesystem(tmp_path / "x.raw")
    count = 20 * BLOCKS_PER_GROUP
    filesystem.put(b"large", Node(REG, size=count * BLOCK_SIZE, extents=(filesystem.reserve(count),)))
    filesystem.put(b"behind", filesystem.file(b"text" * 5000))
    with mounted(filesystem.write()) as found:
        assert (found / "behind").read_bytes() == b"text" * 5000
        with (found / "large").open("rb") as file:
            assert file.read(5) == b"start"
            assert file.seek(0, os.SEEK_END) == count * BLOCK_SIZE


def look_up(folder: Path, names: list[bytes]) -> None:
    """Through the index; a list of the directory does not use it."""
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(names)
    for name in names:
        os.lstat(os.path.join(os.fsencode(folder), name))
    assert not (folder / "missing").exists()


def test_every_name_of_a_large_directory_is_looked_up(tmp_path: Path) -> None:
    """The index has two levels from about 100,000 names of this length."""
    filesystem = Filesystem(tmp_path / "x.raw")
    names = [b"%012d" % number for number in range(150_000)]
    for name in names:
        filesystem.put(b"d/" + name, Node(FIFO))
    with mounted(filesystem.write()) as found:
        look_up(found / "d", names)


def test_names_with_the_same_hash_in_two_blocks_are_looked_up(tmp_path: Path) -> None:
    filesystem = Filesystem(tmp_path / "x.raw")
    names = colliding_names()
    assert set(COLLISION) <= set(names)
    for name in names:
        filesystem.put(b"d/" + name, Node(FIFO))
    with mounted(filesystem.write()) as found:
        look_up(found / "d", names)


def test_more_subdirectories_than_links(tmp_path: Path) -> None:
    """A directory has a link for each one in it; with more than 65,000 it says that it has one."""
    filesystem = Filesystem(tmp_path / "x.raw")
    for name, count in ((b"most", 64_998), (b"more", 64_999)):
        for number in range(count):
            filesystem.put(name + b"/%d" % number, make_directory())
    with mounted(filesystem.write()) as found:
        assert (found / "most").stat().st_nlink == 65_000
        assert (found / "more").stat().st_nlink == 1
