"""Whether a layer on a disk is what its DiffID says: its tar-split, the content of its files, and its tree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from preloader_agent.errors import InvalidArchive, InvalidDisk
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.faults import Fault, Tally, fault_of, show_path
from preloader_agent.host.hashedstream import HashedStream
from preloader_agent.host.node import Node
from preloader_agent.host.reassembly import Delivery, Reassembly, damaged_content
from preloader_agent.host.storetree import DISK
from preloader_agent.host.tarsplit import FileRecord, crc64_of
from preloader_agent.host.tarstream import LayerTar, Member, show_name
from preloader_agent.host.tree import LayerTree
from preloader_agent.host.treecheck import compare_trees
from preloader_agent.store.digest import ALGORITHM, DiffID
from preloader_agent.store.index import LayerRecord

_MAX_TAR_SPLIT = 1 << 30  # bytes; a hundred thousand files take some MB


def check_layer(filesystem: Ext4, layer: LayerRecord, tally: Tally) -> Iterator[Fault]:
    """The faults of a layer. Whether its directories and its tar-split are there is not checked here."""
    root = filesystem.find(DISK.diff(layer.cache_id).encode())
    records = filesystem.find(DISK.tar_split(layer.chain_id).encode())
    if root is None or records is None:
        return
    check = _LayerCheck(filesystem, layer, tally)
    try:
        check.check_tar_split(records)
        diff_id = check.read(root, records)
    except (InvalidDisk, InvalidArchive) as err:
        fault = fault_of(check.tar_split, err)
        yield fault._replace(problem=f"{fault.problem}; its layer cannot be checked")
        return
    yield from check.faults(root, diff_id)


class _LayerCheck:
    """Reads a layer once, then says what is wrong."""

    def __init__(self, filesystem: Ext4, layer: LayerRecord, tally: Tally) -> None:
        self._filesystem = filesystem
        self._layer = layer
        self._tally = tally
        self._place = DISK.diff(layer.cache_id)
        self._tree = LayerTree(self._place)
        self._problems: list[tuple[Node | None, Delivery]] = []
        self.tar_split = DISK.tar_split(layer.chain_id)

    def check_tar_split(self, number: int) -> None:
        """Raises InvalidDisk when it is not what the index says; older disks do not say it."""
        digest, inode = hashlib.sha256(), self._filesystem.inode(number)
        if inode.size > _MAX_TAR_SPLIT:
            raise InvalidDisk(self.tar_split, f"has {inode.size} bytes, at most {_MAX_TAR_SPLIT} are read")
        for piece in self._filesystem.pieces(inode):
            digest.update(piece)
        if self._layer.tar_split not in (None, ALGORITHM + digest.hexdigest()):
            raise InvalidDisk(
                self.tar_split,
                f"is damaged: its digest is {ALGORITHM}{digest.hexdigest()}, expected {self._layer.tar_split}",
            )

    def read(self, root: int, records: int) -> DiffID:
        """Make the tar stream, and of it what dockerd would."""
        tar_split = self._filesystem.pieces(self._filesystem.inode(records))
        stream = Reassembly(self._filesystem, root, tar_split, self.tar_split)
        with HashedStream(cast(BinaryIO, stream), self._place) as hashed:
            tar = LayerTar(hashed, self._place)
            for member in tar:
                node = self._tree.add(member)
                for chunk in tar.data():
                    self._tally.advance(len(chunk))
                self._take(member, node, stream)
            for _ in tar.tail():
                pass
        self._tree.finish()
        return hashed.diff_id

    def _take(self, member: Member, node: Node | None, stream: Reassembly) -> None:
        if member.size:
            delivery = stream.deliveries.popleft() if stream.deliveries else None
            if delivery is None or delivery.record[:2] != (member.name, member.size):
                raise InvalidDisk(self.tar_split, f"does not record {show_name(member.name)} where its header stands")
            if delivery.problem or not delivery.is_found:
                self._problems.append((node, delivery))
                return
        if node is not None:
            self._tally.count(member.size)

    def faults(self, root: int, diff_id: DiffID) -> Iterator[Fault]:
        """What is wrong with the layer that was read."""
        notes, has_faults = len(self._tally.notes), False
        for fault in self._all(root):
            has_faults = True
            yield fault
        if diff_id != self._layer.diff_id and not has_faults and len(self._tally.notes) == notes:
            yield Fault(self._place, f"makes a layer with the DiffID {diff_id}, expected {self._layer.diff_id}")

    def _all(self, root: int) -> Iterator[Fault]:
        for node, delivery in self._problems:
            path = show_path(self._place, delivery.record.name)
            if node is None or self._tree.find(delivery.record.name) is not node:
                yield from self._check_elsewhere(node, delivery.record)
            elif delivery.problem:
                yield Fault(path, delivery.problem)
        yield from compare_trees(self._filesystem, self._tree.root, root, self._place)
        if self._tree.size() != self._layer.size:
            problem = f"says that {self._place} has {self._layer.size} bytes, not {self._tree.size()}"
            yield Fault(DISK.index_file, problem)

    def _check_elsewhere(self, node: Node | None, record: FileRecord) -> Iterator[Fault]:
        """Data that dockerd cannot find under its name to save the layer; the file can have another name by now."""
        problem = "is no longer what its layer said first, so docker cannot save the layer; its DiffID is not checked"
        self._tally.notes.append(Fault(show_path(self._place, record.name), problem))
        path = _path_of(node, self._tree.root) if node else None
        if path is None:
            return
        try:
            number = self._filesystem.find(f"{self._place}/".encode() + path)
            inode = self._filesystem.inode(number) if number else None
            crc = 0
            for piece in self._filesystem.pieces(inode) if inode else ():
                crc = crc64_of(piece, crc)
            if crc != record.crc:
                yield Fault(show_path(self._place, path), damaged_content(crc, record))
        except InvalidDisk as err:
            yield fault_of(show_path(self._place, path), err)


def _path_of(wanted: Node, root: Node) -> bytes | None:
    """The path of a node in a tree, if it is still there."""
    waiting = [(b"", root)]
    while waiting:
        path, node = waiting.pop()
        for name, child in (node.children or {}).items():
            if child is wanted:
                return path + name
            waiting.append((path + name + b"/", child))
    return None
