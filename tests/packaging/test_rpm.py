"""The RPM packages: built from the source distribution, looked at, and installed into an empty tree."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from preloader_agent import __version__
from preloader_agent.errors import CommandFailed
from preloader_agent.host.guests.agentfiles import CODE, FOLDERS, File, list_agent_files
from preloader_agent.host.run import run
from tests.host.guesttrees import make_guest
from tests.packaging.conftest import REPOSITORY, Distributions

pytestmark = pytest.mark.system  # the source distribution is built with what pip fetches

RPM = REPOSITORY / "packaging" / "rpm"
SPEC = RPM / "docker-preloader.spec"
GUEST_CODE, HOST_CODE = "usr/share/docker-preloader", "usr/share/preloader"
TAKING_OUT = f"{GUEST_CODE}/take-images-out"
BOUND = 120.0  # seconds, for what takes three


@dataclass(frozen=True)
class Packages:
    """The package for guests, the one for hosts, and a tree in which both are installed, with its database."""

    guest: Path
    host: Path
    root: Path

    def modes(self, package: Path) -> dict[str, str]:
        """The mode of each file of a package, in octal, by its path."""
        listed = run(["rpm", "-qp", "--qf", r"[%{FILENAMES}\t%{FILEMODES:octal}\n]", package])
        return {path.lstrip("/"): mode for path, mode in (line.split("\t") for line in listed.splitlines())}


@pytest.fixture(scope="module")
def packages(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Packages:
    top, root = tmp_path_factory.mktemp("rpmbuild"), tmp_path_factory.mktemp("root")
    run(["rpmbuild", "-tb", "--nodeps", f"--define=_topdir {top}", distributions.sdist], timeout=BOUND)
    guest, host = (top / f"RPMS/noarch/{name}-{__version__}-1.noarch.rpm" for name in ("docker-preloader", "preloader"))
    change(root, "--install", guest, host)
    return Packages(guest, host, root)


def change(root: Path, *words: str | Path) -> None:
    """Install or erase packages in a tree, which has nothing of what they need: no Python, no systemd, no shell."""
    run(["rpm", "--root", root, "--nodeps", "--noscripts", *words], timeout=BOUND)


def query(package: Path, what: str) -> list[str]:
    return run(["rpm", "-qp", f"--{what}", package]).splitlines()


def test_a_guest_gets_what_guest_install_puts_there(packages: Packages) -> None:
    modes = packages.modes(packages.guest)
    for entry in list_agent_files():
        path = entry.path.replace(CODE, GUEST_CODE)
        if not isinstance(entry, File) or path.endswith(("/installed-files", "bin/docker-preloader")):
            continue  # the links are the preset's to make, and the command leads to another folder
        assert (packages.root / path).read_bytes() == entry.content
        assert modes[path] == f"100{entry.mode:o}", path
    assert modes["usr/bin/docker-preloader"] == "100755"
    for folder in FOLDERS:
        assert modes[folder] == "40755"
    code = {path for path in modes if path.startswith(GUEST_CODE)}
    assert not [path for path in code if "host" in Path(path).parts]
    assert f"{GUEST_CODE}/preloader_agent/guest/__pycache__" in code


def test_a_host_gets_all_modules(packages: Packages) -> None:
    modes = packages.modes(packages.host)
    package = REPOSITORY / "preloader_agent"
    for path in (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        installed = f"{HOST_CODE}/{path.relative_to(REPOSITORY)}"
        assert (packages.root / installed).read_bytes() == path.read_bytes()
        assert modes[installed].endswith("755") == bool(path.stat().st_mode & 0o100), path
    assert modes["usr/bin/preloader"] == "100755"
    for page in ("man1/preloader.1", "man5/preloader-recipe.5"):
        assert any(path.startswith(f"usr/share/man/{page}") for path in modes), page


def test_what_is_needed(packages: Packages) -> None:
    guest, host = query(packages.guest, "requires"), query(packages.host, "requires")
    assert {f"python3dist({name})" for name in ("orjson", "pystemd", "pyudev", "sdnotify")} < set(guest)
    assert {need.split()[0] for need in host} >= {f"python3dist({name})" for name in ("click", "rich", "zstandard")}
    assert not [need for need in guest if "click" in need]
    assert not [need for need in guest if need.startswith("preloader")]
    assert not [need for need in host if "busybox" in need or "docker" in need]


def test_scriptlets_are_those_of_the_units(packages: Packages) -> None:
    scripts = "\n".join(query(packages.guest, "scripts"))
    assert "%" not in scripts  # a macro that nobody defines
    units = sorted(unit.name for unit in (REPOSITORY / "units").glob("*.service"))
    for word in ("preset", "disable --now"):
        found = re.search(rf"systemctl --no-reload {word} (.*) \|\|", scripts)
        assert found is not None, word
        assert sorted(found[1].split()) == units
    assert "try-restart docker-preloader.service ||" in scripts
    run(["sh", "-n", "-c", re.sub(r"(?m)^\w+ scriptlet .*$", "", scripts)])
    # What tests/vm/test_packages.py sees at work, where Debian's package calls it.
    assert f"/{TAKING_OUT} ||" in scripts
    assert packages.modes(packages.guest)[TAKING_OUT] == "100755"
    assert query(packages.host, "scripts") == []


@pytest.mark.parametrize("name", ["docker-preloader", "preloader"])
def test_installed_commands_run(packages: Packages, name: str) -> None:
    # The tree has no Python: ours runs the command, which finds its modules below the root then.
    assert run_in_tree(packages, name, "--version").split()[-1] == __version__


def test_the_hosts_package_installs_into_a_guest(packages: Packages, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    run_in_tree(packages, "preloader", "guest", "install", "--root", guest)
    assert (guest / "usr/lib/systemd/system/docker-preloader.service").is_file()
    other = make_guest(tmp_path / "other")
    change(other, "--install", packages.guest)
    with pytest.raises(CommandFailed, match="has the Debian package or RPM docker-preloader"):
        run_in_tree(packages, "preloader", "guest", "install", "--root", other)


def run_in_tree(packages: Packages, name: str, *words: str | Path) -> str:
    installed = packages.root / "usr/bin" / name
    first, program = installed.read_text().split("\n", 1)
    assert first == "#!/usr/bin/python3 -I"
    program = program.replace('"/usr/share', f'"{packages.root}/usr/share')
    return run([sys.executable, "-I", "-c", program, *words], timeout=BOUND)


def test_the_linter_finds_no_error(packages: Packages) -> None:
    said = run(["rpmlint", "--config", RPM / "rpmlint.toml", packages.guest, packages.host, SPEC], ok=(0, 64, 66))
    assert [line for line in said.splitlines() if ": E: " in line] == []
    assert "2 packages and 1 specfiles checked" in said


def test_removed_packages_leave_nothing(packages: Packages, tmp_path: Path) -> None:
    change(tmp_path, "--install", packages.guest, packages.host)
    assert (tmp_path / HOST_CODE).is_dir()
    change(tmp_path, "--erase", "docker-preloader", "preloader")
    assert [path for path in tmp_path.rglob("*") if "preloader" in path.name] == []
