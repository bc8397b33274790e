"""Docker's identifiers, each a type that is checked where it is made.

DiffID, ChainID and image ID are digests (`sha256:` and 64 hex digits); a CacheID is the name of a directory below
`overlay2/`, a link the short name of one below `overlay2/l/`. Docker draws the last two at random; here they follow
from the ChainID, so that the same layer has the same names on every disk and in every guest.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterable

from preloader_agent.errors import InvalidValue

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from hashlib import sha256
    from typing import Self
else:
    try:  # as the standard library's own random.py does: hashlib loads OpenSSL, 3 ms of the boot and 4.7 MB of memory
        from _sha2 import sha256
    except ImportError:  # before Python 3.12
        from hashlib import sha256

ALGORITHM = "sha256:"
MAX_LAYERS = 125  # moby layer/layer_store.go, maxLayerDepth

_HEX = frozenset("0123456789abcdef")
_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


class Digest(str):
    """`sha256:` and 64 hex digits. Raises InvalidValue for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the text."""
        if not (isinstance(text, str) and len(text) == 71 and text.startswith(ALGORITHM) and _HEX.issuperset(text[7:])):
            raise InvalidValue(cls.__name__, text, "sha256: and 64 hex digits")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The 64 hex digits: the name that Docker gives files and directories."""
        return self[7:]


class DiffID(Digest):
    """The SHA-256 of a layer's uncompressed tar stream."""

    __slots__ = ()


class ChainID(Digest):
    """The identity of a layer together with all the layers below it."""

    __slots__ = ()


class ImageID(Digest):
    """The SHA-256 of an image's configuration, byte by byte as it is stored."""

    __slots__ = ()


class CacheID(str):
    """The name of a layer's directory below `overlay2/`: 64 hex digits. Raises InvalidValue for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the text."""
        if not (isinstance(text, str) and len(text) == 64 and _HEX.issuperset(text)):
            raise InvalidValue(cls.__name__, text, "64 hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of_chain(cls, chain: ChainID) -> CacheID:
        """The CacheID that our shims and disks use for a ChainID."""
        return cls(sha256(b"docker-preloader cache-id 1 " + chain.encode()).hexdigest())


class Link(str):
    """The short name of a layer below `overlay2/l/`: 26 base32 characters. Raises InvalidValue for anything else."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the text."""
        if not (isinstance(text, str) and len(text) == 26 and _BASE32.issuperset(text)):
            raise InvalidValue(cls.__name__, text, "26 characters of A-Z and 2-7")
        return super().__new__(cls, text)

    @classmethod
    def of_chain(cls, chain: ChainID) -> Link:
        """The link that our shims and disks use for a ChainID."""
        return cls(b32encode(sha256(b"docker-preloader link 1 " + chain.encode()).digest()).decode()[:26])


def sha256_digest(content: bytes) -> Digest:
    """The digest of some bytes."""
    return Digest(ALGORITHM + sha256(content).hexdigest())


def chain_ids(diff_ids: Iterable[DiffID]) -> list[ChainID]:
    """The ChainID of each layer of an image, base layer first (moby layer/layer.go, createChainIDFromParent)."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(ChainID(sha256_digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id))
    return chain
