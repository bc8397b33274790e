"""File systems of images as trees of nodes: what layers show together, and which layer makes one of another.

Overlayfs decides what layers mean (Documentation/filesystems/overlayfs.rst): a 0/0 character device hides a name, an
opaque directory all that lower layers have in it. Nothing here recurses: a path may have two thousand parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import CHR, DIR
from preloader_agent.host.tree import OPAQUE_XATTR

OVERLAY = b"trusted.overlay."  # xattrs that are overlayfs' own and that nobody sees


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """What is below a root by path, sorted by name, each directory before what is in it."""
    left = [(b"", root)]
    while left:
        path, node = left.pop()
        if path:
            yield path, node
        for name, child in sorted((node.children or {}).items(), reverse=True):
            left.append((path + b"/" + name if path else name, child))


def is_whiteout(node: Node) -> bool:
    """Whether a node of a layer hides what lower layers have at its place."""
    return node.type == CHR and node.device == (0, 0)


def is_opaque(node: Node) -> bool:
    """Whether a directory of a layer hides what lower layers have in it."""
    name, value = OPAQUE_XATTR
    return node.xattrs.get(name) == value


def children_of(node: Node) -> dict[bytes, Node]:
    """What is in a directory."""
    assert node.children is not None
    return node.children


def flatten(layers: Iterable[Node]) -> Node:
    """What a container sees of some layers, lowest first: directories of its own, and the layers' other nodes.

    A layer's root says nothing: a container's is its own, and overlayfs does not look whether it is opaque.
    """
    root = make_directory()
    for layer in layers:
        left = [(layer, root)]
        while left:
            above, below = left.pop()
            for name, node in children_of(above).items():
                _lay(name, node, below)
                if node.type == DIR:
                    left.append((node, children_of(below)[name]))
    return root


def _lay(name: bytes, node: Node, below: Node) -> None:
    """Put a node of a layer over what lower layers have at its place; what is in a directory follows."""
    seen = children_of(below)
    old = seen.get(name)
    if is_whiteout(node):
        seen.pop(name, None)
    elif node.type == DIR:
        is_merged = old is not None and old.type == DIR and not is_opaque(node)
        shown = {key: value for key, value in node.xattrs.items() if not key.startswith(OVERLAY)}
        seen[name] = replace(node, xattrs=shown, children=old.children if old and is_merged else {})
    else:
        seen[name] = node


def subtract(tree: Node, base: Node, is_same_content: Callable[[Node, Node], bool]) -> Node:
    """The layer that makes one flattened tree of another.

    What is equal in both is left out, whatever its time: a copy has the time of its making. `is_same_content` compares
    regular files of the same size. All directories that lead to something have the tree's attributes.
    """
    layer = make_directory()
    equal = _equal_files(tree, base, is_same_content)
    left = [(b"", tree, base)]
    while left:
        folder, new, old = left.pop()
        for name, node in children_of(new).items():
            path = folder + b"/" + name if folder else name
            below = children_of(old).get(name)
            if node.type == DIR and below is not None and below.type == DIR:
                left.append((path, node, below))
                if _attributes(node) != _attributes(below):
                    directory_at(layer, tree, path)
            elif path not in equal:
                _put(layer, tree, path, node)
        _remove(layer, tree, folder, new, old)
    return layer


def _equal_files(tree: Node, base: Node, is_same_content: Callable[[Node, Node], bool]) -> set[bytes]:
    """The paths of all but directories that are equal in both trees.

    A hard link cannot lead into another layer, so what is equal has the same names in both, too, as far as they are
    those of equal files.
    """
    found, below = dict(walk(tree)), dict(walk(base))
    pairs = ((path, node, below[path]) for path, node in found.items() if node.type != DIR and path in below)
    same = {path for path, node, old in pairs if _is_same(node, old, is_same_content)}
    names, old_names = _names_of(found), _names_of(below)
    return {path for path in same if names[found[path]] == old_names[below[path]] & same}


def _remove(layer: Node, tree: Node, folder: bytes, new: Node, old: Node) -> None:
    """Hide what a directory has no more: one by one, or all at once if nothing is left of it."""
    gone = children_of(old).keys() - children_of(new).keys()
    if not gone:
        return
    directory = directory_at(layer, tree, folder)
    if folder and len(gone) == len(children_of(old)):
        directory.xattrs = {**directory.xattrs, **dict([OPAQUE_XATTR])}
    else:
        children_of(directory).update({name: Node(CHR, 0) for name in gone})


def _put(layer: Node, tree: Node, path: bytes, node: Node) -> None:
    folder, _, name = path.rpartition(b"/")
    children_of(directory_at(layer, tree, folder))[name] = node


def directory_at(layer: Node, tree: Node, path: bytes) -> Node:
    """The layer's directory at a path; those on the way that it lacks become like the tree's."""
    for name in filter(None, path.split(b"/")):
        tree = children_of(tree)[name]
        layer = children_of(layer).setdefault(name, replace(tree, children={}))
    return layer


def _is_same(node: Node, below: Node, is_same_content: Callable[[Node, Node], bool]) -> bool:
    return node is below or (_attributes(node) == _attributes(below) and is_same_content(node, below))


def _attributes(node: Node) -> tuple[object, ...]:
    return node.type, node.mode, node.uid, node.gid, node.target, node.device, node.size, dict(node.xattrs)


def _names_of(nodes: Mapping[bytes, Node]) -> dict[Node, set[bytes]]:
    names: dict[Node, set[bytes]] = {}
    for path, node in nodes.items():
        names.setdefault(node, set()).add(path)
    return names
