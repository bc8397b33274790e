"""What an image is made on: one image of the archive that a recipe names, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import flatten
from preloader_agent.host.image.recipe import Recipe
from preloader_agent.host.image.sources import ReadOptions, SourceLayer, open_sources
from preloader_agent.host.images import Image
from preloader_agent.host.node import Node
from preloader_agent.host.platforms import host_platform
from preloader_agent.host.staging import Stager
from preloader_agent.store.index import Platform
from preloader_agent.store.reference import Reference

_NO_CONFIG = b"{}"


@dataclass(frozen=True)
class Base:
    """The image below the new layers: `tree` is what its containers see, whose files' content `content` reads.

    `platform` is the new image's; `stager` stages further layers.
    """

    config: bytes
    platform: Platform
    layers: tuple[SourceLayer, ...]
    tree: Node
    content: Content
    stager: Stager


@contextmanager
def open_base(recipe: Recipe, folder: Path, options: ReadOptions) -> Iterator[Base]:
    """Read the base of a recipe into a scratch folder. Raises InvalidFile, and what `open_sources` raises."""
    inputs = [str(recipe.base)] if recipe.base else []
    with open_sources(inputs, folder, replace(options, platform=recipe.platform)) as sources:
        images = sources.read([_choose_base(recipe, sources.images)] if recipe.base else [])
        config = images[0].image.config if images else _NO_CONFIG
        layers = images[0].layers if images else ()
        platform = recipe.platform or (images[0].image.platform if images else host_platform())
        tree = flatten(layer.root for layer in layers)
        yield Base(config, platform, layers, tree, Content(sources.blocks), sources.stager)


def _choose_base(recipe: Recipe, images: Sequence[Image]) -> Image:
    """The image with the base's name and tag, as far as the recipe says them."""
    found = [image for image in images if _is_meant(recipe, image.references)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(name for image in images for name in image.references or (image.name,)))
    key = "base_tag" if recipe.base_tag else "base_name" if recipe.base_name else "base"
    if found:
        problem = f"{len(found)} images of {recipe.base} could be meant; say which by base_name and base_tag"
    else:
        problem = f"{recipe.base} has no such image"
    raise recipe.invalid(key, f"{problem}; it holds {there}")


def _is_meant(recipe: Recipe, references: Sequence[Reference]) -> bool:
    if not recipe.base_name and not recipe.base_tag:
        return True
    return any(
        (not recipe.base_name or reference.name == recipe.base_name)
        and (not recipe.base_tag or reference == f"{reference.name}:{recipe.base_tag}")
        for reference in references
    )
