"""`extra_commands`: a script over an image's tree in a scratch folder, as whoever calls us.

The folder shows what an ordinary user can make of the tree: all but device nodes, owners, and xattrs other than
"user.". What the script leaves as it was keeps all of that; so the result does not depend on who runs it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from preloader_agent.errors import CommandFailed, ScriptFailed
from preloader_agent.host.image.content import Content
from preloader_agent.host.image.filesystem import children_of, walk
from preloader_agent.host.image.folder import read_folder
from preloader_agent.host.image.rules import Rule, apply_rules
from preloader_agent.host.node import Node
from preloader_agent.host.run import run
from preloader_agent.host.tarstream import BLK, CHR, DIR, FIFO, SYM

_GRACE = 5.0  # seconds that a script has to end when we are interrupted
# What would differ from caller to caller is set: modes of new files, and what dates are made of.
_SHELL = 'cd "$1" && umask 022 && export TZ=UTC SOURCE_DATE_EPOCH="$3" && exec sh -e "$2"'


def run_commands(  # noqa: PLR0913, PLR0917
    script: str,
    tree: Node,
    rules: Sequence[Rule],
    content: Content,
    scratch: Path,
    epoch: int,
    say: Callable[[str], None],
) -> Node:
    """What a script makes of a flattened tree; `say` is given the lines that it prints.

    Unless a rule says otherwise, what it makes belongs to root, what it changes to whom it belonged. Raises
    ScriptFailed for a script that fails, and InputError for one that leaves what no image can hold.
    """
    folder, file = scratch / "tree", scratch / "extra_commands"
    write_tree(tree, folder, content)
    before = read_folder(folder, content, epoch, is_ours=True)
    file.write_text(script)
    shell: list[str | Path] = ["sh", "-c", _SHELL, "sh", folder, file, str(epoch)]
    try:
        printed = run(shell, with_stderr=True, grace=_GRACE)
    except CommandFailed as err:
        raise ScriptFailed("extra_commands", err.status, err.output) from err
    for line in printed.splitlines():
        say(line)
    return _restore(read_folder(folder, content, epoch, is_ours=True), before, tree, content, rules)


def write_tree(tree: Node, folder: Path, content: Content) -> None:
    """Write what an ordinary user can; modes leave the owner all that is needed to read it again, and remove it.

    Times are the tree's, since programs note them: Python's compiled modules those of their sources.
    """
    folder.mkdir(0o700)
    first_names: dict[Node, Path] = {}
    for path, node in walk(tree):
        place = folder / os.fsdecode(path)
        if node.type in (CHR, BLK):
            continue
        if (first := first_names.setdefault(node, place)) != place:
            os.link(first, place, follow_symlinks=False)
        else:
            _write_node(node, place, content)
    for node, place in reversed(first_names.items()):  # what is in a directory would change its time
        os.utime(place, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)


def _write_node(node: Node, place: Path, content: Content) -> None:
    if node.type == SYM:
        os.symlink(node.target, os.fsencode(place))
        return
    if node.type == DIR:
        place.mkdir()
    elif node.type == FIFO:
        os.mkfifo(place)
    else:
        with place.open("xb") as file:
            file.writelines(content.read(node))
    for name, value in node.xattrs.items():
        if name.startswith(b"user."):
            _set_xattr(place, name, value)
    place.chmod(node.mode | (0o700 if node.type == DIR else 0o600))


def _set_xattr(place: Path, name: bytes, value: bytes) -> None:
    """Where the scratch folder's file system has none, the script sees none."""
    try:
        os.setxattr(place, name, value)
    except OSError as err:
        if err.errno != errno.ENOTSUP:
            raise


def _restore(found: Node, before: Node, tree: Node, content: Content, rules: Sequence[Rule]) -> Node:
    """Give what was found the attributes that the folder did not show; what is as before is the tree's own node."""
    known, shown = dict(walk(tree)), dict(walk(before))
    final: dict[Node, Node] = {}
    taken: set[Node] = set()  # two files that were one of two names are not it any more, both
    for path, node in walk(found):
        old = shown.get(path)
        if old is not None and old.type == node.type and node not in final:
            kept = _find_kept(node, old, known[path], content)
            final[node] = node if kept in taken else kept
            taken.add(kept)
            if node.type != DIR and final[node] is node:
                apply_rules(rules, path, node)
        elif node not in final:
            apply_rules(rules, path, node)
    for directory in (found, *(node for _, node in walk(found) if node.type == DIR)):
        children = children_of(directory)
        children.update({name: final.get(node, node) for name, node in children.items()})
    _put_devices(dict(walk(found)) | {b"": found}, known)
    return found


def _find_kept(node: Node, old: Node, kept: Node, content: Content) -> Node:
    """The tree's own node if nothing happened to it, else the one that was found, with what it kept."""
    is_same = node.target == kept.target and content.is_same(node, kept)
    is_untouched = is_same and (node.mode, node.xattrs) == (old.mode, old.xattrs)
    hidden = {name: value for name, value in kept.xattrs.items() if is_same and not name.startswith(b"user.")}
    users = {name: value for name, value in kept.xattrs.items() if name.startswith(b"user.")}
    node.mode = kept.mode if node.mode == old.mode else node.mode
    node.xattrs = {**hidden, **(users if node.xattrs == old.xattrs else node.xattrs)}
    node.uid, node.gid = kept.uid, kept.gid
    return kept if is_untouched and node.type != DIR else node


def _put_devices(found: Mapping[bytes, Node], known: Mapping[bytes, Node]) -> None:
    """Device nodes stay where their directories are."""
    for path, node in known.items():
        folder, _, name = path.rpartition(b"/")
        directory = found.get(folder)
        if node.type in (CHR, BLK) and directory is not None and directory.type == DIR:
            children_of(directory).setdefault(name, node)
