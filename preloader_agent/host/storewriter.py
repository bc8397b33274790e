"""Docker's store as one tar stream: what a disk of format 1 holds, in the order in which mke2fs can write it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from typing import IO

from preloader_agent.errors import DigestMismatch
from preloader_agent.host.archive import Image, LayerSource
from preloader_agent.host.e2fsprogs import Completion
from preloader_agent.host.tarsplit import TarSplit, crc64_of
from preloader_agent.host.tarstream import DIR, LNK, REG, LayerTar, Member
from preloader_agent.host.tree import OPAQUE_XATTR, LayerTree, Node, size_of
from preloader_agent.store.digest import CacheID, ChainID, Link
from preloader_agent.store.index import DiskIndex, LayerRecord, encode_index
from preloader_agent.store.layout import (
    LAYER_DIRECTORY_MODE,
    LAYERDB_DIRECTORY_MODE,
    LAYERDB_FILE_MODE,
    PRIVATE_FILE_MODE,
    STORE_DIRECTORIES,
    Store,
    link_target,
    lower_of,
)
from preloader_agent.store.repositories import EMPTY

# Called with the bytes of each chunk that was written.
Advance = Callable[[int], None]

_DISK = Store("")  # paths from the file system's top


class StoreWriter:
    """Writes layers, each after its parent, and at last the images. `completions` is what mke2fs cannot set."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lowers: dict[ChainID, str] = {}
        self.completions: list[Completion] = []
        self._inodes: dict[bytes, bytes] = {}
        self._completed: set[bytes] = set()
        for path, mode in STORE_DIRECTORIES:
            self._directory(path, mode)

    def add_layer(self, layer: LayerSource, progress: Advance) -> LayerRecord:
        """Write a layer in one pass over its tar stream; `progress` is called with the bytes of each chunk.

        Raises DigestMismatch when the stream is not the one that the image's configuration names.
        """
        cache_id, link = CacheID.of_chain(layer.chain_id), Link.of_chain(layer.chain_id)
        self._directory(_DISK.layer(cache_id), LAYER_DIRECTORY_MODE)
        tar_split = TarSplit()
        size = self._write_tree(layer, _DISK.diff(cache_id), tar_split, progress)
        self._write_place(layer, cache_id, link)
        self._write_record(layer, cache_id, size, tar_split)
        return LayerRecord(layer.diff_id, layer.chain_id, cache_id, link, size)

    def finish(self, images: Sequence[Image], index: DiskIndex) -> None:
        """Write the images, repositories.json, the index, and the end of the stream."""
        for image in images:
            self._file(_DISK.image_config(image.image_id), image.config, PRIVATE_FILE_MODE)
        references = {reference: image.image_id for image in images for reference in image.references}
        repositories = EMPTY.with_changes(remove={}, add=references)
        self._file(_DISK.repositories, repositories.encode(), PRIVATE_FILE_MODE)
        self._file(_DISK.index_file, encode_index(index), 0o644)
        self._pipe.write(bytes(2 * tarfile.BLOCKSIZE))

    def _write_tree(self, layer: LayerSource, diff: str, tar_split: TarSplit, progress: Advance) -> int:
        top = diff.encode().lstrip(b"/")
        tree = LayerTree(layer.name)
        size = 0
        self._directory(diff, 0o755)
        with layer.open() as stream:
            tar = LayerTar(stream, layer.name)
            for member in tar:
                tar_split.add_segment(member.raw)
                nodes = list(tree.add(member))
                for node in nodes:
                    self._header(top, node)
                    size += size_of(node)
                # A marker can have data, too, which dockerd ignores; tar-split has it nonetheless.
                is_file = any(node.type == REG for node in nodes)
                tar_split.add_file(member.name, member.size, self._take_data(tar, member, is_file, progress))
            for chunk in tar.tail():
                tar_split.add_segment(chunk)
            if tar.diff_id != layer.diff_id:
                raise DigestMismatch(layer.name, layer.diff_id, tar.diff_id)
        for node in tree.whiteouts():
            self._header(top, node)
        self._complete_opaque(top, tree)
        return size

    def _take_data(self, tar: LayerTar, member: Member, is_file: bool, progress: Advance) -> int | None:
        """Read a member's data, write it when it is a file's, and return its CRC."""
        crc = 0
        for chunk in tar.data():
            if is_file:
                self._pipe.write(chunk)
            crc = crc64_of(chunk, crc)
            progress(len(chunk))
        if is_file:
            self._pad(member.size)
        return crc if member.size else None

    def _write_place(self, layer: LayerSource, cache_id: CacheID, link: Link) -> None:
        """The layer's place in the overlay; `committed` keeps dockerd from mounting a layer for writing."""
        parent = layer.parent
        lower = lower_of(Link.of_chain(parent), self._lowers[parent]) if parent else ""
        self._lowers[layer.chain_id] = lower
        place = _DISK.layer(cache_id)
        self._file(f"{place}/link", link.encode(), LAYERDB_FILE_MODE)
        if lower:
            self._file(f"{place}/lower", lower.encode(), LAYERDB_FILE_MODE)
        self._file(f"{place}/committed", b"", PRIVATE_FILE_MODE)
        self._symlink(_DISK.link(link), link_target(cache_id))

    def _write_record(self, layer: LayerSource, cache_id: CacheID, size: int, tar_split: TarSplit) -> None:
        record = _DISK.layer_record(layer.chain_id)
        self._directory(record, LAYERDB_DIRECTORY_MODE)
        values = {"diff": layer.diff_id, "cache-id": cache_id, "size": str(size)}
        if layer.parent:
            values["parent"] = layer.parent
        for name, value in values.items():
            self._file(f"{record}/{name}", value.encode(), LAYERDB_FILE_MODE)
        self._file(_DISK.tar_split(layer.chain_id), tar_split.finish(), LAYERDB_FILE_MODE)

    def _complete_opaque(self, top: bytes, tree: LayerTree) -> None:
        for path in tree.opaque:
            self.completions.append(Completion(top + b"/" + path, None, dict([OPAQUE_XATTR])))

    def _header(self, top: bytes, node: Node) -> None:
        path = top + b"/" + node.path
        member = tarfile.TarInfo(_decode(path))
        member.type = node.type
        member.mode, member.uid, member.gid = node.mode, node.uid, node.gid
        member.size = node.size if node.type == REG else 0
        member.devmajor, member.devminor = node.device
        member.mtime = node.mtime_ns // 10**9
        member.linkname = _decode(top + b"/" + node.target if node.type == LNK else node.target)
        self._write_header(member)
        inode = self._inodes.setdefault(path, self._inode_of(top, node, path))
        completion = Completion(path, node.mtime_ns, node.xattrs)
        if completion.is_needed or inode in self._completed:
            self.completions.append(completion)
            self._completed.add(inode)

    def _inode_of(self, top: bytes, node: Node, path: bytes) -> bytes:
        """The first path of a node's inode: a folder that comes again and a hard link describe theirs anew."""
        return self._inodes[top + b"/" + node.target] if node.type == LNK else path

    def _directory(self, path: str, mode: int) -> None:
        self._write_header(_member(path, DIR, mode))

    def _file(self, path: str, content: bytes, mode: int) -> None:
        member = _member(path, REG, mode)
        member.size = len(content)
        self._write_header(member)
        self._pipe.write(content)
        self._pad(len(content))

    def _symlink(self, path: str, target: str) -> None:
        member = _member(path, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        self._write_header(member)

    def _write_header(self, member: tarfile.TarInfo) -> None:
        # GNU format: names are raw bytes in it, of any length, whatever the locale.
        self._pipe.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _pad(self, size: int) -> None:
        self._pipe.write(bytes(-size % tarfile.BLOCKSIZE))


def _member(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.type, member.mode = kind, mode
    return member


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
