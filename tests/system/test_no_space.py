"""A build that finds no room says so, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.host.run import run
from tests import images
from tests.host.command import COMMAND, PYTHONPATH


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
    argv: list[str | Path] = [*COMMAND, "build", archive, "-o", small_folder / "x.qcow2"]
    log = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(1,), with_stderr=True)
    expected = (
        f"preloader: {small_folder}/x.qcow2: no space left, or a limit reached; up to three times its size is needed "
        "there while it is made: free some, or write it elsewhere\n"
    )
    assert log == expected
    assert (small_folder / "x.qcow2").read_text() == "an older disk"
    assert len(list(small_folder.iterdir())) == 1


@pytest.mark.parametrize("small_folder", ["64k", "3M"], indirect=True)
@pytest.mark.parametrize("target", ["file", "-"])
def test_no_space_left_for_an_archive(small_folder: Path, tmp_path: Path, target: str) -> None:
    """Beside the archive, or where what goes to standard output is read to."""
    archive = images.write_docker_archive([images.app_image()], tmp_path / "x.tar")
    output = small_folder / "x.tar" if target == "file" else target
    argv: list[str | Path] = ["sh", "-c", '"$@" >/dev/null', "sh", *COMMAND, "image", "merge", archive, "-o", output]
    log = run(argv, env={"PYTHONPATH": PYTHONPATH, "TMPDIR": str(small_folder)}, ok=(1,), with_stderr=True)
    where = output if target == "file" else small_folder
    assert log.startswith(
        f"preloader: {where}: no space left, or a limit reached; up to three times its size is needed "
    )
    assert list(small_folder.iterdir()) == []
