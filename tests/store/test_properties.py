"""What holds for anything that a disk may say: what is refused is refused in one way, what is accepted is sound."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preloader_agent.errors import InvalidDisk, InvalidValue, StoreError
from preloader_agent.store.digest import CacheID, ChainID, DiffID, Digest, ImageID, Link, chain_ids, sha256_digest
from preloader_agent.store.index import DiskIndex, checked_json, encode_index, parse_index
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import Repositories, parse_repositories
from tests.soundness import check_index_is_sound, check_message, check_repositories_are_sound, sealed
from tests.strategies import (
    bounded,
    damaged,
    digests,
    indexes,
    json_values,
    reference_texts,
    replaced,
    tags,
)

VALUES = {
    Digest: r"sha256:[0-9a-f]{64}",
    DiffID: r"sha256:[0-9a-f]{64}",
    ChainID: r"sha256:[0-9a-f]{64}",
    ImageID: r"sha256:[0-9a-f]{64}",
    CacheID: r"[0-9a-f]{64}",
    Link: r"[A-Z2-7]{26}",
}


@pytest.mark.parametrize(("kind", "pattern"), VALUES.items(), ids=lambda value: getattr(value, "__name__", ""))
@bounded
@given(data=st.data())
def test_an_identifier_is_what_its_pattern_says(kind: type[str], pattern: str, data: st.DataObject) -> None:
    sound = data.draw(st.from_regex(pattern, fullmatch=True))
    for found in (sound, data.draw(damaged(sound.encode())).decode("latin-1"), data.draw(json_values)):
        if isinstance(found, str) and re.fullmatch(pattern, found, re.ASCII):
            assert kind(found) == found
        else:
            with pytest.raises(InvalidValue) as raised:
                kind(found)
            check_message(raised.value)


@bounded
@given(found=reference_texts() | st.text(max_size=40) | json_values)
@example(found="docker.io/docker.io/x:1")
@example(found=f"docker.io/library/{'0' * 64}:1")
@example(found=f"docker.io/index.docker.io/library/x@sha256:{'0' * 64}")
def test_a_reference_is_read_back_as_itself(found: Any) -> None:
    try:
        reference = Reference(found)
    except InvalidValue as err:
        check_message(err)
        return
    assert Reference(reference) == reference
    assert found.endswith(reference)
    assert re.fullmatch(r"[a-zA-Z0-9._:/@\[\]-]+", reference)
    assert ".." not in reference.name
    rest = reference.removeprefix(reference.name)
    assert re.fullmatch(r":\w[\w.-]*|@sha256:[0-9a-f]{64}", rest)
    if "/" not in reference.name:
        for prefix in ("docker.io/library/", "index.docker.io/", "library/"):
            assert Reference(prefix + reference) == reference


@bounded
@given(index=indexes())
def test_an_index_is_read_back(index: DiskIndex) -> None:
    assert parse_index(encode_index(index), "disk") == index


@bounded
@given(data=st.data(), index=indexes())
def test_an_index_that_was_changed_is_refused_or_sound(data: st.DataObject, index: DiskIndex) -> None:
    sound = encode_index(index)
    check_index_is_sound(data.draw(damaged(sound)))
    for _ in range(4):
        changed = json.dumps(data.draw(replaced(json.loads(sound)))).encode()
        check_index_is_sound(changed)
        check_index_is_sound(sealed(changed))


@bounded
@given(content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_index_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidDisk) as raised:
        parse_index(content, "disk")
    check_message(raised.value)


@bounded
@given(content=st.lists(st.sampled_from([b"[", b"{", b",", b'"a":', b"1", b"]", b"}"])).map(b"".join))
def test_json_that_is_counted_has_no_more_values_than_were_counted(content: bytes) -> None:
    counted = sum(map(checked_json(content).count, (b",", b"[", b"{")))
    try:
        document = json.loads(content)
    except ValueError:
        return
    assert count_values(document) <= 2 * counted + 1


def count_values(document: Any) -> int:
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return 1 + sum(map(count_values, inner))


image_ids = st.integers(0, 3).map(lambda number: ImageID(sha256_digest(b"%d" % number)))
entries = st.dictionaries(tags.map(str) | st.text(max_size=6), image_ids.map(str) | json_values, max_size=3)
finite = json_values.filter(lambda value: "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value))
trees = st.dictionaries(tags.map(lambda tag: tag.name) | st.text(max_size=6), entries, max_size=3)


@st.composite
def repositories(draw: st.DrawFn) -> Repositories:
    """What dockerd, and others, may have written."""
    document = {**draw(st.dictionaries(st.text(max_size=6), finite, max_size=2)), "Repositories": draw(trees)}
    try:
        return parse_repositories(json.dumps(document).encode(), "file")
    except StoreError:
        return Repositories({"Repositories": {}})


@bounded
@given(found=repositories())
def test_repositories_are_read_back(found: Repositories) -> None:
    assert parse_repositories(found.encode(), "file") == found


@bounded
@given(content=st.binary() | json_values.map(lambda value: json.dumps(value).encode()), data=st.data())
def test_repositories_are_refused_or_can_be_written(content: bytes, data: st.DataObject) -> None:
    sound = b'{"Repositories":{"app":{"app:1":"sha256:' + b"0" * 64 + b'"}}}'
    check_repositories_are_sound(content)
    check_repositories_are_sound(data.draw(damaged(sound)))


@bounded
@given(
    before=repositories(),
    remove=st.dictionaries(tags, image_ids, max_size=3),
    add=st.dictionaries(tags, image_ids, max_size=3),
)
def test_a_change_of_repositories_touches_nothing_else(
    before: Repositories, remove: dict[Reference, ImageID], add: dict[Reference, ImageID]
) -> None:
    copy = json.dumps(before.document)
    after = before.with_changes(remove=remove, add=add)
    assert json.dumps(before.document) == copy
    assert {reference: after.find(reference) for reference in add} == add
    removed = {reference for reference, image in remove.items() if before.find(reference) == image}
    for name, found in before.document["Repositories"].items():
        for text, value in found.items():
            if text not in {*add, *removed} or Reference(text).name != name:
                assert after.document["Repositories"][name][text] == value or value != value  # noqa: PLR0124 - NaN
    for reference in removed - add.keys():
        assert after.find(reference) is None
    assert {key: value for key, value in after.document.items() if key != "Repositories"} == {
        key: value for key, value in before.document.items() if key != "Repositories"
    }


@bounded
@given(diff_ids=st.lists(digests.map(DiffID), min_size=1, max_size=6), other=st.lists(digests.map(DiffID), max_size=6))
def test_a_chain_is_known_by_its_last_id(diff_ids: list[DiffID], other: list[DiffID]) -> None:
    chain = chain_ids(diff_ids)
    assert str(chain[0]) == diff_ids[0]
    assert chain_ids(diff_ids + other)[: len(chain)] == chain
    assert (chain[-1:] == chain_ids(other)[-1:]) == (diff_ids == other)
    assert len({CacheID.of_chain(link) for link in chain} | {Link.of_chain(link) for link in chain}) == 2 * len(
        set(chain)
    )
