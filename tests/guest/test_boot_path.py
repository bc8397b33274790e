"""Boot time is a feature: what the agent has imported when it says READY=1 is written down here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from preloader_agent.host.run import run

ROOT = Path(__file__).resolve().parents[2]

# Each of these would cost 5 to 60 ms before docker may start (measured on Python 3.11 and 3.13).
FORBIDDEN = {
    "argparse", "ast", "asyncio", "dataclasses", "email", "http", "importlib.metadata", "inspect", "logging", "lxml",
    "multiprocessing", "orjson", "pathlib", "pystemd", "shutil", "ssl", "tempfile", "urllib", "uuid",
}  # fmt: skip

# Our own modules on the way to READY; a new one is a decision.
EXPECTED = {
    "preloader_agent", "preloader_agent.errors", "preloader_agent.guest", "preloader_agent.guest.apply",
    "preloader_agent.guest.attachment", "preloader_agent.guest.beneath", "preloader_agent.guest.cli",
    "preloader_agent.guest.control", "preloader_agent.guest.daemon", "preloader_agent.guest.devices",
    "preloader_agent.guest.diskcontainers", "preloader_agent.guest.disks", "preloader_agent.guest.diskusers",
    "preloader_agent.guest.docker", "preloader_agent.guest.dockerconfig", "preloader_agent.guest.log",
    "preloader_agent.guest.loop", "preloader_agent.guest.mounts", "preloader_agent.guest.paths",
    "preloader_agent.guest.plan", "preloader_agent.guest.released", "preloader_agent.guest.releases",
    "preloader_agent.guest.report", "preloader_agent.guest.restart", "preloader_agent.guest.settings",
    "preloader_agent.guest.storestate", "preloader_agent.guest.sync", "preloader_agent.guest.unitfiles",
    "preloader_agent.guest.wake", "preloader_agent.store", "preloader_agent.store.containername",
    "preloader_agent.store.digest", "preloader_agent.store.index", "preloader_agent.store.layout",
    "preloader_agent.store.reference", "preloader_agent.store.repositories",
}  # fmt: skip

# Distributions start Python with site hooks of their own; -S leaves them out, and the path is given by hand.
PROGRAM = """
import sys
sys.path[:0] = {path!r}
import preloader_agent.guest.cli, preloader_agent.guest.daemon, preloader_agent.guest.dockerconfig
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    path = [str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))]
    return set(run([sys.executable, "-I", "-S", "-c", PROGRAM.format(path=path)]).split())


def test_nothing_slow_is_imported_on_the_way_to_ready(imported: set[str]) -> None:
    assert {name for name in imported if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN} == set()


def test_exactly_these_modules_of_ours_are_imported(imported: set[str]) -> None:
    assert {name for name in imported if name.startswith("preloader_agent")} == EXPECTED


def test_what_is_shared_knows_neither_side_and_the_sides_nothing_of_each_other() -> None:
    shared = ("guest", "host")
    for package, strangers in (("store", shared), ("containers", shared), ("guest", ("host",)), ("host", ("guest",))):
        for module in (ROOT / "preloader_agent" / package).glob("*.py"):
            for stranger in strangers:
                assert f"preloader_agent.{stranger}" not in module.read_text(), f"{module} imports {stranger}"
