"""Archives become a disk: `build_disk` is the host pipeline, top to bottom.

archive -> images -> geometry -> one tar stream into mke2fs -> what mke2fs lost -> qcow2 -> one rename. Nothing but the
finished disk ever has the output's name, and a failure leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from preloader_agent import __version__
from preloader_agent.errors import CommandFailed, InvalidValue, NoSpace, PreloaderError
from preloader_agent.host.archive import Image, LayerSource, open_images
from preloader_agent.host.e2fsprogs import BLOCK_SIZE, Geometry, check_version, complete, make_filesystem
from preloader_agent.host.geometry import survey
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.storewriter import StoreWriter
from preloader_agent.store.digest import ChainID
from preloader_agent.store.index import DiskIndex, ImageRecord, LayerRecord, content_digest, disk_label

# Called with the stage that is under way, and how many of how many bytes of it are done.
Progress = Callable[[str, int, int], None]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_BYTES = 1 << 20  # with less than that left, a program that found no space means the folder, not its file system


def build_disk(archives: Sequence[Path], output: Path, progress: Progress = lambda *_: None) -> DiskIndex:
    """Write the images of some docker-archives to a qcow2 disk of format 1, and return its index.

    An existing `output` is replaced at the very end. Raises InputError for what the archives hold, ToolError for
    e2fsprogs and qemu-img, and PreloaderError when the disk cannot be written.
    """
    _check_output(output, archives)
    check_version()
    find_tool("qemu-img", "`apt install qemu-utils`")
    with ExitStack() as stack:
        images = stack.enter_context(open_images(archives))
        layers = unique_layers(images)
        geometry = survey(layers, images)
        folder = stack.enter_context(_staging(output, geometry))
        digest = content_digest((image.image_id, image.references, ()) for image in images)
        raw, finished = folder / "disk.raw", folder / "disk.qcow2"
        with make_filesystem(raw, geometry, disk_label(digest), str(uuid.UUID(digest.hex[:32]))) as pipe:
            writer = StoreWriter(pipe)
            index = _write_layers(writer, images, layers, progress)
            writer.finish(images, index)
        progress("completing the file system", 0, 0)
        complete(raw, writer.completions)
        progress("converting to qcow2", 0, 0)
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, finished])
        _publish(finished, output)
    return index


def unique_layers(images: Sequence[Image]) -> list[LayerSource]:
    """Every layer of some images once, each after its parent."""
    return list({layer.chain_id: layer for image in images for layer in image.layers}.values())


def _write_layers(
    writer: StoreWriter, images: Sequence[Image], layers: Sequence[LayerSource], progress: Progress
) -> DiskIndex:
    total, done = sum(layer.member.size for layer in layers), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("writing layers", min(done, total), total)  # a compressed layer has more than its member

    records = {layer.chain_id: writer.add_layer(layer, advance) for layer in layers}
    return DiskIndex(
        tuple(_image_record(image, records) for image in images),
        tuple(sorted(records.values(), key=lambda record: record.chain_id)),
        f"docker-preloader {__version__}",
    )


def _image_record(image: Image, records: Mapping[ChainID, LayerRecord]) -> ImageRecord:
    chain = tuple(layer.chain_id for layer in image.layers)
    size = sum(records[layer].size for layer in chain)
    return ImageRecord(image.image_id, image.references, (), image.platform, chain, size)


def _check_output(output: Path, archives: Sequence[Path]) -> None:
    """Fail before the work, not after it; a device's or an archive's name is never given to a disk."""
    if not output.parent.is_dir():
        raise InvalidValue("output", str(output), "a file in a directory that exists")
    if output.exists() and not output.is_file():
        raise InvalidValue("output", str(output), "a file's name, such as disk.qcow2")
    if any(archive.exists() and output.exists() and output.samefile(archive) for archive in archives):
        raise InvalidValue("output", str(output), "another file than the archive that is read")


@contextmanager
def _staging(output: Path, geometry: Geometry) -> Iterator[Path]:
    """A folder beside the output, on the same file system, for what is not finished."""
    needed = 2 * geometry.blocks * BLOCK_SIZE  # raw and qcow2
    try:
        with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            try:
                yield Path(folder)
            except CommandFailed as err:
                if err.status == -signal.SIGXFSZ or shutil.disk_usage(folder).free < _FULL_BYTES:
                    raise NoSpace(output, needed) from err
                if "Could not allocate" in err.output:
                    what = f"its content needs more than {geometry.blocks} blocks and {geometry.inodes} inodes"
                    raise PreloaderError(
                        f"{output}: {what}, which is a mistake of preloader's; please report it"
                    ) from err
                raise
    except OSError as err:
        if err.errno in _FULL:
            raise NoSpace(output, needed) from err
        raise PreloaderError(f"{output}: cannot be written: {err.strerror or err}") from err


def _publish(finished: Path, output: Path) -> None:
    """Give a finished disk its name: read-only, on stable storage, in one step."""
    finished.chmod(finished.stat().st_mode & 0o444)  # what the umask allows, but for writing
    descriptor = os.open(finished, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    finished.replace(output)
