"""What the tests of this tier share: a guest with our package, built once and cached between sessions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from preloader_agent.host.run import environment, run
from preloader_agent.host.vm.accelerator import QEMU
from tests.images import app_image, busybox_image, edge_image, untagged_image
from tests.vm.disks import make_disk

HERE = Path(__file__).parent
PACKAGING = HERE.parent.parent / "packaging"
BUILD_TIMEOUT = 1200.0  # both trees from a mirror; a minute and a half each with a fast one


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
    """The folder of a guest that packaging/build-guest made: see VmConfig.of_guest."""
    for tool in (QEMU, "qemu-img", "mmdebstrap", "mke2fs"):
        if shutil.which(tool, path=environment()["PATH"]) is None:
            pytest.skip(f"needs {tool}: run packaging/install-tools")
    deb = run([PACKAGING / "build-deb"], timeout=BUILD_TIMEOUT).strip()
    return Path(run([PACKAGING / "build-guest", "--deb", deb], timeout=BUILD_TIMEOUT).strip())
