"""`preloader image stream`: a program that writes the archive of an image in layers, which is stored nowhere.

The program holds what the image is: its ID, and the DiffIDs and sizes of its own layers. So it reads each file once,
while it writes it, and what was changed meanwhile is found before the archive is complete.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import preloader_agent
from preloader_agent.errors import InputError, PreloaderError
from preloader_agent.host.image.archive import ArchivedImage, write_archive
from preloader_agent.host.image.base import Base, open_base
from preloader_agent.host.image.build import check_output_apart, inputs_of
from preloader_agent.host.image.filesystem import children_of
from preloader_agent.host.image.layered import MakeLayers, make_layered_image, read_layered_recipe
from preloader_agent.host.image.output import STANDARD_OUTPUT, open_output
from preloader_agent.host.image.recipe import Recipe
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.image.treelayer import TreeLayer
from preloader_agent.host.node import Node
from preloader_agent.store.digest import DiffID, sha256_digest

_EXECUTABLE = 0o777
# `-I` keeps PYTHON* variables and the current directory out; all that is needed is found where it is found now.
_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from preloader_agent.host.cli.streams import main
main(sys.argv[1])"""


class StreamPlan(NamedTuple):
    """What a program writes; `layers` has the DiffID and size of each layer that is not of the base."""

    recipe: str
    max_layers: int
    epoch: int
    image_id: str
    layers: tuple[tuple[str, int], ...]


def write_stream(file: Path, output: str, max_layers: int, epoch: int, options: ReadOptions) -> ArchivedImage:
    """Write a program that writes the archive of `build_layered` to its standard output; returns the image.

    It runs with this Python and this installation, as long as they and what the recipe names are where they are now.
    Raises like `build_layered`.
    """
    recipe = read_layered_recipe(file)
    check_output_apart(recipe, output)
    with open_output(output, inputs_of(file, recipe), _EXECUTABLE) as (stream, folder):
        with open_base(recipe, folder, options) as base:
            image = make_layered_image(recipe, base, max_layers, epoch)
        added = tuple((layer.diff_id, layer.size) for layer in image.layers if isinstance(layer, TreeLayer))
        plan = StreamPlan(str(file.absolute()), max_layers, epoch, sha256_digest(image.config), added)
        stream.write(_make_program(recipe, plan))
        return image


def stream_archive(plan: StreamPlan, options: ReadOptions) -> None:
    """Write the archive to standard output. Raises PreloaderError when what it is made of has changed since."""
    try:
        _stream(plan, options)
    except InputError as err:
        changed = "it, or what it names, was changed since this program was written"
        raise PreloaderError(f"{plan.recipe}: {changed}: {err}; write it again: preloader image stream") from err


def _stream(plan: StreamPlan, options: ReadOptions) -> None:
    recipe = read_layered_recipe(Path(plan.recipe))
    with open_output(STANDARD_OUTPUT, ()) as (stream, folder), open_base(recipe, folder, options) as base:
        image = make_layered_image(recipe, base, plan.max_layers, plan.epoch, _recall(plan))
        found = sha256_digest(image.config)
        if found != plan.image_id:
            raise InputError(f"the image ID would be {found}, expected {plan.image_id}")
        write_archive([image], stream)


def _recall(plan: StreamPlan) -> MakeLayers:
    """What makes layers of trees whose DiffIDs and sizes are known; write_archive checks them."""

    def make(_: Recipe, base: Base, trees: Iterable[Node], epoch: int) -> list[TreeLayer]:
        filled = [tree for tree in trees if children_of(tree)]
        if len(filled) != len(plan.layers):
            raise InputError(f"there are {len(filled)} layers, expected {len(plan.layers)}")
        return [
            TreeLayer(DiffID(diff_id), size, tree, base.content, epoch * 10**9)
            for (diff_id, size), tree in zip(plan.layers, filled, strict=True)
        ]

    return make


def _make_program(recipe: Recipe, plan: StreamPlan) -> bytes:
    """A shell script: a path after #! could be neither long nor hold a blank."""
    here = str(Path(preloader_agent.__file__).absolute().parent.parent)
    places = [here, *(str(Path(place).absolute()) for place in sys.path if place)]
    words = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(plan), json.dumps(list(dict.fromkeys(places)))]
    head = f"#!/bin/sh\n# Writes the archive of {recipe.reference}, as `preloader image stream` was asked to.\n"
    return f"{head}exec {shlex.join(words)}\n".encode(errors="surrogateescape")
