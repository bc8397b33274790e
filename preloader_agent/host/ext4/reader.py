"""Reading an ext4 file system in a raw or qcow2 image, without a mount and without root.

Only what disk format 1 uses: extents, 64-bit block numbers or not, linear and hashed directories (a hashed directory
is a valid linear one). Layout: https://docs.kernel.org/filesystems/ext4/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Protocol

from preloader_agent.errors import CommandFailed, InvalidDisk
from preloader_agent.host.run import run

ROOT_INODE = 2
_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_FEATURE_64BIT = 0x80
_EXTENT_MAGIC = 0xF30A
_EXTENTS_FLAG = 0x80000
_EXTERNAL_DATA = 1 << 2
_MAX_DEPTH = 5
_MAX_WRITTEN = 32768  # blocks; an extent with more is allocated, but unwritten: zeros
_MAX_DIRECTORY = 1 << 28  # bytes; more than a million names
_S_IFMT, _S_IFDIR, _S_IFREG, _S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000


class DiskImage(Protocol):
    """Random access to the bytes of a disk."""

    name: str

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the virtual disk; short at its end."""

    def close(self) -> None:
        """Let go of it."""


class RawImage:
    """A raw image, or a block device."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("rb")

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class QcowImage:
    """A qcow2 image, read in large pieces through qemu-img, which knows every variant of the format."""

    _PIECE = 4 << 20

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._folder = TemporaryDirectory(prefix="preloader-")
        self._pieces: dict[int, bytes] = {}

    def read_at(self, offset: int, length: int) -> bytes:
        """See DiskImage."""
        first, last = offset // self._PIECE, (offset + length - 1) // self._PIECE
        content = b"".join(self._piece(number) for number in range(first, last + 1))
        start = offset - first * self._PIECE
        return content[start : start + length]

    def close(self) -> None:
        """Forget the pieces."""
        self._folder.cleanup()

    def _piece(self, number: int) -> bytes:
        if number not in self._pieces:
            target = Path(self._folder.name, "piece")
            source = [f"if={self._path}", f"of={target}", f"bs={self._PIECE}", f"skip={number}", "count=1"]
            try:
                run(["qemu-img", "dd", "-f", "qcow2", "-O", "raw", *source])
            except CommandFailed as err:
                raise InvalidDisk(self.name, f"is no sound qcow2 image: {err.output}") from err
            self._pieces[number] = target.read_bytes()
        return self._pieces[number]


def open_image(path: Path) -> RawImage | QcowImage:
    """Open a raw or qcow2 image. Raises InvalidDisk when it cannot be read."""
    try:
        with path.open("rb") as file:
            header = file.read(80)
    except OSError as err:
        raise InvalidDisk(path, f"cannot be read: {err.strerror}") from err
    if not header.startswith(b"QFI\xfb"):
        return RawImage(path)
    _refuse_other_files(path, header)
    return QcowImage(path)


def _refuse_other_files(path: Path, header: bytes) -> None:
    """A qcow2 image can name other files to read; ours has none, and a stranger's shall not choose any here.

    Layout: QEMU docs/interop/qcow2.txt: offset of the backing file's name at 8, incompatible features at 72.
    """
    version, backing = struct.unpack_from(">IQ", header.ljust(80, b"\0"), 4)
    (features,) = struct.unpack_from(">Q", header.ljust(80, b"\0"), 72)
    if backing or (version >= 3 and features & _EXTERNAL_DATA):
        raise InvalidDisk(path, "keeps its data in another file; flatten it first: qemu-img convert -O qcow2")


class Ext4:
    """A file system; inodes are numbers. Raises InvalidDisk for what is not ext4, or not sound."""

    def __init__(self, image: DiskImage) -> None:
        self._image = image
        block = image.read_at(_SUPERBLOCK, 1024)
        if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
            raise InvalidDisk(image.name, "holds no ext4 file system; expected a disk made by `preloader build`")
        # The largest block that ext4 knows has 64 KiB; a larger shift would fill the memory.
        self.block_size: int = 1024 << min(struct.unpack_from("<I", block, 0x18)[0], 7)
        self.label = block[0x78:0x88].rstrip(b"\0").decode(errors="replace")
        self.uuid = block[0x68:0x78].hex()
        self._inodes_per_group: int = struct.unpack_from("<I", block, 0x28)[0]
        self._inode_size: int = struct.unpack_from("<H", block, 0x58)[0]
        is_64bit = struct.unpack_from("<I", block, 0x60)[0] & _FEATURE_64BIT
        self._descriptor_size: int = struct.unpack_from("<H", block, 0xFE)[0] if is_64bit else 32
        self._descriptors = self.block_size * (struct.unpack_from("<I", block, 0x14)[0] + 1)
        self._directories: dict[int, dict[bytes, int]] = {}
        if not (self.block_size <= 65536 and self._inodes_per_group and 128 <= self._inode_size <= self.block_size):
            raise self._damaged("superblock")

    def __enter__(self) -> Ext4:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._image.close()

    def find(self, path: bytes) -> int | None:
        """The inode of a path, or None; symlinks are not followed."""
        inode = ROOT_INODE
        for name in path.split(b"/"):
            if name:
                found = self._names(inode).get(name)
                if found is None:
                    return None
                inode = found
        return inode

    def names(self, path: bytes) -> list[bytes]:
        """The sorted names in a directory; none when it is not there."""
        inode = self.find(path)
        return sorted(self._names(inode)) if inode is not None else []

    def read(self, path: bytes, limit: int) -> bytes | None:
        """The content of a regular file of at most `limit` bytes, or None when there is none."""
        inode = self.find(path)
        if inode is None:
            return None
        content = self._inode(inode)
        if _mode(content) & _S_IFMT != _S_IFREG:
            return None
        size = struct.unpack_from("<I", content, 4)[0] | struct.unpack_from("<I", content, 0x6C)[0] << 32
        if size > limit:
            raise InvalidDisk(self._image.name, f"{path.decode()} has {size} bytes, at most {limit} are read")
        return self._content(content, size)

    def _damaged(self, what: str) -> InvalidDisk:
        return InvalidDisk(self._image.name, f"its ext4 {what} is damaged; build the disk again")

    def _inode(self, number: int) -> bytes:
        group, index = divmod(number - 1, self._inodes_per_group)
        descriptor = self._image.read_at(self._descriptors + group * self._descriptor_size, self._descriptor_size)
        if len(descriptor) < 32:
            raise self._damaged(f"inode {number}")
        table = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor_size >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        content = self._image.read_at(table * self.block_size + index * self._inode_size, self._inode_size)
        if len(content) < 128:
            raise self._damaged(f"inode {number}")
        return content

    def _names(self, inode: int) -> dict[bytes, int]:
        if inode not in self._directories:
            content = self._inode(inode)
            if _mode(content) & _S_IFMT != _S_IFDIR:
                return {}
            size = struct.unpack_from("<I", content, 4)[0]
            if size > _MAX_DIRECTORY:
                raise self._damaged("directory")
            self._directories[inode] = dict(self._entries(self._content(content, size)))
        return self._directories[inode]

    def _entries(self, content: bytes) -> Iterator[tuple[bytes, int]]:
        offset = 0
        while offset + 8 <= len(content):
            inode, length, name_length = struct.unpack_from("<IHB", content, offset)
            if length < 8:
                raise self._damaged("directory")
            name = content[offset + 8 : offset + 8 + name_length]
            if inode and name not in (b".", b".."):
                yield name, inode
            offset += length

    def _content(self, inode: bytes, size: int) -> bytes:
        if not struct.unpack_from("<I", inode, 0x20)[0] & _EXTENTS_FLAG:
            raise self._damaged("inode (no extents)")
        content = bytearray(size)
        blocks = -(-size // self.block_size)
        for number, (logical, physical, count) in enumerate(self._extents(inode[0x28:0x64], _MAX_DEPTH)):
            if number > blocks:  # more extents than blocks: a tree that bites its own tail would never end
                raise self._damaged("extent tree")
            start = logical * self.block_size
            length = min(count * self.block_size, size - start)
            if length > 0 and count <= _MAX_WRITTEN:
                content[start : start + length] = self._image.read_at(physical * self.block_size, length)
        return bytes(content)

    def _extents(self, node: bytes, depth_left: int) -> Iterator[tuple[int, int, int]]:
        """Logical block, physical block and number of blocks of each extent."""
        magic, entries, _, depth = struct.unpack_from("<HHHH", node) if len(node) >= 12 else (0, 0, 0, 0)
        is_empty = not entries and depth_left < _MAX_DEPTH
        if magic != _EXTENT_MAGIC or not depth_left or is_empty or 12 * (entries + 1) > len(node):
            raise self._damaged("extent tree")
        for entry in range(12, 12 * (entries + 1), 12):
            if depth:
                leaf = struct.unpack_from("<I", node, entry + 4)[0] | struct.unpack_from("<H", node, entry + 8)[0] << 32
                yield from self._extents(self._image.read_at(leaf * self.block_size, self.block_size), depth_left - 1)
            else:
                logical, count, high, low = struct.unpack_from("<IHHI", node, entry)
                yield logical, high << 32 | low, count


def _mode(inode: bytes) -> int:
    return int(struct.unpack_from("<H", inode)[0])
