"""The distribution's own files, built once, from what is in the checkout and nothing that earlier builds left there."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from preloader_agent.host.run import run

REPOSITORY = Path(__file__).resolve().parents[2]
_MADE = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
_BUILD_TIMEOUT = 300.0  # seconds; setuptools comes over the network


@dataclass(frozen=True)
class Distributions:
    """A source distribution, the wheel that was built from it, and the sources."""

    source: Path
    sdist: Path
    wheel: Path


def copy_sources(target: Path) -> None:
    """What is in the checkout, without git's own files and what was built."""
    shutil.copytree(REPOSITORY, target, ignore=shutil.ignore_patterns(*_MADE))


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both files as `python -m build` makes them."""
    folder = tmp_path_factory.mktemp("distributions")
    source, out = folder / "source", folder / "out"
    copy_sources(source)
    run([sys.executable, "-m", "build", "--outdir", out, source], timeout=_BUILD_TIMEOUT)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(source, sdist, wheel)
