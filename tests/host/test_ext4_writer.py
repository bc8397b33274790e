"""What our writer makes is ext4 without a flaw for e2fsck, and debugfs and our reader find in it what was put there."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.errors import PreloaderError
from preloader_agent.host.diskimage import RawImage
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.groups import divide
from preloader_agent.host.ext4.htree import hash_name
from preloader_agent.host.ext4.layout import BLOCK_SIZE, BLOCKS_PER_GROUP, FIRST_CONTENT
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.ext4.xattrs import can_hold
from preloader_agent.host.node import Extent, Node, make_directory
from preloader_agent.host.tarstream import BLK, CHR, FIFO, REG, SYM
from tests.filesystem import (
    COLLISION,
    LABEL,
    NAMES_PER_BLOCK,
    UUID,
    Filesystem,
    check,
    children_of,
    colliding_names,
    debugfs,
    fill,
    found_tree,
    linked,
)
from tests.images.raw import acl
from tests.tree import tree_differences

LIMIT = 1 << 25
SECOND = 10**9


@pytest.fixture
def filesystem(tmp_path: Path) -> Filesystem:
    return Filesystem(tmp_path / "x.raw")


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def striped(count: int) -> bytes:
    """So many blocks of content, with holes between: each block is an extent of its own."""
    return b"".join(noise(BLOCK_SIZE, number) + bytes(BLOCK_SIZE) for number in range(count))


def read(image: Path, path: bytes) -> bytes | None:
    with Ext4(RawImage(image)) as reader:
        return reader.read(path, LIMIT)


def dump(image: Path, path: str) -> bytes:
    """The content of a file as debugfs finds it."""
    target = image.with_name("dumped")
    debugfs(image, f"dump {path} {target}")
    return target.read_bytes()


def stat(image: Path, path: str) -> str:
    return debugfs(image, f'stat "{path}"')


def test_nothing_but_what_every_file_system_has(filesystem: Filesystem) -> None:
    image = filesystem.write()
    assert re.search(r": 11/16 files .*, \d+/\d+ blocks$", check(image))
    with Ext4(RawImage(image)) as reader:
        assert (reader.label, reader.uuid) == (LABEL, UUID.hex)
        assert reader.names(b"") == [b"lost+found"]
    assert image.stat().st_size == 21 * BLOCK_SIZE


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    images = [tmp_path / "1", tmp_path / "2"]
    for number, image in enumerate(images):
        filesystem = Filesystem(image)
        nodes = [(b"d/a", filesystem.file(b"text")), (b"d/b", Node(FIFO)), (b"c", make_directory())]
        for path, node in nodes if number else reversed(nodes):
            filesystem.put(path, node)
        filesystem.write()
    assert images[0].read_bytes() == images[1].read_bytes()


# --- content ---


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        noise(BLOCK_SIZE - 1),
        noise(BLOCK_SIZE),
        noise(BLOCK_SIZE + 1),
        noise((3 << 20) + 5),
        bytes(1),
        bytes(1 << 20),
        bytes(1 << 20) + b"end",
        b"start" + bytes(1 << 20),
        bytes(BLOCK_SIZE) + noise(BLOCK_SIZE) + bytes(BLOCK_SIZE),
        bytes(BLOCK_SIZE - 1) + b"x",
        noise(16) + bytes(BLOCK_SIZE - 16) + bytes(16) + noise(BLOCK_SIZE - 16),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_content(filesystem: Filesystem, content: bytes) -> None:
    filesystem.put(b"f", filesystem.file(content))
    filesystem.put(b"after", filesystem.file(b"after"))
    image = filesystem.write()
    check(image)
    assert read(image, b"f") == dump(image, "f") == content
    assert read(image, b"after") == b"after"


def test_holes_take_no_room(filesystem: Filesystem) -> None:
    content = bytes(64 << 20) + b"x" + bytes((64 << 20) - 1)
    filesystem.put(b"f", filesystem.file(content))
    image = filesystem.write()
    assert "Blockcount: 8\n" in stat(image, "f")  # in sectors
    assert image.stat().st_size < 30 * BLOCK_SIZE


@pytest.mark.parametrize(
    ("count", "depth"), [(1, 0), (4, 0), (5, 1), (340, 1), (341, 1), (1360, 1), (1361, 2), (1500, 2)]
)
def test_trees_of_extents(filesystem: Filesystem, count: int, depth: int) -> None:
    content = striped(count)
    filesystem.put(b"f", filesystem.file(content))
    image = filesystem.write()
    check(image)
    assert read(image, b"f") == dump(image, "f") == content
    leaves = re.findall(rf"^ *{depth}/ *{depth} +\d+/", debugfs(image, "dump_extents -l f"), re.M)
    assert len(leaves) == count


def test_extents_that_ext4_cannot_hold_are_divided(filesystem: Filesystem) -> None:
    """40,000 blocks in one piece: at most 32,768 fit into an extent. They are in two groups, too."""
    extent = filesystem.reserve(40_000)
    filesystem.put(b"f", Node(REG, size=40_000 * BLOCK_SIZE - 7, extents=(extent,)))
    image = filesystem.write()
    check(image)
    lengths = re.findall(r"- *\d+ +\d+ - *\d+ +(\d+)", debugfs(image, "dump_extents -l f"))
    assert lengths == ["32768", "7232"]


def test_large_sizes(filesystem: Filesystem) -> None:
    """More than 32 bits; the content is at the end."""
    size = 5 << 30
    (extent,) = filesystem.file(b"end").extents
    filesystem.put(b"f", Node(REG, size=size, extents=(replace_logical(extent, size // BLOCK_SIZE - 1),)))
    image = filesystem.write()
    check(image)
    assert f"Size: {size}\n" in stat(image, "f")


def replace_logical(extent: Extent, logical: int) -> Extent:
    return Extent(logical, extent.start, extent.length)


# --- directories ---


@pytest.mark.parametrize("length", [1, 3, 4, 5, 254, 255])
def test_names_of_all_lengths(filesystem: Filesystem, length: int) -> None:
    names = [bytes([letter]) * length for letter in b"az\x01\x7f\x80\xff"]
    for name in names:
        filesystem.put(b"d/" + name, Node(FIFO))
    image = filesystem.write()
    check(image)
    with Ext4(RawImage(image)) as reader:
        assert reader.names(b"d") == sorted(names)


# 12 bytes of ".", 12 of ".." and 12 of the checksum leave room for 203 entries of 20 bytes each.
@pytest.mark.parametrize(("count", "size"), [(202, 1), (203, 1), (204, 2), (408, 3), (409, 4), (5000, 26)])
def test_directories_of_all_sizes(filesystem: Filesystem, count: int, size: int) -> None:
    """Of more than one block, one is the root of the index; the others hold 204 entries each."""
    names = [b"%012d" % number for number in range(count)]
    for name in names:
        filesystem.put(b"d/" + name, filesystem.file(name))
    image = filesystem.write()
    check(image)
    assert f"Size: {size * BLOCK_SIZE}\n" in stat(image, "d")
    assert ("Flags: 0x81000" in stat(image, "d")) == (size > 1)
    with Ext4(RawImage(image)) as reader:
        assert reader.names(b"d") == names
        assert reader.read(b"d/" + names[-1], LIMIT) == names[-1]


def test_names_that_are_no_text(filesystem: Filesystem) -> None:
    """Their bytes count as unsigned ones in the hash, whatever a machine's characters are."""
    names = [noise(random.Random(seed).randrange(1, 256), seed).translate(NO_SEPARATORS) for seed in range(300)]
    for name in names:
        filesystem.put(b"d/" + name, Node(FIFO))
    image = filesystem.write()
    check(image)
    with Ext4(RawImage(image)) as reader:
        assert reader.names(b"d") == sorted(names)


NO_SEPARATORS = bytes.maketrans(b"\0/", b"__")


def test_names_with_the_same_hash_in_two_blocks(filesystem: Filesystem) -> None:
    """The index says that the hash goes on, so that a look-up goes on as well."""
    first, second = (hash_name(name, UUID.bytes)[0] for name in COLLISION)
    assert first == second
    names = colliding_names()
    assert {names.index(name) % NAMES_PER_BLOCK for name in COLLISION} == {0, NAMES_PER_BLOCK - 1}
    for name in names:
        filesystem.put(b"d/" + name, Node(FIFO))
    image = filesystem.write()
    check(image)
    dumped = debugfs(image, "htree_dump d")
    assert re.search(rf"Entry #\d+: Hash 0x{first + 1:08x}, block \d+", dumped)


def test_folders_in_folders(filesystem: Filesystem) -> None:
    path = b"/".join([b"d"] * 300)
    filesystem.put(path + b"/f", filesystem.file(b"deep"))
    filesystem.put(b"d/e", make_directory())
    image = filesystem.write()
    check(image)
    assert read(image, path + b"/f") == b"deep"
    assert "Links: 4 " in stat(image, "d")


# --- other kinds of inodes ---


@pytest.mark.parametrize("length", [1, 59, 60, 61, 4095])
def test_symlinks(filesystem: Filesystem, length: int) -> None:
    """A target of up to 59 bytes stands in the inode."""
    target = noise(length).translate(NO_SEPARATORS)
    filesystem.put(b"s", Node(SYM, 0o777, target=target))
    image = filesystem.write()
    check(image)
    assert f"Type: symlink    Mode:  0777   Flags: {'0x0' if length < 60 else '0x80000'}\n" in stat(image, "s")
    assert f"Size: {length}\n" in stat(image, "s")
    assert dump(image, "s") == (target if length >= 60 else b"")
    assert image.read_bytes().count(target) == 1


@pytest.mark.parametrize(
    "device", [(0, 0), (1, 3), (255, 255), (7, 256), (256, 0), (4095, 0), (0, 1048575), (4095, 1048575)]
)
def test_devices(filesystem: Filesystem, device: tuple[int, int]) -> None:
    """The old numbers have 8 bits each, the new ones 12 and 20."""
    for name, kind in ((b"b", BLK), (b"c", CHR)):
        filesystem.put(name, Node(kind, 0o600, device=device))
    image = filesystem.write()
    check(image)
    for path, text in (("b", "block"), ("c", "character")):
        status = stat(image, path)
        assert f"Type: {text} special" in status
        major, minor = device
        form = "New-style" if major > 255 or minor > 255 else "Device"
        assert re.search(rf"{form}.*{major:02}:{minor:02} \(hex {major:02x}:{minor:02x}\)", status)


def test_inodes_with_several_names(filesystem: Filesystem) -> None:
    file, symlink, long = filesystem.file(b"text"), Node(SYM, 0o777, target=b"t"), Node(SYM, 0o777, target=b"t" * 99)
    for name, node in ((b"f", file), (b"s", symlink), (b"l", long)):
        filesystem.put(name, node)
        filesystem.put(b"d/" + name, linked(node))
    image = filesystem.write()
    check(image)
    with Ext4(RawImage(image)) as reader:
        for name in (b"f", b"s", b"l"):
            assert reader.find(name) == reader.find(b"d/" + name)
            assert "Links: 2 " in stat(image, name.decode())


def test_owners_and_modes(filesystem: Filesystem) -> None:
    for number, (uid, gid, mode) in enumerate(
        [(0, 0, 0), (1, 2, 0o7777), (65536, 65535, 0o4755), (2**32 - 2, 2**31, 1)]
    ):
        node = filesystem.file(b"x", mode)
        node.uid, node.gid = uid, gid
        filesystem.put(b"%d" % number, node)
    image = filesystem.write()
    check(image)
    assert re.search(r"Mode:  04755 .*User: 65536   Group: 65535 ", stat(image, "2"), re.S)
    assert tree_differences(filesystem.expected(), found_tree(image)) == []


@pytest.mark.parametrize(
    ("seconds", "low", "high"),
    [
        (0, 0, 0),
        (2**31 - 1, 0x7FFFFFFF, 0),
        (2**31, 0x80000000, 1),
        (2**32, 0, 1),
        (2**33, 0, 2),
        (2**34 - 2**31 - 1, 0x7FFFFFFF, 3),
        (-1, 0xFFFFFFFF, 0),
        (-(2**31), 0x80000000, 0),
    ],
)
def test_times(filesystem: Filesystem, seconds: int, low: int, high: int) -> None:
    """32 bits with a sign, and two more bits beside the nanoseconds. All times are the modification time."""
    filesystem.put(b"f", Node(FIFO, mtime_ns=seconds * SECOND + 123_456_789))
    image = filesystem.write()
    check(image)
    expected = f"time: 0x{low:08x}:{123_456_789 << 2 | high:08x}"
    assert len(re.findall(rf"^ *[acm]{expected} ", stat(image, "f"), re.M)) == 3
    assert "crtime: 0x00000000:00000000" in stat(image, "f")


# --- extended attributes ---

USER, TRUSTED, SECURITY = b"user.note", b"trusted.overlay.opaque", b"security.capability"
INLINE, BLOCK = "in the inode", "in a block"
SETS: Mapping[str, tuple[dict[bytes, bytes], set[str]]] = {
    "one": ({USER: b"text"}, {INLINE}),
    "two": ({USER: b"\0\xff", TRUSTED: b"y"}, {INLINE}),
    "of all kinds": ({USER: b"\0\xff", TRUSTED: b"y", SECURITY: bytes(20)}, {INLINE, BLOCK}),
    "lengths": ({b"user." + b"n" * size: b"v" * size for size in range(1, 9)}, {INLINE, BLOCK}),
    "large": ({USER: b"v" * 1500}, {BLOCK}),
    "both": ({TRUSTED: b"y", USER: b"v" * 1500, SECURITY: bytes(20)}, {INLINE, BLOCK}),
    "many": ({b"user.%02d" % number: b"value" for number in range(40)}, {INLINE, BLOCK}),
    "largest": ({b"user.a": b"v" * 4040, b"user.b": b"w" * 40}, {INLINE, BLOCK}),
    "long name": ({b"user." + b"n" * 250: b"x"}, {BLOCK}),
}


@pytest.mark.parametrize("name", SETS)
def test_xattrs(filesystem: Filesystem, name: str) -> None:
    xattrs, places = SETS[name]
    file, folder = filesystem.file(b"text"), make_directory()
    file.xattrs = folder.xattrs = xattrs
    filesystem.put(b"f", file)
    filesystem.put(b"d", folder)
    filesystem.put(b"d/f", filesystem.file(b"text"))
    image = filesystem.write()
    check(image)
    for path in ("f", "d"):
        assert found_xattrs(image, path, xattrs) == xattrs
        assert bool(re.search(r"File ACL: [1-9]", stat(image, path))) == (BLOCK in places)
    assert read(image, b"f") == b"text"


def found_xattrs(image: Path, path: str, names: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Values as debugfs finds them; as many as it lists."""
    target = image.with_name("value")
    found = {}
    for name in names:
        debugfs(image, f"ea_get -f {target} {path} {name.decode()}")
        found[name] = target.read_bytes()
    assert debugfs(image, f"ea_list {path}").count("\n  ") == len(names)
    return found


def test_xattrs_of_all_kinds_of_inodes(filesystem: Filesystem) -> None:
    nodes = [filesystem.file(b""), make_directory(), Node(SYM, target=b"t"), Node(SYM, target=b"t" * 99)]
    nodes += [Node(FIFO), Node(CHR, device=(1, 3)), Node(BLK, device=(7, 300))]
    for number, node in enumerate(nodes):
        node.xattrs = {TRUSTED: b"y", b"security.large": b"v" * 500}
        filesystem.put(b"%d" % number, node)
    image = filesystem.write()
    check(image)
    for number in range(len(nodes)):
        assert found_xattrs(image, f"{number}", nodes[0].xattrs) == nodes[0].xattrs


ACL_NAME = b"system.posix_acl_access"
NO_ID = 0xFFFFFFFF
ACL = acl((1, 7, NO_ID), (2, 6, 1000), (2, 5, 70_000), (4, 4, NO_ID), (8, 3, 50), (16, 7, NO_ID), (32, 0, NO_ID))
# Without an id where none is needed, in a version of its own.
STORED_ACL = bytes.fromhex(
    "0100000001000700 02000600e8030000 0200050070110100 04000400 0800030032000000 10000700 20000000"
)


def test_acls_are_stored_in_a_form_of_their_own(filesystem: Filesystem) -> None:
    node = make_directory()
    node.xattrs = {ACL_NAME: ACL, ACL_NAME.replace(b"access", b"default"): ACL}
    filesystem.put(b"d", node)
    image = filesystem.write()
    check(image)
    with Ext4(RawImage(image)) as reader:
        assert set(reader.xattrs(reader.inode(reader.find(b"d") or 0)).values()) == {STORED_ACL}


def test_what_an_inode_can_hold() -> None:
    assert can_hold({})
    assert can_hold({b"user.a": bytes(4040)})
    assert not can_hold({b"user.a": bytes(4041)})
    assert not can_hold({b"user.%d" % number: bytes(1000) for number in range(5)})


# --- block groups ---


def test_many_groups(filesystem: Filesystem) -> None:
    """More than the 16 of a flex group; the image is a large hole."""
    count = 20 * BLOCKS_PER_GROUP
    filesystem.put(b"f", Node(REG, size=count * BLOCK_SIZE, extents=(filesystem.reserve(count),)))
    filesystem.put(b"g", filesystem.file(b"behind"))
    image = filesystem.write()
    check(image)
    assert read(image, b"g") == b"behind"
    assert image.stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("room", range(7))
def test_boundaries_of_groups(filesystem: Filesystem, room: int) -> None:
    """Directories, inodes and bitmaps stand before the boundary, across it or behind it."""
    count = BLOCKS_PER_GROUP - FIRST_CONTENT - room
    filesystem.put(b"f", Node(REG, size=count * BLOCK_SIZE, extents=(filesystem.reserve(count),)))
    image = filesystem.write()
    check(image)
    behind = 5 if room >= 5 else 8  # two directories; inodes and two bitmaps of each group
    assert image.stat().st_size == (BLOCKS_PER_GROUP - room + behind) * BLOCK_SIZE


@pytest.mark.parametrize("inodes", [11, 16, 17, 32768, 32769, 100_000, 1_000_000])
@pytest.mark.parametrize("end", [17, 32_000, 32_766, 32_768, 65_530, 10_000_000])
def test_geometry(end: int, inodes: int) -> None:
    """Every group has a block, all inodes have room, and nothing overlaps."""
    geometry = divide(end, inodes)
    assert geometry.groups * geometry.inodes_per_group >= inodes
    assert geometry.inodes_per_group % 16 == 0
    assert geometry.inodes_per_group <= BLOCKS_PER_GROUP
    assert geometry.table == end
    assert geometry.block_bitmaps == end + geometry.groups * geometry.inodes_per_group // 16
    assert geometry.inode_bitmaps == geometry.block_bitmaps + geometry.groups
    assert geometry.inode_bitmaps + geometry.groups <= geometry.blocks
    assert len(geometry.group_sizes()) == geometry.groups
    assert min(geometry.group_sizes()) > 0


def test_too_large_for_the_space_before_the_content() -> None:
    with pytest.raises(PreloaderError, match=r"^a disk holds at most 120 GiB; make several$"):
        divide(960 * BLOCKS_PER_GROUP, 11)


# --- all at once ---


def test_our_reader_finds_all_of_it(filesystem: Filesystem) -> None:
    fill(filesystem)
    image = filesystem.write()
    check(image)
    assert tree_differences(filesystem.expected(), found_tree(image)) == []


# --- content that is moved, or not used ---


def test_unused_content_is_free(filesystem: Filesystem) -> None:
    kept, unused = filesystem.file(noise(10_000)), filesystem.file(noise(9000, 1))
    filesystem.put(b"f", kept)
    image = filesystem.write(unused=unused.extents)
    check(image)
    ((_, start, length),) = unused.extents
    assert debugfs(image, f"testb {start} {length}").count("not in use") == length == 3
    assert debugfs(image, f"testb {start - 1}").count("not in use") == 0


def test_unused_content_across_groups(filesystem: Filesystem) -> None:
    filesystem.put(b"f", filesystem.file(b"before"))
    unused = [filesystem.reserve(70_000)]
    filesystem.put(b"g", filesystem.file(b"after"))
    check(filesystem.write(unused=unused))
    assert read(filesystem.path, b"g") == b"after"


def test_content_that_was_moved(filesystem: Filesystem) -> None:
    """A tree that stands twice, with content at two places: each has inodes of its own, and links within it."""
    source = BlockFile(filesystem.path.with_name("source"))
    texts = {b"f": noise(10_000), b"holes": striped(6)}
    layer = make_directory()
    for name, text in texts.items():
        children_of(layer)[name] = Node(REG, 0o644, size=len(text), extents=source.append([text]))
    children_of(layer)[b"link"] = linked(children_of(layer)[b"f"])
    shifts: dict[Node, int] = {}
    for name in (b"one", b"two"):
        filesystem.put(b"not moved " + name, filesystem.file(name))
        start = filesystem.blocks.end
        filesystem.blocks.copy_from(source, FIRST_CONTENT, source.end - FIRST_CONTENT)
        shifts[filesystem.put(b"layers/" + name, replace(layer))] = start - FIRST_CONTENT
    source.close()
    image = filesystem.write(shifts)
    check(image)
    with Ext4(RawImage(image)) as reader:
        for folder in (b"layers/one", b"layers/two"):
            assert {name: reader.read(folder + b"/" + name, LIMIT) for name in texts} == texts
            assert reader.find(folder + b"/link") == reader.find(folder + b"/f")
        assert reader.find(b"layers/one/f") != reader.find(b"layers/two/f")
        assert reader.read(b"not moved two", LIMIT) == b"two"
