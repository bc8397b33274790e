"""Layers on their way to a disk: each is read once, its content stored, its tree and its tar-split kept in memory.

Those that go to an archive are copied as they are read, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from preloader_agent.host.compression import decompressed
from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.layout import FIRST_CONTENT
from preloader_agent.host.hashedstream import HashedStream
from preloader_agent.host.node import Extent, Node
from preloader_agent.host.tarsplit import TarSplit, crc64_of
from preloader_agent.host.tarstream import LayerTar
from preloader_agent.host.tree import LayerTree
from preloader_agent.store.digest import DiffID

# Called with the bytes of each piece of a layer that was read, uncompressed.
Advance = Callable[[int], None]


class StagedLayer(NamedTuple):
    """A layer whose content stands in the blocks from `start` to before `end`; `size` is what dockerd reports."""

    diff_id: DiffID
    root: Node
    size: int
    tar_split: bytes
    start: int
    end: int
    unused: tuple[Extent, ...]  # content of files that the layer itself replaced
    shift: int = 0  # by how many blocks the content was moved since


class Stager:
    """Stages layers one after the other, their content into one file of blocks.

    With a folder `kept`, the tar stream of each layer is also in a file there, uncompressed.
    """

    def __init__(self, path: Path, advance: Advance, kept: Path | None = None) -> None:
        self.blocks = BlockFile(path)
        self._advance = advance
        self._kept = kept

    def __enter__(self) -> Stager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.blocks.close()

    def stage(self, stream: BinaryIO, name: str) -> StagedLayer:
        """Read a layer's tar stream, compressed or not; `name` is what errors call it.

        Raises InvalidArchive for what dockerd would not load either. The DiffID is that of what was read.
        """
        with ExitStack() as stack:
            copy = stack.enter_context((self._kept / "unfinished").open("wb")) if self._kept else None
            staged = _stage_layer(stream, name, self.blocks, self._advance, copy)
        if self._kept:
            (self._kept / "unfinished").replace(self.kept_file(staged.diff_id))
        return staged

    def kept_file(self, diff_id: DiffID) -> Path:
        """The file with the tar stream of a layer that was staged."""
        assert self._kept, "nothing is kept"
        return self._kept / diff_id.hex

    def arrange(self, layers: Sequence[StagedLayer]) -> list[StagedLayer]:
        """Bring the content into the order of some layers, and drop all other content: equal disks are equal bytes.

        It has that order already unless it came from a stream. A layer may stand several times, on different parents.
        """
        ends = [FIRST_CONTENT, *(layer.end for layer in layers)]
        if [layer.start for layer in layers] == ends[:-1] and ends[-1] == self.blocks.end:
            return list(layers)
        source, self.blocks = self.blocks, BlockFile(self.blocks.path.with_name("arranged"))
        with closing(source):
            moved = [self._move(layer, source) for layer in layers]
        source.path.unlink()  # the disk, which has the same content, needs the room
        return moved

    def _move(self, layer: StagedLayer, source: BlockFile) -> StagedLayer:
        start = self.blocks.end
        self.blocks.copy_from(source, layer.start, layer.end - layer.start)
        # Two trees, though they share what is below: each is written with inodes of its own.
        return layer._replace(root=replace(layer.root), shift=start - layer.start)


def _stage_layer(
    stream: BinaryIO, name: str, blocks: BlockFile, advance: Advance, copy: BinaryIO | None
) -> StagedLayer:
    start = blocks.end
    tree = LayerTree(name)
    with TarSplit() as tar_split, decompressed(stream, name) as content, HashedStream(content, name, copy) as hashed:
        tar = LayerTar(hashed, name)
        for member in tar:
            tar_split.add_segment(member.raw)
            file = tree.add(member)
            crc = None
            if member.size:
                data = _Checksummed(tar.data(), advance)
                if file is not None:
                    file.extents = blocks.append(data)
                data.skip()  # a marker can have data, too, which dockerd ignores; tar-split has it nonetheless
                crc = data.crc
            tar_split.add_file(member.name, member.size, crc)
        for chunk in tar.tail():
            tar_split.add_segment(chunk)
        records = tar_split.finish()
    tree.finish()
    return StagedLayer(hashed.diff_id, tree.root, tree.size(), records, start, blocks.end, tuple(tree.unused))


class _Checksummed:
    """Chunks of a file, whose CRC is taken on the way."""

    def __init__(self, chunks: Iterable[bytes], advance: Advance) -> None:
        self._chunks = chunks
        self._advance = advance
        self.crc = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.crc = crc64_of(chunk, self.crc)
            self._advance(len(chunk))
            yield chunk

    def skip(self) -> None:
        """Take what is left."""
        for _ in self:
            pass
