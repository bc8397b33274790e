"""A disk is verified: a sound one is called sound, and whatever is changed on one is found, where it was changed.

Bits are flipped in the bytes of a disk. What only checksums of ext4 protect is left to e2fsck; the rest is checked in
memory.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.diskimage import RawImage
from preloader_agent.host.ext4.layout import BLOCK_SIZE, DESCRIPTOR_SIZE, INODE_SIZE
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.faults import Fault, Tally
from preloader_agent.host.inspection import inspect_disk, read_index
from preloader_agent.host.layercheck import check_layer
from preloader_agent.host.run import run
from preloader_agent.host.storecheck import check_store
from preloader_agent.host.tarsplit import FileRecord, read_tar_split
from preloader_agent.host.tarstream import REG, SYM
from preloader_agent.host.verification import MAX_FAULTS, Verdict, verify_disk
from preloader_agent.store.digest import CacheID, ChainID
from preloader_agent.store.index import DiskIndex, encode_index
from preloader_agent.store.layout import Store
from tests import images
from tests.host.conftest import SMALL_IMAGES, convert_to_raw
from tests.images import Image, Layout, make_layer, write_docker_archive
from tests.images.edges import EDGES
from tests.images.layer import directory, file, hard_link, opaque, symlink, whiteout

TOP = Store("")
INDEX = TOP.index_file
LONG_TARGET = "/".join(["there"] * 20)
TEXT = b"a file of some length, with an end that is not the end of a block\n" * 90
HOLES = b"".join(
    b"hole %d" % number + bytes(2 * BLOCK_SIZE - 6) for number in range(6)
)  # more extents than an inode holds
NOT_UTF8 = b"caf\xe9"


def tiny_image() -> Image:
    """A bit of everything, small enough to flip every byte of it."""
    text = file("d/text", TEXT)
    base = make_layer(
        [
            directory("d", 0o750).owned(70000, 1),
            text,
            hard_link("again", text),
            file("holes", HOLES),
            file("empty"),
            file(NOT_UTF8, "x").having(**{"user.note": b"within the inode"}),
            file("noted", "y").having(**{"user.note": b"n" * 500, "trusted.n": b"m"}),
            symlink("fast", "d/text"),
            symlink("slow", LONG_TARGET),
            symlink("d/up", ".."),
            file("d/up/through", "through a symlink"),
        ]
    )
    top = make_layer([whiteout("empty"), directory("d"), opaque("d"), file("d/new", "new")])
    return Image((base, top), ("tiny:1", "other/tiny:2"), {"Cmd": ["sh"]})


class Memory:
    """A disk image that can be changed."""

    name = "disk x"

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        return bytes(self.content[offset : offset + length])

    def close(self) -> None:
        """Nothing is open."""

    def find(self, content: bytes) -> int:
        """Where the only block stands that starts with some content."""
        found = [at for at in range(0, len(self.content), BLOCK_SIZE) if self.content.startswith(content, at)]
        assert len(found) == 1, f"{content!r} starts {len(found)} blocks"
        return found[0]

    def flip(self, offset: int) -> None:
        """Flip a bit; twice is not at all."""
        self.content[offset] ^= 1 << offset % 8


@pytest.fixture(scope="module")
def tiny_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    container = folder / "web.toml"
    container.write_text('image = "tiny:1"\n')
    options = BuildOptions(containers=(container,))
    build_disk([write_docker_archive([tiny_image()], folder / "tiny.tar")], folder / "tiny.qcow2", options)
    return convert_to_raw(folder / "tiny.qcow2")


@pytest.fixture
def tiny(tiny_disk: Path) -> Memory:
    return Memory(tiny_disk.read_bytes())


@pytest.fixture
def changed(tiny_disk: Path, tmp_path: Path) -> Path:
    """A copy that can be changed."""
    path = tmp_path / "changed"
    path.write_bytes(tiny_disk.read_bytes())
    return path


def in_layer(number: int, path: str = "") -> str:
    return f"{TOP.diff(CacheID.of_chain(ChainID(tiny_image().chain_ids[number])))}{path}"


def of_record(number: int, name: str) -> str:
    return f"{TOP.layer_record(ChainID(tiny_image().chain_ids[number]))}/{name}"


def of_place(number: int, name: str) -> str:
    return f"{TOP.layer(CacheID.of_chain(ChainID(tiny_image().chain_ids[number])))}/{name}"


CONFIG = f"{TOP.image_configs}/{tiny_image().image_id[7:]}"


def contents(image: Memory) -> list[Fault]:
    """What is found without e2fsck."""
    index, content = read_index(Ext4(image))
    return [*check_store(Ext4(image), index, content), *layer_faults(image, index)]


def layer_faults(image: Memory, index: DiskIndex, numbers: Iterable[int] = (0, 1)) -> list[Fault]:
    layers = index.layers_by_chain()
    chosen = [layers[index.images[0].chain[number]] for number in numbers]
    return [fault for layer in chosen for fault in check_layer(Ext4(image), layer, Tally(lambda _: None))]


def paths(faults: Iterable[Fault]) -> set[str]:
    return {fault.path for fault in faults}


# --- sound disks ---


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_sound_disks(disks: dict[Layout, Path], layout: Layout) -> None:
    verdict = verify_disk(disks[layout])
    assert (verdict.faults, verdict.notes) == ((), ())
    assert verdict.found == inspect_disk(disks[layout])
    assert len(verdict.found.images) == len(SMALL_IMAGES)


def test_what_was_checked(tiny_disk: Path) -> None:
    files = (TEXT, HOLES, b"", b"x", b"y", b"through a symlink", b"new")
    assert verify_disk(tiny_disk) == Verdict(inspect_disk(tiny_disk), (), (), len(files), sum(map(len, files)))


def test_progress(disk: Path) -> None:
    said: list[tuple[str, int, int]] = []
    verify_disk(disk, lambda *progress: said.append(progress))
    assert [stage for stage, _, _ in said] == ["reading the disk"] + ["checking layers"] * (len(said) - 1)
    assert len(said) > 2
    assert all(0 < done <= total for _, done, total in said[1:])


def test_every_kind_of_image(tiny_disk: Path, tmp_path: Path) -> None:
    for options in (["qcow2"], ["qcow2", "-c"], ["qcow2", "-c", "-o", "compression_type=zstd"], ["raw"]):
        run(["qemu-img", "convert", "-f", "raw", "-O", *options, tiny_disk, tmp_path / "x"])
        assert not verify_disk(tmp_path / "x").faults
    (tmp_path / "longer").write_bytes(tiny_disk.read_bytes() + bytes(1 << 20))
    assert not verify_disk(tmp_path / "longer").faults, "a device can be larger than its file system"


def write_into(disk: Path, *commands: str) -> None:
    """Change a file system soundly."""
    said = run(["debugfs", "-w", "-f", "-", disk], stdin="\n".join(commands).encode(), with_stderr=True)
    assert not re.search("not found|nvalid|rror|sage", said), said


def older_index(index: DiskIndex) -> bytes:
    document = json.loads(encode_index(index))
    del document["checksum"]
    for layer in document["layers"]:
        del layer["tar_split"]
    return json.dumps(document, indent=1).encode() + b"\n"


def test_disks_from_before_there_were_checksums(changed: Path, tmp_path: Path) -> None:
    older = older_index(inspect_disk(changed))
    (tmp_path / "older").write_bytes(older)
    write_into(changed, f"rm {INDEX}", f"write {tmp_path}/older {INDEX}", f"sif {INDEX} mode 0100644")
    write_into(changed, *(f"sif {INDEX} {field} 0" for field in ("mtime", "mtime_extra")))
    assert verify_disk(changed).faults == ()


# --- every byte of the store's own files ---


def index_is_found_damaged(image: Memory) -> bool:
    try:
        index, content = read_index(Ext4(image))
    except InvalidDisk:
        return True
    return INDEX in paths(check_store(Ext4(image), index, content))


def test_every_byte_of_the_index(tiny: Memory) -> None:
    content = encode_index(read_index(Ext4(tiny))[0])
    start = tiny.find(content[:100])
    for offset in range(start, start + len(content)):
        tiny.flip(offset)
        assert index_is_found_damaged(tiny), f"byte {offset - start}"
        tiny.flip(offset)
    assert not index_is_found_damaged(tiny)


def test_damaged_index_is_a_fault_of_the_disk(tiny: Memory, changed: Path) -> None:
    tiny.flip(tiny.find(b'{\n "format": 1'))
    changed.write_bytes(tiny.content)
    verdict = verify_disk(changed)
    assert verdict.found is None
    (fault,) = verdict.faults
    assert fault.path == INDEX
    assert re.fullmatch("its index is not valid: .*; nothing but the file system can be checked", fault.problem)


SMALL_FILES = {
    CONFIG: b'{"',
    TOP.repositories: b'{"Repositories"',
    of_place(0, "link"): None,
    of_place(1, "lower"): b"l/",
    of_record(0, "cache-id"): None,
    of_record(1, "parent"): None,
    of_record(0, "size"): None,
    TOP.container_definition("web"): None,
}


@pytest.mark.parametrize("path", SMALL_FILES)
def test_every_byte_of_small_files(tiny: Memory, path: str) -> None:
    index, index_content = read_index(Ext4(tiny))
    number = Ext4(tiny).find(path.encode())
    assert number
    content = Ext4(tiny).read(path.encode(), 1 << 20)
    assert content
    start = block_of(tiny, number) * BLOCK_SIZE
    assert tiny.read_at(start, len(content)) == content
    for offset in range(start, start + len(content)):
        tiny.flip(offset)
        assert paths(check_store(Ext4(tiny), index, index_content)) == {path}
        tiny.flip(offset)


def block_of(image: Memory, number: int) -> int:
    """The first block of the first extent of an inode."""
    header = struct.unpack_from("<HHHH", Ext4(image).inode(number).block)
    assert header[3] == 0, "an extent tree without other blocks"
    high, low = struct.unpack_from("<HI", Ext4(image).inode(number).block, 18)
    return int(high << 32 | low)


@pytest.mark.parametrize("number", [0, 1])
def test_every_byte_of_tar_split(tiny: Memory, number: int) -> None:
    """The header of gzip and its trailer, too: Docker reads over some of it."""
    path = of_record(number, "tar-split.json.gz")
    index, _ = read_index(Ext4(tiny))
    content = Ext4(tiny).read(path.encode(), 1 << 20)
    assert content
    start = tiny.find(content)
    for offset in range(start, start + len(content)):
        tiny.flip(offset)
        (fault,) = layer_faults(tiny, index, [number])
        assert fault.path == path
        tiny.flip(offset)


# --- content of files, and what has no checksum but that of its layer ---


@pytest.mark.parametrize("offset", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, len(TEXT) // 2, len(TEXT) - 1])
def test_content(tiny: Memory, offset: int) -> None:
    tiny.flip(tiny.find(TEXT[:100]) + offset)
    (fault,) = contents(tiny)
    assert fault.path == in_layer(0, "/d/text")
    assert re.fullmatch("its content is damaged: its CRC-64 is [0-9a-f]{16}, expected [0-9a-f]{16}", fault.problem)


@pytest.mark.parametrize("path", ["/holes", "/caf\\xe9", "/d/up/through"])
def test_content_of_unusual_files(tiny: Memory, path: str) -> None:
    starts = {"/holes": b"hole 3\0", "/caf\\xe9": b"x\0", "/d/up/through": b"through a symlink"}
    tiny.flip(tiny.find(starts[path]))
    assert [fault.path for fault in contents(tiny)] == [in_layer(0, path)]


def test_content_of_large_files(raw_disk: Path) -> None:
    """In every MiB, and at the very end."""
    disk = Memory(raw_disk.read_bytes())
    index, _ = read_index(Ext4(disk))
    base = next(layer for layer in index.layers if layer.diff_id == images.busybox_image().layers[0].diff_id)
    path = f"{TOP.diff(base.cache_id)}/bin/busybox"
    number = Ext4(disk).find(path.encode())
    assert number
    start, size = block_of(disk, number) * BLOCK_SIZE, Ext4(disk).inode(number).size
    for offset in (*range(0, size, 1 << 20), size - 1):
        disk.flip(start + offset)
        faults = list(check_layer(Ext4(disk), base, Tally(lambda _: None)))
        assert [fault.path for fault in faults] == [path]
        disk.flip(start + offset)


def test_target_of_a_long_symlink(tiny: Memory) -> None:
    tiny.flip(tiny.find(LONG_TARGET.encode()) + len(LONG_TARGET) - 1)
    (fault,) = contents(tiny)
    assert fault.path == in_layer(0, "/slow")
    assert fault.problem.startswith("has target ")


def test_slack_is_not_content(tiny: Memory) -> None:
    start = tiny.find(TEXT[:100])
    for offset in range(len(TEXT), -(-len(TEXT) // BLOCK_SIZE) * BLOCK_SIZE):
        tiny.flip(start + offset)
    assert contents(tiny) == []


# --- what has checksums of ext4 ---


def debugfs(disk: Path, command: str) -> str:
    return run(["debugfs", "-R", command, disk], with_stderr=True)


def superblock(_disk: Path) -> int:
    return 1024 + 0x64


def descriptor(_disk: Path) -> int:
    return BLOCK_SIZE + 4


def bitmap(kind: str) -> Callable[[Path], int]:
    def find(disk: Path) -> int:
        found = re.search(rf"{kind} bitmap at (\d+)", debugfs(disk, "stats"))
        assert found
        return int(found[1]) * BLOCK_SIZE + 1

    return find


def inode_of(path: str, field: int) -> Callable[[Path], int]:
    def find(disk: Path) -> int:
        found = re.search(r"located at block (\d+), offset 0x(\w+)", debugfs(disk, f"imap {path}"))
        assert found
        return int(found[1]) * BLOCK_SIZE + int(found[2], 16) + field

    return find


def directory_block(path: str) -> Callable[[Path], int]:
    return lambda disk: int(debugfs(disk, f"blocks {path}").split("\n")[-2].split()[0]) * BLOCK_SIZE + 33


def xattr_block(disk: Path) -> int:
    found = re.search(r"File ACL: (\d+)", debugfs(disk, f"stat {in_layer(0, '/noted')}"))
    assert found
    return int(found[1]) * BLOCK_SIZE + BLOCK_SIZE - 3


def extent_block(disk: Path) -> int:
    with Ext4(RawImage(disk)) as filesystem:
        number = filesystem.find(in_layer(0, "/holes").encode())
        assert number
        return int(struct.unpack_from("<I", filesystem.inode(number).block, 16)[0]) * BLOCK_SIZE + 12


@pytest.mark.parametrize(
    ("find", "path"),
    [
        (superblock, None),
        (descriptor, None),
        (bitmap("block"), None),
        (bitmap("inode"), None),
        (inode_of("/", 0), "/"),
        (inode_of(in_layer(0, "/d/text"), 2), in_layer(0, "/d/text")),
        (inode_of(in_layer(0, "/d/text"), 4), in_layer(0, "/d/text")),
        (inode_of(in_layer(0, "/fast"), 0x28), in_layer(0, "/fast")),
        (inode_of(in_layer(0, "/d/text"), 0x6F), in_layer(0, "/d/text")),  # an enormous size
        (inode_of(in_layer(0, "/d"), 7), in_layer(0, "/d")),
        (inode_of(of_record(0, "tar-split.json.gz"), 0x6F), of_record(0, "tar-split.json.gz")),
        (inode_of(CONFIG, 0x6F), CONFIG),
        (inode_of(INDEX, 0x6F), INDEX),
        (inode_of(in_layer(0, "/d/text"), 0x7C), None),  # the checksum itself
        (inode_of(in_layer(0, "/d/text"), 164), None),
        (directory_block(TOP.layers), None),
        (directory_block(in_layer(0)), None),
        (xattr_block, in_layer(0, "/noted")),
        (extent_block, None),
    ],
)
def test_metadata(changed: Path, find: Callable[[Path], int], path: str | None) -> None:
    """e2fsck finds the checksum wrong; where what it protects is seen from outside, the path is told as well."""
    image = Memory(changed.read_bytes())
    image.flip(find(changed))
    changed.write_bytes(image.content)
    found = paths(verify_disk(changed).faults)
    assert "file system" in found
    assert path is None or path in found


# --- a sound file system whose tree is another ---


@pytest.mark.parametrize(
    ("command", "path", "problem"),
    [
        ("sif {d}/d/text mode 0100600", "{d}/again", "has mode 0600, expected 0644"),
        ("sif {d}/d/text uid 5", "{d}/d/text", "has uid 5, expected 0"),
        ("sif {d}/d gid 70001", "{d}/d", "has gid 70001, expected 1"),
        ("sif {d}/holes mtime @0", "{d}/holes", "has mtime_ns 0, expected 1700000000000000000"),
        ("ea_set {d}/holes user.new value", "{d}/holes", "has xattrs {{b'user.new': b'value'}}, expected {{}}"),
        ("ea_rm {d}/noted trusted.n", "{d}/noted", "has xattrs {{b'user.note': b'nnn"),
        ("rm {d}/fast", "{d}/fast", "is missing"),
        ("mkdir {d}/foreign", "{d}/foreign", "does not belong there"),
        ("symlink {d}/foreign x", "{d}/foreign", "does not belong there"),
        ("mkdir /overlay2/foreign", "/overlay2/foreign", "does not belong there"),
        ("symlink /overlay2/l/FOREIGN x", "/overlay2/l/FOREIGN", "does not belong there"),
        ("mkdir /image/foreign", "/image/foreign", "does not belong there"),
        ("mkdir /foreign", "/foreign", "does not belong there"),
        ("rm {c}", "{c}", "is missing"),
        ("sif {c} mode 0100644", "{c}", "has mode 0644, expected 0600"),
        ("rm {l}", "{l}", "is missing"),
        ("rm {t}", "{t}", "is missing"),
        (
            "rm /preload.json",
            "/preload.json",
            "has no preload.json; expected a disk made by `preloader build`; nothing",
        ),
    ],
)
def test_another_tree(changed: Path, command: str, path: str, problem: str) -> None:
    names = {"d": in_layer(0), "c": CONFIG, "t": of_record(0, "tar-split.json.gz"), "l": of_place(0, "link")}
    write_into(changed, command.format(**names))
    faults = [fault for fault in verify_disk(changed).faults if fault.path != "file system"]
    assert path.format(**names) in paths(faults)
    assert any(fault.problem.startswith(problem.format()) for fault in faults), faults


def test_another_type_or_link(changed: Path) -> None:
    text, again = in_layer(0, "/d/text"), in_layer(0, "/again")
    write_into(
        changed, f"rm {again}", f"symlink {again} d/text", f"rm {in_layer(0, '/fast')}", f"mkdir {in_layer(0, '/fast')}"
    )
    faults = set(verify_disk(changed).faults)
    assert Fault(again, "is a symlink, expected a file") in faults
    assert Fault(in_layer(0, "/fast"), "is a directory, expected a symlink") in faults
    assert Fault(text, "has names 1, expected 2") in faults


def test_label(changed: Path) -> None:
    run(["tune2fs", "-L", "dpl-0123456789ab", changed])
    (fault,) = verify_disk(changed).faults
    assert fault.path == INDEX
    assert re.fullmatch("goes with the label dpl-[0-9a-f]{12}, the file system has 'dpl-0123456789ab'", fault.problem)


# --- layers that docker cannot save ---


@pytest.mark.parametrize(
    "name", ["whiteout_with_data", "file_over_file", "link_outlives_its_target", "through_then_replaced"]
)
def test_data_that_are_not_kept(tmp_path: Path, name: str) -> None:
    archive = write_docker_archive([Image(EDGES[name])], tmp_path / "x.tar")
    build_disk([archive], tmp_path / "x.qcow2")
    verdict = verify_disk(tmp_path / "x.qcow2")
    assert not verdict.faults
    assert all("docker cannot save the layer" in note.problem for note in verdict.notes)
    assert verdict.notes


def test_what_is_kept_under_another_name_is_checked(tmp_path: Path) -> None:
    text = file("a", "the content")
    layer = make_layer([text, hard_link("b", text), symlink("s", "."), file("s/a", "other")])
    build_disk([write_docker_archive([Image((layer,))], tmp_path / "x.tar")], tmp_path / "x.qcow2")
    image = Memory(convert_to_raw(tmp_path / "x.qcow2").read_bytes())
    index, _ = read_index(Ext4(image))
    assert layer_faults(image, index, [0]) == []
    image.flip(image.find(b"the content"))
    (fault,) = layer_faults(image, index, [0])
    assert fault.path.endswith("/diff/b")
    assert fault.problem.startswith("its content is damaged")


# --- whatever happens to a disk ---


def unclaimed(image: Memory) -> set[int]:
    """The bytes that nothing refers to: where a flip means nothing."""
    free = {*range(1024), *range(2048, BLOCK_SIZE), *range(BLOCK_SIZE + DESCRIPTOR_SIZE, 2 * BLOCK_SIZE)}
    (bitmap_at, inode_bitmap_at, table_at) = struct.unpack_from("<III", image.content, BLOCK_SIZE)
    bits = int.from_bytes(image.read_at(bitmap_at * BLOCK_SIZE, BLOCK_SIZE), "little")
    for block in range(len(image.content) // BLOCK_SIZE):
        if not bits >> block & 1:
            free |= set(range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE))
    (inodes,) = struct.unpack_from("<I", image.content, 1024)
    used = int.from_bytes(image.read_at(inode_bitmap_at * BLOCK_SIZE, BLOCK_SIZE), "little")
    filesystem = Ext4(image)
    for number in range(1, inodes + 1):
        start = table_at * BLOCK_SIZE + (number - 1) * INODE_SIZE
        if number < 11 or not used >> number - 1 & 1:
            free |= set() if number == 2 else set(range(start, start + INODE_SIZE))
            continue
        inode = filesystem.inode(number)
        if inode.has_extents and inode.type in (REG, SYM) and inode.size % BLOCK_SIZE:
            free |= set(slack(image, number))
    return free


def slack(image: Memory, number: int) -> Iterator[int]:
    """What is behind the end of a file in its last block."""
    content = b"".join(Ext4(image).pieces(Ext4(image).inode(number)))
    tail = content[len(content) // BLOCK_SIZE * BLOCK_SIZE :]
    if not tail.strip(b"\0"):
        return
    for start in range(0, len(image.content), BLOCK_SIZE):
        if image.content.startswith(tail.ljust(BLOCK_SIZE, b"\0"), start):
            yield from range(start + len(tail), start + BLOCK_SIZE)


def test_no_bit_can_be_flipped_unnoticed(tiny: Memory, changed: Path) -> None:
    free = unclaimed(tiny)
    change = random.Random(7)
    blocks = range(0, len(tiny.content), BLOCK_SIZE)
    chosen = [[offset for offset in range(start, start + BLOCK_SIZE) if offset not in free] for start in blocks]
    missed = []
    for offset in (change.choice(offsets) for offsets in chosen if offsets):
        tiny.flip(offset)
        changed.write_bytes(tiny.content)
        tiny.flip(offset)
        try:
            if not verify_disk(changed).faults:
                missed.append(offset)
        except InvalidDisk:
            assert 1024 <= offset < 2048, "the superblock"
    assert missed == []


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_reported(tiny: Memory, changed: Path, seed: int) -> None:
    """However much is damaged, there is a report, and no disk of which e2fsck says otherwise is sound."""
    change = random.Random(seed)
    for _ in range(4 ** change.randrange(1, 7)):
        offset = change.randrange(BLOCK_SIZE, len(tiny.content))
        tiny.content[offset] = change.choice([0, 1, 0x7F, 0x80, 0xFF, change.randrange(256)])
    changed.write_bytes(tiny.content)
    verdict = verify_disk(changed)
    assert len(verdict.faults) <= 2 * MAX_FAULTS
    if not verdict.faults:
        run(["e2fsck", "-fn", changed])
    assert all(fault.path.isprintable() and fault.problem.isprintable() for fault in verdict.faults)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated(tiny: Memory, changed: Path, share: float) -> None:
    changed.write_bytes(tiny.content[: int(len(tiny.content) * share)])
    assert verify_disk(changed).faults


def test_truncated_qcow2(tiny_disk: Path, tmp_path: Path) -> None:
    disk = tmp_path / "x.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", tiny_disk, disk])
    disk.write_bytes(disk.read_bytes()[: 5 << 16])
    (first, *_) = verify_disk(disk).faults
    assert first.path == "qcow2 image"
    assert first.problem.startswith("is damaged: qemu-img check says: ERROR")


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(1 << 16), b"QFI\xfb" + bytes(100)])
def test_no_disk_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidDisk):
        verify_disk(tmp_path / "x")


def test_somebody_elses_file_system(tmp_path: Path) -> None:
    run(["mke2fs", "-q", "-t", "ext4", tmp_path / "x", "1M"])
    with pytest.raises(InvalidDisk, match=r"x: has no preload\.json; expected a disk made by `preloader build`$"):
        verify_disk(tmp_path / "x")


# --- tar-split of strangers ---


def packed(content: bytes) -> bytes:
    """The same bytes each time: tests that have them for a name are the same in each process of a run."""
    return gzip.compress(content, mtime=0)


def compress(*records: object) -> bytes:
    return packed(b"".join(json.dumps(record).encode() + b"\n" for record in records))


def test_tar_split_is_read_as_it_is_written() -> None:
    written = compress(
        {"type": 2, "payload": b64encode(b"raw").decode(), "position": 0},
        {"type": 1, "name": "a", "size": 3, "payload": b64encode(bytes(7) + b"\5").decode(), "position": 1},
        {"type": 1, "name_raw": b64encode(NOT_UTF8).decode(), "payload": None, "position": 2},
        {"type": 1, "payload": None, "position": 3},
    )
    expected = [b"raw", FileRecord(b"a", 3, 5), FileRecord(NOT_UTF8, 0, None), FileRecord(b"", 0, None)]
    assert list(read_tar_split([written])) == expected
    assert list(read_tar_split(written[at : at + 1] for at in range(len(written)))) == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no end"),
        (b"xy", "gzip stream is damaged"),
        (packed(b"")[:-1], "has no end"),
        (compress() + b"x", "something stands behind"),
        (packed(b"{}"), "its last line has no end"),
        (packed(b"[" * 100_000 + b"\n"), "no record"),
        (packed(b" " * (17 << 20)), "a line has more than 16777216 bytes"),
        (compress({}), "no record"),
        (compress([]), "no record"),
        (compress(1), "no record"),
        (compress({"type": 3}), "unknown type 3"),
        (compress({"type": 2}), "no record"),
        (compress({"type": 2, "payload": None}), "no record"),
        (compress({"type": 2, "payload": "?"}), "base64"),
        (compress({"type": 1, "name": 1, "payload": None}), "no record"),
        (compress({"type": 1, "name": "\ud800", "payload": None}), "surrogates not allowed"),
        (compress({"type": 1, "name": "a", "size": -1, "payload": None}), "has -1 bytes"),
        (compress({"type": 1, "name": "a", "size": 1 << 62, "payload": None}), "has 4611686018427387904 bytes"),
        (compress({"type": 1, "name": "a", "size": 1.5, "payload": None}), "has 1.5 bytes"),
    ],
)
def test_tar_split_that_is_none(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        list(read_tar_split([content]))
