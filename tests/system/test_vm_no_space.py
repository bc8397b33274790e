"""A machine whose host has no room for what its guest writes: it is told, not waited for, and leaves nothing."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.errors import VmError
from preloader_agent.host.run import run
from preloader_agent.host.vm.accelerator import QEMU
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.host.command import COMMAND, PYTHONPATH
from tests.host.vm.bootsector import SIZE, write_guest

BOUND = 60.0
STOPPED = r"QEMU has stopped the guest: a write to \S+/root.qcow2 failed, no space: the host's disk is full; make room"

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")


@pytest.fixture(params=["64k", "2M"])
def small_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that is full when the overlay is made, or when the guest has written a part of its disk."""
    folder = Path(tempfile.mkdtemp(prefix="dpl-test-"))
    run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", folder])
    try:
        yield folder
    finally:
        run(["umount", folder])
        folder.rmdir()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_guest(tmp_path / "guest.raw", ending="stay", writes=True)


def reason(folder: Path) -> str:
    size = run(["findmnt", "-n", "-o", "OPTIONS", folder])
    return STOPPED if "size=2048k" in size else r"cannot make \S+/root.qcow2: .*No space left on device"


def test_the_command_says_so_and_ends(small_folder: Path, image: Path) -> None:
    variables = {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(small_folder)}
    argv: list[str | Path] = [*COMMAND, "vm", "run", "--memory", "64M", image]
    said = run(argv, env=variables, ok=(1,), timeout=BOUND, with_stderr=True)
    assert re.search(reason(small_folder), said)
    assert list(small_folder.iterdir()) == []


def test_the_driver_says_so_within_the_bound_of_a_wait(
    small_folder: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(VmError, match=rf"(?s){reason(small_folder)}"), Vm(VmConfig(image, memory_mib=64)) as vm:
        vm.wait_booted(timeout=1000)
    assert list(small_folder.iterdir()) == []


def test_a_full_disk_of_the_users_own_is_named(image: Path) -> None:
    """A persistent image, sparse, on a file system without room."""
    folder = Path(tempfile.mkdtemp(prefix="dpl-test-"))
    run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", folder])
    try:
        run(["cp", "--sparse=always", image, folder / "mine.raw"])
        assert (folder / "mine.raw").stat().st_size == SIZE
        config = VmConfig(folder / "mine.raw", snapshot=False, memory_mib=64)
        with pytest.raises(VmError, match=rf"a write to {folder}/mine.raw failed, no space"), Vm(config) as vm:
            vm.wait_ended()
    finally:
        run(["umount", folder])
        folder.rmdir()
