"""The source distribution and the wheel, as pip installs them into environments that have nothing else."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from readme_renderer.markdown import render

from preloader_agent import __version__
from preloader_agent.host.run import run
from tests import images
from tests.host.guesttrees import make_guest
from tests.packaging.conftest import REPOSITORY, Distributions, copy_sources
from tests.walkthrough import README

# pip fetches setuptools and what the host needs, as `make` does.
pytestmark = pytest.mark.system

NOT_DISTRIBUTED = {".ci/run", ".gitignore"}
BOUND = 120.0  # seconds, for pip with a slow mirror
SHARED = {"share/docker-preloader/docker-preloader.service", "share/man/man1/preloader.1"}


class Environment:
    """A virtual environment without pip; the pip of ours works on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        run([sys.executable, "-m", "venv", "--without-pip", path])

    def pip(self, *words: str | Path) -> None:
        run([sys.executable, "-m", "pip", "--python", self.path, *words], timeout=BOUND)

    def __call__(self, name: str, *words: str | Path, ok: Sequence[int] = (0,)) -> str:
        """What a command prints, standard error before standard output."""
        return run([self.path / "bin" / name, *words], ok=ok, timeout=BOUND, with_stderr=True)

    def files(self) -> set[Path]:
        """All but folders: pip leaves empty ones behind."""
        return {path for path in self.path.rglob("*") if not path.is_dir()}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture(scope="module")
def wheel_names(distributions: Distributions) -> list[str]:
    with zipfile.ZipFile(distributions.wheel) as archive:
        return archive.namelist()


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"preloader_agent-{__version__}.dist-info/METADATA").decode())


def list_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_has_all_sources(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
        modes = {member.name.partition("/")[2]: member.mode for member in archive}
    generated = {name for name in names if name == "PKG-INFO" or ".egg-info/" in name}
    sources = {name for name in list_files(distributions.source) if ".egg-info/" not in name}
    assert names - generated == sources - NOT_DISTRIBUTED
    assert modes["packaging/build-deb"] & 0o111


def test_the_wheel_has_the_package_and_what_goes_into_guests(wheel_names: Sequence[str]) -> None:
    package = {name for name in wheel_names if name.startswith("preloader_agent/")}
    there = {f"preloader_agent/{name}" for name in list_files(REPOSITORY / "preloader_agent")}
    assert package == {name for name in there if "__pycache__" not in name}
    prefix = f"preloader_agent-{__version__}.data/data/"
    shared = {name.removeprefix(prefix) for name in wheel_names if name.startswith(prefix)}
    units = {f"share/docker-preloader/{path.name}" for path in (REPOSITORY / "units").iterdir()}
    assert shared >= units | SHARED


def test_metadata(distributions: Distributions) -> None:
    found = read_metadata(distributions.wheel)
    assert (found["Name"], found["Version"]) == ("preloader-agent", __version__)
    assert (found["License-Expression"], found["License-File"]) == ("MIT", "LICENSE")
    assert found["Requires-Python"] == ">=3.11"
    assert found["Author"]
    assert found["Keywords"]
    assert 20 < len(found["Summary"]) < 100
    assert "Programming Language :: Python :: 3.13" in found.get_all("Classifier", [])
    assert set(found.get_all("Provides-Extra", [])) >= {"guest", "host", "dev"}
    unconditional = [need for need in found.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert unconditional == []  # a guest's agent brings nothing of the host's along


def test_the_long_description_is_the_readme_and_renders(distributions: Distributions) -> None:
    found = read_metadata(distributions.wheel)
    text = str(found.get_payload())
    assert found["Description-Content-Type"] == "text/markdown"
    assert text.strip() == (REPOSITORY / "README.md").read_text().strip()
    assert "<h1" in (render(text) or "")


def test_without_the_host_part(environment: Environment, distributions: Distributions, tmp_path: Path) -> None:
    before = environment.files()
    environment.pip("install", distributions.wheel)
    assert environment("docker-preloader", "--version").strip() == __version__
    for command in (["preloader"], ["python", "-I", "-m", "preloader_agent"]):
        said = environment(command[0], *command[1:], "--version", ok=[1])
        assert said.startswith("preloader: Python has no module ")
        assert "pip install 'preloader-agent[host]'" in said
    (tmp_path / "docker").mkdir()
    state = ["--run-dir", str(tmp_path / "run")]
    environment(
        "docker-preloader", "sync", "--docker-root", tmp_path / "docker", *state
    )  # the standard library will do
    for words in (["sync"], ["run"], ["status", "--json", *state]):
        said = environment("docker-preloader", *words, ok=[1])
        assert said.startswith("docker-preloader: Python has no module ")
        assert "pip install 'preloader-agent[guest]'" in said
    environment.pip("uninstall", "--yes", "preloader-agent")
    assert environment.files() - before == set()


def test_on_a_host(environment: Environment, distributions: Distributions, tmp_path: Path) -> None:
    environment.pip("install", f"{distributions.wheel}[host]")
    imported = environment("python", "-I", "-c", "import preloader_agent; print(preloader_agent.__file__)")
    assert Path(imported.strip()).is_relative_to(environment.path)
    assert __version__ in environment("preloader", "--version")
    assert __version__ in environment("python", "-I", "-m", "preloader_agent", "--version")
    assert "release" in environment("docker-preloader", "--help")
    assert_builds(environment, tmp_path)
    assert_installs_into_a_guest(environment, tmp_path)
    environment.pip("uninstall", "--yes", "preloader-agent")
    assert [path for path in environment.files() if "preloader" in path.name] == []


def test_the_install_of_the_readme(tmp_path: Path) -> None:
    copy_sources(tmp_path / "checkout")
    commands = re.search(r"^(?: {4}.*\n)+", README.read_text().partition("## Install")[2], re.MULTILINE)
    assert commands is not None
    script = f"cd {tmp_path / 'checkout'}\n{commands[0]}\npreloader --version"
    said = run(["bash", "-ec", script], env={"HOME": str(tmp_path), "PYTHONPATH": None}, timeout=BOUND)
    assert said.endswith(f"{__version__}\n")


def assert_builds(call: Callable[..., str], folder: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], folder / "busybox.tar")
    call("preloader", "build", archive, "-o", folder / "disk.qcow2")
    assert images.busybox_image().image_id in call("preloader", "inspect", "--json", folder / "disk.qcow2")


def assert_installs_into_a_guest(call: Callable[..., str], folder: Path) -> None:
    guest = make_guest(folder / "guest")
    call("preloader", "guest", "install", "--root", guest)
    for unit in (REPOSITORY / "units").glob("*.service"):
        assert (guest / "usr/lib/systemd/system" / unit.name).read_bytes() == unit.read_bytes()
