"""Docker's identifiers are checked where they are made, and derived as Docker derives them."""

from __future__ import annotations

import pytest

from preloader_agent.errors import InvalidValue
from preloader_agent.store.digest import CacheID, ChainID, DiffID, Digest, ImageID, Link, chain_ids, sha256_digest
from tests.images import edge_image

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("kind", [Digest, DiffID, ChainID, ImageID])
@pytest.mark.parametrize(
    "text",
    [
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha512:{HEX}",
        f"sha256:{HEX[:-1]}\n",
        f"sha256:{HEX[:-1]}é",
        f"sha256:{HEX[:-3]}/..",
        "",
        None,
        7,
        [f"sha256:{HEX}"],
    ],
)
def test_no_digest(kind: type[Digest], text: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{kind.__name__}: expected sha256: and 64 hex digits, found "):
        kind(text)


def test_digest() -> None:
    assert Digest(f"sha256:{HEX}").hex == HEX
    assert sha256_digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("text", ["", HEX[:-1], HEX + "0", HEX.upper(), "../" + HEX[3:], HEX[:-1] + "\n", None])
def test_no_cache_id(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^CacheID: expected 64 hex digits, found "):
        CacheID(text)


@pytest.mark.parametrize("text", ["", "A" * 25, "A" * 27, "a" * 26, "A" * 25 + "1", "../" + "A" * 23, None])
def test_no_link(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^Link: expected 26 characters of A-Z and 2-7, found "):
        Link(text)


def test_names_of_a_layer_follow_from_its_chain() -> None:
    """They are on disks already: other names would make a layer that two disks share two layers."""
    chain = ChainID(f"sha256:{HEX}")
    assert CacheID.of_chain(chain) == "c21b1d12540a1b737b781dbdc37f88eef0c716c0066a0986ab94d1830c0ab7e2"
    assert Link.of_chain(chain) == "XJPGN5LUPIO24GFJMCTP66GWMS"


def test_chain_ids() -> None:
    """The digest of the chain so far, a blank, and the next DiffID."""
    one, two = DiffID(f"sha256:{'1' * 64}"), DiffID(f"sha256:{'2' * 64}")
    assert chain_ids([]) == []
    assert list(map(str, chain_ids([one]))) == [one]
    assert list(map(str, chain_ids([one, two]))) == [one, sha256_digest(f"{one} {two}".encode())]
    edge = edge_image()
    assert chain_ids(map(DiffID, edge.diff_ids)) == edge.chain_ids
