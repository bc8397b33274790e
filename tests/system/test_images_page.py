"""docs/images.md, followed to the letter, with a real registry and a real dockerd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerd import Dockerd
from tests.images import busybox_image
from tests.images.oci import OciLayout
from tests.registry import Registry
from tests.tools import need_tools
from tests.walkthrough import DOCS, check_output, read_blocks, run_on_host, steps_of, write_files

IMAGE, DIGEST = "busybox:1.37", "sha256:ab33eacc8251e3807b85bb6dba570e4698c3998eca6f0fc2ccb60575a563ea74"  # of the page


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    need_tools("skopeo", "docker-registry")
    with Registry(tmp_path / "registry") as registry:
        yield registry


def trust(registry: Registry, home: Path) -> None:
    """Have skopeo take a registry without TLS."""
    settings = home / ".config" / "containers"
    settings.mkdir(parents=True)
    (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')


def test_every_step_prints_what_the_page_shows(registry: Registry, dockerd: Dockerd, tmp_path: Path) -> None:
    layout, folder = OciLayout(), tmp_path / "reader"
    top = layout.image(busybox_image(), "gzip")
    changes = {IMAGE: registry.push(layout, top, IMAGE), DIGEST: top["digest"]}
    trust(registry, tmp_path)
    folder.mkdir()
    blocks = read_blocks(DOCS / "images.md", changes)
    write_files(blocks, folder)
    env = {"HOME": str(tmp_path), "DOCKER_HOST": dockerd.host}
    for step in steps_of(blocks):
        check_output(step, run_on_host(step.command, folder, env))
