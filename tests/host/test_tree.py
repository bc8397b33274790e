"""A layer's members become the tree that dockerd would unpack, and what it refuses is refused.

What dockerd does was asked of a real one: tests/system/test_edges.py still does. Here is what it answered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.node import Extent, Node
from preloader_agent.host.tarstream import Member
from preloader_agent.host.tree import LayerTree
from tests.host.tars import END, header, nodes_below, pax, read_tree
from tests.images.catalogue import CAP_NET_RAW
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
from tests.images.raw import acl

SECOND = 10**9
OPAQUE = {b"trusted.overlay.opaque": b"y"}
CAPABLE = {"security.capability": CAP_NET_RAW}


class Status(NamedTuple):
    """What stat(2) says of a node."""

    type: bytes
    mode: int
    owner: tuple[int, int]
    mtime_ns: int


def status(node: Node) -> Status:
    return Status(node.type, node.mode, (node.uid, node.gid), node.mtime_ns)


def tree_of(*entries: Entry) -> LayerTree:
    return read_tree(make_layer(entries))


def nodes_of(*entries: Entry) -> dict[bytes, Node]:
    return nodes_below(tree_of(*entries).root)


def types_of(*entries: Entry) -> dict[bytes, bytes]:
    return {path: node.type for path, node in nodes_of(*entries).items()}


def problem_of(*entries: Entry) -> str:
    with pytest.raises(InvalidArchive) as raised:
        tree_of(*entries)
    message = str(raised.value)
    assert message.startswith("layer: ")
    return message.removeprefix("layer: ")


# --- what a member says ---


def test_metadata_is_kept() -> None:
    nodes = nodes_of(
        file("f", b"12345", 0o4755).owned(1, 2).having(**{"user.a": b"\0"}),
        symlink("s", "../anywhere"),
        character_device("c", 1, 3, 0o600),
        fifo("p"),
    )
    assert status(nodes[b"f"]) == (b"0", 0o4755, (1, 2), EPOCH_NS)
    assert (nodes[b"f"].size, nodes[b"f"].xattrs) == (5, {b"user.a": b"\0"})
    assert (nodes[b"s"].target, nodes[b"s"].mode) == (b"../anywhere", 0o777)
    assert (nodes[b"c"].device, nodes[b"c"].mode) == ((1, 3), 0o600)
    assert nodes[b"p"].type == b"6"


def test_a_file_is_what_its_data_belong_to() -> None:
    tree = LayerTree("layer")
    (kept, none) = (make_member(b"f"), make_member(b"p", b"6"))
    assert tree.add(kept) is (tree.root.children or {})[b"f"]
    assert tree.add(none) is None
    assert tree.add(make_member(b".wh.g")) is None


def make_member(name: bytes, kind: bytes = b"0", target: bytes = b"") -> Member:
    return Member(name, kind, 0o644, 0, 0, 0, 0, target, (0, 0), b"")


@pytest.mark.parametrize(
    ("mtime_ns", "of_file", "of_symlink"),
    [
        (0, 0, 0),
        (-1, 0, -1),
        (-5 * SECOND, 0, -5 * SECOND),
        ((1 << 31) * SECOND + 5, (1 << 31) * SECOND + 5, (1 << 31) * SECOND + 5),
        ((1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1),
        (1 << 63, 0, -(1 << 31) * SECOND),  # overflows into the year 1677, which ext4 cannot hold
        ((1 << 64) + 7, 0, 7),
        (-(1 << 40) * SECOND, 0, 12_955 << 49),
        (-62_135_596_800 * SECOND, 0, (1 << 30) - 2),  # the year 1 is Go's "no time"
    ],
)
def test_times_are_those_that_dockerd_sets(mtime_ns: int, of_file: int, of_symlink: int) -> None:
    """It has no times before 1970 and after 2262 but for symlinks, whose nanoseconds overflow."""
    tree = LayerTree("layer")
    for name, kind in ((b"f", b"0"), (b"d", b"5"), (b"s", b"2")):
        tree.add(make_member(name, kind, b"f")._replace(mtime_ns=mtime_ns))
    tree.finish()
    found = {name: node.mtime_ns for name, node in nodes_below(tree.root).items()}
    assert found == {b"f": of_file, b"d": of_file, b"s": of_symlink}


@pytest.mark.parametrize(
    ("number", "owner"), [(0xFFFFFFFE, 0xFFFFFFFE), (0xFFFFFFFF, 0), (-1, 0), (-2, 0xFFFFFFFE), ((1 << 32) + 5, 5)]
)
def test_owners_are_32_bits_and_minus_one_is_none(number: int, owner: int) -> None:
    record = b"%d" % number
    tree = read_tree(pax((b"uid", record), (b"gid", record)) + header(b"f") + END)
    node = nodes_below(tree.root)[b"f"]
    assert (node.uid, node.gid) == (owner, owner)


def test_owner_minus_one_leaves_the_owner_that_is_there() -> None:
    first, second = directory("d").owned(5, 6), directory("/d").owned(0xFFFFFFFF, 7)
    node = nodes_of(first, second)[b"d"]
    assert (node.uid, node.gid) == (5, 7)


def test_devices_have_the_numbers_that_the_kernel_keeps() -> None:
    nodes = nodes_of(character_device("c", 4095, 1048575), character_device("large", 4097, 1048577))
    assert nodes[b"c"].device == (4095, 1048575)
    assert nodes[b"large"].device == (1, 1)


@pytest.mark.parametrize("kind", [b"7", b"D", b"V", b"Z", b"\xff"])
def test_unknown_types(kind: bytes) -> None:
    assert problem_of(replace(file("odd"), type=kind)) == f"'odd' has tar type {kind!r}, which dockerd refuses, too"


def test_global_headers_are_no_files() -> None:
    """Their names count as names of members, though: tar-split refuses a second one."""
    comment = pax((b"comment", b"a commit"), kind=b"g")
    assert nodes_below(read_tree(comment + header(b"f") + END).root).keys() == {b"f"}
    with pytest.raises(InvalidArchive, match=r"'PaxHeaders/x' stands in it twice"):
        read_tree(comment + comment + END)


def test_names_cannot_harm_a_terminal() -> None:
    assert problem_of(Entry(name=b"\x1b[31m\xff", type=b"7")).startswith(r"'\x1b[31m\udcff' has tar type")


# --- where a member goes ---


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
        ("..a/b", b"..a/b"),
    ],
)
def test_names_stay_in_the_layer(name: str, path: bytes) -> None:
    assert list(nodes_of(file(name, "x")))[-1] == path


def test_implied_parents() -> None:
    nodes = nodes_of(file("a/b/c", "x"))
    assert list(nodes) == [b"a", b"a/b", b"a/b/c"]
    assert status(nodes[b"a"]) == (b"5", 0o755, (0, 0), 0)
    named_later = nodes_of(file("a/b", "x"), directory("a", 0o700).owned(5, 5))
    assert status(named_later[b"a"]) == (b"5", 0o700, (5, 5), EPOCH_NS)
    assert b"a/b" in named_later


def test_implied_parents_take_the_setgid_bit_of_theirs() -> None:
    nodes = nodes_of(directory("a", 0o2711), file("a/b/c/d", "x"))
    assert (nodes[b"a/b"].mode, nodes[b"a/b/c"].mode) == (0o2755, 0o2755)


def test_root_is_described_by_its_absolute_name_only() -> None:
    tree = tree_of(directory("./", 0o700).owned(1, 1))
    assert status(tree.root) == (b"5", 0o755, (0, 0), 0)
    tree = tree_of(directory("/", 0o711).owned(3, 4).at(5 * SECOND).having(**{"user.a": b"x"}), file("f"))
    assert status(tree.root) == (b"5", 0o711, (3, 4), 5 * SECOND)
    assert tree.root.xattrs == {b"user.a": b"x"}
    assert "would replace the layer's root" in problem_of(file("/"))


def test_duplicates() -> None:
    """tar-split refuses them by cleaned names."""
    assert problem_of(file("a", "x"), file("a", "y")) == "'a' stands in it twice, which dockerd refuses, too"
    assert "stands in it twice" in problem_of(directory("a"), directory("./a"))
    assert "stands in it twice" in problem_of(whiteout("a"), whiteout("./a"))


def test_names_and_targets_that_no_file_can_have() -> None:
    assert "has a name of more than 255 bytes" in problem_of(file("n" * 256))
    assert "has a name of more than 255 bytes" in problem_of(file("d/" + "n" * 256 + "/x"))
    assert "is a link to 4096 bytes, expected 1 to 4095" in problem_of(symlink("s", "t" * 4096))
    assert "is a link to 0 bytes, expected 1 to 4095" in problem_of(symlink("s", ""))
    nodes = nodes_of(file("n" * 255), symlink("s", "t" * 4095), whiteout("w" * 255))
    assert nodes.keys() == {b"n" * 255, b"s", b"w" * 255}


def test_paths_that_dockerd_cannot_use_below_its_store() -> None:
    longest = "/".join(["d" * 249] * 16)[:4000]
    assert len(longest) == 3999
    assert f"is a path of {3999 + 2} bytes; dockerd can use at most 4000" in problem_of(file(longest + "ab"))
    assert len(nodes_of(file(longest + "a"))) == 16


# --- what stands in the way is replaced ---


def test_file_over_file() -> None:
    tree = tree_of(file("a", "old").having(**{"user.a": b"x"}), file("/a", "again", 0o600))
    node = nodes_below(tree.root)[b"a"]
    assert (node.size, node.mode, node.xattrs, node.extents) == (5, 0o600, {}, (Extent(0, 1, 1),))
    assert tree.unused == [Extent(0, 0, 1)]
    assert tree.size() == 5


def test_file_over_directory_and_all_in_it() -> None:
    tree = tree_of(file("d/e/f", "1"), file("d/g", "2"), symlink("d/s", "e"), file("/d", "3"))
    assert {path: node.type for path, node in nodes_below(tree.root).items()} == {b"d": b"0"}
    assert sorted(tree.unused) == [Extent(0, 0, 1), Extent(0, 1, 1)]


def test_directory_over_file() -> None:
    assert types_of(file("a", "x"), directory("/a"), file("a/f")) == {b"a": b"5", b"a/f": b"0"}
    assert types_of(symlink("s", "nowhere"), directory("/s"), file("s/f")) == {b"s": b"5", b"s/f": b"0"}


def test_directory_over_directory_keeps_what_is_in_it() -> None:
    nodes = nodes_of(
        directory("a", 0o700).having(**{"user.a": b"1", "user.b": b"1"}),
        file("a/f", "x"),
        directory("/a", 0o711).at(5 * SECOND).having(**{"user.b": b"2"}),
    )
    assert status(nodes[b"a"]) == (b"5", 0o711, (0, 0), 5 * SECOND)
    assert nodes[b"a"].xattrs == {b"user.a": b"1", b"user.b": b"2"}
    assert b"a/f" in nodes


def test_content_is_in_use_as_long_as_one_name_is() -> None:
    one = file("a", "x")
    assert tree_of(one, hard_link("b", one), file("/a", "y")).unused == []
    assert tree_of(one, hard_link("b", one), file("/a", "y"), file("/b")).unused == [Extent(0, 0, 1)]
    assert nodes_of(one, hard_link("b", one), file("/a", "y"))[b"b"].links == 1


def test_name_below_what_was_replaced() -> None:
    """A parent that was found before must not be found again."""
    nodes = nodes_of(file("d/f", "x"), symlink("/d", "e"), directory("e"), file("d/g"))
    assert nodes.keys() == {b"d", b"e", b"e/g"}
    assert problem_of(file("d/f", "x"), file("/d"), file("d/g")) == "'d/g' is below 'd', which is not a directory"


def test_time_of_a_directory_goes_to_what_its_path_leads_to() -> None:
    """dockerd sets the times of directories last, by path."""
    described = directory("d").at(5 * SECOND)
    assert nodes_of(described, file("/d").at(7 * SECOND))[b"d"].mtime_ns == 5 * SECOND
    nodes = nodes_of(file("a").at(7 * SECOND), described, symlink("/d", "a").at(8 * SECOND))
    assert (nodes[b"a"].mtime_ns, nodes[b"d"].mtime_ns) == (5 * SECOND, 8 * SECOND)
    assert "'d/' is replaced by a symlink to nothing" in problem_of(described, symlink("/d", "nowhere"))


# --- below a symlink ---


@pytest.mark.parametrize("target", ["d", "/d", "../../d", "./x/../d", "t", "//d/."])
def test_entries_go_where_a_symlink_leads(target: str) -> None:
    nodes = nodes_of(
        directory("d"), directory("x"), symlink("t", "u"), symlink("u", "/d"), symlink("s", target), file("s/f", "x")
    )
    assert b"d/f" in nodes
    assert not any(path.startswith(b"s/") for path in nodes)


def test_all_kinds_of_entries_go_through_a_symlink() -> None:
    target = file("f", "x")
    nodes = nodes_of(
        *(directory("d"), target, file("d/old", "x"), symlink("s", "d")),
        *(file("s/implied/f"), file("s/old", "newer"), whiteout("s/w"), hard_link("s/l", target), opaque("s")),
        *(directory("s/sub").at(5 * SECOND), symlink("s/up", ".."), file("s/up/top")),
    )
    assert sorted(nodes) == sorted(
        [b"d", b"f", b"s", b"top", *(b"d/" + n for n in (b"implied", b"implied/f", b"l", b"old", b"sub", b"up", b"w"))]
    )
    assert nodes[b"d/old"].size == 5
    assert nodes[b"d/l"] is nodes[b"f"]
    assert nodes[b"d"].xattrs == OPAQUE
    assert nodes[b"d/sub"].mtime_ns == 5 * SECOND


def test_symlinks_to_directories_of_the_machine_stay_in_the_layer() -> None:
    assert "is below 's', which is not a directory" in problem_of(symlink("s", "/etc"), file("s/passwd", "x"))


@pytest.mark.parametrize(
    "entry", [file("a", "x"), fifo("a"), symlink("a", "nowhere"), symlink("a", "a"), whiteout("a")]
)
def test_below_what_is_no_directory(entry: Entry) -> None:
    for name in ("a/b", "a/b/c"):
        assert "is below 'a', which is not a directory" in problem_of(entry, file(name, "x"))


def test_symlinks_of_a_path_are_bounded() -> None:
    """As the kernel does it."""
    links = [symlink(f"{number}", f"{number + 1}") for number in range(41)]
    assert b"41/f" in nodes_of(directory("41"), *links, file("1/f"))
    assert "'0/f' is below '0', which is not a directory" in problem_of(directory("41"), *links, file("0/f"))


# --- hard links ---


def test_hard_links_are_one_file() -> None:
    one = file("d/f", "12345")
    tree = tree_of(one, hard_link("l", Entry(name=b"/d/../d/f")), hard_link("m", Entry(name=b"l")))
    nodes = nodes_below(tree.root)
    assert nodes[b"l"] is nodes[b"m"] is nodes[b"d/f"]
    assert nodes[b"l"].links == 3
    assert tree.size() == 5


def test_hard_link_describes_its_target_anew() -> None:
    one = file("a", "x", 0o600).having(**{"user.a": b"1"})
    other = replace(hard_link("b", one), mode=0o4711, uid=3, gid=4, mtime_ns=5 * SECOND, xattrs={"user.b": b"2"})
    node = nodes_of(one, other)[b"a"]
    assert status(node) == (b"0", 0o4711, (3, 4), 5 * SECOND)
    assert node.xattrs == {b"user.a": b"1", b"user.b": b"2"}


def test_hard_link_to_a_symlink_leaves_mode_and_time() -> None:
    link = symlink("s", "a")
    node = nodes_of(link, replace(hard_link("t", link), mode=0o600, uid=3, gid=4, mtime_ns=5 * SECOND))[b"t"]
    assert status(node) == (b"2", 0o777, (3, 4), EPOCH_NS)
    assert node.links == 2


def test_hard_link_to_what_is_not_there() -> None:
    assert "'l' is a hard link to 'f', which is not in the layer before it" in problem_of(
        hard_link("l", file("f")), file("f")
    )
    assert "'l' is a hard link to 'l', which is not in the layer" in problem_of(hard_link("l", file("l")))
    assert "'l' is a hard link to 'd/', which is a directory" in problem_of(
        directory("d"), hard_link("l", directory("d"))
    )


def test_hard_link_to_a_whiteout_describes_it() -> None:
    nodes = nodes_of(whiteout("f"), hard_link("l", file("f", "x", 0o640)))
    assert nodes[b"l"] is nodes[b"f"]
    assert (nodes[b"f"].type, nodes[b"f"].device, nodes[b"f"].mode) == (b"3", (0, 0), 0o640)


def test_hard_link_over_its_own_target() -> None:
    assert "'/a' is a hard link to 'a', which is not in the layer" in problem_of(
        file("a", "x"), hard_link("/a", file("a"))
    )


def test_more_links_than_ext4_can_hold() -> None:
    tree = LayerTree("layer")
    tree.add(make_member(b"f"))
    for number in range(64_999):
        tree.add(make_member(b"%d" % number, b"1", b"f"))
    with pytest.raises(InvalidArchive, match=r"^layer: 'l' is one of more than 65000 names of a file"):
        tree.add(make_member(b"l", b"1", b"f"))


# --- whiteouts and opaque directories ---


def test_whiteouts_are_devices() -> None:
    nodes = nodes_of(directory("d"), whiteout("d/gone").owned(3, 4), whiteout("top"))
    assert status(nodes[b"d/gone"]) == (b"3", 0, (3, 4), 0)
    assert nodes[b"top"].device == (0, 0)
    assert nodes.keys() == {b"d", b"d/gone", b"top"}


def test_opaque_marker_is_an_attribute_of_its_folder() -> None:
    tree = tree_of(directory("d").having(**{"user.a": b"x"}), opaque("d"), opaque("implied"))
    nodes = nodes_below(tree.root)
    assert nodes.keys() == {b"d", b"implied"}
    assert nodes[b"d"].xattrs == {b"user.a": b"x", **OPAQUE}
    assert nodes[b"implied"].xattrs == OPAQUE
    assert tree_of(file(".wh..wh..opq")).root.xattrs == OPAQUE


def test_opaque_marker_of_what_is_described_later() -> None:
    assert nodes_of(opaque("d"), directory("d", 0o700))[b"d"].xattrs == OPAQUE
    assert nodes_of(opaque("d"), file("/d"))[b"d"].xattrs == {}


def test_file_after_its_whiteout_replaces_it() -> None:
    nodes = nodes_of(whiteout("a"), file("a", "x"), whiteout("b"), directory("b"))
    assert (nodes[b"a"].type, nodes[b"b"].type) == (b"0", b"5")


def test_aufs_markers_are_whiteouts() -> None:
    """dockerd has no special case for them when it unpacks into an overlay."""
    assert types_of(whiteout(".wh.aufs")) == {b".wh.aufs": b"3"}


def test_whiteout_of_what_the_layer_adds() -> None:
    for entries in ([file("a", "x")], [directory("a")], [file("a/b", "x")], [whiteout("/a")]):
        expected = "'.wh.a' removes what the same layer adds, which dockerd refuses, too"
        assert problem_of(*entries, whiteout("a")) == expected


@pytest.mark.parametrize("name", ["d/.wh.", "d/.wh..", "d/.wh...", ".wh...", ".wh."])
def test_whiteout_of_no_name(name: str) -> None:
    """It must never be written: ".wh..." would be "..", which is outside of the folder, or of the layer."""
    assert "removes what the same layer adds" in problem_of(file(name))


# --- extended attributes ---


def xattrs_of(entry: Entry, **xattrs: bytes) -> dict[bytes, bytes]:
    (node,) = nodes_of(entry.having(**xattrs)).values()
    return dict(node.xattrs)


NOTE, LABEL = {"user.note": b"x"}, {"trusted.label": b"x"}


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        (file("f"), {b"user.note", b"trusted.label"}),
        (directory("f"), {b"user.note", b"trusted.label"}),
        (symlink("f", "g"), {b"trusted.label"}),
        (fifo("f"), {b"trusted.label"}),
        (character_device("f", 1, 3), {b"trusted.label"}),
    ],
)
def test_attributes_that_the_kernel_does_not_permit_are_passed_over(entry: Entry, kept: set[bytes]) -> None:
    assert xattrs_of(entry, **NOTE, **LABEL).keys() == kept


@pytest.mark.parametrize("name", ["other.namespace", "plain", "system.other", "USER.note"])
def test_attributes_that_no_file_system_knows_are_passed_over(name: str) -> None:
    assert xattrs_of(file("f"), **{name: b"x"}, **NOTE) == {b"user.note": b"x"}


def test_attributes_without_a_value_are_none() -> None:
    assert xattrs_of(file("f"), **{"user.empty": b"", "security.capability": b""}) == {}


@pytest.mark.parametrize("name", ["user.", "trusted.", "security.", "user." + "n" * 251])
def test_names_of_attributes_that_the_kernel_refuses(name: str) -> None:
    assert problem_of(file("f").having(**{name: b"x"})).startswith("'f' has an xattr ")


def test_attributes_that_no_inode_can_hold() -> None:
    problem = problem_of(file("f").having(**{"user.a": bytes(4044)}))
    assert problem == "'f' has 4044 bytes of xattrs; ext4 holds about 4000"
    assert xattrs_of(file("f"), **{"user.a": b"v" * 4040, "user.b": b"w" * 40}).keys() == {b"user.a", b"user.b"}


@pytest.mark.parametrize("value", [b"junk", CAP_NET_RAW[:-1], CAP_NET_RAW + b"\0", b"\1\0\0\4" + CAP_NET_RAW[4:]])
def test_capabilities_are_checked(value: bytes) -> None:
    expected = f"'f' has an xattr 'security.capability' of {len(value)} bytes that say no capabilities"
    assert problem_of(file("f").having(**{"security.capability": value})) == expected


def test_capabilities_of_a_user_namespace_are_fine() -> None:
    value = b"\1\0\0\3" + CAP_NET_RAW[4:] + b"\xe8\3\0\0"
    assert xattrs_of(file("f"), **{"security.capability": value}) == {b"security.capability": value}


def test_capabilities_are_lost_with_a_new_owner() -> None:
    """A hard link describes its target anew, and the kernel drops them with each chown."""
    one = file("a", "x").having(**CAPABLE)
    assert nodes_of(one, hard_link("b", replace(one, xattrs={})))[b"a"].xattrs == {}
    assert nodes_of(one, hard_link("b", one))[b"a"].xattrs == {b"security.capability": CAP_NET_RAW}


# --- POSIX ACLs ---

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
NO_ID = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32


def user_acl(owner: int, mask: int, other: int) -> bytes:
    """An ACL that gives user 1000 all, as far as the mask does."""
    return acl(
        (USER_OBJ, owner, NO_ID), (USER, 7, 1000), (GROUP_OBJ, 4, NO_ID), (MASK, mask, NO_ID), (OTHER, other, NO_ID)
    )


def test_access_acl_follows_the_mode() -> None:
    """dockerd sets it before the mode, and chmod changes owner, mask and others of it."""
    value = user_acl(7, 7, 7)
    assert xattrs_of(file("f", "x", 0o640), **{ACCESS: value}) == {ACCESS.encode(): user_acl(6, 4, 0)}
    assert xattrs_of(directory("f", 0o1750), **{ACCESS: value}) == {ACCESS.encode(): user_acl(7, 5, 0)}
    without_mask = acl((USER_OBJ, 0, NO_ID), (GROUP_OBJ, 0, NO_ID), (OTHER, 0, NO_ID))
    assert xattrs_of(file("f", "x", 0o640), **{ACCESS: without_mask}) == {}, "the mode says as much"
    assert xattrs_of(file("f"), **{ACCESS: acl()}) == {}


def test_access_acl_of_a_hard_link_follows_its_mode() -> None:
    one = file("a", "x", 0o640).having(**{ACCESS: user_acl(6, 4, 0)})
    node = nodes_of(one, replace(hard_link("b", one), mode=0o711, xattrs={}))[b"a"]
    assert node.xattrs == {ACCESS.encode(): user_acl(7, 1, 1)}


@pytest.mark.parametrize(
    "value",
    [
        b"x",  # shorter than a version
        user_acl(6, 4, 0)[:-1],
        acl((USER_OBJ, 6, NO_ID)),
        acl((USER_OBJ, 6, NO_ID), (USER, 7, 1000), (GROUP_OBJ, 4, NO_ID), (OTHER, 0, NO_ID)),  # no mask
        acl((GROUP_OBJ, 4, NO_ID), (USER_OBJ, 6, NO_ID), (OTHER, 0, NO_ID)),  # not in order
        acl((USER_OBJ, 8, NO_ID), (GROUP_OBJ, 4, NO_ID), (OTHER, 0, NO_ID)),
        acl((USER_OBJ, 6, NO_ID), (GROUP_OBJ, 4, NO_ID), (64, 0, NO_ID)),
    ],
)
def test_invalid_acls_are_refused(value: bytes) -> None:
    for entry, name in ((file("f"), ACCESS), (directory("f"), DEFAULT)):
        assert problem_of(entry.having(**{name: value})).endswith(f"has an xattr {name!r} that is no valid ACL")


def test_acls_that_the_kernel_passes_over() -> None:
    """Of a version that it does not know, and those of symlinks."""
    assert xattrs_of(file("f"), **{ACCESS: b"\3\0\0\0junk", DEFAULT: b"\1\0\0\0"}) == {}
    assert xattrs_of(symlink("f", "g"), **{ACCESS: user_acl(7, 7, 7), DEFAULT: user_acl(7, 7, 7)}) == {}


def test_default_acl_is_one_of_directories() -> None:
    value = user_acl(7, 5, 0)
    assert xattrs_of(directory("d"), **{DEFAULT: value}) == {DEFAULT.encode(): value}
    assert (
        problem_of(file("f").having(**{DEFAULT: value}))
        == f"'f' has an xattr {DEFAULT!r} that only a directory can have"
    )


def test_default_acl_is_inherited() -> None:
    """What is made in the directory later has it, and a mode that says otherwise changes it."""
    default = user_acl(7, 5, 0)
    parent = directory("d", 0o750).having(**{DEFAULT: default})
    nodes = nodes_of(
        parent,
        file("d/f", "x", 0o644),
        directory("d/e", 0o700),
        symlink("d/s", "f"),
        file("d/x/y", "x"),
        whiteout("d/w"),
    )
    of_files, of_directories = ACCESS.encode(), DEFAULT.encode()
    assert nodes[b"d"].xattrs == {of_directories: default}
    assert nodes[b"d/f"].xattrs == {of_files: user_acl(6, 4, 4)}
    assert nodes[b"d/e"].xattrs == {of_directories: default, of_files: user_acl(7, 0, 0)}
    assert nodes[b"d/s"].xattrs == {}
    assert nodes[b"d/x"].xattrs == {of_directories: default, of_files: user_acl(7, 5, 5)}
    assert nodes[b"d/x/y"].xattrs == {of_files: user_acl(6, 4, 4)}
    assert nodes[b"d/w"].xattrs == {of_files: user_acl(0, 0, 0)}
    assert (nodes[b"d/f"].mode, nodes[b"d/x"].mode, nodes[b"d/w"].mode) == (0o644, 0o755, 0)


def test_default_acl_changes_nothing_that_is_there() -> None:
    nodes = nodes_of(file("d/f", "x"), directory("d").having(**{DEFAULT: user_acl(7, 5, 0)}))
    assert nodes[b"d/f"].xattrs == {}


# --- what dockerd says of the layer ---


def test_size_is_that_of_files_and_links() -> None:
    one = file("f", "12345")
    tree = tree_of(one, symlink("s", "1234567"), directory("d"), hard_link("d/l", one), fifo("p"), whiteout("w"))
    assert tree.size() == 12
