"""repositories.json: what others wrote there stays, and dockerd can always read it."""

from __future__ import annotations

import json

import pytest

from preloader_agent.errors import StoreError
from preloader_agent.store.digest import ImageID
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import EMPTY, parse_repositories

ONE, TWO = (ImageID(f"sha256:{digit * 64}") for digit in "12")
MINE = Reference("mine:1")
OURS = Reference("ours:1")


def encode(tree: dict[str, dict[str, str]], **more: object) -> bytes:
    return json.dumps({"Repositories": tree, **more}).encode()


def test_as_dockerd_writes_it() -> None:
    repositories = EMPTY.with_changes(remove={}, add={Reference("t:two"): TWO, Reference("t:one"): ONE})
    assert repositories.encode() == f'{{"Repositories":{{"t":{{"t:one":"{ONE}","t:two":"{TWO}"}}}}}}'.encode()
    assert EMPTY.encode() == b'{"Repositories":{}}'


def test_foreign_entries_stay() -> None:
    """Also those that are not well formed, and fields that this version does not know."""
    tree = {"mine": {"mine:1": ONE, "not a reference": "nor an image"}, "Odd Name": {"x": "y"}}
    before = parse_repositories(encode(tree, Future={"a": [1]}), "f")
    after = before.with_changes(remove={}, add={OURS: TWO})
    assert json.loads(after.encode()) == {"Repositories": {**tree, "ours": {"ours:1": TWO}}, "Future": {"a": [1]}}
    assert before.find(OURS) is None, "the original is not changed"


def test_only_what_still_names_the_image_is_removed() -> None:
    before = parse_repositories(encode({"mine": {"mine:1": ONE}, "ours": {"ours:1": TWO, "ours:2": TWO}}), "f")
    after = before.with_changes(remove={MINE: TWO, OURS: TWO, Reference("gone:1"): ONE}, add={})
    assert after.references() == [(MINE, ONE), (Reference("ours:2"), TWO)]


def test_names_without_references_go() -> None:
    before = parse_repositories(encode({"ours": {"ours:1": ONE}}), "f")
    assert before.with_changes(remove={OURS: ONE}, add={}) == EMPTY


def test_what_a_reference_names() -> None:
    repositories = parse_repositories(encode({"mine": {"mine:1": ONE}}), "f")
    assert repositories.find(MINE) == ONE
    assert repositories.find(OURS) is None
    assert parse_repositories(b'{"Repositories":{"mine":{"mine:1":5}}}', "f").find(MINE) is None


def test_malformed_entries_are_passed_over() -> None:
    tree = {"mine": {"mine:1": ONE, "mine:2": "no image", "mine": ONE}}
    assert parse_repositories(encode(tree), "f").references() == [(MINE, ONE)]


def test_empty_document_is_an_empty_store() -> None:
    assert parse_repositories(b"{}", "f") == EMPTY


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not valid JSON"),
        (b'{"Repositories":', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "expected "),
        (b"null", "expected "),
        (b'{"Repositories":[]}', "expected "),
        (b'{"Repositories":{"t":[]}}', "expected "),
        (b'{"Other":{}}', "expected "),
    ],
)
def test_unusable(content: bytes, problem: str) -> None:
    with pytest.raises(StoreError) as raised:
        parse_repositories(content, "/data/repositories.json")
    assert str(raised.value).startswith(f"/data/repositories.json: {problem}")
    assert "repair or remove it" in str(raised.value)
