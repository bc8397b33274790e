"""The images of docs/example and of the README, as they would be made elsewhere, but of Debian's packages."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.images.archive import Image
from tests.images.debian import debian_layer
from tests.images.layer import file, make_layer

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"


@cache
def example_images() -> tuple[Image, Image]:
    """Redis, which listens to other containers as that of the registry does, and the page that counts in it."""
    redis = Image(
        (debian_layer(), debian_layer("redis-server")),
        ("redis:8",),
        {"Entrypoint": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no"]},
    )
    page = make_layer([file("usr/bin/counter", (EXAMPLE / "counter.py").read_bytes(), 0o755)])
    counter = Image(
        (debian_layer(), debian_layer("python3-redis"), page), ("counter:1",), {"Cmd": ["counter"], "User": "65534"}
    )
    return redis, counter


@cache
def tour_images() -> tuple[Image, Image]:
    """What the README's tour takes: Debian, and Redis on it."""
    debian = Image((debian_layer(),), ("debian:13",), {"Cmd": ["bash"]})
    return debian, Image((*debian.layers, debian_layer("redis-server")), ("redis:8",), {"Cmd": ["redis-server"]})
