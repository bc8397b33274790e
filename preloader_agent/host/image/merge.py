"""`preloader image merge`: several archives become one, in which each layer stands once."""

from __future__ import annotations

from collections.abc import Sequence

from preloader_agent.host.image.archive import write_archive
from preloader_agent.host.image.output import open_output
from preloader_agent.host.image.sources import ReadOptions, open_sources
from preloader_agent.host.images import Image


def merge_archives(inputs: Sequence[str], output: str, options: ReadOptions) -> Sequence[Image]:
    """Write all images of some inputs to one archive; returns them, by image ID.

    The same images give the same bytes, whatever they are read from and in whichever order. Raises InvalidArchive when
    an image is in two inputs or a name stands for two images, and what `open_output` and `open_sources` raise.
    """
    with open_output(output, inputs) as (stream, folder), open_sources(inputs, folder, options) as sources:
        write_archive([image.archived for image in sources.read(sources.images)], stream)
        return sources.images
