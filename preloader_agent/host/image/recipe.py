"""The recipe of an image: a TOML file that a person wrote, checked to its last key before anything is done.

Paths in it are relative to its folder. What only shows later to be wrong, such as which images the base holds, is
reported with its line as well: a recipe keeps the function that makes such errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from preloader_agent.errors import InputError, InvalidFile, InvalidValue
from preloader_agent.host.image.config import Settings, read_settings
from preloader_agent.host.image.rules import Rule, read_rules
from preloader_agent.host.platforms import normalized
from preloader_agent.host.skopeo import DAEMON, REGISTRY
from preloader_agent.store.index import Platform
from preloader_agent.store.reference import Reference
from preloader_agent.tables import Table, read_table

_NAME = "a name such as app or registry.example/team/app, without a tag"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of; `platform` is the one to make it for, None for the base's, or without one the host's.

    `invalid` makes the error for what is wrong with a key.
    """

    reference: Reference
    base: Path | None
    base_name: str
    base_tag: str
    contents: tuple[Path, ...]
    rules: tuple[Rule, ...]
    platform: Platform | None
    settings: Settings
    extra_commands: str
    run_as_root: str
    invalid: Callable[[str, str], InvalidFile]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises InvalidFile with the line and key of what is wrong, InputError if it cannot be read."""
    try:
        table = read_table(path.read_bytes(), path)
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}") from err
    recipe = Recipe(
        reference=_read_reference(table),
        base=_read_base(table, path.parent),
        base_name=table.text("base_name"),
        base_tag=table.text("base_tag"),
        contents=tuple(path.parent / folder for folder in table.texts("contents")),
        rules=read_rules(table),
        platform=table.value("architecture", lambda found: _platform(found, table)),
        settings=read_settings(table.table("config")),
        extra_commands=table.text("extra_commands"),
        run_as_root=table.text("run_as_root"),
        invalid=table.invalid,
    )
    table.refuse_unknown()
    _check_together(recipe)
    return recipe


def _read_reference(table: Table) -> Reference:
    name, tag = table.text("name"), table.text("tag", "latest")
    if not name:
        raise table.invalid("name", f"is missing; expected {_NAME}")
    try:
        reference = Reference(f"{name}:{tag}")
    except InvalidValue as err:
        raise table.invalid("name", f"{name}:{tag} is no reference; expected {_NAME}, and a tag such as 1.0") from err
    if "@" in name or reference.rpartition(":")[2] != tag:
        raise table.invalid("name", f"expected {_NAME}, found {name!r}")
    return reference


def _read_base(table: Table, folder: Path) -> Path | None:
    base = table.text("base")
    if base == "-" or base.startswith((REGISTRY, DAEMON)):
        raise table.invalid(
            "base", "expected an archive, which `preloader image pull` or `docker save` makes of an image"
        )
    return folder / base if base else None


def _platform(found: object, table: Table) -> Platform | None:
    if found is None:
        return None
    parts = table.text("architecture").split("/")
    if len(parts) > 2 or not all(parts):
        raise InvalidValue("architecture", found, "ARCH or ARCH/VARIANT, such as arm64 or arm/v7")
    return normalized(Platform("linux", *parts))


def _check_together(recipe: Recipe) -> None:
    """Keys that mean nothing without another one."""
    if recipe.base is None:
        for key in ("base_name", "base_tag"):
            if getattr(recipe, key):
                raise recipe.invalid(key, "there is no base to take an image of")
    for folder in recipe.contents:
        if not folder.is_dir():
            raise recipe.invalid("contents", f"{folder} is not a directory")
