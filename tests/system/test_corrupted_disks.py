"""Disks with random damage, mounted by the kernel and read by the agent's own code: refused or adopted, nothing else.

Each of 500 copies of a disk is given damage that follows from its number, and is attached, read, planned and applied to
a store with an image of the user's, in a process of its own that has a time and two folders. Half of the copies are of
a disk without checksums of its metadata, where damage gets past the kernel; the other half is as we build disks.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from preloader_agent.errors import PreloaderError
from preloader_agent.guest.apply import apply_plan
from preloader_agent.guest.disks import attach_disk
from preloader_agent.guest.mounts import list_mounts, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.plan import plan_merge
from preloader_agent.guest.storestate import read_store
from preloader_agent.guest.sync import merge
from preloader_agent.host.ext4.layout import BLOCK_SIZE, FIRST_CONTENT, RO_COMPAT, SUPERBLOCK_OFFSET
from preloader_agent.store.layout import Store
from tests.confinement import confine
from tests.crafted import CraftedDisk
from tests.folders import folder_in_memory
from tests.guest.disks import add_local_image, config_of, image_id, problems_of_store, references_of
from tests.system.loop import Loop

SEEDS = 500
BOUND = 20.0  # seconds for a child; it takes 0.02
ADOPTED, REFUSED, FAILED = 0, 10, 20


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


def damage(disk: bytearray, seed: int) -> None:
    """Flip bits, overwrite bytes, and copy blocks over others; the superblock is spared mostly."""
    chance = random.Random(seed)
    (table,) = struct.unpack_from("<I", disk, BLOCK_SIZE + 8)
    end = len(disk) // BLOCK_SIZE
    areas = [(FIRST_CONTENT, table), (table, end - 2), (table, end - 2), (end - 2, end), (1, 2)]
    if chance.random() < 0.1:
        areas = [(0, 1)]
    for _ in range(chance.choice((1, 2, 8, 40, 200))):
        first, last = chance.choice(areas)
        position = chance.randrange(max(first * BLOCK_SIZE, SUPERBLOCK_OFFSET), last * BLOCK_SIZE)
        how = chance.random()
        if how < 0.8:
            disk[position] ^= 1 << chance.randrange(8)
        elif how < 0.95:
            disk[position : position + 4] = chance.choice((b"\0" * 4, b"\xff" * 4, chance.randbytes(4)))
        elif first > 1:
            start, other = (chance.randrange(first, last) * BLOCK_SIZE for _ in range(2))
            disk[start : start + BLOCK_SIZE] = disk[other : other + BLOCK_SIZE]


def without_checksums(disk: bytes) -> bytes:
    found = bytearray(disk)
    (features,) = struct.unpack_from("<I", found, SUPERBLOCK_OFFSET + 0x64)
    struct.pack_into("<I", found, SUPERBLOCK_OFFSET + 0x64, features & ~RO_COMPAT["metadata_csum"])
    return bytes(found)


def adopt(paths: Paths, device: Path, label: str) -> int:
    """What the agent does with a device, and what must be true of the store afterwards."""
    before = references_of(paths.store)
    disks, reason = [], ""
    try:
        disks.append(attach_disk(paths, str(device), label))
    except PreloaderError as err:
        reason = str(err)
    assert reason.isprintable()
    for _ in range(2):
        plan = plan_merge(disks, read_store(paths.store), {})
        apply_plan(plan, paths.store)
    assert plan.operations == ()
    assert problems_of_store(paths.store) == []
    assert before.items() <= references_of(paths.store).items()
    if disks:
        unmount(paths.mountpoint(label))
    return ADOPTED if disks else REFUSED


def unmount_all(paths: Paths) -> None:
    for mount in list_mounts(paths.mounts):
        unmount(mount.target)


def run_in_child(work: Callable[[], int], log: Path, *folders: str) -> int:
    """The exit status of a child that does some work in its folders; negative after a signal."""
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            confine(folders)
            status = work()
        except BaseException:
            log.write_text(traceback.format_exc())
        os._exit(status)
    process = os.pidfd_open(child)
    ended, _, _ = select.select([process], [], [], BOUND)
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_random_damage_is_refused_or_does_not_matter(folder: Path) -> None:
    crafted = CraftedDisk(folder / "disk.raw", (("base", "app"), ("app:1",)), (("base", "two", "three"), ("three:1",)))
    sound = crafted.write().read_bytes()
    bases = (without_checksums(sound), sound)
    template = Store(str(folder / "template"))
    add_local_image(template, ["base", "mine"], ["mine:1", "app:1"])
    paths = Paths(str(folder / "docker"), str(folder / "run"))
    os.makedirs(paths.mounts)
    copy, log = folder / "copy.raw", folder / "log"
    copy.write_bytes(sound)
    expected = {*(path.name for path in folder.iterdir()), "docker"}
    outcomes: Counter[int] = Counter()
    with ExitStack() as stack:
        loop = Loop()
        stack.callback(loop.close)
        loop.open(copy)
        stack.callback(unmount_all, paths)
        for seed in range(SEEDS):
            content = bytearray(bases[seed % 2])
            is_sound = seed % 50 < len(bases)  # to see that nothing is left of the one before
            if not is_sound:
                damage(content, seed)
            with copy.open("r+b") as file:
                file.write(content)
            loop.reread()
            shutil.rmtree(paths.docker_root, ignore_errors=True)
            shutil.copytree(template.root, paths.docker_root, symlinks=True)
            status = run_in_child(
                lambda: adopt(paths, loop.node, crafted.label), log, paths.docker_root, paths.run_dir, str(log)
            )
            assert status in (ADOPTED, REFUSED), f"seed {seed}: status {status}: {log.exists() and log.read_text()}"
            assert status == ADOPTED or not is_sound
            assert list_mounts(paths.mounts) == []
            assert {path.name for path in folder.iterdir()} == expected
            outcomes[status] += 1
    # Neither is the damage so small that nothing is ever found, nor so large that nothing is ever read.
    assert outcomes[REFUSED] > SEEDS / 5
    assert outcomes[ADOPTED] > SEEDS / 5


def test_a_disk_that_goes_bad_after_it_was_read_keeps_no_other_one_out(folder: Path) -> None:
    paths = Paths(str(folder / "docker"), str(folder / "run"), str(folder / "pid"), str(folder / "cgroup"))
    mine = add_local_image(paths.store, ["mine"], ["mine:1"])
    os.makedirs(paths.mounts)
    specs = ((("bad",), ("bad:1",)), (("good",), ("good:1",)), (("worse",), ("worse:1",)))
    with ExitStack() as stack:
        disks = []
        for spec in specs:
            crafted = CraftedDisk(folder / spec[1][0], spec)
            loop = Loop()
            stack.callback(loop.close)
            loop.open(crafted.write())
            disks.append(attach_disk(paths, str(loop.node), crafted.label))
        stack.callback(unmount_all, paths)
        for disk, (layers, (reference,)) in zip(disks, specs, strict=True):
            if reference != "good:1":
                raw = folder / reference
                raw.write_bytes(raw.read_bytes().replace(config_of(layers), config_of(layers).upper()))
                with open(disk.store.image_config(image_id(layers)), "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        # The agent knows the disks; another process, such as the merge unit, has to read them again.
        for known in ({disk.label: disk for disk in disks}, {}):
            assert merge(paths, known)
            assert references_of(paths.store) == {"mine:1": mine, "good:1": image_id(("good",))}
            assert problems_of_store(paths.store) == []
            refused = json.loads(Path(paths.store_report).read_text())["refused"]
            assert refused.keys() == {disks[0].label, disks[2].label}
            assert all("the content was damaged or changed" in reason for reason in refused.values())
