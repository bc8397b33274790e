"""Folders as trees, the same whoever has them where; what no layer can hold is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from preloader_agent.errors import InputError
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import walk
from preloader_agent.host.image.folder import read_folder
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import DIR, FIFO, REG, SYM

NOT_UTF8 = b"\xff\n" + b"n" * 248


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(BlockFile(tmp_path / "blocks"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def tree_of(folder: Path, content: Content) -> dict[bytes, Node]:
    return dict(walk(read_folder(folder, content, 7)))


def test_what_a_folder_has(folder: Path, content: Content) -> None:
    file = folder / os.fsdecode(NOT_UTF8)
    file.write_bytes(b"hello")
    file.chmod(0o4750)
    (folder / "d").mkdir(mode=0o700)
    (folder / "d" / "again").hardlink_to(file)
    (folder / "dangling").symlink_to("/nowhere")
    os.mkfifo(folder / "fifo", 0o600)
    found = tree_of(folder, content)
    assert {path: (node.type, node.uid, node.gid, node.mtime_ns) for path, node in found.items()} == {
        path: (kind, 0, 0, 7 * 10**9)
        for path, kind in ((b"d", DIR), (b"d/again", REG), (b"dangling", SYM), (b"fifo", FIFO), (NOT_UTF8, REG))
    }
    assert found[b"d/again"] is found[NOT_UTF8]
    assert [found[path].mode for path in (b"d", NOT_UTF8, b"dangling", b"fifo")] == [0o700, 0o4750, 0o777, 0o600]
    assert (found[b"dangling"].target, found[NOT_UTF8].size) == (b"/nowhere", 5)
    assert b"".join(content.read(found[NOT_UTF8])) == b"hello"


def test_holes_are_read_as_zeros(folder: Path, content: Content) -> None:
    with (folder / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    node = tree_of(folder, content)[b"sparse"]
    assert b"".join(content.read(node)) == bytes(5 << 20) + b"end"


def test_xattrs_of_users_and_no_others(folder: Path, content: Content) -> None:
    (folder / "x").touch()
    try:
        os.setxattr(folder / "x", "user.note", b"\0=")
    except OSError as err:
        pytest.skip(f"needs xattrs in {folder}: {err}")
    if os.geteuid() == 0:
        os.setxattr(folder / "x", "trusted.note", b"root's")
    assert tree_of(folder, content)[b"x"].xattrs == {b"user.note": b"\0="}
    os.setxattr(folder / "x", "user.a=b", b"x")
    with pytest.raises(InputError, match=r"has an xattr 'user\.a=b' that no tar can hold"):
        tree_of(folder, content)


def test_sockets_are_refused(folder: Path, content: Content) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
        with pytest.raises(InputError, match="/folder/socket': is a socket, which no image can hold; remove it"):
            tree_of(folder, content)


def test_names_of_markers_are_refused(folder: Path, content: Content) -> None:
    """dockerd would take them for what they say, and remove files of the base."""
    (folder / "etc").mkdir()
    (folder / "etc" / ".wh.passwd").touch()
    with pytest.raises(InputError, match=r"/etc/\.wh\.passwd': would remove what is below it in the image"):
        tree_of(folder, content)


def test_a_file_that_is_gone_when_it_is_read(folder: Path, content: Content) -> None:
    (folder / "x").write_text("x")
    node = tree_of(folder, content)[b"x"]
    (folder / "x").unlink()
    with pytest.raises(InputError, match=r"/folder/x: cannot be read: No such file or directory"):
        list(content.read(node))


def test_content_is_compared_whatever_it_is_kept_in(folder: Path, tmp_path: Path) -> None:
    blocks = BlockFile(tmp_path / "other")
    content = Content(blocks)
    (folder / "x").write_bytes(bytes(5000) + b"x" * 5000)
    found = tree_of(folder, content)[b"x"]
    same = Node(REG, size=10000, extents=blocks.append([bytes(5000) + b"x" * 5000]))
    other = Node(REG, size=10000, extents=blocks.append([bytes(5000) + b"x" * 4999 + b"y"]))
    longer = Node(REG, size=10001, extents=same.extents)
    assert [content.is_same(found, node) for node in (same, other, longer)] == [True, False, False]
    assert content.is_same(Node(REG), Node(REG))
