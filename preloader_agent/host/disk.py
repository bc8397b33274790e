"""Inputs become a disk: `build_disk` is the host pipeline, top to bottom.

inputs -> images -> staged layers -> the store's tree -> ext4 -> qcow2 -> one rename. Nothing but the finished disk ever
has the disk's name, and a failure leaves nothing behind.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from preloader_agent import __version__
from preloader_agent.errors import InvalidDisk, InvalidValue, ToolError
from preloader_agent.host.definitions import Definition, check_images, read_definitions
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.writer import write_filesystem
from preloader_agent.host.formats import read_images
from preloader_agent.host.images import Image, LayerSource
from preloader_agent.host.inputs import open_input
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.layers import stage_layers, unique_layers
from preloader_agent.host.node import Extent
from preloader_agent.host.progress import Meter, Progress
from preloader_agent.host.publishing import check_output, publish, stage_beside
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.selection import NewName, parse_name, parse_platform, parse_tag, select_images
from preloader_agent.host.skopeo import Skopeo
from preloader_agent.host.staging import StagedLayer, Stager
from preloader_agent.host.storetree import make_store
from preloader_agent.store.digest import CacheID, ChainID, Link, sha256_digest
from preloader_agent.store.index import (
    DiskIndex,
    ImageRecord,
    LayerRecord,
    Platform,
    check_index,
    content_digest,
    disk_label,
)

# What qemu-img is told; a disk is read in clusters of 64 KiB, so that is what is compressed at once.
_COMPRESSION = {None: [], "zstd": ["-c", "-o", "compression_type=zstd"]}


@dataclass(frozen=True)
class BuildOptions:
    """What a user can choose; `platform` selects among the images of an index, by default the host's.

    Without `is_tls_verified`, a registry may have any certificate, or use plain HTTP. `containers` are files NAME.toml
    that describe containers, which the guest runs as services if it is set to.
    """

    platform: Platform | None = None
    names: tuple[NewName, ...] = ()
    compression: str | None = None
    is_forced: bool = False
    is_tls_verified: bool = True
    containers: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls, *, platform: str | None = None, tags: Iterable[str] = (), name: str | None = None, **others: Any
    ) -> Self:
        """The same from the words of the command line: a `platform` OS/ARCH[/VARIANT], `tags` of the form NEW=OLD, and
        the `name` of the one image that has none. Raises InvalidValue.
        """
        names = [parse_tag(tag) for tag in tags]
        if name is not None:  # first, as long as there is an image without one
            names.insert(0, NewName(parse_name(name), None))
        return cls(parse_platform(platform) if platform else None, tuple(names), **others)


@dataclass(frozen=True)
class Built:
    """What is on a disk, where it is, and whether it was written: one that holds the same already is left as it is."""

    index: DiskIndex
    path: Path
    is_new: bool


def build_disk(
    inputs: Sequence[str | Path],
    output: Path,
    options: BuildOptions = BuildOptions(),
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Write the images of some inputs to a qcow2 disk of format 1; `say` is given the lines of what fetches images.

    In an `output` that is a folder, the disk is named by its label. An existing disk is replaced at the very end.
    Raises InputError for what the inputs hold, ToolError for programs, and PreloaderError when it cannot be written.
    """
    arguments = [str(argument) for argument in inputs]
    if not arguments:  # such as a pattern that no file matched
        raise InvalidValue("inputs", "none", "at least one archive or image")
    check_output(output, arguments, example="disk.qcow2", may_be_folder=True)
    definitions = read_definitions(options.containers)
    find_tool("qemu-img", "`apt install qemu-utils`")
    with ExitStack() as stack:
        folder = stack.enter_context(stage_beside(output))
        meter = Meter(progress, "reading layers")
        stager = stack.enter_context(Stager(folder / "content", meter.advance))
        skopeo = Skopeo(folder, say, options.is_tls_verified)
        opened = [stack.enter_context(open_input(argument, stager, skopeo)) for argument in arguments]
        images = select_images([(files, read_images(files, options.platform)) for files in opened], options.names)
        check_images(definitions, images)
        containers = tuple(definition.record for definition in definitions)
        digest = content_digest(
            ((image.image_id, image.references, image.repo_digests) for image in images), containers
        )
        path = output / f"{disk_label(digest)}.qcow2" if output.is_dir() else output
        if not options.is_forced and (found := _index_of(path)) and found.content_digest == digest:
            return Built(found, path, is_new=False)
        layers = unique_layers(images)
        placed = stager.arrange(stage_layers(layers, stager, meter))
        index = _make_index(images, layers, placed)._replace(containers=containers)
        check_index(index)  # what the guest would refuse is not written
        progress("writing the file system", 0, 0)
        raw, finished = _write_raw(index, images, definitions, placed, stager.blocks), folder / "disk.qcow2"
        progress("converting to qcow2", 0, 0)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *_COMPRESSION[options.compression], raw, finished])
        publish(finished, path, 0o444)
    return Built(index, path, is_new=True)


def _make_index(images: Sequence[Image], layers: Sequence[LayerSource], placed: Sequence[StagedLayer]) -> DiskIndex:
    records = {
        layer.chain_id: LayerRecord(
            layer.diff_id,
            layer.chain_id,
            CacheID.of_chain(layer.chain_id),
            Link.of_chain(layer.chain_id),
            staged.size,
            sha256_digest(staged.tar_split),
        )
        for layer, staged in zip(layers, placed, strict=True)
    }
    return DiskIndex(
        tuple(_image_record(image, records) for image in images),
        tuple(records.values()),
        f"docker-preloader {__version__}",
    )


def _image_record(image: Image, records: Mapping[ChainID, LayerRecord]) -> ImageRecord:
    chain = tuple(layer.chain_id for layer in image.layers)
    size = sum(records[layer].size for layer in chain)
    return ImageRecord(image.image_id, image.references, image.repo_digests, image.platform, chain, size)


def _write_raw(
    index: DiskIndex,
    images: Sequence[Image],
    definitions: Sequence[Definition],
    placed: Sequence[StagedLayer],
    blocks: BlockFile,
) -> Path:
    """Complete the content of the layers to a file system; returns its path."""
    configs = {image.image_id: image.config for image in images}
    contents = {definition.container.name: definition.content for definition in definitions}
    root = make_store(blocks, index, configs, contents, placed)
    shifts = {layer.root: layer.shift for layer in placed}
    unused = [Extent(0, start + layer.shift, count) for layer in placed for _, start, count in layer.unused]
    identity = uuid.UUID(index.content_digest.hex[:32])
    write_filesystem(blocks, root, shifts, unused, label=index.label, uuid=identity)
    return blocks.path


def _index_of(output: Path) -> DiskIndex | None:
    """The index of the disk that is there already, if it is one."""
    try:
        return inspect_disk(output)
    except (InvalidDisk, ToolError):
        return None
