"""An image of a real registry, pinned by its digest, becomes an archive that a real dockerd loads."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from preloader_agent.errors import CommandFailed, DigestMismatch, InvalidArchive, InvalidValue
from preloader_agent.host.disk import build_disk
from preloader_agent.host.image.pull import pull_image
from preloader_agent.host.image.sources import ReadOptions, list_images
from preloader_agent.host.run import run
from preloader_agent.host.selection import parse_platform
from preloader_agent.store.digest import sha256_digest
from tests import images
from tests.dockerd import Dockerd
from tests.host.command import COMMAND, PYTHONPATH
from tests.images.archive import ARCHITECTURE
from tests.images.oci import OciLayout, on
from tests.registry import Registry
from tests.tools import need_tools

INSECURE = ReadOptions(is_tls_verified=False)
HERE = f"linux/{ARCHITECTURE}"
OTHER = "linux/s390x"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    need_tools("skopeo", "docker-registry")
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def single(registry: Registry) -> tuple[str, str]:
    """An image's name and the digest of its manifest."""
    layout = OciLayout()
    top = layout.image(images.app_image(), ["gzip", "zstd", ""])
    return registry.push(layout, top, "team/app:1"), top["digest"]


@pytest.fixture(scope="module")
def index(registry: Registry) -> tuple[str, str]:
    """The same of an index with the image for two platforms."""
    layout = OciLayout()
    here, other = (on(platform, layout.image(images.app_image(), platform=platform)) for platform in (HERE, OTHER))
    top = layout.index([other, here, layout.attestation(here)])
    return registry.push(layout, top, "team/index:1"), top["digest"]


def test_it_loads_runs_and_goes_to_a_disk(single: tuple[str, str], dockerd: Dockerd, tmp_path: Path) -> None:
    name, digest = single
    pulled = pull_image(name, digest, str(tmp_path / "x.tar"), INSECURE)
    assert (pulled.image_id, pulled.references) == (images.app_image().image_id, (name,))
    dockerd.docker("load", "--input", tmp_path / "x.tar")
    assert dockerd.inspect(name)["Id"] == images.app_image().image_id
    assert dockerd.run(name) == "hello from app\n"
    (found,) = build_disk([tmp_path / "x.tar"], tmp_path / "x.qcow2").index.images
    assert (found.image_id, found.references) == (images.app_image().image_id, (name,))


def test_the_same_digest_is_the_same_bytes(registry: Registry, single: tuple[str, str], tmp_path: Path) -> None:
    """Also when the name stands for another image by now."""
    name, digest = single
    pull_image(name, digest, str(tmp_path / "x.tar"), INSECURE)
    layout = OciLayout()
    moved = registry.push(layout, layout.image(images.busybox_image()), "team/app:1")
    assert moved == name
    pull_image(name, digest, str(tmp_path / "y.tar"), INSECURE)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


@pytest.mark.parametrize("platform", [HERE, OTHER])
def test_an_index(index: tuple[str, str], tmp_path: Path, platform: str) -> None:
    name, digest = index
    options = ReadOptions(platform=None if platform == HERE else parse_platform(platform), is_tls_verified=False)
    pulled = pull_image(name, digest, str(tmp_path / "x.tar"), options)
    assert str(pulled.platform) == platform
    (found,) = list_images(str(tmp_path / "x.tar"))
    assert (found.image_id, found.references) == (pulled.image_id, (name,))


def test_a_platform_that_it_is_not_for(single: tuple[str, str], index: tuple[str, str], tmp_path: Path) -> None:
    options = ReadOptions(platform=parse_platform("linux/arm/v5"), is_tls_verified=False)
    for name, digest in (single, index):
        with pytest.raises(InvalidArchive, match=f"is there for .*{HERE}.*; expected linux/arm/v5"):
            pull_image(name, digest, str(tmp_path / "x.tar"), options)
    assert list(tmp_path.iterdir()) == []


def test_without_a_digest_it_is_told(index: tuple[str, str], tmp_path: Path) -> None:
    name, digest = index
    argv: list[str | Path] = [*COMMAND, "image", "pull", "--no-tls-verify", name, "-o", tmp_path / "x.tar"]
    said = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(2,), with_stderr=True)
    problem = "is not pinned, and may be another image tomorrow; now it is --digest"
    assert said == f"preloader: {name}: {problem} {digest}\n"
    assert list(tmp_path.iterdir()) == []


def test_command(index: tuple[str, str], tmp_path: Path) -> None:
    name, digest = index
    options = ["--digest", digest, "--no-tls-verify", "--platform", OTHER]
    argv: list[str | Path] = [*COMMAND, "image", "pull", name, *options, "-o", tmp_path / "x.tar"]
    printed = run(argv, env={"PYTHONPATH": PYTHONPATH}).splitlines()
    assert printed[-3] == f"{tmp_path}/x.tar: 1 image, 3 layers"
    assert printed[-1].split()[::2] == [name, OTHER]
    run(["sh", "-c", f'"$@" >{tmp_path}/y.tar', "sh", *argv[:-1], "-"], env={"PYTHONPATH": PYTHONPATH})
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_another_digest(single: tuple[str, str], tmp_path: Path) -> None:
    name, _ = single
    output = tmp_path / "x.tar"
    output.write_text("an older archive")
    with pytest.raises(CommandFailed, match="manifest unknown"):
        pull_image(name, f"sha256:{'0' * 64}", str(output), INSECURE)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older archive"]


class Liar(BaseHTTPRequestHandler):
    """A registry that gives the same manifest whichever is asked for; the real one would notice."""

    manifest = b""

    def do_GET(self) -> None:
        """Answer a request."""
        content = self.manifest if "/manifests/" in self.path else b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_registry_that_gives_another_manifest(tmp_path: Path) -> None:
    layout = OciLayout()
    Liar.manifest = layout.blobs[layout.image(images.untagged_image())["digest"]]
    asked = f"sha256:{'0' * 64}"
    with HTTPServer(("127.0.0.1", 0), Liar) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_port}/app:1"
        with pytest.raises(DigestMismatch, match=f"expected {asked}, found {sha256_digest(Liar.manifest)}"):
            pull_image(name, asked, str(tmp_path / "x.tar"), INSECURE)
        server.shutdown()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["config", "layer"])
def test_a_registry_that_gives_another_image(registry: Registry, tmp_path: Path, what: str) -> None:
    layout, image = OciLayout(), images.untagged_image()
    manifest = layout.image(image, "")
    name = registry.push(layout, manifest, f"forged-{what}:1")
    digest = {"config": image.image_id, "layer": image.diff_ids[1]}[what]
    (blob,) = registry.folder.glob(f"content/docker/registry/v2/blobs/sha256/*/{digest.removeprefix('sha256:')}/data")
    whole = blob.read_bytes()
    blob.write_bytes(whole.replace(b"no name", b"NO NAME") if what == "layer" else whole.replace(b":", b" :", 1)[:-1])
    try:
        with pytest.raises((DigestMismatch, CommandFailed), match=r"(did|does) not match|damaged or changed"):
            pull_image(name, manifest["digest"], str(tmp_path / "x.tar"), INSECURE)
    finally:
        blob.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "digest", "problem"),
    [
        ("app", "sha256:123", "Digest: expected sha256: and 64 hex digits, found 'sha256:123'"),
        ("app", "latest", "Digest: expected sha256: and 64 hex digits, found 'latest'"),
        (
            f"app@sha256:{'0' * 64}",
            f"sha256:{'0' * 64}",
            "REF: expected a name with a tag, such as redis:8; the digest",
        ),
        ("App", f"sha256:{'0' * 64}", "Reference: expected an image reference such as name:tag, found 'App:latest'"),
        ("docker://app", f"sha256:{'0' * 64}", "Reference: expected an image reference such as name:tag"),
    ],
)
def test_what_is_no_reference(tmp_path: Path, name: str, digest: str, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem):
        pull_image(name, digest, str(tmp_path / "x.tar"), INSECURE)
    assert list(tmp_path.iterdir()) == []
