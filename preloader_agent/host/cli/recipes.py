"""The commands that make images of recipes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from preloader_agent.host.cli.archives import output_option, reading
from preloader_agent.host.cli.machines import machine_options
from preloader_agent.host.cli.output import count, human_size
from preloader_agent.host.cli.shell import complete_file
from preloader_agent.host.image.archive import ArchivedImage
from preloader_agent.host.image.build import build_image, parse_epoch
from preloader_agent.host.image.layered import DEFAULT_LAYERS, build_layered
from preloader_agent.host.image.output import STANDARD_OUTPUT
from preloader_agent.host.image.stream import write_stream
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.store.digest import sha256_digest

_RECIPE = click.argument("recipe", metavar="RECIPE.toml", type=click.Path(path_type=Path), shell_complete=complete_file)
_OUTPUT = output_option("IMAGE.tar", "archive")
_MAX_LAYERS = click.option(
    "--max-layers",
    metavar="NUMBER",
    type=int,
    default=DEFAULT_LAYERS,
    help=f"The most layers that the image shall have, with those of its base; {DEFAULT_LAYERS} unless given.",
)


@click.command()
@_RECIPE
@_OUTPUT
@machine_options
def build(recipe: Path, output: str, machine: VmConfig | None) -> None:
    """Make an image of directories and scripts, as a recipe says, on the image of another archive or on nothing.

    The same recipe gives the same bytes, whoever makes it, where and when. What the base has already is not stored
    again.
    """
    with reading(output) as options:
        image = build_image(recipe, output, _epoch(), options, machine)
    _print_result(output, image)


@click.command()
@_RECIPE
@_OUTPUT
@_MAX_LAYERS
def layered(recipe: Path, output: str, max_layers: int) -> None:
    """Make an image with a layer for each directory of its contents, so that images with the same ones share them.

    Directories for which there is no layer left are in the last one together.
    """
    with reading(output) as options:
        image = build_layered(recipe, output, max_layers, _epoch(), options)
    _print_result(output, image)


@click.command()
@_RECIPE
@output_option("PROGRAM", "program")
@_MAX_LAYERS
def stream(recipe: Path, output: str, max_layers: int) -> None:
    """Write a program that writes the archive of `image layered` to its standard output, without storing it.

    `preloader build` takes it as an input. It fails if anything that the recipe names has changed since.
    """
    with reading(output) as options:
        image = write_stream(recipe, output, max_layers, _epoch(), options)
    _print_result(output, image)


def _epoch() -> int:
    return parse_epoch(os.environ.get("SOURCE_DATE_EPOCH"))


def _print_result(output: str, image: ArchivedImage) -> None:
    """What was written, unless it went where this would go."""
    if output != STANDARD_OUTPUT:
        layers, size = count(len(image.layers), "layer"), human_size(Path(output).stat().st_size)
        click.echo(
            f"{output}: {image.references[0]}, image ID {sha256_digest(image.config).hex[:12]}, {layers}, {size}"
        )
