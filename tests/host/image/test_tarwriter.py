"""Trees as tars: what dockerd would read of them, and what tarfile and GNU tar do, is what the nodes say."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preloader_agent.errors import InputError
from preloader_agent.host.image.filesystem import walk
from preloader_agent.host.image.tarwriter import tar_chunks
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.run import run
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, REG, SYM
from preloader_agent.host.tree import OPAQUE_XATTR
from tests.host.tars import nodes_below, read_members, read_tree
from tests.images.catalogue import CAP_NET_RAW
from tests.strategies import bounded

SECOND = 10**9


def tar_of(root: Node, content: bytes = b"", mtime_ns: int | None = None) -> bytes:
    return b"".join(tar_chunks(root, lambda _: iter([content]), mtime_ns))


def root_with(**children: Node) -> Node:
    return replace(make_directory(), children={name.encode(): node for name, node in children.items()})


def read_again(root: Node, content: bytes = b"") -> dict[bytes, Node]:
    return nodes_below(read_tree(tar_of(root, content)).root)


def test_everything_that_a_node_says_arrives() -> None:
    linked = Node(REG, 0o4755, uid=1, gid=2, mtime_ns=5 * SECOND, size=5, xattrs={b"security.capability": CAP_NET_RAW})
    inside = root_with(x=linked)
    root = root_with(
        a=linked,
        b=Node(SYM, 0o777, target=b"/nowhere", uid=3_000_000, gid=4_000_000_000),
        c=Node(CHR, 0o666, device=(1, 3)),
        d=Node(BLK, 0o660, device=(7, 300)),
        e=Node(FIFO, 0o600, mtime_ns=-SECOND - 1),
        f=replace(inside, mode=0o1777, xattrs={b"user.note": "café\n=".encode()}, mtime_ns=3 * SECOND + 7),
    )
    found = read_again(root, b"hello")
    for path, node in walk(root):
        for field in ("type", "mode", "uid", "gid", "target", "device", "size", "xattrs"):
            assert getattr(found[path], field) == getattr(node, field), (path, field)
    assert found[b"a"] is found[b"f/x"]
    assert found[b"f"].mtime_ns == 3 * SECOND + 7
    assert [data for member, data in read_members(tar_of(root, b"hello")) if member.size] == [b"hello"]


def test_others_read_the_same() -> None:
    file = Node(REG, 0o640, size=5, uid=1000, mtime_ns=SECOND)
    root = root_with(a=root_with(b=file, c=file), d=Node(SYM, 0o777, target=b"t" * 300))
    with tarfile.open(fileobj=io.BytesIO(tar_of(root, b"hello"))) as tar:
        assert [(member.name, member.type, member.linkname) for member in tar] == [
            ("a", tarfile.DIRTYPE, ""),
            ("a/b", tarfile.REGTYPE, ""),
            ("a/c", tarfile.LNKTYPE, "a/b"),
            ("d", tarfile.SYMTYPE, "t" * 300),
        ]
    listed = run(
        ["tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--utc"], stdin=tar_of(root, b"hello")
    )
    assert listed.splitlines()[1].split() == ["-rw-r-----", "1000/0", "5", "1970-01-01", "00:00:01", "a/b"]


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 250])
@pytest.mark.parametrize("make", [lambda length: b"n" * length, lambda length: b"\xff" * length])
def test_names_of_any_bytes_and_length(make: Callable[[int], bytes], length: int) -> None:
    name = make(length)
    file = Node(REG, size=5)
    root = replace(make_directory(), children={name: replace(make_directory(), children={name: file, b"z": file})})
    found = read_again(root, b"hello")
    assert found.keys() == {name, name + b"/" + name, name + b"/z"}
    assert found[name + b"/z"] is found[name + b"/" + name]


def test_what_hides_becomes_markers() -> None:
    opaque = replace(root_with(x=Node(REG)), xattrs=dict([OPAQUE_XATTR]))
    members = read_members(tar_of(root_with(d=opaque, e=root_with(gone=Node(CHR, 0, uid=5)))))
    assert [member.name for member, _ in members] == [b"d/", b"d/.wh..wh..opq", b"d/x", b"e/", b"e/.wh.gone"]
    assert not any(member.xattrs for member, _ in members)
    found = read_again(root_with(d=opaque, gone=Node(CHR, 0)))
    assert found[b"d"].xattrs == dict([OPAQUE_XATTR])
    assert (found[b"gone"].type, found[b"gone"].device) == (CHR, (0, 0))


def test_one_time_for_all_of_it() -> None:
    root = root_with(a=Node(REG, mtime_ns=7), b=Node(CHR, 0, mtime_ns=8), c=replace(make_directory(), mtime_ns=9))
    assert {member.mtime_ns for member, _ in read_members(tar_of(root, mtime_ns=SECOND))} == {SECOND}


def test_of_8_gib_and_more_the_header_cannot_say_the_size() -> None:
    chunks = tar_chunks(root_with(a=Node(REG, size=1 << 33)), lambda _: iter([bytes(1)]))
    assert b" size=8589934592\n" in next(chunks)


@pytest.mark.parametrize("content", [b"", b"four", b"sixsix"])
def test_content_that_is_not_as_long_as_it_was(content: bytes) -> None:
    with pytest.raises(InputError, match=r"'a': its size is not 5 bytes any more"):
        tar_of(root_with(a=Node(REG, size=5)), content)


names = st.binary(min_size=1, max_size=120).filter(lambda name: name not in {b".", b".."} and not {0, 47} & set(name))
numbers = st.integers(0, 2**32 - 2)
times = st.integers(0, 2**62)
values = st.binary(min_size=1, max_size=30)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    kind = draw(st.sampled_from([REG, SYM, FIFO, DIR]))
    made = Node(kind, draw(st.integers(0, 0o7777)), draw(numbers), draw(numbers), draw(times))
    if kind == SYM:
        return replace(made, mode=0o777, target=draw(st.binary(min_size=1, max_size=300).filter(lambda x: 0 not in x)))
    if kind == DIR:
        made = replace(made, children={})
    return (
        replace(made, xattrs=draw(st.dictionaries(values.map(_xattr_name), values, max_size=2)))
        if kind != FIFO
        else made
    )


def _xattr_name(value: bytes) -> bytes:
    return b"user." + value.translate(None, b"\0=")[:20] + b"x"


@bounded
@given(st.dictionaries(names.filter(lambda name: not name.startswith(b".wh.")), nodes(), max_size=4))
def test_any_tree_is_read_again(children: dict[bytes, Node]) -> None:
    root = replace(make_directory(), children={b"d": replace(make_directory(), children=children)})
    found = read_again(root)
    for path, node in walk(root):
        fields = ("type", "mode", "uid", "gid", "mtime_ns", "target", "xattrs")
        assert [getattr(found[path], field) for field in fields] == [getattr(node, field) for field in fields]


def test_pieces_are_not_put_together() -> None:
    """A file of many gigabytes goes through memory piece by piece."""
    pieces: Iterator[bytes] = (bytes(1 << 20) for _ in range(3))
    chunks = list(tar_chunks(root_with(a=Node(REG, size=3 << 20)), lambda _: pieces))
    assert max(map(len, chunks)) == 1 << 20
