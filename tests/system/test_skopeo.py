"""Images of a real registry and of a real dockerd, fetched by the real skopeo."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, InvalidArchive
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.run import run
from preloader_agent.host.selection import NewName, parse_name, parse_platform
from preloader_agent.store.index import DiskIndex, Platform
from tests import images
from tests.agent import Agent
from tests.dockerd import Dockerd
from tests.images import Image
from tests.images.archive import ARCHITECTURE
from tests.images.oci import OciLayout, on
from tests.registry import Registry
from tests.system.conftest import NewDockerd
from tests.tools import need_tools

INSECURE = BuildOptions(is_tls_verified=False)
HERE = f"linux/{ARCHITECTURE}"
OTHER = "linux/s390x"


@pytest.fixture(scope="module", autouse=True)
def _needs_skopeo() -> None:
    need_tools("skopeo", "docker-registry")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def push_image(registry: Registry, name: str, image: Image, compression: str = "gzip") -> str:
    layout = OciLayout()
    return registry.push(layout, layout.image(image, compression), name)


def push_index(registry: Registry, name: str, *, is_docker: bool) -> str:
    """Two platforms, with what BuildKit adds to each."""
    layout = OciLayout()
    here, other = (
        on(platform, layout.image(images.app_image(), platform=platform, is_docker=is_docker))
        for platform in (HERE, OTHER)
    )
    attestations = [] if is_docker else [layout.attestation(here), layout.attestation(other)]
    return registry.push(layout, layout.index([other, here, *attestations], is_docker=is_docker), name)


def build(argument: str, output: Path, options: BuildOptions = INSECURE) -> DiskIndex:
    return build_disk([argument], output, options).index


def platform_of(index: DiskIndex) -> Platform:
    (image,) = index.images
    return image.platform


# --- what a registry has -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_image_of_a_registry(registry: Registry, tmp_path: Path, compression: str) -> None:
    name = push_image(registry, f"team/{compression}:1", images.edge_image(), compression)
    fetched = build(f"docker://{name}", tmp_path / "fetched.qcow2")
    saved = images.write_docker_archive([images.edge_image()], tmp_path / "saved.tar")
    expected = build(str(saved), tmp_path / "saved.qcow2")
    assert fetched.layers == expected.layers
    (image,) = fetched.images
    assert image.image_id == images.edge_image().image_id
    assert image.references == (name,)


def test_platform_selects_of_an_index(registry: Registry, tmp_path: Path) -> None:
    name = push_index(registry, "index", is_docker=False)
    index = build(f"docker://{name}", tmp_path / "x.qcow2")
    assert str(platform_of(index)) == HERE
    assert index.images[0].references == (f"{name}:latest",)
    other = BuildOptions(platform=parse_platform(OTHER), is_tls_verified=False)
    assert str(platform_of(build(f"docker://{name}", tmp_path / "x.qcow2", other))) == OTHER
    with pytest.raises(InvalidArchive, match=f"{name}:latest is there for {HERE}, {OTHER}; expected linux/arm/v5"):
        build(
            f"docker://{name}",
            tmp_path / "x.qcow2",
            BuildOptions(Platform("linux", "arm", "v5"), is_tls_verified=False),
        )


def test_a_mismatch_is_found_before_a_layer_is_fetched(registry: Registry, tmp_path: Path) -> None:
    name = push_image(registry, "single", images.app_image())
    options = BuildOptions(platform=parse_platform(OTHER), is_tls_verified=False)
    said: list[str] = []
    with pytest.raises(InvalidArchive, match=f"there for {HERE}; expected {OTHER}"):
        build_disk([f"docker://{name}"], tmp_path / "x.qcow2", options, say=said.append)
    assert said == []


@pytest.mark.parametrize("is_docker", [False, True])
@pytest.mark.parametrize("way", ["tag", "digest", "image"])
def test_an_adopted_image_is_what_docker_would_have_pulled(
    registry: Registry, new_dockerd: NewDockerd, tmp_path: Path, way: str, *, is_docker: bool
) -> None:
    if way == "image":
        name = push_image(registry, "team/pulled:1", images.app_image())
    else:
        name = push_index(registry, f"team/pulled-{int(is_docker)}:1", is_docker=is_docker)
    if way == "digest":
        name = f"{name.rpartition(':')[0]}@{digest_of(name)}"
    build(f"docker://{name}", tmp_path / "x.qcow2")
    with Agent(tmp_path / "agent", tmp_path / "adopted" / "root") as agent:
        agent.attach(tmp_path / "x.qcow2")
        adopted, pulled = new_dockerd(tmp_path / "adopted"), new_dockerd()
        pulled.docker("pull", name)
        assert listing(adopted) == listing(pulled)
        for key in ("Id", "RepoTags", "RepoDigests", "RootFS", "Config", "Size"):
            assert adopted.inspect(name)[key] == pulled.inspect(name)[key]
        assert "sha256:" in listing(adopted)[0]
        assert adopted.run(name) == "hello from app\n"
        adopted.stop()


def digest_of(name: str) -> str:
    return run(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}"]).strip()


def listing(dockerd: Dockerd) -> list[str]:
    form = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}} {{.Size}}"
    return sorted(dockerd.docker("images", "--all", "--no-trunc", "--digests", "--format", form).splitlines())


def test_progress_is_passed_on_and_nothing_is_left(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = push_image(registry, "progress:1", images.app_image())
    for folder in ("tmp", "out"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    output = tmp_path / "out" / "x.qcow2"
    said: list[str] = []
    assert build_disk([f"docker://{name}"], output, INSECURE, say=said.append).is_new
    assert sum(line.startswith("Copying blob") for line in said) == 3
    assert not build_disk([f"docker://{name}"], output, INSECURE, say=said.append).is_new
    assert sum(line.startswith("Copying blob") for line in said) == 3, "what is there is not fetched again"
    assert list((tmp_path / "out").iterdir()) == [output]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_two_inputs(registry: Registry, tmp_path: Path) -> None:
    """What they share is fetched once, and an archive beside them is read as ever."""
    names = [
        push_image(registry, f"{image.references[0]}", image) for image in (images.app_image(), images.busybox_image())
    ]
    saved = images.write_docker_archive([images.edge_image()], tmp_path / "edge.tar")
    inputs = [str(saved), *(f"docker://{name}" for name in names)]
    index = build_disk(inputs, tmp_path / "x.qcow2", INSECURE).index
    assert {reference for image in index.images for reference in image.references} == {*names, "edge:test"}
    build_disk(inputs[::-1], tmp_path / "y.qcow2", INSECURE)
    assert (tmp_path / "x.qcow2").read_bytes() == (tmp_path / "y.qcow2").read_bytes()


def test_command_shows_progress_but_not_to_programs(registry: Registry, tmp_path: Path) -> None:
    name = push_image(registry, "command:1", images.busybox_image())
    command = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()", "build", "--no-tls-verify"]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = ["-o", str(tmp_path / "x.qcow2")]
    said = run([*command, f"docker://{name}", *output], env=path, with_stderr=True)
    assert said.startswith("Getting image source signatures\nCopying blob sha256:")
    said = run([*command, "--json", "--force", f"docker://{name}", *output], env=path, with_stderr=True)
    assert json.loads(said)["images"][0]["references"] == [name]
    said = run([*command, "--json", f"docker://{name}2", *output], env=path, with_stderr=True, ok=(1,))
    beginning = f"preloader: skopeo inspect --raw --tls-verify=false docker://{name}2: exit status "
    assert re.match(re.escape(beginning) + "[12]: ", said)  # which of them, depends on skopeo's version
    assert "manifest unknown" in said


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_missing_image(registry: Registry, tmp_path: Path) -> None:
    push_image(registry, "there:1", images.busybox_image())
    with pytest.raises(CommandFailed, match="manifest unknown") as failed:
        build(f"docker://{registry.host}/there:2", tmp_path / "x.qcow2")
    assert failed.value.argv[-1] == f"docker://{registry.host}/there:2"
    assert list(tmp_path.glob("*x.qcow2*")) == []


def test_missing_layer(registry: Registry, tmp_path: Path) -> None:
    """skopeo fails in the middle of its work."""
    name = push_image(registry, "broken:1", images.untagged_image(), "zstd")
    for blob in (registry.folder / "content").glob("docker/registry/v2/blobs/sha256/*/*/data"):
        if blob.read_bytes().startswith(b"\x28\xb5\x2f\xfd"):
            blob.unlink()
    with pytest.raises(CommandFailed, match="level=fatal"):
        build(f"docker://{name}", tmp_path / "x.qcow2")
    assert list(tmp_path.glob("*x.qcow2*")) == []


def test_plain_http_must_be_allowed(registry: Registry, tmp_path: Path) -> None:
    name = push_image(registry, "plain:1", images.busybox_image())
    with pytest.raises(CommandFailed, match="server gave HTTP response to HTTPS client"):
        build(f"docker://{name}", tmp_path / "x.qcow2", BuildOptions())


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry(tmp_path / "registry", has_tls=True) as registry:
        name = push_image(registry, "tls:1", images.busybox_image())
        with pytest.raises(CommandFailed, match="x509"):
            build(f"docker://{name}", tmp_path / "x.qcow2", BuildOptions())
        insecure = build(f"docker://{name}", tmp_path / "x.qcow2")
        monkeypatch.setenv("SSL_CERT_FILE", str(registry.certificate))
        assert build(f"docker://{name}", tmp_path / "y.qcow2", BuildOptions()) == insecure


# --- daemons -------------------------------------------------------------------------------------------------------


def test_image_of_a_daemon(dockerd: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = images.write_docker_archive([images.app_image(), images.untagged_image()], tmp_path / "both.tar")
    dockerd.docker("load", "--input", both)
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    untagged = images.untagged_image().image_id
    for image in ("app:1", "example/app:1.0", untagged):
        dockerd.docker("save", "--output", tmp_path / "saved.tar", image)
        build(str(tmp_path / "saved.tar"), tmp_path / "saved.qcow2")
        build(f"docker-daemon:{image}", tmp_path / "fetched.qcow2")
        assert (tmp_path / "fetched.qcow2").read_bytes() == (tmp_path / "saved.qcow2").read_bytes()
    named = build_disk([f"docker-daemon:{untagged}"], tmp_path / "x.qcow2", BuildOptions(names=(name_of("new"),)))
    assert [(image.image_id, image.references) for image in named.index.images] == [(untagged, ("new:latest",))]
    assert {path.name for path in tmp_path.iterdir() if "qcow2" in path.name} == {
        "saved.qcow2",
        "fetched.qcow2",
        "x.qcow2",
    }


def test_what_docker_saves_streams_in_any_order(dockerd: Dockerd, tmp_path: Path) -> None:
    both = images.write_docker_archive([images.app_image(), images.busybox_image()], tmp_path / "both.tar")
    dockerd.docker("load", "--input", both)
    expected = build(str(both), tmp_path / "x.qcow2")
    names = [reference for image in (images.app_image(), images.busybox_image()) for reference in image.references]
    for number, order in enumerate((names, names[::-1])):
        script = tmp_path / f"save{number}"
        script.write_text(f"#!/bin/sh\nexec docker --host {dockerd.host} save {' '.join(order)}\n")
        script.chmod(0o755)
        assert build(str(script), tmp_path / f"{number}.qcow2") == expected
        assert (tmp_path / f"{number}.qcow2").read_bytes() == (tmp_path / "x.qcow2").read_bytes()


def name_of(text: str) -> NewName:
    return NewName(parse_name(text), None)


def test_missing_image_of_a_daemon(dockerd: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    with pytest.raises(CommandFailed, match="docker-daemon:missing:latest: loading image from docker engine"):
        build("docker-daemon:missing", tmp_path / "x.qcow2")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(CommandFailed, match="Cannot connect to the Docker daemon"):
        build("docker-daemon:missing", tmp_path / "x.qcow2")


# --- layouts that other tools write --------------------------------------------------------------------------------


def test_layouts_of_skopeo(tmp_path: Path) -> None:
    saved = images.write_docker_archive([images.app_image()], tmp_path / "saved.tar")
    disks = []
    for kind in ("oci", "oci-archive"):
        run(["skopeo", "copy", f"docker-archive:{saved}", f"{kind}:{tmp_path / kind}:example.org/app:2"])
        index = build(str(tmp_path / kind), tmp_path / f"{kind}.qcow2")
        assert [image.references for image in index.images] == [("example.org/app:2",)]
        assert [layer.diff_id for layer in index.layers] == images.app_image().diff_ids
        disks.append((tmp_path / f"{kind}.qcow2").read_bytes())
    assert disks[0] == disks[1]
