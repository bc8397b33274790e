"""How large a disk must be: a survey of the layers' headers, before any data is read.

mke2fs must know the number of blocks and inodes before the first byte of the stream. Each term here is an upper bound
of what libext2fs allocates; what is left over is free space, which a qcow2 file does not store. The inode table has
exactly the inodes that are needed, because it is the largest overhead of a small disk (256 bytes an inode).
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from preloader_agent.host.archive import Image, LayerSource
from preloader_agent.host.e2fsprogs import BLOCK_SIZE, INODE_SIZE, Geometry
from preloader_agent.host.tarstream import DIR, LNK, REG, SYM, LayerTar
from preloader_agent.host.tree import LayerTree, Node

_RESERVED_INODES = 11  # ext4's own, with lost+found
_STORE_INODES = 32  # the directories and files of an empty store
_LAYER_INODES = 16  # a layer's own directories and files beside its tree
_IMAGE_INODES = 2
_DIRECTORY_PAYLOAD = 3200  # bytes of entries that a block of 4096 holds at least, with the room that e2fsck -D leaves
_EXTENTS_PER_BLOCK = 340  # (4096 - 12) / 12
_INLINE_LINK = 60  # a shorter symlink target stands in the inode
# tar-split: what base64, gzip and JSON make at most of raw bytes, of a name, and of a member beside them.
_RAW_FACTOR, _NAME_FACTOR, _MEMBER_BYTES = 1.5, 6, 128
_GROUP_BLOCKS = 32768
_SLACK = 1.02


@dataclass
class _Tally:
    blocks: int = 0
    inodes: int = 0
    directories: Counter[bytes] = field(default_factory=Counter)

    def add_node(self, node: Node) -> None:
        """Count a node of a layer's tree."""
        parent, name = posixpath.split(node.path)
        self.directories[parent] += 8 + (len(name) + 3 & ~3)
        if node.type == LNK:
            return
        self.inodes += 1
        self.blocks += 1 if node.xattrs or node.type == DIR else 0
        if node.type == REG:
            self.add_file(node.size)
        elif node.type == SYM and len(node.target) >= _INLINE_LINK:
            self.blocks += 1

    def add_file(self, size: int) -> None:
        """Count a file's blocks, and the extents that holes may split it into."""
        blocks = -(-size // BLOCK_SIZE)
        self.blocks += blocks + (blocks // _EXTENTS_PER_BLOCK + 1 if blocks > 4 else 0)

    def close_layer(self, tar_split: float) -> None:
        """Count a layer's directories, and its tar-split of at most so many bytes."""
        # The first block of each was counted with its node.
        self.blocks += sum(size // _DIRECTORY_PAYLOAD for size in self.directories.values())
        self.directories.clear()
        self.add_file(int(tar_split) + BLOCK_SIZE)
        self.inodes += _LAYER_INODES
        self.blocks += _LAYER_INODES


def survey(layers: Sequence[LayerSource], images: Sequence[Image]) -> Geometry:
    """The size of a file system that holds some layers and images. Raises InvalidArchive for a layer's headers."""
    tally = _Tally(inodes=_RESERVED_INODES + _STORE_INODES, blocks=_STORE_INODES)
    for layer in layers:
        _survey_layer(layer, tally)
    for image in images:
        tally.add_file(len(image.config))
        tally.inodes += _IMAGE_INODES
    # The index and repositories.json: below a kB a layer and an image, and what the references take.
    tally.add_file(1024 * (len(layers) + len(images)) + sum(len(r) * 4 for i in images for r in i.references))
    tally.add_file(len(layers) * 128)  # the directories of overlay2, layerdb and l
    table = -(-tally.inodes * INODE_SIZE // BLOCK_SIZE)
    blocks = int((tally.blocks + table) * _SLACK) + 256
    groups = -(-blocks // _GROUP_BLOCKS)
    # Each group has its inodes rounded up to whole blocks, two bitmaps and a descriptor.
    return Geometry(blocks + groups * 8, tally.inodes + groups * 16)


def _survey_layer(layer: LayerSource, tally: _Tally) -> None:
    tar_split = 0.0
    with layer.open() as stream:
        tar = LayerTar(stream, layer.name)
        tree = LayerTree(layer.name)
        for member in tar:
            for node in tree.add(member):
                tally.add_node(node)
            tar.skip_data()
            tar_split += _MEMBER_BYTES + _NAME_FACTOR * len(member.name) + _RAW_FACTOR * len(member.raw)
        for node in tree.whiteouts():
            tally.add_node(node)
        tally.blocks += len(tree.opaque)
        tar_split += _RAW_FACTOR * sum(len(chunk) for chunk in tar.tail())
    tally.close_layer(tar_split)
