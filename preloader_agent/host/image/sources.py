"""What the archives' commands read: the images of their inputs, their layers as trees and as tar streams.

Each layer is read once; a scratch folder has its content until the result is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.formats import read_images
from preloader_agent.host.image.archive import ArchivedImage
from preloader_agent.host.image.output import open_scratch
from preloader_agent.host.images import Image
from preloader_agent.host.inputs import open_input
from preloader_agent.host.layers import stage_layers, unique_layers
from preloader_agent.host.node import Node
from preloader_agent.host.progress import Meter, Progress
from preloader_agent.host.selection import select_images
from preloader_agent.host.skopeo import Skopeo
from preloader_agent.host.staging import Stager
from preloader_agent.store.digest import DiffID
from preloader_agent.store.index import Platform

_PIECE = 1 << 20


@dataclass(frozen=True)
class SourceLayer:
    """A layer that was read: the tree that it makes, and the file with its tar stream. See archive.Layer."""

    diff_id: DiffID
    root: Node
    path: Path

    @property
    def size(self) -> int:
        """Bytes of the tar stream."""
        return self.path.stat().st_size

    def chunks(self) -> Iterator[bytes]:
        """The tar stream."""
        with self.path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece


@dataclass(frozen=True)
class ReadOptions:
    """How inputs are read: `platform` selects among the images of an index, by default the host's.

    Without `is_tls_verified`, a registry may have any certificate, or use plain HTTP. `say` is given the lines of what
    fetches images.
    """

    platform: Platform | None = None
    is_tls_verified: bool = True
    progress: Progress = lambda *_: None
    say: Callable[[str], None] = lambda _: None


class SourceImage(NamedTuple):
    """An image with its layers, base first."""

    image: Image
    layers: tuple[SourceLayer, ...]

    @property
    def archived(self) -> ArchivedImage:
        """The same image, for an archive. A reference with a digest is left out, since Docker loads none."""
        references = tuple(reference for reference in self.image.references if "@" not in reference)
        return ArchivedImage(self.image.config, references, self.layers)


@dataclass(frozen=True)
class Sources:
    """Inputs that are open, and the images that they hold, by image ID; `blocks` has the content of the trees."""

    images: Sequence[Image]
    stager: Stager
    meter: Meter

    @property
    def blocks(self) -> BlockFile:
        """Where the extents of the trees are."""
        return self.stager.blocks

    def read(self, images: Sequence[Image]) -> list[SourceImage]:
        """Read the layers of some of the images, once. Raises InvalidArchive and DigestMismatch."""
        layers = unique_layers(images)
        roots = {staged.diff_id: staged.root for staged in stage_layers(layers, self.stager, self.meter)}
        kept = {diff_id: SourceLayer(diff_id, roots[diff_id], self.stager.kept_file(diff_id)) for diff_id in roots}
        return [SourceImage(image, tuple(kept[layer.diff_id] for layer in image.layers)) for image in images]


@contextmanager
def open_sources(inputs: Sequence[str], folder: Path, options: ReadOptions = ReadOptions()) -> Iterator[Sources]:
    """Open what `preloader build` takes, too; what is read of it goes to a scratch folder, and is gone with that.

    Raises InputError for what the inputs hold, and ToolError for programs.
    """
    skopeo = Skopeo(folder, options.say, options.is_tls_verified)
    with ExitStack() as stack:
        (folder / "layers").mkdir()
        meter = Meter(options.progress, "reading layers")
        stager = stack.enter_context(Stager(folder / "content", meter.advance, folder / "layers"))
        opened = [stack.enter_context(open_input(given, stager, skopeo)) for given in inputs]
        images = select_images([(files, read_images(files, options.platform)) for files in opened], ())
        yield Sources(images, stager, meter)


def list_images(archive: str, options: ReadOptions = ReadOptions()) -> Sequence[Image]:
    """The images of an input, by image ID. Raises like `open_sources`."""
    with open_scratch() as folder, open_sources([archive], folder, options) as sources:
        return sources.images
