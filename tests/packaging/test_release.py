"""`packaging/release` in repositories of the test's own: what it refuses, and what it makes."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from preloader_agent import __version__
from preloader_agent.errors import CommandFailed
from preloader_agent.host.run import run
from tests.cachedguests import BUILD_TIMEOUT
from tests.packaging.conftest import copy_sources

# The Debian packages are built in a tree of their own, as root's.
pytestmark = pytest.mark.system

TAG = f"v{__version__}"
IDENTITY = ("user.name=Test", "user.email=test@localhost", "user.signingKey=", "core.hooksPath=/dev/null")


class Repository:
    """A git repository with sources of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def git(self, *words: str) -> str:
        return run(["git", "-C", self.path, *words]).strip()

    def replace(self, name: str, pattern: str, text: str) -> None:
        """Replace the first line of a file that matches."""
        file = self.path / name
        changed, number = re.subn(pattern, text, file.read_text(), count=1, flags=re.MULTILINE)
        assert number == 1, (name, pattern)
        file.write_text(changed)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A state")

    def release(self, *words: str) -> str:
        script = self.path / "packaging" / "release"
        return run([script, *words], env={"PYTHON": sys.executable}, timeout=BUILD_TIMEOUT)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The sources of this checkout, committed and ready to be released."""
    repository = Repository(tmp_path_factory.mktemp("origin") / "repository")
    copy_sources(repository.path)
    repository.git("init", "--quiet")
    for setting in IDENTITY:
        repository.git("config", *setting.split("=", 1))
    repository.replace("NEWS.md", r"^## \S+ \(.*\)$", f"## {__version__} (2026-11-21)")
    repository.commit()
    return repository


@pytest.fixture
def repository(origin: Repository, tmp_path: Path) -> Repository:
    """The same for one test alone."""
    shutil.copytree(origin.path, tmp_path / "repository")
    return Repository(tmp_path / "repository")


def leave_a_change(repository: Repository) -> None:
    (repository.path / "new.py").write_text("")


def forget_the_day(repository: Repository) -> None:
    repository.replace("NEWS.md", r"^## .*$", f"## {__version__} (not released)")
    repository.commit()


def raise_the_version(repository: Repository) -> None:
    repository.replace("preloader_agent/__init__.py", r'^__version__ = ".*"$', '__version__ = "99.0"')
    repository.commit()


def forget_debian(repository: Repository) -> None:
    raise_the_version(repository)
    repository.replace("NEWS.md", r"^## .*$", "## 99.0 (2026-11-21)")
    repository.commit()


def forget_the_spec(repository: Repository) -> None:
    forget_debian(repository)
    repository.replace("packaging/debian/changelog", r"\(.*?\)", "(99.0)")
    repository.commit()


def forget_the_specs_changelog(repository: Repository) -> None:
    forget_the_spec(repository)
    repository.replace("packaging/rpm/docker-preloader.spec", r"^Version: .*$", "Version: 99.0")
    repository.commit()


def tag_it(repository: Repository) -> None:
    repository.git("tag", TAG)


REFUSED: dict[Callable[[Repository], None], str] = {
    leave_a_change: r"the tree has changes \(git status\): commit them",
    forget_the_day: rf"headed '{__version__} \(not released\)', expected '{__version__} \(YYYY-MM-DD\)': write the day",
    raise_the_version: rf"NEWS.md is about version {__version__}, preloader_agent/__init__.py about 99.0: make them",
    forget_debian: rf"packaging/debian/changelog is about version {__version__}",
    forget_the_spec: rf"docker-preloader.spec is about version {__version__}",
    forget_the_specs_changelog: rf"docker-preloader.spec, %changelog, is about version {__version__}",
    tag_it: rf"the tag {TAG} exists: raise the version, or remove the tag with git tag -d {TAG}",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_is_not_ready_is_refused(repository: Repository, spoil: Callable[[Repository], None]) -> None:
    repository.release("--check")
    spoil(repository)
    before = repository.git("tag")
    with pytest.raises(CommandFailed, match=REFUSED[spoil]):
        repository.release()
    assert repository.git("tag") == before
    assert not (repository.path / "dist").exists()


def test_a_release_is_built_and_tagged(repository: Repository) -> None:
    ignored = repository.path / "preloader_agent" / "__pycache__" / "old.pyc"
    ignored.parent.mkdir(exist_ok=True)
    ignored.write_bytes(b"")
    repository.release()
    assert repository.git("cat-file", "-t", TAG) == "tag"
    assert repository.git("rev-parse", f"{TAG}^{{commit}}") == repository.git("rev-parse", "HEAD")
    assert repository.git("status", "--porcelain") == ""
    names = {path.name for path in (repository.path / "dist").iterdir()}
    python = {f"preloader_agent-{__version__}.tar.gz", f"preloader_agent-{__version__}-py3-none-any.whl"}
    assert names >= {*python, f"docker-preloader_{__version__}_all.deb", "SHA256SUMS"}
    sums = run(["sh", "-c", 'cd "$1" && sha256sum --check SHA256SUMS', "sh", repository.path / "dist"])
    assert {line.removesuffix(": OK") for line in sums.splitlines()} == names - {"SHA256SUMS"}
