"""docs/github-actions.md: its workflow is one for GitHub, and the steps that make the disk do, with a real registry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from tests.images import busybox_image
from tests.registry import Registry
from tests.system.test_skopeo import push_image
from tests.walkthrough import DOCS, read_blocks, run_on_host, write_files

WORKFLOW = ".github/workflows/vm-tests.yml"
IMAGE = "docker.io/library/redis:8"  # of the page


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


def test_the_workflow_is_what_githubs_schema_allows(tmp_path: Path) -> None:
    write_files(read_blocks(DOCS / "github-actions.md", {}), tmp_path)
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    assert "ok" in run([*check, tmp_path / WORKFLOW])


def test_its_steps_build_the_disk(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = push_image(registry, "library/redis:8", busybox_image())
    settings = tmp_path / ".config" / "containers"  # of skopeo, for a registry without TLS
    settings.mkdir(parents=True)
    (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(read_blocks(DOCS / "github-actions.md", {IMAGE: name}), tmp_path)
    steps = YAML(typ="safe").load(tmp_path / WORKFLOW)["jobs"]["vm-tests"]["steps"]
    scripts = {step.get("name"): step.get("run") for step in steps}
    run_on_host(scripts["Ask the registry for the digests"], tmp_path)
    digest = (tmp_path / "digests.txt").read_text()
    assert digest.startswith(f"{name.removesuffix(':8')}@sha256:"), digest
    assert (tmp_path / "week.txt").stat().st_size > 0
    said = run_on_host(scripts["Build the disk"], tmp_path)
    (image,) = inspect_disk(tmp_path / "images.qcow2").images
    assert (image.image_id, image.references) == (busybox_image().image_id, (name,)), said
