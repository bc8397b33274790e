"""What layers show together, and the layer that makes one tree of another: over it, the base shows that tree again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from preloader_agent.host.image.filesystem import flatten, is_opaque, is_whiteout, subtract, walk
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import CHR, DIR, FIFO, REG, SYM
from preloader_agent.host.tree import OPAQUE_XATTR
from tests.host.tars import nodes_below
from tests.strategies import bounded


def file(content: bytes = b"", mtime_ns: int = 0) -> Node:
    """A file whose xattr says what is in it."""
    return Node(REG, 0o644, xattrs={b"content": content}, size=5, mtime_ns=mtime_ns)


def directory(**children: Node) -> Node:
    made = make_directory()
    made.children = {name.encode(): node for name, node in children.items()}
    return made


def is_same(one: Node, other: Node) -> bool:
    assert one.type == other.type
    return True  # the xattr is compared anyway


def layer_between(tree: Node, base: Node) -> Node:
    return subtract(flatten([tree]), flatten([base]), is_same)


def paths_of(root: Node) -> list[bytes]:
    return [path for path, _ in walk(root)]


def described(root: Node) -> dict[bytes, tuple[object, ...]]:
    """A tree as values: each path with its attributes and all the names of its node."""
    names: dict[Node, list[bytes]] = {}
    for path, node in walk(root):
        names.setdefault(node, []).append(path)
    return {
        path: (node.type, node.mode, node.uid, node.target, dict(node.xattrs), names[node]) for path, node in walk(root)
    }


def test_walk_is_sorted_and_has_directories_before_what_is_in_them() -> None:
    root = directory(b=file(), a=directory(z=file(), c=directory(x=file())), d=file())
    assert paths_of(root) == [b"a", b"a/c", b"a/c/x", b"a/z", b"b", b"d"]


def test_walk_of_a_path_as_deep_as_they_come() -> None:
    root = directory()
    for _ in range(2000):
        root = directory(d=root)
    assert len(paths_of(flatten([root]))) == 2000
    assert len(paths_of(layer_between(root, directory()))) == 2000


def test_layers_merge_directories_and_replace_the_rest() -> None:
    lower = directory(etc=directory(a=file(b"old"), b=file()), bin=directory(x=file()), f=file())
    upper = directory(etc=replace(directory(a=file(b"new"), c=file()), mode=0o700), bin=file(), f=directory(g=file()))
    found = nodes_below(flatten([lower, upper]))
    assert sorted(found) == [b"bin", b"etc", b"etc/a", b"etc/b", b"etc/c", b"f", b"f/g"]
    assert found[b"etc/a"].xattrs == {b"content": b"new"}
    assert found[b"etc"].mode == 0o700


def test_markers_hide_what_is_below_and_are_not_seen() -> None:
    lower = directory(d=directory(a=file(), b=file()), e=directory(a=file()), f=file())
    opaque = replace(directory(new=file()), xattrs=dict([OPAQUE_XATTR]))
    found = nodes_below(
        flatten([lower, directory(d=opaque, e=directory(a=Node(CHR, 0)), f=Node(CHR, 0), g=Node(CHR, 0))])
    )
    assert sorted(found) == [b"d", b"d/new", b"e"]
    assert found[b"d"].xattrs == {}


def test_what_is_equal_is_left_out_with_the_directories_that_lead_to_it() -> None:
    base = directory(etc=directory(a=file(), b=file()), usr=directory(bin=directory(x=file())))
    tree = directory(etc=directory(a=file(mtime_ns=7), b=file(b"new")), usr=directory(bin=directory(x=file())))
    assert paths_of(layer_between(tree, base)) == [b"etc", b"etc/b"]


def test_removals_become_whiteouts_and_an_emptied_directory_opaque() -> None:
    base = directory(etc=directory(a=file(), b=file()), usr=directory(x=file()), var=directory(y=file()), z=file())
    tree = directory(etc=directory(a=file()), var=directory(new=file()))
    layer = nodes_below(layer_between(tree, base))
    assert sorted(layer) == [b"etc", b"etc/b", b"usr", b"var", b"var/new", b"z"]
    assert all(is_whiteout(layer[path]) for path in (b"etc/b", b"usr", b"z"))
    assert is_opaque(layer[b"var"])


def test_a_root_is_never_opaque_since_overlayfs_would_not_look() -> None:
    layer = layer_between(directory(new=file()), directory(old=file()))
    assert is_whiteout(nodes_below(layer)[b"old"])
    assert not is_opaque(layer)


def test_names_of_a_file_stand_in_one_layer() -> None:
    """A hard link cannot lead into another layer."""
    one, other = file(), file()
    base = directory(a=file(), b=file(), c=file())
    assert paths_of(layer_between(directory(a=one, b=one, c=file()), base)) == [b"a", b"b"]
    linked = directory(a=other, b=other, c=other)
    assert paths_of(layer_between(directory(a=one, b=one), linked)) == [b"c"]
    assert paths_of(layer_between(directory(a=one, b=one, c=file()), linked)) == [b"a", b"b", b"c"]


names = st.sampled_from([b"a", b"b", b"c"])


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Node:
    """A tree with few names, so that two of them have much in common, and with hard links."""
    known: list[Node] = []

    def draw_node(left: int) -> Node:
        if left and draw(st.integers(0, 2)):
            made = make_directory(draw(st.sampled_from([0o755, 0o700])))
            made.children = {name: draw_node(left - 1) for name in sorted(draw(st.sets(names)))}
            return made
        if draw(st.booleans()) and known:
            return draw(st.sampled_from(known))
        kind = draw(st.sampled_from([REG, REG, REG, SYM, FIFO]))
        known.append(Node(kind, 0o644, uid=draw(st.sampled_from([0, 1])), target=b"t" if kind == SYM else b""))
        return known[-1]

    root = make_directory()
    root.children = {name: draw_node(depth) for name in sorted(draw(st.sets(names)))}
    return root


@bounded
@given(trees(), trees())
def test_a_base_with_the_difference_over_it_is_the_tree(tree: Node, base: Node) -> None:
    layer = layer_between(tree, base)
    assert described(flatten([base, layer])) == described(flatten([tree]))
    assert paths_of(layer_between(tree, tree)) == []


@bounded
@given(trees(), trees(), trees())
def test_layers_flatten_one_by_one_as_well(first: Node, second: Node, third: Node) -> None:
    upper = layer_between(third, second)
    assert described(flatten([flatten([first, second]), upper])) == described(flatten([first, second, upper]))


def directories(root: Node) -> Iterator[Node]:
    return (node for _, node in walk(root) if node.type == DIR)


@bounded
@given(trees(), trees())
def test_nothing_that_is_given_is_changed(tree: Node, base: Node) -> None:
    before = described(tree), described(base)
    layer = layer_between(tree, base)
    flatten([base, layer])
    assert (described(tree), described(base)) == before
    assert not {id(node) for node in directories(flatten([tree]))} & {id(node) for node in directories(tree)}
