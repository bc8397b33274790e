"""`preloader image export`: the file system of an image's containers, as one tar."""

from __future__ import annotations

from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import flatten
from preloader_agent.host.image.output import open_output
from preloader_agent.host.image.sources import ReadOptions, open_sources
from preloader_agent.host.image.tarwriter import tar_chunks
from preloader_agent.host.images import Image
from preloader_agent.host.selection import choose_image


def export_image(archive: str, wanted: str | None, output: str, options: ReadOptions) -> Image:
    """Write what a container of an image sees, without what Docker adds to each; returns the image.

    `wanted` is one of its names or the start of its image ID, and needed where there are several. Raises InvalidValue
    when it is not there, and what `open_output` and `open_sources` raise.
    """
    with open_output(output, [archive]) as (stream, folder), open_sources([archive], folder, options) as sources:
        (source,) = sources.read([choose_image(sources.images, wanted, "--image")])
        root = flatten(layer.root for layer in source.layers)
        for chunk in tar_chunks(root, Content(sources.blocks).read):
            stream.write(chunk)
        return source.image
