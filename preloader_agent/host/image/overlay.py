"""`run_as_root`: a script in an image's own file system, as root there, and nowhere else.

The image's files are unpacked below an overlay, the script runs in that with a root of its own, and what it changed is
what the overlay's upper directory then holds. Who its root is depends on the place: in a user namespace (`namespace`),
somebody who owns nothing on the host; in a machine (`scriptmachine`), the real one, for what no other may do: device
nodes, loop devices. In both, the same three shell scripts of ours do the work (parts/).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from preloader_agent.errors import InvalidValue, ScriptFailed
from preloader_agent.host.image.filesystem import walk
from preloader_agent.host.image.namespace import open_namespace
from preloader_agent.host.image.tarwriter import Read, tar_chunks
from preloader_agent.host.node import Node
from preloader_agent.host.run import OUTPUT_TAIL
from preloader_agent.host.staging import Stager
from preloader_agent.host.tree import OPAQUE_XATTR
from preloader_agent.host.vm.config import VmConfig

SCRIPT = "run_as_root"
_MAX_SCRIPT = 64 << 10  # bytes; it is one word of a command, of which Linux takes 128 KiB, and base64 makes it longer
_OVERLAY = b"user.overlay."  # overlayfs' own xattrs, as parts/run-in-overlay has it mounted
_OPAQUE = b"user.overlay.opaque"


class Place(Protocol):
    """Where an image is unpacked, and a script can be root."""

    def run(self, script: str) -> str:
        """Run it; what parts/run-in-overlay prints."""

    def packed_changes(self) -> AbstractContextManager[BinaryIO]:
        """A tar of what parts/run-in-overlay left in the upper directory."""


def run_in_image(tree: Node, read: Read, script: str, stager: Stager, machine: VmConfig | None = None) -> Node:
    """Run a sh script as root in an image's file system, with the image's own `/bin/sh -e` and without a network.

    `tree` is that file system, flattened, and `read` gives its content. Returns the tree of a layer that lies on it:
    what the script made, changed and removed, and nothing else; its content is in the blocks of `stager`. So what the
    image is then is `flatten([tree, changes])`. What a place cannot hold (see `namespace`) is unchanged in that.

    Raises ScriptFailed when the script fails, InvalidValue when it is too long, and ToolError or VmError when it cannot
    be run.
    """
    size = len(script.encode())
    if size > _MAX_SCRIPT:
        raise InvalidValue(SCRIPT, f"{size} bytes", f"at most {_MAX_SCRIPT}: more belongs into a file of the image")
    with _open_place(tree, read, machine) as place:
        _check_status(place.run(script))
        with place.packed_changes() as packed:
            return as_layer(stager.stage(packed, f"the changes of {SCRIPT}").root)


def _open_place(tree: Node, read: Read, machine: VmConfig | None) -> AbstractContextManager[Place]:
    if machine is None:
        return open_namespace(tree, read)
    # The driver needs more than an image does, of what is installed and of time.
    from preloader_agent.host.image.scriptmachine import open_machine  # noqa: PLC0415

    return open_machine(machine, tar_chunks(tree, read))


def _check_status(printed: str) -> None:
    output, _, status = printed.rstrip("\n").rpartition("\n")
    if status != "0":
        raise ScriptFailed(SCRIPT, int(status), output[-OUTPUT_TAIL:])


def as_layer(upper: Node) -> Node:
    """An upper directory of an overlay with `userxattr`, as the upper directory of one of Docker's, in place.

    Whiteouts are the same in both.
    """
    for _, node in walk(upper):
        xattrs = {name: value for name, value in node.xattrs.items() if not name.startswith(_OVERLAY)}
        if node.xattrs.get(_OPAQUE) == b"y":
            xattrs.update([OPAQUE_XATTR])
        node.xattrs = xattrs
    return upper
