"""Whether a disk is as it was built: `verify_disk` checks every byte that counts, without a mount and without root.

e2fsck checks the file system; the rest is checked from the index down: the store's own files, the configurations by
their image IDs, each layer by its tar-split and its DiffID. What nothing refers to has no right content: free blocks,
unused inodes, and what stands behind the end of a file in its last block.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from preloader_agent.errors import CommandFailed, InvalidDisk
from preloader_agent.host.diskimage import RawImage, as_raw, is_qcow2
from preloader_agent.host.ext4.layout import SUPERBLOCK_OFFSET
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.faults import Fault, Tally, fault_of, show_path
from preloader_agent.host.inspection import read_index
from preloader_agent.host.layercheck import check_layer
from preloader_agent.host.progress import Meter, Progress
from preloader_agent.host.run import OUTPUT_TAIL, find_tool, run
from preloader_agent.host.storecheck import check_store
from preloader_agent.host.storetree import DISK
from preloader_agent.store.index import LABEL_PREFIX, DiskIndex

MAX_FAULTS = 1000
FILE_SYSTEM, IMAGE = "file system", "qcow2 image"  # what a fault is about that has no path
_LABEL_OFFSET = SUPERBLOCK_OFFSET + 0x78
_LABEL = re.compile(rb"%b[0-9a-f]{12}" % LABEL_PREFIX.encode())
_E2FSCK_FOUND = range(1, 16)  # its exit status; above that, it was not used well
_E2FSCK_BOUND = 600.0  # seconds; a sound disk of a million files takes a few
_E2FSCK_MEMORY = 2 << 30  # bytes; of a damaged directory, it would read on until the machine has none left
_QEMU_FOUND = (2, 3)  # the same of qemu-img check: errors, or clusters that nothing uses
_QEMU_PROBLEM = re.compile(r"^(?:ERROR|Leaked).*", re.M)
# What e2fsck says besides what is wrong, and what it would ask.
_CHATTER = re.compile(r"e2fsck \d.*|Pass \d.*|.*\*{5}|.*: \d+/\d+ files .*|Warning! .* is mounted\.|")
_QUESTION = re.compile(r"\s*[A-Z][\w ]*\? no$")
_MAX_OUTPUT = OUTPUT_TAIL - 10  # characters; of more, the first line is not whole
_ADVICE = "The superblock could not be read"


class Verdict(NamedTuple):
    """What was checked of a disk, and what is wrong with it; `notes` is what cannot be checked."""

    found: DiskIndex | None
    faults: tuple[Fault, ...]
    notes: tuple[Fault, ...]
    files: int
    size: int


def verify_disk(disk: Path, progress: Progress = lambda *_: None) -> Verdict:
    """Check a raw or qcow2 disk; at most MAX_FAULTS are looked for.

    Raises InvalidDisk when it is no disk of ours at all, and ToolError when a program cannot do its part.
    """
    e2fsck = find_tool("e2fsck", "`apt install e2fsprogs`")
    progress("reading the disk", 0, 0)
    faults = list(_check_image(disk))
    with as_raw(disk) as raw, closing(RawImage(raw, disk)) as image:
        check = _Check(image, progress)
        try:
            faults += check.find_index()
            faults += _check_filesystem(e2fsck, raw)
        except InvalidDisk as err:
            if not faults:
                raise
            faults.append(fault_of(FILE_SYSTEM, err))
        faults += islice(check.contents(), MAX_FAULTS)
    return Verdict(check.index, tuple(faults), tuple(check.tally.notes), check.tally.files, check.tally.size)


def _check_image(disk: Path) -> Iterator[Fault]:
    """What qemu-img says about a qcow2 image."""
    if not is_qcow2(disk):
        return
    find_tool("qemu-img", "`apt install qemu-utils`")
    try:
        run(["qemu-img", "check", "-q", "-f", "qcow2", disk.absolute()])
    except CommandFailed as err:
        if err.status not in _QEMU_FOUND:
            raise InvalidDisk(disk, f"is no sound qcow2 image: {err.output}") from err
        found = _QEMU_PROBLEM.search(err.output)
        yield Fault(IMAGE, f"is damaged: qemu-img check says: {show_path(found[0] if found else err.output)}")


def _check_filesystem(e2fsck: str, raw: Path) -> Iterator[Fault]:
    """What e2fsck says; it changes nothing. Its exit status is 0 for wrong checksums of group descriptors, too."""
    try:
        with _memory_limit(_E2FSCK_MEMORY):
            status, output = 0, run([e2fsck, "-fn", raw], with_stderr=True, timeout=_E2FSCK_BOUND)
    except CommandFailed as err:
        if err.status not in _E2FSCK_FOUND:
            raise
        status, output = err.status, err.output
    if len(output) > _MAX_OUTPUT:
        output = output[output.find("\n") :]
    lines = [_QUESTION.sub("", line).strip() for line in output.partition(_ADVICE)[0].splitlines()]
    said = [show_path(line.replace(str(raw), "the disk")) for line in lines if not _CHATTER.fullmatch(line)]
    if status and not said:
        said = [f"e2fsck -fn ended with exit status {status}"]
    yield from (Fault(FILE_SYSTEM, line) for line in said)


@contextmanager
def _memory_limit(size: int) -> Iterator[None]:
    """Bound the memory of programs that are started in the block (and ours, which needs none there)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard, size) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Check:
    """The check of what is in a file system."""

    def __init__(self, image: RawImage, progress: Progress) -> None:
        self._image = image
        self._meter = Meter(progress, "checking layers")
        self._content = b""
        self.index: DiskIndex | None = None
        self.tally = Tally(self._meter.advance)

    def find_index(self) -> Iterator[Fault]:
        """Read the index. Raises InvalidDisk when not even the label says that the disk is one of ours."""
        try:
            self.index, self._content = read_index(Ext4(self._image))
        except InvalidDisk as err:
            if not _LABEL.fullmatch(self._image.read_at(_LABEL_OFFSET, 16)):
                raise
            fault = fault_of(DISK.index_file, err)
            yield fault._replace(problem=f"{fault.problem}; nothing but the file system can be checked")

    def contents(self) -> Iterator[Fault]:
        """Check all that the index names."""
        if self.index is None:
            return
        self._meter.total = sum(layer.size for layer in self.index.layers)
        yield from _guarded("/", check_store(Ext4(self._image), self.index, self._content))
        for layer in self.index.layers:
            # A file system for each, which remembers the names in it.
            faults = check_layer(Ext4(self._image), layer, self.tally)
            yield from _guarded(DISK.diff(layer.cache_id), faults)


def _guarded(path: str, faults: Iterator[Fault]) -> Iterator[Fault]:
    """Faults, and last the one that keeps others from being found."""
    try:
        yield from faults
    except InvalidDisk as err:
        yield fault_of(path, err)
