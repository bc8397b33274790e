"""A kill between any two changes of the file system leaves a store that dockerd can use and the next pass completes.

The pass runs in a child process that ends itself, without any clean-up, at its first, second, third ... operation that
Python's audit hooks see (open, mkdir, rename, symlink, remove ...), until one child gets through. That needs neither
root nor dockerd; tests/system/test_crashes.py kills the real command, at each system call.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from preloader_agent.guest.disks import Disk
from preloader_agent.store.layout import Store
from tests.guest.disks import add_local_image, make_disk, make_pass, problems_of_store, references_of, snapshot

CHANGES = {
    *("open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"),
    *("os.chmod", "os.setxattr", "shutil.rmtree"),
}
KILLED = 9


def run_and_kill(work: Callable[[], object], at: int) -> bool:
    """Run `work` in a child that dies at its `at`-th change; whether it died before the end."""
    child = os.fork()
    if child == 0:
        left = at

        def die(event: str, _arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.addaudithook(die)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), "the pass itself failed"
    return code == KILLED


def kill_everywhere(root: Path, disks: list[Disk], before: dict[str, str], after: dict[str, object]) -> int:
    """Kill the pass at each of its changes, from the same start; how many there were."""
    start = root.with_name("start")
    shutil.copytree(root, start, symlinks=True)
    store = Store(str(root))
    at = 1
    while True:
        shutil.rmtree(root)
        shutil.copytree(start, root, symlinks=True)
        if not run_and_kill(lambda: make_pass(store, disks), at):
            return at - 1
        assert problems_of_store(store) == []
        assert before.items() <= references_of(store).items(), "the user's own references are there at every moment"
        make_pass(store, disks)
        assert snapshot(root) == after
        assert make_pass(store, disks).operations == ()
        at += 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: a pass syncs its file system, and there are hundreds of passes here."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def store(folder: Path) -> Store:
    """A data root with an image of the user's, which shares a layer with the disks."""
    store = Store(str(folder / "docker"))
    add_local_image(store, ["base", "mine"], ["mine:1"])
    return store


def test_a_pass_that_adds_can_be_killed_anywhere(folder: Path, store: Store) -> None:
    disk = make_disk(folder / "disks", (("base", "a", "b"), ("app:1",)), (("other",), ("other:1", "mine:1")))
    root = Path(store.root)
    before = references_of(store)
    shutil.copytree(root, folder / "kept", symlinks=True)
    make_pass(store, [disk])
    after = snapshot(root)
    shutil.rmtree(root)
    shutil.copytree(folder / "kept", root, symlinks=True)
    assert kill_everywhere(root, [disk], before, after) > 30


def test_a_pass_that_removes_can_be_killed_anywhere(folder: Path, store: Store) -> None:
    disk = make_disk(folder / "disks", (("base", "a", "b"), ("app:1",)), (("other",), ("other:1",)))
    root = Path(store.root)
    before = references_of(store)
    make_pass(store, [])
    make_pass(store, [disk])
    shutil.rmtree(disk.store.root)
    shutil.copytree(root, folder / "kept", symlinks=True)
    make_pass(store, [])
    after = snapshot(root)
    shutil.rmtree(root)
    shutil.copytree(folder / "kept", root, symlinks=True)
    assert kill_everywhere(root, [], before, after) > 15
