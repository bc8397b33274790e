"""Which files make up the agent in a guest: values, from this package and what is installed with it.

Its code stands in a folder of its own, with what the guest's Python lacks: no distribution's package and no pip writes
there, so an install can replace all of it. The units are those of the Debian package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import preloader_agent
from preloader_agent.errors import ToolMissing

CODE = "usr/lib/docker-preloader"
LIST = f"{CODE}/installed-files"  # what stands outside of that folder, one path a line, for the next install
_COMMAND = "usr/bin/docker-preloader"
_PROGRAM = f"""\
#!/usr/bin/python3 -I
import sys
sys.path.insert(0, "/{CODE}")
from preloader_agent.guest.cli import main
main()
"""
_MODULES = ("__init__.py", "errors.py", "store/*.py", "guest/*.py")
_UNITS = "usr/lib/systemd/system"
_PLACES = {
    ".service": _UNITS,
    ".preset": "usr/lib/systemd/system-preset",
    ".rules": "usr/lib/udev/rules.d",
    ".8": "usr/share/man/man8",
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
    """The agent's code, command, units and man page, and the links that enable the units.

    Raises ToolMissing when this package is installed without the units.
    """
    outside: list[Entry] = [File(_COMMAND, _PROGRAM.encode(), 0o755)]
    for path in _shared_files():
        outside.append(File(f"{_PLACES[path.suffix]}/{path.name}", path.read_bytes()))
        if path.suffix == ".service":
            outside += _enabling_links(path)
    listed = "".join(f"{entry.path}\n" for entry in outside)
    return [*_list_code(), File(LIST, listed.encode()), *outside]


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


def _shared_files() -> Sequence[Path]:
    """The units and the man page: of the checkout that this runs in, or where pip put them (setup.cfg, data_files)."""
    top = Path(preloader_agent.__file__).parents[1]
    found = [*(top / "units").glob("*"), top / "docs" / "docker-preloader.8"]
    if not all(path.is_file() for path in found) or len(found) == 1:
        found = _installed_files()
    if not found:
        raise ToolMissing("docker-preloader's units", "install the package with pip, or run this in a checkout")
    return sorted(found, key=lambda path: path.name)


def _installed_files() -> list[Path]:
    try:
        recorded = metadata.distribution("preloader-agent").files or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in recorded if file.parts[-3:-1] == ("share", "docker-preloader")]
