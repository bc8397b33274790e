"""Archives that several tests put together and take apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images


@pytest.fixture(scope="session")
def app_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with three names."""
    return images.write_docker_archive([images.app_image()], tmp_path_factory.mktemp("app") / "app.tar", "old")


@pytest.fixture(scope="session")
def edge_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image on the same base, and one that has no name."""
    both = [images.edge_image(), images.untagged_image()]
    return images.write_docker_archive(both, tmp_path_factory.mktemp("edge") / "edge.tar", "oci")
