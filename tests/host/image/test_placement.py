"""Where contents go: below symlinks to directories, and with the base's attributes of its directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from preloader_agent.errors import InputError, InvalidFile
from preloader_agent.host.image.filesystem import flatten, walk
from preloader_agent.host.image.placement import place
from preloader_agent.host.image.rules import Rule, compile_pattern, refuse_unused
from preloader_agent.host.node import Node, make_directory
from preloader_agent.host.tarstream import DIR, REG, SYM


def tree(nodes: Mapping[str, Node]) -> Node:
    """A tree of what stands at some paths, with directories that lead there."""
    root = make_directory()
    for path, node in nodes.items():
        *folders, name = path.encode().split(b"/")
        directory = root
        for folder in folders:
            assert directory.children is not None
            directory = directory.children.setdefault(folder, make_directory())
        assert directory.children is not None
        directory.children[name] = node
    return root


def file() -> Node:
    return Node(REG, 0o644)


def symlink(target: str) -> Node:
    return Node(SYM, 0o777, target=target.encode())


def rule(pattern: str, uid: int | None = None, mode: int | None = None) -> Rule:
    return Rule(compile_pattern(pattern), uid, None, mode, InvalidFile("app.toml", 1, "path", pattern))


def placed(added: Mapping[str, Node], base: Mapping[str, Node], rules: Sequence[Rule] = ()) -> dict[bytes, Node]:
    below = flatten([tree(base)])
    return dict(walk(place(tree(added), below, below, rules)))


@pytest.mark.parametrize(
    ("link", "target", "expected"),
    [
        ("bin", "usr/bin", b"usr/bin/x"),
        ("bin", "/usr/bin", b"usr/bin/x"),
        ("bin", "../../usr/./bin", b"usr/bin/x"),
        ("bin", "sbin", b"usr/bin/x"),
        ("bin", "nowhere", b"bin/x"),
        ("bin", "usr/bin/tool", b"bin/x"),
        ("bin", "bin", b"bin/x"),
    ],
)
def test_a_directory_goes_where_a_symlink_to_a_directory_leads(link: str, target: str, expected: bytes) -> None:
    base = {"usr/bin/tool": file(), "sbin": symlink("usr/bin"), link: symlink(target)}
    found = placed({"bin/x": file()}, base)
    assert [path for path, node in found.items() if node.type == REG] == [expected]


def test_deeper_symlinks_are_followed_too() -> None:
    base = {"usr/lib/arch/y": file(), "usr/lib64": symlink("lib"), "lib64": symlink("usr/lib64")}
    assert list(placed({"lib64/arch/x": file()}, base)) == [b"usr", b"usr/lib", b"usr/lib/arch", b"usr/lib/arch/x"]


def test_two_ways_to_one_place_meet_there() -> None:
    base = {"usr/bin/tool": file(), "bin": symlink("usr/bin")}
    added = {"bin/x": file(), "bin/both": file(), "usr/bin/y": file(), "usr/bin/both": replace(file(), mode=0o755)}
    found = placed(added, base)
    assert sorted(found) == [b"usr", b"usr/bin", b"usr/bin/both", b"usr/bin/x", b"usr/bin/y"]
    assert found[b"usr/bin/both"].mode == 0o755


@pytest.mark.parametrize(
    "added", [("link/x", "real"), ("a/f", "b/f/x"), ("b/f", "a/f/x"), ("a/d", "b/d/x"), ("b/d", "a/d/x")]
)
def test_two_ways_to_one_place_do_not_meet_where_one_is_no_directory(added: Sequence[str]) -> None:
    base = {"real/x": file(), "link": symlink("real"), "a/d/y": file(), "b": symlink("a")}
    with pytest.raises(InputError, match="one directory of contents has a directory and something else there"):
        placed({path: file() for path in added}, base)


def test_what_is_no_directory_replaces_what_is_there() -> None:
    base = {"etc/a": file(), "bin": symlink("etc"), "x": file()}
    found = placed({"etc": symlink("x"), "bin": file(), "x/y": file()}, base)
    assert [(path, node.type) for path, node in found.items()] == [
        (b"bin", REG),
        (b"etc", SYM),
        (b"x", DIR),
        (b"x/y", REG),
    ]


def test_a_directory_of_the_base_keeps_its_attributes_unless_a_rule_says_otherwise() -> None:
    kept = Node(DIR, 0o1777, uid=5, xattrs={b"user.a": b"b"}, children={})
    base = {"tmp": kept, "home": replace(kept, children={}), "new": file()}
    found = placed(
        {"tmp/x": file(), "home/y": file(), "new/z": file()}, base, [rule("/home", uid=9), rule("/**/y", mode=0)]
    )
    assert (found[b"tmp"].mode, found[b"tmp"].uid, found[b"tmp"].xattrs) == (0o1777, 5, {b"user.a": b"b"})
    assert (found[b"home"].mode, found[b"home"].uid) == (0o1777, 9)
    assert (found[b"new"].mode, found[b"home/y"].mode) == (0o755, 0)


def test_rules_are_about_places_in_the_image_and_the_last_one_holds() -> None:
    base = {"usr/bin/tool": file(), "bin": symlink("usr/bin")}
    rules = [rule("/**", uid=1), rule("/usr/bin/x", uid=2, mode=0o4755), rule("/l", mode=0)]
    found = placed({"bin/x": file(), "l": symlink("x")}, base, rules)
    assert (found[b"usr/bin/x"].uid, found[b"usr/bin/x"].mode) == (2, 0o4755)
    assert (found[b"l"].uid, found[b"l"].mode) == (1, 0o777)
    assert found[b"usr"].uid == 0  # it was not among what was added


def test_a_rule_about_nothing_is_a_mistake() -> None:
    rules = [rule("/srv/**", uid=1)]
    refuse_unused(rules, [tree({"srv/x": file()}), tree({})])
    with pytest.raises(InvalidFile, match=r"app\.toml:1: path: /srv/"):
        refuse_unused(rules, [tree({"site/srv/x": file()})])
