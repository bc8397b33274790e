"""Which files make up the agent in a guest: values, from this package and what is installed with it.

Its code stands in a folder of its own, with what the guest's Python lacks: no distribution's package and no pip writes
there, so an install can replace all of it. The units, pages and completions are those of the Debian package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import preloader_agent
from preloader_agent.errors import ToolMissing

CODE = "usr/lib/docker-preloader"
FOLDERS = ("etc/docker-preloader/containers.d",)  # of the user's, empty at first
LIST = f"{CODE}/installed-files"  # what stands outside of that folder, one path a line, for the next install
_COMMAND = "usr/bin/docker-preloader"
_LAUNCHER = Path(__file__).parent / "parts" / "launcher"  # the packages' commands are made from it, too
_MODULES = ("__init__.py", "errors.py", "tables.py", "containers/*.py", "store/*.py", "guest/*.py")
_UNITS = "usr/lib/systemd/system"
_GENERATORS = "usr/lib/systemd/system-generators"
# Where each file goes in a guest, by where it is in a checkout. zsh is left out: each distribution has another place.
_PLACES = {
    "units/*.service": _UNITS,
    "units/*-generator": _GENERATORS,
    "units/*.preset": "usr/lib/systemd/system-preset",
    "units/*.rules": "usr/lib/udev/rules.d",
    "docs/docker-preloader.8": "usr/share/man/man8",
    "docs/docker-preloader*.5": "usr/share/man/man5",
    "completions/bash/docker-preloader": "usr/share/bash-completion/completions",
    "completions/fish/docker-preloader.fish": "usr/share/fish/vendor_completions.d",
}


@dataclass(frozen=True)
class File:
    """A regular file of root's; `path` is relative to the guest's root."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Symlink:
    """A symlink of root's."""

    path: str
    target: str


Entry = File | Symlink


def list_agent_files() -> list[Entry]:
    """The agent's code, command, units, man pages and completions, and the links that enable the units.

    Raises ToolMissing when this package is installed without the units.
    """
    outside: list[Entry] = [_command()]
    for path, place in _shared_files():
        mode = 0o755 if place == _GENERATORS else 0o644  # pip installs it without its mode
        outside.append(File(f"{place}/{path.name}", path.read_bytes(), mode))
        if path.suffix == ".service":
            outside += _enabling_links(path)
    listed = "".join(f"{entry.path}\n" for entry in outside)
    return [*_list_code(), File(LIST, listed.encode()), *outside]


def _command() -> File:
    program = _LAUNCHER.read_text().replace("@FOLDER@", f"/{CODE}").replace("@MODULE@", "preloader_agent.guest.cli")
    return File(_COMMAND, program.encode(), 0o755)


def _list_code() -> Iterator[File]:
    package = Path(preloader_agent.__file__).parent
    for pattern in _MODULES:
        for path in sorted(package.glob(pattern)):
            yield File(f"{CODE}/preloader_agent/{path.relative_to(package)}", path.read_bytes())


def _enabling_links(unit: Path) -> Iterator[Symlink]:
    """What `systemctl enable` makes of a unit (systemd.unit(5), [Install] section)."""
    for line in re.findall(r"^WantedBy=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
        for wanting in line.split():
            yield Symlink(f"etc/systemd/system/{wanting}.wants/{unit.name}", f"/{_UNITS}/{unit.name}")


def _shared_files() -> list[tuple[Path, str]]:
    """The units, man pages and completions, each with its place in a guest.

    They are of the checkout that this runs in, or stand where pip put them (setup.cfg, data_files).
    """
    top = Path(preloader_agent.__file__).parents[1]
    found = [(path, place) for pattern, place in _PLACES.items() for path in sorted(top.glob(pattern))]
    if _UNITS not in (place for _, place in found):
        found = _installed_files()
    if not found:
        raise ToolMissing("docker-preloader's units", "install the package with pip, or run this in a checkout")
    return found


def _installed_files() -> list[tuple[Path, str]]:
    try:
        recorded = metadata.distribution("preloader-agent").files or []
    except metadata.PackageNotFoundError:
        return []
    ours = (file for file in recorded if file.parts[-3:-1] == ("share", "docker-preloader"))
    paths = sorted(Path(str(file.locate())) for file in ours)
    return [(path, place) for path in paths for pattern, place in _PLACES.items() if path.match(Path(pattern).name)]
