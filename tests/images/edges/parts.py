"""What many cases are made of."""

from __future__ import annotations

from tests.images.layer import Layer, directory, file

Edges = dict[str, tuple[Layer, ...]]

SECOND = 10**9
NOTE = {"user.note": b"text"}
LABEL = {"trusted.label": b"text"}
A, D = file("a", "content\n"), directory("d")


def one(**layers: Layer) -> Edges:
    """Images of one layer."""
    return {name: (layer,) for name, layer in layers.items()}
