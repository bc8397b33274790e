"""A layer's members become the tree that dockerd would unpack, and what it refuses is refused."""

from __future__ import annotations

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.tree import Node, size_of
from tests.host.tars import read_tree
from tests.images.layer import (
    EPOCH_NS,
    Entry,
    character_device,
    directory,
    fifo,
    file,
    hard_link,
    make_layer,
    opaque,
    symlink,
    whiteout,
)

WHITEOUT = Node(b"", b"3", mode=0)


def tree_of(*entries: Entry) -> tuple[dict[bytes, Node], list[bytes]]:
    return read_tree(make_layer(entries))


def nodes_of(*entries: Entry) -> dict[bytes, Node]:
    return tree_of(*entries)[0]


def problem_of(*entries: Entry) -> str:
    with pytest.raises(InvalidArchive) as raised:
        tree_of(*entries)
    return str(raised.value)


def test_metadata_is_kept() -> None:
    nodes = nodes_of(
        file("f", b"12345", 0o4755).owned(1, 2).having(**{"user.a": b"\0"}),
        symlink("s", "../anywhere"),
        character_device("c", 1, 3, 0o600),
        fifo("p"),
    )
    assert nodes[b"f"] == Node(b"f", b"0", 0o4755, 1, 2, 5, EPOCH_NS, xattrs={b"user.a": b"\0"})
    assert nodes[b"s"].target == b"../anywhere"
    assert (nodes[b"c"].device, nodes[b"c"].mode) == ((1, 3), 0o600)
    assert nodes[b"p"].type == b"6"


def test_whiteouts_are_devices() -> None:
    nodes = nodes_of(directory("d"), whiteout("d/gone").owned(3, 4), whiteout("top"))
    assert nodes[b"d/gone"] == Node(b"d/gone", b"3", 0, 3, 4)
    assert nodes[b"top"] == Node(b"top", b"3", 0)
    assert not any(b".wh." in path for path in nodes)


def test_opaque_marker_is_an_attribute_of_its_folder() -> None:
    nodes, found = tree_of(directory("d"), opaque("d"), opaque("implied"))
    assert found == [b"d", b"implied"]
    assert nodes.keys() == {b"d", b"implied"}


def test_file_wins_over_its_whiteout() -> None:
    """In whatever order of folders; dockerd removes the device that it has just made."""
    nodes = nodes_of(whiteout("a"), file("a", "x"), whiteout("b"), directory("b"))
    assert (nodes[b"a"].type, nodes[b"b"].type) == (b"0", b"5")


def test_aufs_markers_are_whiteouts() -> None:
    """dockerd has no special case for them when it unpacks into an overlay."""
    assert nodes_of(whiteout(".wh.aufs"))[b".wh.aufs"].type == b"3"


def test_implied_parents() -> None:
    nodes = nodes_of(file("a/b/c", "x"))
    assert list(nodes) == [b"a", b"a/b", b"a/b/c"]
    assert nodes[b"a"] == Node(b"a", b"5", 0o755, 0, 0, 0, 0)
    named_later = nodes_of(file("a/b", "x"), directory("a", 0o700).owned(5, 5))
    assert (named_later[b"a"].mode, named_later[b"a"].uid) == (0o700, 5)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./a", b"a"),
        ("/a", b"a"),
        ("//a", b"a"),
        ("../../a", b"a"),
        ("b/../a", b"a"),
        ("b/./a", b"b/a"),
        ("b//a", b"b/a"),
        ("a/.", b"a"),
    ],
)
def test_names_stay_in_the_layer(name: str, path: bytes) -> None:
    assert list(nodes_of(file(name, "x")))[-1] == path


def test_the_root_itself_is_left_out() -> None:
    assert nodes_of(directory("./", 0o700), directory("/", 0o711)) == {}


def test_times_are_those_that_a_file_can_have() -> None:
    nodes = nodes_of(file("early").at(-(10**9)), file("late").at((1 << 40) * 10**9))
    assert nodes[b"early"].mtime_ns == 0
    assert nodes[b"late"].mtime_ns == 15_032_385_535 * 10**9


def test_hard_link_targets_are_paths_in_the_layer() -> None:
    target = file("d/f", "x")
    assert nodes_of(target, hard_link("l", Entry(name=b"/d/../d/f")))[b"l"].target == b"d/f"


def test_hard_link_to_a_whiteout_or_to_another_layer() -> None:
    assert "'l' is a hard link to 'l', which is not in the layer" in problem_of(hard_link("l", file("l")))
    for entries in ((), (directory("f"),), (whiteout("f"),)):
        assert "'l' is a hard link to 'f', which is not in the layer" in problem_of(
            *entries, hard_link("l", file("f", "x"))
        )


def test_other_names_of_the_same_path() -> None:
    """dockerd takes "a" and "/a" for two, and lets the second replace the first."""
    assert nodes_of(directory("a", 0o700), directory("/a", 0o711))[b"a"].mode == 0o711
    for first, second in ((file("a"), file("/a")), (directory("a"), file("/a")), (file("a/b"), file("a"))):
        assert "replaces 'a' of the same layer; that cannot be written to a disk" in problem_of(first, second)


def test_duplicates() -> None:
    """tar-split refuses them by cleaned names."""
    assert problem_of(file("a", "x"), file("a", "y")) == "layer: 'a' stands in it twice, which dockerd refuses, too"
    assert "stands in it twice" in problem_of(directory("a"), directory("./a"))
    assert "stands in it twice" in problem_of(whiteout("a"), whiteout("./a"))


def test_whiteout_of_what_the_layer_adds() -> None:
    for entries in ([file("a", "x")], [directory("a")], [file("a/b", "x")]):
        assert problem_of(*entries, whiteout("a")).startswith("layer: '.wh.a' removes what the same layer adds")


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh...", ".wh...", ".wh."])
def test_whiteout_of_no_name(name: str) -> None:
    """It must never be written: ".wh..." would be "..", which is outside of the folder, or of the layer."""
    assert "removes what the same layer adds" in problem_of(file(name))


def test_names_and_targets_that_no_file_can_have() -> None:
    assert "has a name of more than 255 bytes" in problem_of(file("n" * 256))
    assert "has a name of more than 255 bytes" in problem_of(file("d/" + "n" * 256 + "/x"))
    assert "is a link to 4096 bytes, expected 1 to 4095" in problem_of(symlink("s", "t" * 4096))
    assert "is a link to 0 bytes, expected 1 to 4095" in problem_of(symlink("s", ""))
    assert nodes_of(file("n" * 255), symlink("s", "t" * 4095)).keys() == {b"n" * 255, b"s"}


def test_below_what_is_no_directory() -> None:
    for entry in (file("a", "x"), symlink("a", "b")):
        assert problem_of(entry, file("a/b", "x")) == "layer: 'a/b' is below 'a', which is not a directory"
    assert problem_of(whiteout("a"), file("a/b", "x")) == "layer: 'a/b' is below 'a', which a whiteout removes"


@pytest.mark.parametrize("name", ["other.namespace", "user.", "plain", "user." + "n" * 256, "user.a\nb"])
def test_attributes_that_ext4_cannot_hold(name: str) -> None:
    assert "which ext4 cannot hold" in problem_of(file("f").having(**{name: b"x"}))


def test_size_is_that_of_files_and_links() -> None:
    nodes = nodes_of(file("f", "12345"), symlink("s", "1234567"), directory("d"), hard_link("l", file("f")), fifo("p"))
    assert sum(map(size_of, nodes.values())) == 12
