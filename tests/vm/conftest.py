"""What the tests of this tier share: a guest with our package, built once and cached between sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.host.vm.accelerator import QEMU
from tests.cachedguests import packaged_guest
from tests.images import app_image, busybox_image, edge_image, untagged_image
from tests.tools import need_tools
from tests.vm.disks import make_disk

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two disks that share the layer of busybox."""
    first = make_disk(tmp_path_factory.mktemp("first"), busybox_image(), app_image())
    return first, make_disk(tmp_path_factory.mktemp("second"), edge_image(), untagged_image())


@pytest.fixture(scope="session")
def guest() -> Path:
    """The folder of a Debian 13 guest with our Debian package: see VmConfig.of_guest."""
    check_tools()
    return packaged_guest()


def check_tools() -> None:
    """Skip what needs a guest where none can be built."""
    need_tools(QEMU, "qemu-img", "mmdebstrap", "mke2fs")
