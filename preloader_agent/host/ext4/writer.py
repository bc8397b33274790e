"""Writing an ext4 file system: the content as it comes, then all that describes it.

    block 0     superblock, then the group descriptors
    block 16... content of files, in the order in which it came
    then        directories, extent trees and xattrs; then the inode tables and bitmaps of all groups

So nothing has to be known before the first byte of content, and nothing is written twice. The file system has no
journal, no backups and no free space: it is made to be read. hcsshim's tar2ext4 and Apple's Containerization lay theirs
out the same way.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Mapping, Sequence

from preloader_agent.host.ext4.blockfile import BlockFile
from preloader_agent.host.ext4.groups import divide, pack_groups
from preloader_agent.host.ext4.inodes import Inodes
from preloader_agent.host.ext4.layout import crc32c
from preloader_agent.host.node import Extent, Node, make_directory


def write_filesystem(  # noqa: PLR0913 - each is one property of a file system
    blocks: BlockFile,
    root: Node,
    shifts: Mapping[Node, int],
    unused: Sequence[Extent],
    *,
    label: str,
    uuid: uuids.UUID,
) -> None:
    """Describe the content of `blocks`: afterwards its file holds an ext4 file system.

    `root` is its tree. `shifts` says of some directories by how many blocks the content of all files below them was
    moved since their extents were recorded; `unused` is content that nothing in the tree refers to.
    """
    assert root.children is not None
    root.children[b"lost+found"] = make_directory(0o700)  # e2fsck misses it
    inodes = Inodes(blocks, crc32c(uuid.bytes), uuid.bytes)
    inodes.add_tree(root, shifts)
    geometry = divide(blocks.end, inodes.count)
    start, bitmaps = pack_groups(geometry, inodes.count, inodes.directories, unused, label=label, uuid=uuid)
    inodes.write_table(geometry.groups * geometry.inodes_per_group)
    blocks.append_blocks(bitmaps)
    blocks.write_at(0, start)
    blocks.finish(geometry.blocks)
