"""Trees are described by what matters, and each difference is named."""

from __future__ import annotations

import os
from pathlib import Path

from tests.tree import describe_tree, tree_differences


def make_tree(root: Path) -> Path:
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"content")
    (root / "link").symlink_to("/nowhere")
    os.link(root / "folder" / "file", root / "again")
    os.mkfifo(root / "pipe")
    for path in ("folder/file", "link", "pipe", "folder"):
        os.utime(root / path, ns=(0, 1_500_000_000), follow_symlinks=False)
    return root


def test_equal_trees(tmp_path: Path) -> None:
    one, two = (describe_tree(make_tree(tmp_path / name)) for name in ("one", "two"))
    assert tree_differences(one, two) == []


def test_nodes_say_what_they_are(tmp_path: Path) -> None:
    tree = describe_tree(make_tree(tmp_path / "root"))
    assert list(tree) == [b"again", b"folder", b"folder/file", b"link", b"pipe"]
    assert {path: node.type for path, node in tree.items()}[b"pipe"] == "fifo"
    assert tree[b"link"].target == b"/nowhere"
    assert tree[b"again"].links == (b"again", b"folder/file")
    assert tree[b"folder"].mtime_ns == 1_500_000_000


def test_differences_are_named(tmp_path: Path) -> None:
    one, two = (make_tree(tmp_path / name) for name in ("one", "two"))
    (two / "folder" / "file").chmod(0o600)
    (two / "link").unlink()
    (two / "new").mkdir()
    lines = tree_differences(describe_tree(one), describe_tree(two, skip={b"again"}))
    assert lines[:3] == ["b'again': missing", "b'link': missing", "b'new': not expected"]
    assert "b'folder/file': mode: expected 420, found 384" in lines
    assert "b'folder/file': links: expected (b'again', b'folder/file'), found ()" in lines


def test_skipped_paths(tmp_path: Path) -> None:
    assert b"folder/file" not in describe_tree(make_tree(tmp_path / "root"), skip={b"folder"})
