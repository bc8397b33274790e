"""What a pass makes of disks and stores: planned from the real files, applied to them, and read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from preloader_agent.errors import StoreError, StoreUnused
from preloader_agent.guest.disks import Disk
from preloader_agent.guest.plan import describe
from preloader_agent.guest.storestate import read_store
from preloader_agent.store.digest import CacheID, ChainID, Link, chain_ids
from preloader_agent.store.layout import STORE_DIRECTORIES, Store
from preloader_agent.store.reference import Reference
from tests.guest.disks import (
    LAYER_SIZE,
    add_local_image,
    change_references,
    diff_id,
    image_id,
    make_disk,
    make_pass,
    problems_of_store,
    references_of,
    snapshot,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A data root that does not exist yet."""
    return Store(str(tmp_path / "docker"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Two images that share their base layer."""
    return make_disk(tmp_path / "disks", (("base", "app"), ("app:1", "app:latest")), (("base",), ("base:1",)))


def chain_of(*layers: str) -> list[ChainID]:
    return chain_ids(map(diff_id, layers))


def unplug(disk: Disk) -> None:
    os.rename(disk.store.root, disk.store.root + ".gone")


def plug(disk: Disk) -> None:
    os.rename(disk.store.root + ".gone", disk.store.root)


def test_a_fresh_data_root_gets_the_images_as_dockerd_would_write_them(store: Store, disk: Disk) -> None:
    make_pass(store, [disk])
    base, app = chain_of("base", "app")
    record, place = Path(store.layer_record(app)), Path(store.layer(CacheID.of_chain(app)))
    assert (record / "diff").read_text() == diff_id("app")
    assert (record / "parent").read_text() == base
    assert (record / "size").read_text() == str(LAYER_SIZE)
    assert (record / "cache-id").read_text() == place.name
    assert not (Path(store.layer_record(base)) / "parent").exists()
    base_link = (Path(store.layer(CacheID.of_chain(base))) / "link").read_text()
    assert (place / "lower").read_text() == f"l/{base_link}"
    assert (place / "committed").read_bytes() == b""
    assert os.readlink(place / "diff") == disk.store.diff(CacheID.of_chain(app))
    assert os.readlink(f"{store.links}/{(place / 'link').read_text()}") == f"../{place.name}/diff"
    modes = {name: os.stat(f"{store.root}/{name}").st_mode & 0o777 for name, _ in STORE_DIRECTORIES}
    assert modes == dict(STORE_DIRECTORIES)
    assert os.stat(store.repositories).st_mode & 0o777 == 0o600
    names = {"app:1": ("base", "app"), "app:latest": ("base", "app"), "base:1": ("base",)}
    assert references_of(store) == {name: image_id(layers) for name, layers in names.items()}
    assert problems_of_store(store) == []


def test_a_second_pass_changes_nothing(store: Store, disk: Disk) -> None:
    make_pass(store, [disk])
    before = snapshot(Path(store.root))
    assert make_pass(store, [disk]).operations == ()
    assert snapshot(Path(store.root)) == before


def test_without_a_disk_nothing_is_written(store: Store) -> None:
    assert make_pass(store, []).operations == ()
    assert not Path(store.root).exists()


def test_local_images_and_tags_stay_as_they_are(store: Store, disk: Disk) -> None:
    local = add_local_image(store, ["mine"], ["app:latest", "mine:1"])
    plan = make_pass(store, [disk])
    found = references_of(store)
    assert found["app:latest"] == found["mine:1"] == local
    assert found["app:1"] == image_id(("base", "app"))
    assert len(plan.problems) == 1
    for part in ("app:latest", local.hex[:12], image_id(("base", "app")).hex[:12], disk.label):
        assert part in plan.problems[0]


def test_a_local_layer_wins_and_a_child_on_the_disk_stands_on_it(store: Store, disk: Disk) -> None:
    add_local_image(store, ["base"], ["local-base:1"])
    before = snapshot(Path(store.layer_record(chain_of("base")[0])))
    make_pass(store, [disk])
    assert snapshot(Path(store.layer_record(chain_of("base")[0]))) == before
    local_link = read_store(store).layers[chain_of("base")[0]].link
    assert local_link.startswith("LOCAL")
    assert read_store(store).layers[chain_of("base", "app")[1]].lower == f"l/{local_link}"
    assert problems_of_store(store) == []


def test_a_layer_of_two_disks_has_one_shim_which_moves_when_its_disk_goes(tmp_path: Path, store: Store) -> None:
    first = make_disk(tmp_path / "disks", (("base", "one"), ("one:1",)))
    second = make_disk(tmp_path / "disks", (("base", "two"), ("two:1",)))
    make_pass(store, [first, second])
    base = chain_of("base")[0]
    assert os.readlink(store.diff(CacheID.of_chain(base))).startswith(first.store.root)
    unplug(first)
    make_pass(store, [second])
    assert os.readlink(store.diff(CacheID.of_chain(base))) == second.store.diff(CacheID.of_chain(base))
    assert os.readlink(store.tar_split(base)) == second.store.tar_split(base)
    assert set(references_of(store)) == {"two:1"}
    assert problems_of_store(store) == []


def test_what_an_absent_disk_brought_goes_and_comes_back(store: Store, disk: Disk) -> None:
    make_pass(store, [disk])
    before = snapshot(Path(store.root))
    unplug(disk)
    make_pass(store, [])
    assert read_store(store).layers == {}
    assert read_store(store).images == frozenset()
    assert references_of(store) == {}
    assert os.listdir(f"{store.root}/overlay2") == ["l"]
    assert os.listdir(store.links) == []
    plug(disk)
    make_pass(store, [disk])
    assert snapshot(Path(store.root)) == before


def test_what_the_user_made_of_a_lost_image_stays(store: Store, disk: Disk) -> None:
    make_pass(store, [disk])
    child = add_local_image(store, ["base", "app", "mine"], ["mine:1"])
    change_references(store, {"my-name-for:app": image_id(("base", "app"))})
    before = snapshot(Path(store.root))
    unplug(disk)
    make_pass(store, [])
    state = read_store(store)
    assert child in state.images
    assert chain_of("base", "app", "mine")[2] in state.layers
    assert references_of(store) == {"mine:1": child, "my-name-for:app": image_id(("base", "app"))}
    plug(disk)
    make_pass(store, [disk])
    assert snapshot(Path(store.root)) == before


def test_what_the_user_built_on_a_shim_stands_on_the_users_own_copy_of_it(store: Store, disk: Disk) -> None:
    """The disk is gone, and the user loads the image that it brought; then the disk is back."""
    make_pass(store, [disk])
    add_local_image(store, ["base", "mine"], ["mine:1"])
    lower = read_store(store).layers[chain_of("base", "mine")[1]].lower
    unplug(disk)
    make_pass(store, [])
    add_local_image(store, ["base"], ["base:own"])
    base = read_store(store).layers[chain_of("base")[0]]
    for disks in ([], [disk]):
        if disks:
            plug(disk)
        make_pass(store, disks)
        assert read_store(store).layers[chain_of("base", "mine")[1]].lower == lower
        assert os.path.realpath(f"{store.layers}/{lower}") == store.diff(CacheID(str(base.cache_id)))
        assert make_pass(store, disks).operations == ()


def test_an_image_that_the_user_removed_stays_away_until_the_next_boot(store: Store, disk: Disk) -> None:
    plan = make_pass(store, [disk])
    removed = image_id(("base", "app"))
    # What `docker rmi app:1 app:latest` leaves: the base layer stays, base:1 needs it.
    change_references(store, {"app:1": None, "app:latest": None})
    os.unlink(store.image_config(removed))
    shutil.rmtree(store.image_metadata(removed))
    top = chain_of("base", "app")[1]
    for directory in (store.layer_record(top), store.layer(CacheID.of_chain(top))):
        shutil.rmtree(directory)
    os.unlink(store.link(Link.of_chain(top)))
    again = make_pass(store, [disk], plan.adopted)
    assert again.operations == ()
    assert again.adopted == plan.adopted
    make_pass(store, [disk])
    assert references_of(store)["app:1"] == removed


def test_a_reference_that_the_user_removed_stays_away_until_the_next_boot(store: Store, disk: Disk) -> None:
    plan = make_pass(store, [disk])
    change_references(store, {"app:latest": None})
    assert make_pass(store, [disk], plan.adopted).operations == ()
    assert "app:latest" not in references_of(store)
    make_pass(store, [disk])
    assert "app:latest" in references_of(store)


def test_a_reference_that_the_user_moved_stays_moved(store: Store, disk: Disk) -> None:
    plan = make_pass(store, [disk])
    change_references(store, {"app:latest": image_id(("base",))})
    make_pass(store, [disk], plan.adopted)
    assert references_of(store)["app:latest"] == image_id(("base",))
    unplug(disk)
    make_pass(store, [], plan.adopted)
    assert references_of(store) == {"app:latest": image_id(("base",))}


def test_a_rebuilt_disk_takes_over_the_references_of_the_one_it_replaces(tmp_path: Path, store: Store) -> None:
    old = make_disk(tmp_path / "disks", (("base", "v1"), ("app:latest",)))
    new = make_disk(tmp_path / "disks", (("base", "v2"), ("app:latest",)))
    make_pass(store, [old])
    unplug(old)
    plan = make_pass(store, [new])
    assert plan.problems == ()
    assert references_of(store) == {"app:latest": image_id(("base", "v2"))}
    assert problems_of_store(store) == []


def test_two_disks_that_claim_a_reference_are_reported(tmp_path: Path, store: Store) -> None:
    disks = [make_disk(tmp_path / "disks", ((name,), ("app:latest",))) for name in ("one", "two")]
    plan = make_pass(store, disks)
    assert references_of(store) == {"app:latest": image_id(("one",))}
    assert len(plan.problems) == 1
    assert disks[1].label in plan.problems[0]


def test_a_reference_that_is_free_again_goes_to_the_disk_that_wanted_it(tmp_path: Path, store: Store) -> None:
    disks = [make_disk(tmp_path / "disks", ((name,), ("app:latest",))) for name in ("one", "two")]
    plan = make_pass(store, disks)
    unplug(disks[0])
    plan = make_pass(store, disks[1:], plan.adopted)
    assert references_of(store) == {"app:latest": image_id(("two",))}
    assert plan.problems == ()
    change_references(store, {"app:latest": None})
    assert make_pass(store, disks[1:], plan.adopted).operations == ()


@pytest.mark.parametrize("names", ["ab", "ba", "cd", "dc", "ef", "fe"])  # whichever marker is read last
def test_a_reference_that_two_disks_claim_goes_with_them(tmp_path: Path, store: Store, names: str) -> None:
    images = [((name,), ("app:latest",)) for name in names]
    disks = [make_disk(tmp_path / "disks", image) for image in images]
    make_pass(store, disks[:1])
    make_pass(store, disks)
    for disk in disks:
        unplug(disk)
    make_pass(store, [])
    assert references_of(store) == {}


def test_a_digest_goes_with_its_disk_as_a_tag_does(tmp_path: Path, store: Store) -> None:
    """Whichever of two disks with the same image names it."""
    plain = make_disk(tmp_path / "disks", (("base",), ("app:1",)))
    digest = Reference("app@sha256:" + "1" * 64)
    image = plain.contents.images[0]._replace(repo_digests=(digest,))
    named = plain._replace(contents=plain.contents._replace(images=(image,)))
    make_pass(store, [plain])
    plan = make_pass(store, [plain, named])
    assert set(references_of(store)) == {"app:1", digest}
    assert not make_pass(store, [plain, named], plan.adopted).operations
    unplug(plain)
    make_pass(store, [])
    assert references_of(store) == {}


def test_an_image_goes_with_its_disk_where_its_layers_stay(tmp_path: Path, store: Store) -> None:
    mine = add_local_image(store, ["base"], ["mine:1"])
    disk = make_disk(tmp_path / "disks", (("base",), ("base:1",)), ((), ("empty:1",)))
    make_pass(store, [disk])
    assert set(references_of(store)) == {"mine:1", "base:1", "empty:1"}
    unplug(disk)
    make_pass(store, [])
    assert references_of(store) == {"mine:1": mine}
    assert read_store(store).images == {mine}


def test_the_same_image_on_two_disks_gets_the_references_of_both(tmp_path: Path, store: Store) -> None:
    disks = [make_disk(tmp_path / "disks", (("base",), (name,))) for name in ("one:1", "two:1")]
    make_pass(store, disks)
    assert set(references_of(store)) == {"one:1", "two:1"}
    for disk in disks:
        unplug(disk)
    make_pass(store, [])
    assert references_of(store) == {}


def test_a_record_that_dockerd_passes_over_is_replaced(store: Store, disk: Disk) -> None:
    record = Path(store.layer_record(chain_of("base")[0]))
    record.mkdir(parents=True)
    (record / "size").write_text("12")
    make_pass(store, [disk])
    assert problems_of_store(store) == []


def test_a_shim_that_lost_a_file_is_made_anew_and_the_next_pass_is_content(store: Store, disk: Disk) -> None:
    """A power cut leaves empty files: without `lower`, a container would silently miss the layers below."""
    make_pass(store, [disk])
    before = snapshot(Path(store.root))
    app = CacheID.of_chain(chain_of("base", "app")[1])
    Path(store.layer(app), "lower").write_text("")
    make_pass(store, [disk])
    assert snapshot(Path(store.root)) == before
    assert make_pass(store, [disk]).operations == ()


def test_an_image_of_ours_that_was_cut_short_is_copied_again(store: Store, disk: Disk) -> None:
    make_pass(store, [disk])
    before = snapshot(Path(store.root))
    config = Path(store.image_config(image_id(("base", "app"))))
    config.write_bytes(config.read_bytes()[:20])
    make_pass(store, [disk])
    assert snapshot(Path(store.root)) == before


def test_a_store_of_another_driver_is_left_alone(store: Store, disk: Disk) -> None:
    (Path(store.root) / "image/vfs").mkdir(parents=True)
    with pytest.raises(StoreUnused, match="docker keeps its images with vfs, not overlay2; its store is left alone"):
        make_pass(store, [disk])
    assert not Path(store.layers).exists()


def test_a_damaged_repositories_file_stops_the_pass_before_anything_is_changed(store: Store, disk: Disk) -> None:
    add_local_image(store, ["mine"], ["mine:1"])
    Path(store.repositories).write_text('{"Repositories":')
    before = snapshot(Path(store.root))
    with pytest.raises(StoreError, match=r"repositories\.json: not valid JSON"):
        make_pass(store, [disk])
    assert snapshot(Path(store.root)) == before


def test_a_plan_describes_itself(store: Store, disk: Disk) -> None:
    lines = [describe(operation) for operation in make_pass(store, [disk]).operations]
    assert lines[0] == f"AddLayer {chain_of('base')[0].hex[:12]}"
    assert lines[-3:] == ["WriteReferences", "Sync", "SetReferences"]
