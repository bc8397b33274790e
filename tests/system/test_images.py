"""The images are what Docker takes them for: a real dockerd loads each, runs it and shows the tree that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images
from tests.dockerd import Dockerd, is_running
from tests.images import Image, Layout, catalogue, layer
from tests.tree import describe_tree, tree_differences

LAYOUTS: list[Layout] = ["old", "oci"]
# What dockerd's init layer puts into each container, and what that changes on the way.
INIT_FILES = {b".dockerenv", b"etc/mtab", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"}
INIT_FOLDERS = {b"dev", b"etc", b"proc", b"sys"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dockerd_loads_what_we_wrote(dockerd: Dockerd, tmp_path: Path, layout: Layout) -> None:
    small = [images.busybox_image(), images.app_image(), images.edge_image(), images.untagged_image()]
    debian = [images.debian_base_image(), images.debian_image()]
    dockerd.docker("load", "--input", images.write_docker_archive([*small, *debian], tmp_path / "all.tar", layout))
    for image in (*small, *debian):
        check_image(dockerd, image)
    assert dockerd.run("busybox:test", "echo", "hello") == "hello\n"
    assert dockerd.run("app:1") == "hello from app\n"
    assert dockerd.run(images.untagged_image().image_id) == "no name\n"
    assert "hard-a" in dockerd.run("edge:test")
    assert dockerd.run("debian-base:trixie", "bash", "-c", "echo $BASH_VERSION").startswith("5.")
    assert dockerd.run("debian-redis:trixie").startswith("Redis server v=")


def check_image(dockerd: Dockerd, image: Image) -> None:
    found = dockerd.inspect(image.image_id)
    assert found["Id"] == image.image_id
    assert found["RootFS"]["Layers"] == image.diff_ids
    assert sorted(found["RepoTags"]) == sorted(image.references)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_again_gives_the_same_layers(dockerd: Dockerd, tmp_path: Path, layout: Layout) -> None:
    edge = images.edge_image()
    dockerd.docker("load", "--input", images.write_docker_archive([edge], tmp_path / "edge.tar", layout))
    dockerd.docker("save", "--output", tmp_path / "saved.tar", "edge:test")
    dockerd.docker("rmi", "edge:test")
    dockerd.docker("load", "--input", tmp_path / "saved.tar")
    check_image(dockerd, edge)


def image_ids(dockerd: Dockerd) -> set[str]:
    return set(dockerd.docker("images", "--no-trunc", "--quiet").split())


@pytest.fixture
def edge_dockerd(dockerd: Dockerd, tmp_path: Path) -> Dockerd:
    both = [images.busybox_image(), images.edge_image()]
    dockerd.docker("load", "--input", images.write_docker_archive(both, tmp_path / "edge.tar"))
    return dockerd


def test_markers_hide_what_is_below(edge_dockerd: Dockerd) -> None:
    tree = edge_dockerd.container_tree("edge:test")
    assert not {b"gone", b"kept/removed", b"kept/link", b"edge/hard-b", b"root", b"bin/zcip", b"back"} & tree.keys()
    assert {path for path in tree if path.startswith(b"emptied/")} == {b"emptied/new"}
    assert b"kept/stays" in tree
    assert tree[b"replaced-by-folder"].type == "directory"
    assert tree[b"replaced-by-file"].type == "file"
    assert not [path for path in tree if b".wh." in path]


def test_metadata_arrives(edge_dockerd: Dockerd) -> None:
    tree = edge_dockerd.container_tree("edge:test")
    assert tree[b"edge/hard-a"].links == (b"edge/hard-a", b"edge/sub/hard-c")
    assert tree[b"edge/setuid"].mode == 0o4755
    assert tree[b"edge/ping"].xattrs == {"security.capability": catalogue.CAP_NET_RAW}
    assert tree[b"edge/noted"].xattrs == {"user.binary": catalogue.BINARY_VALUE, "user.note": "café".encode()}
    assert tree[b"edge/noted-folder"].xattrs == {"user.note": b"folder"}
    assert tree[b"edge/loop300"].device == (7, 300)
    assert tree[b"edge/large-ids"].gid == 4_000_000_000
    assert tree[b"edge/nanoseconds-folder"].mtime_ns == catalogue.NANOSECONDS
    assert tree[b"edge/dangling"].mtime_ns == catalogue.HALF_SECOND
    assert tree[b"edge/after-2038"].mtime_ns == (2**31 + 5) * 10**9
    assert tree[catalogue.NOT_UTF8].mtime_ns == layer.EPOCH_NS


def test_running_container_sees_the_same(edge_dockerd: Dockerd) -> None:
    """What container_tree leaves away is only what dockerd adds to each container."""
    for image in ("busybox:test", "edge:test"):
        expected = edge_dockerd.container_tree(image)
        found = edge_dockerd.running_tree(image, "sleep", "1000")
        for path in INIT_FILES | INIT_FOLDERS:
            expected.pop(path, None)
            found.pop(path, None)
        assert tree_differences(expected, found) == []


def test_restart_and_crash_keep_the_images(edge_dockerd: Dockerd) -> None:
    before = image_ids(edge_dockerd)
    edge_dockerd.stop()
    edge_dockerd.start()
    assert image_ids(edge_dockerd) == before
    edge_dockerd.kill()
    edge_dockerd.start()
    assert image_ids(edge_dockerd) == before
    assert edge_dockerd.run("busybox:test", "echo", "alive") == "alive\n"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], tmp_path / "busybox.tar")
    with Dockerd(tmp_path / "docker") as dockerd:
        dockerd.docker("load", "--input", archive)
        container = dockerd.docker("run", "--detach", "--network", "none", "busybox:test", "sleep", "1000").strip()
        pid = dockerd.inspect(container, "container")["State"]["Pid"]
        dockerd.kill()
        assert is_running(pid), "a crash leaves containers running"
    assert not is_running(pid)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert describe_tree(dockerd.data_root)
