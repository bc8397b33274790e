"""Archives that are written are taken by the real docker, podman and skopeo, and theirs are taken in turn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.image.export import export_image
from preloader_agent.host.image.merge import merge_archives
from preloader_agent.host.image.sources import ReadOptions, list_images
from preloader_agent.host.image.stream import write_stream
from preloader_agent.host.run import run, stream_output
from preloader_agent.store.digest import MAX_LAYERS, Digest, sha256_digest
from tests import images
from tests.dockerd import Dockerd
from tests.tools import need_tools
from tests.tree import describe_tree, tree_differences

OPTIONS = ReadOptions()
APP = images.app_image()
EDGE = images.edge_image()


@pytest.fixture(scope="module", autouse=True)
def _needs_peers() -> None:
    need_tools("dockerd", "podman", "skopeo")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A dockerd for all of these tests."""
    with Dockerd(tmp_path_factory.mktemp("docker")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two, with three images."""
    folder = tmp_path_factory.mktemp("merged")
    app = images.write_docker_archive([APP], folder / "app.tar", "old")
    edge = images.write_docker_archive([EDGE, images.untagged_image()], folder / "edge.tar", "oci")
    merge_archives([str(app), str(edge)], str(folder / "merged.tar"), OPTIONS)
    return folder / "merged.tar"


@pytest.fixture
def loaded(daemon: Dockerd, merged: Path) -> Dockerd:
    """A dockerd that has loaded it, so that its names are those of its images, whatever else was loaded before."""
    daemon.docker("load", "--input", merged)
    return daemon


@pytest.fixture(scope="module")
def podman(merged: Path) -> Iterator[Callable[..., str]]:
    """The podman command, on a store of its own that has loaded it."""
    with tempfile.TemporaryDirectory(prefix="dpl-podman-") as folder:  # podman takes 50 characters at most
        places = ["--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"]
        # What works without systemd, without overlays on overlays, and without the right to raise limits.
        own = ["podman", *places, "--storage-driver=vfs", "--cgroup-manager=cgroupfs"]

        def call(*args: str | Path) -> str:
            return run([*own, *args], env={"TMPDIR": folder})

        call("load", "--input", merged)
        yield call


def digest_of(path: Path) -> Digest:
    """Of a file that is too large to be shown if it is not what it should be."""
    return sha256_digest(path.read_bytes())


# --- ours, for others ----------------------------------------------------------------------------------------------


def test_docker_loads_and_runs_it(loaded: Dockerd) -> None:
    for image in (APP, EDGE, images.untagged_image()):
        found = loaded.inspect(image.image_id)
        assert (found["Id"], found["RootFS"]["Layers"]) == (image.image_id, image.diff_ids)
        assert sorted(found["RepoTags"]) == sorted(image.references)
    assert loaded.run("app:1") == "hello from app\n"
    assert "hard-a" in loaded.run("edge:test")
    assert loaded.run(images.untagged_image().image_id) == "no name\n"


def test_podman_loads_and_runs_it(podman: Callable[..., str]) -> None:
    for image in (APP, EDGE, images.untagged_image()):
        (found,) = json.loads(podman("image", "inspect", image.image_id))
        assert f"sha256:{found['Id']}" == image.image_id
        assert found["RootFS"]["Layers"] == image.diff_ids
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    assert podman("run", "--rm", "--network=none", *limits, "app:1") == "hello from app\n"


def test_docker_loads_what_a_program_streams(loaded: Dockerd, merged: Path, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "page").write_text("hello from a stream\n")
    recipe = 'name = "streamed"\nbase_name = "app"\ncontents = ["web"]\nconfig = {Cmd = ["cat", "/page"]}\n'
    (tmp_path / "app.toml").write_text(f'base = "{merged}"\n{recipe}')
    image = write_stream(tmp_path / "app.toml", str(tmp_path / "app"), MAX_LAYERS, 1, OPTIONS)
    with stream_output([tmp_path / "app"]) as stream:
        loaded.docker("load", stdin=stream)
    assert loaded.inspect("streamed:latest")["Id"] == sha256_digest(image.config)
    assert loaded.run("streamed") == "hello from a stream\n"


@pytest.mark.parametrize("source", ["docker-archive:{}:app:1", "oci-archive:{}:1"])
def test_skopeo_reads_both_formats_of_it(merged: Path, tmp_path: Path, source: str) -> None:
    found = json.loads(run(["skopeo", "inspect", "--config", source.format(merged)]))
    assert found["rootfs"]["diff_ids"] == APP.diff_ids
    run(["skopeo", "copy", source.format(merged), f"dir:{tmp_path}"])
    for diff_id in APP.diff_ids:
        assert (tmp_path / diff_id.removeprefix("sha256:")).is_file()


# --- theirs, for us ------------------------------------------------------------------------------------------------


def save(kind: str, loaded: Dockerd, podman: Callable[..., str], merged: Path, output: Path) -> Path:
    """The same image, as a peer writes it."""
    if kind == "docker save":
        loaded.docker("save", "--output", output, "app:1")
    elif kind.startswith("podman"):
        podman("save", "--format", kind.removeprefix("podman "), "--output", output, "app:1")
    else:
        target = f"{kind.removeprefix('skopeo ')}:{output}:app:1"
        run(["skopeo", "copy", f"docker-archive:{merged}:app:1", target])
    return output


@pytest.mark.parametrize(
    "kind",
    [
        "docker save",
        "podman docker-archive",
        "podman oci-archive",
        "podman oci-dir",
        "skopeo docker-archive",
        "skopeo oci-archive",
        "skopeo oci",
    ],
)
def test_what_peers_save_goes_in(
    loaded: Dockerd, podman: Callable[..., str], merged: Path, tmp_path: Path, kind: str
) -> None:
    """A converted configuration is another image, but its layers are the same, and so is all that is made of them."""
    saved = str(save(kind, loaded, podman, merged, tmp_path / "saved"))
    assert [layer.diff_id for layer in build_disk([saved], tmp_path / "x.qcow2").index.layers] == APP.diff_ids
    (found,) = list_images(saved)
    assert found.references[0].endswith("app:1")
    export_image(saved, None, str(tmp_path / "rootfs.tar"), OPTIONS)
    export_image(str(merged), "app:1", str(tmp_path / "expected.tar"), OPTIONS)
    assert digest_of(tmp_path / "rootfs.tar") == digest_of(tmp_path / "expected.tar")
    merge_archives([saved], str(tmp_path / "again.tar"), OPTIONS)
    loaded.docker("load", "--input", tmp_path / "again.tar")
    assert loaded.run(found.image_id) == "hello from app\n"
    assert loaded.inspect(found.image_id)["RootFS"]["Layers"] == APP.diff_ids


def test_what_docker_saves_of_it_is_the_same_disk(loaded: Dockerd, merged: Path, tmp_path: Path) -> None:
    loaded.docker("save", "--output", tmp_path / "saved.tar", *APP.references, *EDGE.references)
    untagged = images.untagged_image()
    loaded.docker("save", "--output", tmp_path / "untagged.tar", untagged.image_id)
    build_disk([tmp_path / "saved.tar", tmp_path / "untagged.tar"], tmp_path / "x.qcow2")
    build_disk([merged], tmp_path / "y.qcow2")
    assert digest_of(tmp_path / "x.qcow2") == digest_of(tmp_path / "y.qcow2")


# --- what is exported ----------------------------------------------------------------------------------------------


def test_exported_tree_is_what_a_container_sees(loaded: Dockerd, merged: Path, tmp_path: Path) -> None:
    export_image(str(merged), "edge:test", str(tmp_path / "rootfs.tar"), OPTIONS)
    expected = loaded.container_tree("edge:test")
    root = tmp_path / "root"
    root.mkdir()
    run(["tar", "-x", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-pC", root, "-f", tmp_path / "rootfs.tar"])
    assert tree_differences(expected, describe_tree(root)) == []
    loaded.docker("import", tmp_path / "rootfs.tar", "imported:1")
    assert tree_differences(expected, loaded.container_tree("imported:1")) == []
