"""From archives to a disk: what is on it, and that the same input gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import sys
from pathlib import Path

import pytest

from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.diskimage import RawImage
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from preloader_agent.store.digest import CacheID, ChainID, Link, chain_ids, sha256_digest
from preloader_agent.store.index import DiskIndex, LayerRecord
from preloader_agent.store.layout import Store
from tests import images
from tests.host.conftest import SMALL_IMAGES, convert_to_raw
from tests.images import Image, Layout, catalogue, layer, make_layer
from tests.images.layer import directory, file, hard_link, symlink
from tests.tree import describe_tree

TOP = Store("")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def filesystem(raw_disk: Path) -> Ext4:
    return Ext4(RawImage(raw_disk))


@pytest.fixture(scope="module")
def index(raw_disk: Path) -> DiskIndex:
    return inspect_disk(raw_disk)


def read(filesystem: Ext4, path: str) -> bytes | None:
    return filesystem.read(path.encode(), 1 << 24)


# --- the index ---


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_every_image_is_on_the_disk(disks: dict[Layout, Path], layout: Layout) -> None:
    found = {image.image_id: image for image in inspect_disk(disks[layout]).images}
    assert len(found) == len(SMALL_IMAGES)
    for expected in (make() for make in SMALL_IMAGES):
        record = found[expected.image_id]  # type: ignore[index] # an ImageID is a str
        assert set(record.references) == set(expected.references)
        assert list(record.chain) == expected.chain_ids
        assert (record.platform.os, record.platform.architecture) == ("linux", images.archive.ARCHITECTURE)


def test_layout_of_the_archive_does_not_matter(disks: dict[Layout, Path]) -> None:
    assert digest(disks["old"]) == digest(disks["oci"])


def test_raw_and_qcow2_are_the_same(disk: Path, raw_disk: Path) -> None:
    assert inspect_disk(raw_disk) == inspect_disk(disk)


def test_shared_layers_are_stored_once(filesystem: Ext4, index: DiskIndex) -> None:
    chains = {chain for make in SMALL_IMAGES for chain in make().chain_ids}
    assert {layer.chain_id for layer in index.layers} == chains
    trees = set(filesystem.names(b"overlay2")) - {b"l"}
    assert trees == {layer.cache_id.encode() for layer in index.layers}


def test_label_and_name_of_the_file_system(filesystem: Ext4, index: DiskIndex) -> None:
    assert filesystem.label == index.label
    assert filesystem.uuid == index.content_digest.hex[:32]


# --- the store ---


def test_every_layer_is_as_dockerd_would_have_it(filesystem: Ext4, index: DiskIndex) -> None:
    parents = {
        chain: parent for image in index.images for parent, chain in zip(("", *image.chain), image.chain, strict=False)
    }
    for record in index.layers:
        assert (record.cache_id, record.link) == (CacheID.of_chain(record.chain_id), Link.of_chain(record.chain_id))
        check_record(filesystem, record, parents[record.chain_id])
        check_place(filesystem, record, parents[record.chain_id])


def check_record(filesystem: Ext4, record: LayerRecord, parent: str) -> None:
    path = TOP.layer_record(record.chain_id)
    assert read(filesystem, f"{path}/diff") == record.diff_id.encode()
    assert read(filesystem, f"{path}/cache-id") == record.cache_id.encode()
    assert read(filesystem, f"{path}/size") == str(record.size).encode()
    assert read(filesystem, f"{path}/parent") == (parent.encode() or None)
    assert gzip.decompress(read(filesystem, TOP.tar_split(record.chain_id)) or b"")


def check_place(filesystem: Ext4, record: LayerRecord, parent: str) -> None:
    path = TOP.layer(record.cache_id)
    assert read(filesystem, f"{path}/committed") == b""
    assert read(filesystem, f"{path}/link") == record.link.encode()
    lower = None
    if parent:
        above = TOP.layer(CacheID.of_chain(ChainID(parent)))
        lower = b":".join(
            filter(None, [b"l/" + (read(filesystem, f"{above}/link") or b"?"), read(filesystem, f"{above}/lower")])
        )
    assert read(filesystem, f"{path}/lower") == lower


def test_every_image_configuration_is_there(filesystem: Ext4, index: DiskIndex) -> None:
    for image in index.images:
        config = read(filesystem, TOP.image_config(image.image_id)) or b""
        assert sha256_digest(config) == image.image_id
        assert tuple(chain_ids(json.loads(config)["rootfs"]["diff_ids"])) == image.chain


def test_repositories_name_the_images(filesystem: Ext4) -> None:
    app = images.app_image().image_id
    assert json.loads(read(filesystem, TOP.repositories) or b"") == {
        "Repositories": {
            "app": {"app:1": app},
            "busybox": {"busybox:test": images.busybox_image().image_id},
            "edge": {"edge:test": images.edge_image().image_id},
            "example/app": {"example/app:1.0": app},
            "implied": {"implied:test": images.implied_parents_image().image_id},
            "registry.example.com:5000/team/app": {"registry.example.com:5000/team/app:latest": app},
        }
    }


# --- what only debugfs sees ---


def debugfs(raw: Path, command: str) -> str:
    return run(["debugfs", "-R", command, raw], with_stderr=True)


def in_edge(number: int, path: str) -> str:
    chain = ChainID(images.edge_image().chain_ids[number])
    return f"{TOP.diff(CacheID.of_chain(chain))}/{path}"


def test_file_systems_are_sound(disk: Path, raw_disk: Path) -> None:
    run(["e2fsck", "-fn", raw_disk])  # both fail unless there is nothing to complain of
    run(["qemu-img", "check", disk])


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("edge/ping", "security.capability", catalogue.CAP_NET_RAW),
        ("edge/noted", "user.note", "café".encode()),
        ("edge/noted", "user.binary", catalogue.BINARY_VALUE),
        ("edge/labelled", "trusted.label", b"text"),
        ("edge/noted-folder", "user.note", b"folder"),
        ("edge/large-attribute", "user.large", b"v" * 1500),
    ],
)
def test_extended_attributes(raw_disk: Path, tmp_path: Path, path: str, name: str, value: bytes) -> None:
    debugfs(raw_disk, f"ea_get -f {tmp_path / 'value'} {in_edge(1, path)} {name}")
    assert (tmp_path / "value").read_bytes() == value


def test_opaque_folders(raw_disk: Path) -> None:
    for path in ("emptied", "opaque-from-the-start"):
        assert 'trusted.overlay.opaque (1) = "y"' in debugfs(raw_disk, f"ea_list {in_edge(3, path)}")
    assert "opaque" not in debugfs(raw_disk, f"ea_list {in_edge(3, 'kept')}")


def test_whiteouts(raw_disk: Path) -> None:
    for path in ("gone", "kept/removed", "kept/never-was-there"):
        status = debugfs(raw_disk, f"stat {in_edge(3, path)}")
        assert "Type: character special" in status
        assert "Mode:  0000" in status
        assert "Device major/minor number: 00:00" in status


@pytest.mark.parametrize(
    ("path", "nanoseconds"),
    [
        ("edge/nanoseconds", catalogue.NANOSECONDS),
        ("edge/nanoseconds-folder", catalogue.NANOSECONDS),
        ("edge/half-second", catalogue.HALF_SECOND),
        ("edge/after-2038", (2**31 + 5) * 10**9),
        ("edge/epoch", 0),
        ("edge/setuid", layer.EPOCH_NS),
    ],
)
def test_modification_times(raw_disk: Path, path: str, nanoseconds: int) -> None:
    seconds, rest = divmod(nanoseconds, 10**9)
    extra = rest << 2 | (seconds >> 31 & 1)  # bit 32 of the seconds is the first of the extra ones, less the sign's
    assert f"mtime: {seconds & 0xFFFFFFFF:#010x}:{extra:08x}" in debugfs(raw_disk, f"stat {in_edge(1, path)}")


# --- the same input gives the same bytes ---


def test_order_and_distribution_of_the_archives_do_not_matter(disk: Path, tmp_path: Path) -> None:
    made: list[Image] = [make() for make in SMALL_IMAGES]
    one = images.write_docker_archive(made[3:1:-1], tmp_path / "one.tar", "oci")
    two = images.write_docker_archive([made[4], made[1], made[0]], tmp_path / "two.tar", "old")
    for number, archives in enumerate(([one, two], [two, one])):
        build_disk(archives, tmp_path / f"{number}.qcow2")
        assert digest(tmp_path / f"{number}.qcow2") == digest(disk)


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_a_stream_gives_the_same_disk_as_a_file(
    disk: Path, archives: dict[Layout, Path], tmp_path: Path, layout: Layout
) -> None:
    """Its layers are staged in the order in which they come, and those that no image needs as well."""
    build_disk([compressed(archives[layout])], tmp_path / "x.qcow2")
    assert digest(tmp_path / "x.qcow2") == digest(disk)


def compressed(archive: Path) -> Path:
    """An archive that can be read only once, from its start to its end."""
    path = archive.with_suffix(".tgz")
    path.write_bytes(gzip.compress(archive.read_bytes(), 1))
    return path


def test_surroundings_do_not_matter(disk: Path, archives: dict[Layout, Path], tmp_path: Path) -> None:
    """Time zone, language, temporary folder, folder of the archive, and what package builds set."""
    (tmp_path / "tmp").mkdir()
    archive = tmp_path / "other name.tar"
    archive.symlink_to(archives["old"])
    surroundings = {
        "TZ": "Asia/Kathmandu",
        "LANG": "C",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path / "tmp"),
        "SOURCE_DATE_EPOCH": "1000000000",
        "E2FSPROGS_FAKE_TIME": "1000000000",
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    argv = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()"]
    run([*argv, "build", archive, "-o", tmp_path / "x.qcow2"], env=surroundings)
    assert digest(tmp_path / "x.qcow2") == digest(disk)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_another_tag_gives_another_disk(disk: Path, tmp_path: Path) -> None:
    busybox = images.busybox_image()
    labels = set()
    for tag in ("busybox:test", "busybox:other"):
        renamed = Image(busybox.layers, (tag,), busybox.config)
        archive = images.write_docker_archive([renamed], tmp_path / f"{tag}.tar")
        labels.add(build_disk([archive], tmp_path / "x.qcow2").index.label)
    assert len(labels | {inspect_disk(disk).label}) == 3


# --- odd, but sound ---


def test_image_without_layers(tmp_path: Path) -> None:
    archive = images.write_docker_archive([Image((), ("scratch:1",))], tmp_path / "scratch.tar")
    build_disk([archive], tmp_path / "x.qcow2")
    (image,) = inspect_disk(tmp_path / "x.qcow2").images
    assert (image.chain, image.size) == ((), 0)


def test_output_replaces_an_older_disk_and_is_read_only(tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], tmp_path / "busybox.tar")
    (tmp_path / "x.qcow2").write_text("an older disk")
    build_disk([archive], tmp_path / "x.qcow2")
    assert inspect_disk(tmp_path / "x.qcow2").images
    assert (tmp_path / "x.qcow2").stat().st_mode & 0o777 == 0o444
    assert sorted(path.name for path in tmp_path.iterdir()) == ["busybox.tar", "x.qcow2"]


def test_most_layers_that_docker_takes(tmp_path: Path) -> None:
    deep = Image(tuple(layer.make_layer([layer.file(f"f{n}", str(n))]) for n in range(125)), ("deep:1",))
    archive = images.write_docker_archive([deep], tmp_path / "deep.tar")
    assert len(build_disk([archive], tmp_path / "x.qcow2").index.layers) == 125
    run(["e2fsck", "-fn", convert_to_raw(tmp_path / "x.qcow2")])


def test_what_is_described_twice_is_as_it_was_described_last(tmp_path: Path) -> None:
    """A folder that comes again under another spelling, and a hard link: both describe an inode anew."""
    entries = [
        directory("folder").at(1_500_000_000),
        file("file", b"x").at(1_500_000_000),
        directory("/folder").at(7_000_000_000),
        hard_link("link", file("file").at(7_000_000_000)),
    ]
    archive = images.write_docker_archive([Image((make_layer(entries),), ("x:1",))], tmp_path / "x.tar")
    index = build_disk([archive], tmp_path / "x.qcow2").index
    raw = convert_to_raw(tmp_path / "x.qcow2")
    for name in ("folder", "file", "link"):
        stat = debugfs(raw, f"stat {TOP.diff(index.layers[0].cache_id)}/{name}")
        assert re.search(r"mtime: 0x00000007:00000000 ", stat), stat


def test_content_that_the_layer_itself_replaces_is_not_on_the_disk(tmp_path: Path) -> None:
    """Its blocks are there, but free; e2fsck counts them."""
    entries = [file("f", b"1" * 10_000), file("g", b"2" * 5000), file("/f", b"3" * 9000), symlink("/g", "f")]
    archive = images.write_docker_archive([Image((make_layer(entries),), ("x:1",))], tmp_path / "x.tar")
    index = build_disk([archive], tmp_path / "x.qcow2").index
    raw = convert_to_raw(tmp_path / "x.qcow2")
    run(["e2fsck", "-fn", raw])
    assert Ext4(RawImage(raw)).read(f"{TOP.diff(index.layers[0].cache_id)}/f".encode(), 9000) == b"3" * 9000
    assert index.layers[0].size == 9001


# --- one layer on several parents ---

SHARED = random.Random(7).randbytes(20_000)
LINKED = ("both", "again")


@pytest.fixture(scope="module")
def shared_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive where two images have the same layer on different parents: one DiffID, two ChainIDs."""
    folder = tmp_path_factory.mktemp("shared")
    shared = make_layer(
        [
            file("both", SHARED),
            hard_link("again", file("both")),
            file("gone", SHARED),
            file("/gone", b"short"),
            file("holes", bytes(1 << 20) + SHARED + bytes(1 << 20)),
            symlink("long", "t" * 100),
        ]
    )
    parents = [make_layer([file(name, name * 3000)]) for name in ("one", "two")]
    made = [Image((parent, shared), (f"x:{number}",)) for number, parent in enumerate(parents)]
    # An image without the layer, whose own comes first in the stream, and an image that nothing is shared with.
    other = Image((make_layer([file("other", SHARED[::-1])]),), ("other:1",))
    return images.write_docker_archive([*made, other], folder / "shared.tar", "oci")


@pytest.mark.parametrize("is_stream", [False, True])
def test_layer_on_two_parents_has_two_sound_trees(shared_layer: Path, tmp_path: Path, *, is_stream: bool) -> None:
    archive = compressed(shared_layer) if is_stream else shared_layer
    index = build_disk([archive], tmp_path / "x.qcow2").index
    raw = convert_to_raw(tmp_path / "x.qcow2")
    run(["e2fsck", "-fn", raw])
    one, two = (image.chain[1] for image in index.images if len(image.chain) == 2)
    assert one != two
    trees = [dump(raw, TOP.diff(CacheID.of_chain(chain)), tmp_path / chain) for chain in (one, two)]
    assert trees[0] == trees[1]
    assert trees[0].keys() == {b"again", b"both", b"gone", b"holes", b"long"}
    assert trees[0][b"both"] == hashlib.sha256(SHARED).hexdigest()
    assert trees[0][b"long"] == b"t" * 100
    inodes = {inode_of(raw, f"{TOP.diff(CacheID.of_chain(chain))}/{name}") for chain in (one, two) for name in LINKED}
    assert len(inodes) == 2, "a file with two names in each of two trees"


def dump(raw: Path, path: str, target: Path) -> dict[bytes, str | bytes]:
    """What debugfs finds below a path: targets, or digests of the content."""
    target.mkdir()
    run(["debugfs", "-R", f"rdump {path} {target}", raw])
    return {name: node.target or node.sha256 for name, node in describe_tree(target / "diff").items()}


def inode_of(raw: Path, path: str) -> str:
    found = re.search(r"Inode: (\d+) .*Links: 2 ", debugfs(raw, f"stat {path}"), re.S)
    assert found
    return found[1]


def test_a_stream_of_a_shared_layer_gives_the_same_disk(shared_layer: Path, tmp_path: Path) -> None:
    for name, archive in (("file", shared_layer), ("stream", compressed(shared_layer))):
        build_disk([archive], tmp_path / name)
    assert digest(tmp_path / "file") == digest(tmp_path / "stream")


# --- what a user can choose ---


def test_compressed_disks_are_smaller_and_the_same(
    raw_disk: Path, disk: Path, archives: dict[Layout, Path], tmp_path: Path
) -> None:
    outputs = [tmp_path / "1.qcow2", tmp_path / "2.qcow2"]
    for output in outputs:
        build_disk([archives["old"]], output, BuildOptions(compression="zstd"))
    assert digest(outputs[0]) == digest(outputs[1])
    assert outputs[0].stat().st_size < disk.stat().st_size * 0.7
    assert inspect_disk(outputs[0]) == inspect_disk(disk)
    assert digest(convert_to_raw(outputs[0])) == digest(raw_disk)
    assert '"compression-type": "zstd"' in run(["qemu-img", "info", "--output=json", outputs[0]])


def test_a_disk_that_is_there_already_is_not_written_again(archives: dict[Layout, Path], tmp_path: Path) -> None:
    output = tmp_path / "x.qcow2"
    first = build_disk([archives["old"]], output)
    before = output.stat()
    again = build_disk([archives["oci"]], output)
    assert (first.is_new, again.is_new, again.index) == (True, False, first.index)
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    forced = build_disk([archives["oci"]], output, BuildOptions(is_forced=True))
    assert (forced.is_new, forced.index) == (True, first.index)
    assert output.stat().st_ino != before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["x.qcow2"]


@pytest.mark.parametrize("name", ["app:1.qcow2", "-o.qcow2"])
def test_names_that_programs_would_take_for_something_else(
    archives: dict[Layout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    build_disk([archives["old"]], Path(name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert inspect_disk(Path(name)).images


def test_a_disk_in_a_folder_is_named_by_its_label(archives: dict[Layout, Path], disk: Path, tmp_path: Path) -> None:
    first = build_disk([archives["old"]], tmp_path)
    assert first.path == tmp_path / f"{first.index.label}.qcow2"
    assert digest(first.path) == digest(disk)
    again = build_disk([archives["oci"]], tmp_path)
    assert (again.path, again.is_new) == (first.path, False)
    other = build_disk([archives["oci"]], tmp_path, BuildOptions.of(tags=["other:1=busybox:test"]))
    assert other.is_new
    assert sorted(tmp_path.iterdir()) == sorted([first.path, other.path])


@pytest.mark.parametrize("tag", ["busybox:other", "busybox:test"])
def test_a_disk_with_other_content_is_replaced(archives: dict[Layout, Path], tmp_path: Path, tag: str) -> None:
    busybox = images.busybox_image()
    archive = images.write_docker_archive([Image(busybox.layers, (tag,), busybox.config)], tmp_path / "x.tar")
    build_disk([archives["old"]], tmp_path / "x.qcow2")
    assert build_disk([archive], tmp_path / "x.qcow2").is_new
    assert [image.references for image in inspect_disk(tmp_path / "x.qcow2").images] == [(tag,)]


def test_progress_counts_the_bytes_of_layers_once(shared_layer: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_disk([shared_layer], tmp_path / "x.qcow2", progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["reading layers", "writing the file system", "converting to qcow2"]
    counts = [done for stage, done, _ in told if stage == "reading layers"]
    assert counts == sorted(counts)
    assert 0 < counts[0] <= counts[-1] <= told[0][2]
