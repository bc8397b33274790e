"""A recipe becomes an image: `build_image` is the pipeline, top to bottom.

recipe -> base -> contents laid over it -> scripts -> the layer that makes one of the other -> configuration -> archive.
All of it is the same whoever does it, and when: what differs from caller to caller never gets into a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from preloader_agent.errors import InvalidValue
from preloader_agent.host.image.archive import ArchivedImage, Layer, write_archive
from preloader_agent.host.image.base import Base, open_base
from preloader_agent.host.image.commands import run_commands
from preloader_agent.host.image.config import MAX_EPOCH, make_config
from preloader_agent.host.image.filesystem import children_of, flatten, subtract
from preloader_agent.host.image.output import STANDARD_OUTPUT, open_output
from preloader_agent.host.image.overlay import run_in_image
from preloader_agent.host.image.placement import place_contents
from preloader_agent.host.image.recipe import Recipe, read_recipe
from preloader_agent.host.image.rules import refuse_unused
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.image.treelayer import TreeLayer, make_layer
from preloader_agent.host.node import Node
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.store.digest import MAX_LAYERS

EPOCH = 1  # seconds after 1970, as in what Nix makes: 0 means to some programs that there is no time
_EPOCH_DIGITS = len(str(MAX_EPOCH))  # int() refuses thousands
_MADE_BY = "preloader image build"


def build_image(
    file: Path, output: str, epoch: int, options: ReadOptions, machine: VmConfig | None = None
) -> ArchivedImage:
    """Write the image that a recipe describes to an archive; returns it.

    `epoch` is the time of all that is in it, in seconds since 1970. The base's layers stay as they are, and at most one
    is added: none if the image has the files of its base. With a machine, what is to run as root runs in that.

    Raises InvalidFile and InputError for the recipe and what it names, and what `run_commands`, `run_in_image`,
    `open_output` and `open_sources` raise.
    """
    recipe = read_recipe(file)
    check_output_apart(recipe, output)
    with open_output(output, inputs_of(file, recipe)) as (stream, folder), open_base(recipe, folder, options) as base:
        placed = place_contents(recipe, base.tree, base.content, epoch)
        tree = flatten([base.tree, *placed])
        if recipe.extra_commands:
            tree = run_commands(recipe.extra_commands, tree, recipe.rules, base.content, folder, epoch, options.say)
        refuse_unused(recipe.rules, [*placed, subtract(tree, base.tree, base.content.is_same)])
        if recipe.run_as_root:
            script = f"export TZ=UTC SOURCE_DATE_EPOCH={epoch}; {recipe.run_as_root}"  # one line: errors name lines
            changes = run_in_image(tree, base.content.read, script, base.stager, machine)
            tree = flatten([tree, changes])
        layer = subtract(tree, base.tree, base.content.is_same)
        image = make_image(recipe, base, make_layers(recipe, base, [layer], epoch), epoch, _MADE_BY)
        write_archive([image], stream)
        return image


def make_layers(recipe: Recipe, base: Base, trees: Iterable[Node], epoch: int) -> list[TreeLayer]:
    """A layer for each tree that has anything in it: an empty one would be none in a Dockerfile, either."""
    name = f"layer of {recipe.reference}"
    return [make_layer(tree, base.content, epoch, name) for tree in trees if children_of(tree)]


def make_image(recipe: Recipe, base: Base, added: Sequence[TreeLayer], epoch: int, made_by: str) -> ArchivedImage:
    """The image with further layers over its base. Raises InvalidFile for more than docker takes."""
    layers: Sequence[Layer] = (*base.layers, *added)
    if len(layers) > MAX_LAYERS:
        problem = f"has {len(base.layers)} layers, so that the image would have {len(layers)}"
        raise recipe.invalid("base", f"{problem}; docker takes at most {MAX_LAYERS}")
    diff_ids = [layer.diff_id for layer in layers]
    config = make_config(base.config, recipe.settings, base.platform, diff_ids, epoch, made_by)
    return ArchivedImage(config, (recipe.reference,), layers)


def parse_epoch(text: str | None) -> int:
    """What SOURCE_DATE_EPOCH says (https://reproducible-builds.org/specs/source-date-epoch). Raises InvalidValue."""
    if text is None:
        return EPOCH
    if not (text.isascii() and text.isdigit() and len(text) <= _EPOCH_DIGITS and int(text) <= MAX_EPOCH):
        raise InvalidValue("SOURCE_DATE_EPOCH", text, "seconds since 1970, such as 1700000000")
    return int(text)


def inputs_of(file: Path, recipe: Recipe) -> list[str]:
    """The files that are read."""
    return [str(path) for path in (file, recipe.base) if path]


def check_output_apart(recipe: Recipe, output: str) -> None:
    """Raises InvalidValue for a file among the contents, of which it would be one."""
    place = Path(output).parent.resolve()
    for folder in recipe.contents:
        if output != STANDARD_OUTPUT and place.is_relative_to(folder.resolve()):
            raise InvalidValue("output", output, f"a file that is not in {folder}, whose content goes into the image")
