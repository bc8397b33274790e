"""A layer's tar stream, made again from its tar-split and the files of its tree, as `docker save` does."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from preloader_agent.errors import InvalidDisk
from preloader_agent.host.ext4.reader import Ext4, Inode, zeros
from preloader_agent.host.faults import fault_of
from preloader_agent.host.tarsplit import FileRecord, crc64_of, read_tar_split
from preloader_agent.host.tarstream import REG, SYM

_MAX_SYMLINKS = 40  # followed in one path; the kernel's MAXSYMLINKS


@dataclass(slots=True)
class Delivery:
    """The data of a file in the stream: whether there were any, and what is wrong with them."""

    record: FileRecord
    is_found: bool = False
    problem: str = ""


class Reassembly:
    """A stream; `deliveries` gets an element for each file that has data, before they come.

    What is not there is replaced by zeros. Reading raises InvalidDisk for a damaged tar-split, which `name` names.
    """

    def __init__(self, filesystem: Ext4, root: int, tar_split: Iterable[bytes], name: str) -> None:
        self._filesystem = filesystem
        self._name = name
        self._files = _LayerFiles(filesystem, root)
        self._parts = self._make(tar_split)
        self.deliveries: deque[Delivery] = deque()

    def read(self, size: int) -> bytes:
        """At least so many bytes, fewer only at the end."""
        parts, length = [], 0
        for part in self._parts:
            parts.append(part)
            length += len(part)
            if length >= size:
                break
        return b"".join(parts)

    def _make(self, tar_split: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for record in read_tar_split(tar_split):
                if isinstance(record, bytes):
                    yield record
                elif record.size:
                    delivery = Delivery(record)
                    self.deliveries.append(delivery)
                    yield from self._data(delivery)
        except ValueError as err:
            raise InvalidDisk(self._name, f"is damaged: {err}") from err

    def _data(self, delivery: Delivery) -> Iterator[bytes]:
        """Exactly as many bytes as are recorded."""
        left, crc = delivery.record.size, 0
        try:
            for piece in self._content(delivery):
                crc = crc64_of(piece, crc)
                left -= len(piece)
                if not left and crc != delivery.record.crc:
                    delivery.problem = damaged_content(crc, delivery.record)
                yield piece
        except InvalidDisk as err:
            delivery.problem = fault_of("", err).problem
        yield from zeros(left)

    def _content(self, delivery: Delivery) -> Iterator[bytes]:
        inode = self._files.find(delivery.record.name)
        if inode is not None and inode.type == REG and inode.size == delivery.record.size:
            delivery.is_found = True
            yield from self._filesystem.pieces(inode)


def damaged_content(crc: int, record: FileRecord) -> str:
    """What is wrong with content that has another CRC than is recorded."""
    expected = "one, but none is recorded" if record.crc is None else f"{record.crc:016x}"
    return f"its content is damaged: its CRC-64 is {crc:016x}, expected {expected}"


class _LayerFiles:
    """Finds files by their names in a layer; symlinks are followed as in a chroot."""

    def __init__(self, filesystem: Ext4, root: int) -> None:
        self._filesystem = filesystem
        self._root = root
        self._folders: dict[bytes, list[int]] = {}

    def find(self, name: bytes) -> Inode | None:
        """What stands there, if anything."""
        folder, base = posixpath.split(posixpath.normpath(b"/" + name))
        if folder not in self._folders:
            self._folders[folder] = self._walk([self._root], folder)
        above = self._folders[folder]
        number = self._filesystem.entries(above[-1]).get(base) if above else None
        inode = self._filesystem.inode(number) if number else None
        if inode is None or inode.type != SYM:
            return inode
        found = self._walk(above, base)
        return self._filesystem.inode(found[-1]) if found else None

    def _walk(self, above: list[int], path: bytes) -> list[int]:
        """The inodes on the way from some directories to a path below the last of them; none when it is not there."""
        left, symlinks = path.split(b"/")[::-1], 0
        while left and above:
            name = left.pop()
            if name == b"..":
                above = above[:-1] or above
            elif name not in (b"", b"."):
                target, number = self._look_up(above[-1], name)
                symlinks += target is not None
                if not number or symlinks > _MAX_SYMLINKS:
                    return []
                if target is None:
                    above = [*above, number]
                else:
                    above = above[:1] if target.startswith(b"/") else above
                    left += target.split(b"/")[::-1]
        return above

    def _look_up(self, directory: int, name: bytes) -> tuple[bytes | None, int]:
        """The target of a symlink, and the number of an inode, 0 for none."""
        number = self._filesystem.entries(directory).get(name, 0)
        inode = self._filesystem.inode(number) if number else None
        return (self._filesystem.target(inode) if inode and inode.type == SYM else None), number
