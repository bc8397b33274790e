"""Disks that several tests look at, built once."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from preloader_agent.host.cli import main
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from preloader_agent.host.waiting import tries
from tests import images
from tests.host.command import SIGNALS, Preloader, Result
from tests.images import Image, Layout

SMALL_IMAGES: Sequence[Callable[[], Image]] = (
    images.busybox_image,
    images.app_image,
    images.edge_image,
    images.untagged_image,
    images.implied_parents_image,
)


@pytest.fixture
def preloader(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Preloader:
    """Runs the command with some arguments, in this process."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def call(*args: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["preloader", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        for number, handler in before.items():
            signal.signal(number, handler)
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes, and pytest's are longer."""
    with tempfile.TemporaryDirectory(prefix="dpl-test-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    """All small images in one archive, in each layout."""
    folder = tmp_path_factory.mktemp("archives")
    small = [make() for make in SMALL_IMAGES]
    return {
        "old": images.write_docker_archive(small, folder / "old.tar", "old"),
        "oci": images.write_docker_archive(small, folder / "oci.tar", "oci"),
    }


@pytest.fixture(scope="session")
def disks(archives: dict[Layout, Path]) -> dict[Layout, Path]:
    """A disk of each archive."""
    found: dict[Layout, Path] = {layout: path.with_suffix(".qcow2") for layout, path in archives.items()}
    for layout, path in archives.items():
        build_disk([path], found[layout])
    return found


@pytest.fixture(scope="session")
def disk(disks: dict[Layout, Path]) -> Path:
    """A qcow2 disk with all small images."""
    return disks["old"]


@pytest.fixture(scope="session")
def raw_disk(disk: Path) -> Path:
    """The same, as a raw image."""
    return convert_to_raw(disk)


def wait_until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """Until a process sleeps. One that has just started a program is not waiting for it yet, and would leave it behind
    if it were interrupted."""
    for _ in tries(20, pause=0.01):
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S":
            return
    raise AssertionError("the process never waits")


def convert_to_raw(disk: Path) -> Path:
    """The raw image of a disk, beside it."""
    raw = disk.with_suffix(".raw")
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    return raw
