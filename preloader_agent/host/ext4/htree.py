"""The hash by which ext4 orders names in an indexed directory: "half MD4" (fs/ext4/hash.c), on unsigned characters."""

from __future__ import annotations

import struct
from collections.abc import Callable

_ALL = 0xFFFFFFFF
_EOF = 0x7FFFFFFF
_WORDS = 8  # of a name that are hashed at once

Mix = Callable[[int, int, int], int]


def _choose(x: int, y: int, z: int) -> int:
    return z ^ x & (y ^ z)


def _majority(x: int, y: int, z: int) -> int:
    return (x & y) + ((x ^ y) & z)


def _parity(x: int, y: int, z: int) -> int:
    return x ^ y ^ z


# Each round: how it mixes, its constant, in which order it takes the words, and by how much it rotates.
_ROUNDS: tuple[tuple[Mix, int, tuple[int, ...], tuple[int, ...]], ...] = (
    (_choose, 0, (0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19)),
    (_majority, 0o13240474631, (1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13)),
    (_parity, 0o15666365641, (3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15)),
)


def hash_name(name: bytes, seed: bytes) -> tuple[int, int]:
    """The hash of a name and, for names with the same, its minor hash; `seed` is the superblock's 16 bytes."""
    state = list(struct.unpack("<4I", seed))
    for start in range(0, len(name), 4 * _WORDS):
        mixed = _transform(state, _words(name[start:]))
        state = [old + new & _ALL for old, new in zip(state, mixed, strict=True)]
    major = state[1] & ~1
    return (major if major != _EOF << 1 else (_EOF - 1) << 1), state[2]


def _transform(state: list[int], words: list[int]) -> list[int]:
    a, b, c, d = state
    for mix, constant, order, rotations in _ROUNDS:
        for step, word in enumerate(order):
            turned = a + mix(b, c, d) + words[word] + constant & _ALL
            rotation = rotations[step % 4]
            a, b, c, d = d, (turned << rotation | turned >> 32 - rotation) & _ALL, b, c
    return [a, b, c, d]


def _words(name: bytes) -> list[int]:
    """The first bytes of a name as numbers, filled up with its length."""
    pad = (len(name) & 0xFF) * 0x01010101
    words = []
    for start in range(0, 4 * _WORDS, 4):
        word = pad
        for byte in name[: 4 * _WORDS][start : start + 4]:
            word = (word << 8) + byte & _ALL
        words.append(word)
    return words
