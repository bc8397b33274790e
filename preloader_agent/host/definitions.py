"""The definitions of containers that go on a disk: whether they are right, and whether the disk has what they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from preloader_agent.containers.definition import Container, parse_container
from preloader_agent.errors import InvalidFile, InvalidValue
from preloader_agent.host.images import Image
from preloader_agent.store.digest import sha256_digest
from preloader_agent.store.index import ContainerRecord
from preloader_agent.tables import MAX_BYTES, read_table

_SUFFIX = ".toml"


class Definition(NamedTuple):
    """A definition, and the file that it was read from."""

    file: Path
    content: bytes
    container: Container

    @property
    def record(self) -> ContainerRecord:
        """What a disk's index says of it."""
        return ContainerRecord(self.container.name, len(self.content), sha256_digest(self.content))


def read_definitions(files: Iterable[Path]) -> list[Definition]:
    """The definitions in some files NAME.toml, by name. Raises InvalidFile, and InvalidValue where two have a name."""
    found: dict[str, Definition] = {}
    for file in files:
        definition = _read_definition(file)
        other = found.setdefault(definition.container.name, definition)
        if other is not definition:
            raise InvalidValue("containers", str(file), f"another name than that of {other.file}")
    return [definition for _, definition in sorted(found.items())]


def check_images(definitions: Iterable[Definition], images: Sequence[Image]) -> None:
    """What a disk's container runs is on the disk, unless its definition says when to pull it. Raises InvalidFile."""
    names = {name for image in images for name in (*image.references, *image.repo_digests)}
    for file, content, container in definitions:
        if not container.pull and container.image not in names:
            there = ", ".join(sorted(names)) or "none with a name"
            problem = f"{container.image} is not on the disk, whose images are {there:.500}; add it, or say `pull`"
            raise read_table(content, file).invalid("image", problem)


def _read_definition(file: Path) -> Definition:
    if file.suffix != _SUFFIX:
        raise InvalidFile(file, 0, "", f"expected the name NAME{_SUFFIX}; NAME becomes that of the container")
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as err:
        raise InvalidFile(file, 0, "", f"cannot be read: {err.strerror}") from err
    return Definition(file, content, parse_container(content, file, file.stem, default_pull=""))
