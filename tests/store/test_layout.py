"""Paths and contents in a store, as dockerd has them."""

from __future__ import annotations

from preloader_agent.store.digest import CacheID, ChainID, ImageID, Link
from preloader_agent.store.layout import STORE_DIRECTORIES, Store, link_target, lower_of

HEX = "0123456789abcdef" * 4
STORE = Store("/data")


def test_paths() -> None:
    assert STORE.image_config(ImageID(f"sha256:{HEX}")) == f"/data/image/overlay2/imagedb/content/sha256/{HEX}"
    assert STORE.layer_record(ChainID(f"sha256:{HEX}")) == f"/data/image/overlay2/layerdb/sha256/{HEX}"
    assert STORE.diff(CacheID(HEX)) == f"/data/overlay2/{HEX}/diff"
    assert STORE.link(Link("A" * 26)) == "/data/overlay2/l/AAAAAAAAAAAAAAAAAAAAAAAAAA"
    assert link_target(CacheID(HEX)) == f"../{HEX}/diff"


def test_lower_lists_the_nearest_first() -> None:
    base, middle = "B" * 26, "M" * 26
    assert lower_of(base, "") == f"l/{base}"
    assert lower_of(middle, lower_of(base, "")) == f"l/{middle}:l/{base}"


def test_directories_come_after_their_parents() -> None:
    known = {""}
    for path, _ in STORE_DIRECTORIES:
        assert path.rpartition("/")[0] in known
        known.add(path)
