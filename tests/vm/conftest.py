"""What the tests of this tier share: a guest with our package, built once and cached between sessions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from preloader_agent.host.qemu import QEMU
from preloader_agent.host.run import environment, run

HERE = Path(__file__).parent
PACKAGING = HERE.parent.parent / "packaging"
BUILD_TIMEOUT = 1200.0  # both trees from a mirror; a minute and a half each with a fast one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def guest() -> Path:
    """The folder of a guest that packaging/build-guest made: see VmConfig.of_guest."""
    for tool in (QEMU, "qemu-img", "mmdebstrap", "mke2fs"):
        if shutil.which(tool, path=environment()["PATH"]) is None:
            pytest.skip(f"needs {tool}: run packaging/install-tools")
    deb = run([PACKAGING / "build-deb"], timeout=BUILD_TIMEOUT).strip()
    return Path(run([PACKAGING / "build-guest", "--deb", deb], timeout=BUILD_TIMEOUT).strip())
