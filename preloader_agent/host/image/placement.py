"""Where the contents of a recipe go in an image: the layer that lays a folder's tree over those below it."""

from __future__ import annotations

from collections.abc import Sequence

from preloader_agent.errors import InputError
from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import children_of, directory_at, flatten
from preloader_agent.host.image.folder import read_folder
from preloader_agent.host.image.recipe import Recipe
from preloader_agent.host.image.rules import Rule, apply_rules
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import DIR, show_name
from preloader_agent.host.tree import trace_path


def place_contents(recipe: Recipe, base: Node, content: Content, epoch: int) -> list[Node]:
    """A layer for each directory of the contents, to lie on a base's tree, each on those before it.

    It depends on the directory and the rules alone, but for attributes of directories that the base has, and for
    symlinks that lead elsewhere. Raises InputError for what cannot be read or be in a layer.
    """
    layers: list[Node] = []
    below = base
    for folder in recipe.contents:
        layers.append(place(read_folder(folder, content, epoch), below, base, recipe.rules))
        below = flatten([below, layers[-1]])
    return layers


def place(added: Node, below: Node, base: Node, rules: Sequence[Rule]) -> Node:
    """The layer that lays a tree over what is below it, a flattened tree that begins with the base.

    A directory goes where a symlink to a directory leads that stands at its place, as with rsync --keep-dirlinks and a
    Dockerfile's COPY: where /usr is merged, bin/x goes to usr/bin/x. One that the base has keeps the base's attributes.
    Rules have the last word. Raises InputError where a directory and something else would be at one place that way.
    """
    layer = make_directory()
    left = [(added, b"", layer)]
    while left:
        source, folder, directory = left.pop()
        for name, node in sorted(children_of(source).items(), reverse=True):  # so that bin comes before usr
            path = folder + b"/" + name if folder else name
            if node.type == DIR:
                path, made = _make_place(layer, directory, below, path)
                _describe(made, _directory_of(base, path) or node)
                apply_rules(rules, path, made)
                left.append((node, path, made))
            else:
                _refuse_directory(children_of(directory).get(name), path)
                apply_rules(rules, path, node)
                children_of(directory)[name] = node
    return layer


def _make_place(layer: Node, parent: Node, below: Node, path: bytes) -> tuple[bytes, Node]:
    """The real path of a directory, and the layer's node for it."""
    found = trace_path(below, path)
    if found and found[-1][1].type == DIR:
        path = b"/".join(name for name, _ in found[1:])
        _refuse_clash(layer, path)
        return path, directory_at(layer, below, path)
    _refuse_clash(layer, path)
    return path, children_of(parent).setdefault(path.rpartition(b"/")[2], make_directory())


def _refuse_clash(layer: Node, path: bytes) -> None:
    """Raises InputError if a layer has anything but directories on the way to a path, and there."""
    node: Node | None = layer
    for name in path.split(b"/"):
        node = children_of(node).get(name) if node else None
        if node and node.type != DIR:
            raise _clash(path)


def _refuse_directory(node: Node | None, path: bytes) -> None:
    if node and node.type == DIR:
        raise _clash(path)


def _clash(path: bytes) -> InputError:
    where = f"{show_name(path)} of the image"
    return InputError(f"{where}: one directory of contents has a directory and something else there, by a symlink")


def _directory_of(base: Node, path: bytes) -> Node | None:
    found = trace_path(base, path, follow_last=False)
    return found[-1][1] if found and found[-1][1].type == DIR else None


def _describe(made: Node, origin: Node) -> None:
    made.mode, made.uid, made.gid, made.xattrs = origin.mode, origin.uid, origin.gid, origin.xattrs
    made.mtime_ns = origin.mtime_ns
