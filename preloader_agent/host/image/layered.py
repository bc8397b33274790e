"""`preloader image layered`: each directory of a recipe's contents becomes a layer, which images can share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from preloader_agent.errors import InvalidValue
from preloader_agent.host.image.archive import ArchivedImage, write_archive
from preloader_agent.host.image.base import Base, open_base
from preloader_agent.host.image.build import check_output_apart, inputs_of, make_image, make_layers
from preloader_agent.host.image.filesystem import flatten
from preloader_agent.host.image.output import open_output
from preloader_agent.host.image.placement import place_contents
from preloader_agent.host.image.recipe import Recipe, read_recipe
from preloader_agent.host.image.rules import refuse_unused
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.image.treelayer import TreeLayer
from preloader_agent.host.node import Node
from preloader_agent.store.digest import MAX_LAYERS

# Makes the layers of some trees, of one time in seconds since 1970.
MakeLayers = Callable[[Recipe, Base, Iterable[Node], int], list[TreeLayer]]

DEFAULT_LAYERS = 100  # leaves room for what is built on the image
_MADE_BY = "preloader image layered"


def build_layered(file: Path, output: str, max_layers: int, epoch: int, options: ReadOptions) -> ArchivedImage:
    """Write the image that a recipe describes to an archive, in at most so many layers with its base's; returns it.

    See `build_image` for `epoch` and what it raises; InvalidFile for a recipe with scripts as well.
    """
    recipe = read_layered_recipe(file)
    check_output_apart(recipe, output)
    with open_output(output, inputs_of(file, recipe)) as (stream, folder), open_base(recipe, folder, options) as base:
        image = make_layered_image(recipe, base, max_layers, epoch)
        write_archive([image], stream)
        return image


def read_layered_recipe(file: Path) -> Recipe:
    """Read a recipe whose layers are independent of each other. Raises InvalidFile."""
    recipe = read_recipe(file)
    for key in ("extra_commands", "run_as_root"):
        if getattr(recipe, key):
            raise recipe.invalid(key, "a script works on all directories at once, so none of them could be a layer")
    return recipe


def make_layered_image(
    recipe: Recipe, base: Base, max_layers: int, epoch: int, make: MakeLayers = make_layers
) -> ArchivedImage:
    """The image, whose layers are read from the directories again when they are written."""
    placed = place_contents(recipe, base.tree, base.content, epoch)
    refuse_unused(recipe.rules, placed)
    added = make(recipe, base, _join(placed, len(base.layers), max_layers), epoch)
    return make_image(recipe, base, added, epoch, _MADE_BY)


def _join(placed: Sequence[Node], below: int, max_layers: int) -> list[Node]:
    """A layer for each directory as far as there is room, and one for all others."""
    room, least = max_layers - below, below + bool(placed)
    if max_layers > MAX_LAYERS or max_layers < least <= MAX_LAYERS:  # one more than that is told of the image
        expected = f"{least} (the base has {below}) to {MAX_LAYERS}, which is all that docker takes"
        raise InvalidValue("--max-layers", max_layers, expected)
    if len(placed) <= room:
        return list(placed)
    return [*placed[: room - 1], flatten(placed[room - 1 :])]
