"""Which platforms a docker-archive may have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.store.index import Platform
from tests import images

ARCHITECTURE = images.archive.ARCHITECTURE


def test_docker_archive_of_the_platform_that_is_meant(tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], tmp_path / "x.tar")
    options = BuildOptions(platform=Platform("linux", ARCHITECTURE))
    assert build_disk([archive], tmp_path / "x.qcow2", options).is_new


def test_docker_archive_of_another_platform(tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], tmp_path / "x.tar")
    expected = f"busybox:test is for linux/{ARCHITECTURE}, expected linux/mips64le (--platform)"
    with pytest.raises(InvalidArchive, match=re.escape(expected)):
        build_disk([archive], tmp_path / "x.qcow2", BuildOptions(platform=Platform("linux", "mips64le")))
    assert list(tmp_path.iterdir()) == [archive]
