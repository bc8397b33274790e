"""The containers that are to run as services in this guest: which files describe them, and which of those can be used.

They are an administrator's, in /etc, and those that disks have brought, which the agent puts below its run directory.
One that cannot be used keeps no other one out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from glob import glob
from typing import NamedTuple

from preloader_agent.containers.definition import MISSING, NEVER, Container, parse_container, unit_name
from preloader_agent.containers.dependencies import find_faults
from preloader_agent.errors import InvalidFile, InvalidValue
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.unitfiles import UNIT_PATH
from preloader_agent.store.containername import checked_name
from preloader_agent.tables import MAX_BYTES, read_table

OWN = "/etc/docker-preloader/containers.d"
OF_DISKS = Paths().containers  # in a folder for each disk, named by its label
SUFFIX = ".toml"


class Definition(NamedTuple):
    """A file that describes a container. Without a container, `problem` says why."""

    name: str
    file: str
    container: Container | None
    problem: InvalidFile | None = None
    can_have_unit: bool = True  # not where its service would be another one

    @property
    def is_of_disk(self) -> bool:
        """Whether a disk has brought it: the agent starts it, and its image is there."""
        return self.file.startswith(f"{OF_DISKS}/")

    @property
    def is_started_at_boot(self) -> bool:
        """What cannot be read is started as well, to say so."""
        return not self.is_of_disk and (self.container is None or self.container.is_started)


def list_files(root: str = "") -> list[str]:
    """The files below `root` that describe containers, an administrator's first."""
    found = [*sorted(glob(f"{root}{OWN}/*{SUFFIX}")), *sorted(glob(f"{root}{OF_DISKS}/*/*{SUFFIX}"))]
    return [file.removeprefix(root) for file in found]


def read_definitions(files: Iterable[str], root: str = "") -> list[Definition]:
    """What some files say, checked one by one and together; of two for one name, the first counts."""
    found: dict[str, Definition] = {}
    refused = []
    for file in files:
        definition = _read_definition(file, root)
        if definition.name in found:
            other = f"{found[definition.name].file} describes {definition.name} as well; rename one of them"
            refused.append(_refuse(definition, InvalidFile(file, 0, "", other), can_have_unit=False))
        else:
            found[definition.name] = definition
    needed = {name: each.container.depends_on for name, each in found.items() if each.container is not None}
    for name, fault in find_faults(needed, found).items():
        found[name] = _refuse(found[name], _locate(found[name].file, "depends_on", fault, root))
    return [*found.values(), *refused]


def check_files(given: Sequence[str], root: str = "") -> list[InvalidFile]:
    """What is wrong with the given files, or with all that are installed; each given one stands for its namesake."""
    files = list(dict.fromkeys(given))
    names = {_name_of(file) for file in files}
    others = [file for file in list_files(root) if _name_of(file) not in names]
    definitions = read_definitions([*files, *others], root)
    return [each.problem for each in definitions if each.problem and (not files or each.file in files)]


def read_container(file: str, root: str = "") -> Container:
    """What one file says by itself. Raises InvalidFile, OSError."""
    default_pull = NEVER if file.startswith(f"{OF_DISKS}/") else MISSING
    return parse_container(_read(file, root), file, _checked_name_of(file), default_pull)


def _read_definition(file: str, root: str) -> Definition:
    definition = Definition(_name_of(file), file, None)
    try:
        check_unit(file, root)
    except InvalidFile as err:
        return _refuse(definition, err, can_have_unit=False)
    try:
        return definition._replace(container=read_container(file, root))
    except InvalidFile as err:
        return _refuse(definition, err)
    except OSError as err:
        return _refuse(definition, InvalidFile(file, 0, "", f"this file cannot be read: {err.strerror}"))


def _refuse(definition: Definition, problem: InvalidFile, *, can_have_unit: bool = True) -> Definition:
    return definition._replace(container=None, problem=problem, can_have_unit=can_have_unit)


def check_unit(file: str, root: str) -> None:
    """Raise InvalidFile where a unit for the file would take another one's place, or have no name."""
    unit = unit_name(_checked_name_of(file))
    for folder in UNIT_PATH:
        taken = f"{folder}/{unit}"
        # What generators make is made anew. A link to /dev/null is somebody's wish that the service does not run.
        is_own = folder.startswith("/run/systemd/generator")
        if not is_own and os.path.lexists(root + taken) and os.path.realpath(root + taken) != "/dev/null":
            raise InvalidFile(file, 0, "", f"{taken} is there already; rename this file, or remove that unit")


def _name_of(file: str) -> str:
    return os.path.basename(file).removesuffix(SUFFIX)


def _checked_name_of(file: str) -> str:
    try:
        if not file.endswith(SUFFIX):
            raise InvalidFile(file, 0, "", f"is not named NAME{SUFFIX}, which says how the container is called")
        return checked_name(_name_of(file))
    except InvalidValue as err:
        raise InvalidFile(file, 0, "", f"its name is the container's: {err}") from err


def _locate(file: str, key: str, problem: str, root: str) -> InvalidFile:
    return read_table(_read(file, root), file).invalid(key, problem)


def _read(file: str, root: str) -> bytes:
    with open(root + file, "rb") as stream:
        return stream.read(MAX_BYTES + 1)
