"""Scripts that are run in images as root, and what is seen of the images before and after."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import flatten, is_opaque, walk
from preloader_agent.host.image.overlay import run_in_image
from preloader_agent.host.node import Node
from preloader_agent.host.staging import Stager
from preloader_agent.host.tarstream import REG
from preloader_agent.host.vm.config import VmConfig
from tests.images.catalogue import busybox_layer
from tests.images.layer import Entry, Layer, make_layer

NOT_HOLDABLE = b"trusted."  # xattrs that only real root sets


class Seen(NamedTuple):
    """What a container sees of a file, but its time."""

    type: bytes
    mode: int
    uid: int
    gid: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    content: bytes
    is_opaque: bool


class Ran(NamedTuple):
    """An image before a script, what that changed, and the image after it."""

    before: dict[bytes, Seen]
    changes: dict[bytes, Seen]
    after: dict[bytes, Seen]


def run_script(
    script: str, *layers: Layer, machine: VmConfig | None = None, prepare: Callable[[Node], None] = lambda _: None
) -> Ran:
    """Run a script in an image of some layers, by default busybox's."""
    with tempfile.TemporaryDirectory() as folder, Stager(Path(folder, "content"), lambda _: None) as stager:
        streams = (io.BufferedReader(cast(io.RawIOBase, layer.open())) for layer in layers or (busybox_layer(),))
        tree = flatten([stager.stage(stream, "layer").root for stream in streams])
        prepare(tree)
        content = Content(stager.blocks)
        changes = run_in_image(tree, content.read, script, stager, machine)
        return Ran(*(see(root, content) for root in (tree, changes, flatten([tree, changes]))))


def see(root: Node, content: Content) -> dict[bytes, Seen]:
    return {path: see_node(node, content) for path, node in walk(root)}


def see_node(node: Node, content: Content) -> Seen:
    data = b"".join(content.read(node)) if node.type == REG else b""
    xattrs = {name: value for name, value in node.xattrs.items() if not name.startswith(NOT_HOLDABLE)}
    return Seen(node.type, node.mode, node.uid, node.gid, node.target, node.device, xattrs, data, is_opaque(node))


def layer_on_busybox(*entries: Entry) -> tuple[Layer, Layer]:
    return busybox_layer(), make_layer(entries)
