"""A build that finds no room says so, and leaves nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.host.run import run
from tests import images


@pytest.fixture(params=["64k", "3M", "5M", "7500k"])
def small_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that is full at the start, or when content is read, content is arranged or qcow2 is written."""
    folder = tmp_path / "small"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder])
    try:
        yield folder
    finally:
        run(["umount", folder])


def test_no_space_left(small_folder: Path, tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.app_image(), images.edge_image()], tmp_path / "x.tar")
    (small_folder / "x.qcow2").write_text("an older disk")
    argv = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()", "build"]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    log = run([*argv, archive, "-o", small_folder / "x.qcow2"], env=path, ok=(1,), with_stderr=True)
    expected = (
        f"preloader: {small_folder}/x.qcow2: no space left, or a limit reached; up to three times its size is needed "
        "there while it is made: free some, or write it elsewhere\n"
    )
    assert log == expected
    assert (small_folder / "x.qcow2").read_text() == "an older disk"
    assert len(list(small_folder.iterdir())) == 1
