"""What the tests of this tier share: they need root, and a real dockerd where they ask for one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

import preloader_agent
from preloader_agent.host.run import environment, run
from tests.cachedguests import packaged_guest
from tests.dockerd import Dockerd
from tests.system.nspawn import unpack_tree
from tests.tools import need_tools

HERE = Path(__file__).parent


class NewDockerd(Protocol):
    """`new_dockerd()` for an empty data root, `new_dockerd(folder)` for the data root `folder/root`."""

    def __call__(self, folder: Path | None = None) -> Dockerd: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Nobody compiles a module of ours later: tests count what the agent opens, while others run beside them."""
    run([sys.executable, "-m", "compileall", "-q", Path(preloader_agent.__file__).parent])


@pytest.fixture
def new_dockerd() -> Iterator[NewDockerd]:
    """Starts any number of daemons, each in an empty folder or the one given; all are gone after the test."""
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip("needs dockerd: install docker.io")
    with ExitStack() as stack:

        def make(folder: Path | None = None) -> Dockerd:
            empty = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-docker-"))
            return stack.enter_context(Dockerd(folder or Path(empty)))

        yield make


@pytest.fixture
def dockerd(new_dockerd: NewDockerd) -> Dockerd:
    """A real dockerd on an empty data root."""
    return new_dockerd()


@pytest.fixture(scope="session")
def tree() -> Path:
    """The root tree of the test guest, for systemd-nspawn."""
    need_tools("systemd-nspawn", "mmdebstrap", "unshare", "qemu-img")
    return unpack_tree(packaged_guest())
