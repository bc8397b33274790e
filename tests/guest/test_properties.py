"""What holds for whatever a disk, a store or the run directory holds, and for any order in which disks come and go."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from preloader_agent.errors import InvalidDisk, PreloaderError
from preloader_agent.guest.disks import Disk, read_disk, read_label
from preloader_agent.guest.mounts import Mount, parse_mountinfo
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.plainstore import read_plain_store
from preloader_agent.guest.plan import Adopted
from preloader_agent.guest.released import add_released, read_released
from preloader_agent.guest.storestate import marker_path, read_store
from preloader_agent.guest.sync import merge
from preloader_agent.store.index import check_index
from preloader_agent.store.layout import Store
from tests.folders import folder_in_memory
from tests.guest.disks import (
    add_local_image,
    change_references,
    image_id,
    make_disk,
    make_pass,
    problems_of_store,
    references_of,
    snapshot,
)
from tests.soundness import check_message
from tests.strategies import bounded, damaged, json_values, replaced


def change_a_file(disk: Disk, data: st.DataObject) -> None:
    """Damage a file of a disk, or replace a value of its JSON."""
    files = sorted(path for path in Path(disk.store.root).rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    if content.startswith(b"{") and data.draw(st.booleans()):
        path.write_bytes(json.dumps(data.draw(replaced(json.loads(content)))).encode())
    else:
        path.write_bytes(data.draw(damaged(content)))


@bounded
@given(data=st.data())
def test_a_damaged_disk_is_refused_or_adopted_and_leaves_again(data: st.DataObject) -> None:
    with folder_in_memory() as folder:
        disk = make_disk(folder, (("base", "app"), ("app:1",)), (("base",), ("base:1",)))
        change_a_file(disk, data)
        try:
            found = read_disk(disk.store.root, disk.device)
        except PreloaderError as err:
            check_message(err)
            return
        store = Store(str(folder / "docker"))
        mine = add_local_image(store, ["base", "mine"], ["mine:1"])
        before = snapshot(Path(store.root))
        del before["image/overlay2/repositories.json"]
        make_pass(store, [found])
        assert problems_of_store(store) == []
        os.rename(disk.store.root, folder / "gone")
        make_pass(store, [])
        assert before.items() <= snapshot(Path(store.root)).items()
        assert references_of(store) == {"mine:1": mine}


def make_plain_disk(folder: Path) -> Path:
    """What dockerd would have on its disk."""
    store = Store(str(folder / "plain"))
    add_local_image(store, ["base", "app"], ["app:1", "example/app:1"])
    add_local_image(store, ["base"], ["base:1"])
    for record in Path(store.layerdb).iterdir():
        (record / "tar-split.json.gz").write_bytes(b"")
    return Path(store.root)


@bounded
@given(data=st.data())
def test_a_damaged_copy_of_a_data_root_is_refused_or_sound(data: st.DataObject) -> None:
    with folder_in_memory() as folder:
        root = make_plain_disk(folder)
        assert len(read_plain_store(str(root), "disk").images) == 2
        change_a_file(Disk("plain", "/dev/test", Store(str(root)), read_plain_store(str(root), "disk")), data)
        try:
            index = read_plain_store(str(root), "disk")
        except InvalidDisk as err:
            check_message(err)
        else:
            check_index(index)


@bounded
@given(content=st.binary(max_size=64), magic=st.booleans(), label=st.binary(max_size=16))
def test_a_label_is_printable(content: bytes, magic: bool, label: bytes) -> None:
    with folder_in_memory() as folder:
        device = folder / "device"
        superblock = bytearray(content.ljust(2048, b"\0"))
        if magic:
            superblock[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
            superblock[1024 + 0x78 : 1024 + 0x88] = label.ljust(16, b"\0")
        device.write_bytes(superblock)
        if not magic:
            with pytest.raises(InvalidDisk, match="holds no ext4 file system"):
                read_label(str(device))
            return
        found = read_label(str(device))
        assert found.isprintable()
        assert len(found) <= 16
        if label.isascii() and label.decode().isprintable():
            assert found == label.decode()


@bounded
@given(content=json_values.map(lambda value: json.dumps(value).encode()) | st.binary(), data=st.data())
def test_whatever_a_marker_holds_the_users_images_stay(content: bytes, data: st.DataObject) -> None:
    with folder_in_memory() as folder:
        store = Store(str(folder / "docker"))
        mine = add_local_image(store, ["base", "mine"], ["mine:1"])
        disk = make_disk(folder, (("base", "app"), ("app:1",)))
        make_pass(store, [disk])
        marker = Path(marker_path(store, image_id(("base", "app"))))
        marker.write_bytes(data.draw(st.just(content) | damaged(marker.read_bytes())))
        os.rename(disk.store.root, folder / "gone")
        make_pass(store, [])
        assert make_pass(store, []).operations == ()
        assert references_of(store)["mine:1"] == mine
        assert mine in read_store(store).images


labels = st.dictionaries(st.from_regex(r"\Adpl-[a-z0-9]{1,12}\Z"), st.booleans(), max_size=4)
ids = st.dictionaries(st.just(image_id(("app",))), json_values, max_size=1)


@bounded
@given(adopted=json_values | ids, released=json_values.filter(lambda value: not value) | labels, more=st.binary())
def test_whatever_the_run_directory_holds_a_pass_is_made(adopted: Any, released: Any, more: bytes) -> None:
    with folder_in_memory() as folder:
        paths = Paths(str(folder / "docker"), str(folder / "run"), str(folder / "pid"), str(folder / "cgroup"))
        mine = add_local_image(paths.store, ["mine"], ["mine:1"])
        Path(paths.mounts).mkdir(parents=True)
        Path(paths.adopted).write_bytes(json.dumps(adopted).encode() + more)
        Path(paths.released).write_bytes(json.dumps(released).encode() + more[1:])
        assert merge(paths)
        assert references_of(paths.store) == {"mine:1": mine}


@bounded
@given(released=labels)
def test_released_disks_are_read_back(released: dict[str, bool]) -> None:
    with folder_in_memory() as folder:
        paths = Paths(run_dir=str(folder))
        for label, is_forced in released.items():
            add_released(paths, label, is_forced=is_forced)
        assert read_released(paths) == released


names = st.binary(min_size=1, max_size=6).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b".."))


def escape(word: bytes) -> bytes:
    """As the kernel does (fs/proc_namespace.c, mangle)."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in word)


@bounded
@given(found=st.lists(st.tuples(names, names, st.booleans(), st.lists(names, max_size=2)), max_size=4))
def test_mounts_are_read_whatever_their_names(found: list[tuple[bytes, bytes, bool, list[bytes]]]) -> None:
    lines, expected = [], {}
    for number, (name, source, is_ours, options) in enumerate(found):
        target = (b"/run/disks/" if is_ours else b"/else/where/") + name
        optional = b"".join(b"%s " % escape(option).replace(b"-", b"") for option in options)
        fields = b"%d 1 7:%d / %s ro,noatime %s- ext4 %s ro" % (
            number,
            number,
            escape(target),
            optional,
            escape(source),
        )
        lines.append(fields + b"\n")
        if is_ours:
            expected[target] = Mount(f"7:{number}", os.fsdecode(target), "ext4", os.fsdecode(source))
    assert parse_mountinfo(b"".join(lines), "/run/disks") == list(expected.values())


DISKS = (
    ((("base", "app"), ("app:1", "app:latest")), (("base",), ("base:1",))),
    ((("base", "app"), ("app:1", "other:1")), (("base", "tool"), ("tool:1",))),
    ((("base", "app", "more"), ("app:latest",)), ((), ("empty:1",))),
)
numbers = st.integers(0, len(DISKS) - 1)
layers = st.lists(st.sampled_from(["base", "app", "mine"]), min_size=1, max_size=3, unique=True)
references = st.lists(st.sampled_from(["app:1", "tool:1", "mine:1", "mine:2"]), max_size=2, unique=True)


class Guest(RuleBasedStateMachine):
    """Disks come and go, the user loads and names images, and after each change a pass is made.

    The user's references never change, a second pass has nothing to do, and without disks only the user's is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._root = self._stack.enter_context(folder_in_memory())
        self._store = Store(f"{self._root}/docker")
        self._disks = [make_disk(self._root / str(number), *images) for number, images in enumerate(DISKS)]
        self._plugged = set(range(len(DISKS)))
        self._adopted: Adopted = {}
        self._references: dict[str, str] = {}
        self._images: set[str] = set()
        self._unplug_all()

    @rule(number=numbers)
    def plug(self, number: int) -> None:
        if number not in self._plugged:
            root = self._disks[number].store.root
            os.rename(f"{root}.away", root)
            self._plugged.add(number)

    @rule(number=numbers)
    def unplug(self, number: int) -> None:
        if number in self._plugged:
            root = self._disks[number].store.root
            os.rename(root, f"{root}.away")
            self._plugged.remove(number)

    @rule(layers=layers, references=references)
    def load(self, layers: list[str], references: list[str]) -> None:
        image = add_local_image(self._store, layers, references)
        self._images.add(image)
        self._references |= dict.fromkeys(references, image)

    @rule(reference=st.sampled_from(["mine:1", "app:1", "other:1"]))
    def untag(self, reference: str) -> None:
        if reference in references_of(self._store):
            change_references(self._store, {reference: None})
            self._references.pop(reference, None)

    @rule()
    def reboot(self) -> None:
        self._adopted = {}

    @invariant()
    def a_pass_keeps_what_is_the_users(self) -> None:
        present = [self._disks[number] for number in sorted(self._plugged)]
        self._adopted = make_pass(self._store, present, self._adopted).adopted
        assert make_pass(self._store, present, self._adopted).operations == ()
        assert self._references.items() <= references_of(self._store).items()
        assert read_store(self._store).images >= self._images

    def teardown(self) -> None:
        self._unplug_all()
        self.a_pass_keeps_what_is_the_users()
        state = read_store(self._store)
        assert references_of(self._store) == self._references
        assert state.images == self._images
        assert state.brought == {}
        assert not any(layer.shim for layer in state.layers.values())
        for number in range(len(DISKS)):  # what the user built on the disks' layers works again
            self.plug(number)
        self.reboot()
        self.a_pass_keeps_what_is_the_users()
        assert problems_of_store(self._store) == []
        self._stack.close()

    def _unplug_all(self) -> None:
        for number in range(len(DISKS)):
            self.unplug(number)


def test_disks_come_and_go_and_what_is_the_users_stays() -> None:
    run_state_machine_as_test(Guest, settings=settings(bounded, max_examples=30, stateful_step_count=12))
