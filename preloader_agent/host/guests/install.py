"""The agent is put into a guest that exists: a root tree in a folder, in a tar file, or in a disk image.

Look at the tree, get what it lacks, plan, write: the same three times, but for the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preloader_agent.host.guests.agentfiles import Entry, list_agent_files
from preloader_agent.host.guests.bytecode import compile_modules
from preloader_agent.host.guests.folderroot import FolderTree, apply_to_folder
from preloader_agent.host.guests.guestpython import GuestPython, check_system, find_lacking, find_python
from preloader_agent.host.guests.imageedit import edit_image
from preloader_agent.host.guests.imageroot import apply_to_image
from preloader_agent.host.guests.plan import Plan, plan_install
from preloader_agent.host.guests.roottree import RootTree
from preloader_agent.host.guests.tarroot import TarTree, apply_to_tar
from preloader_agent.host.guests.wheels import carry_packages


@dataclass(frozen=True)
class Installed:
    """What an install came to: for which Python, what it brought along, and what a person should know.

    Without a Python of the guest's version on the host, the modules are not compiled: the guest does that.
    """

    python: GuestPython
    carried: tuple[str, ...]
    is_compiled: bool
    warnings: tuple[str, ...]


def install_into_folder(root: Path, wheels: Path | None = None) -> Installed:
    """Put the agent into a root tree in a folder, in place of one that was installed before.

    `wheels` is a folder to look into for what the guest's Python lacks. Raises InvalidGuest for a tree that it cannot
    work in, ToolError for what cannot be got, and PreloaderError when the tree cannot be written.
    """
    tree = FolderTree(root)
    installed, plan = _prepare(tree, wheels)
    apply_to_folder(tree, plan)
    return installed


def install_into_tar(tar: Path, wheels: Path | None = None) -> Installed:
    """Put the agent into an uncompressed tar file of a root tree, which is replaced when it is complete."""
    with TarTree(tar) as tree:
        installed, plan = _prepare(tree, wheels)
        apply_to_tar(tree, plan)
    return installed


def install_into_image(image: Path, wheels: Path | None = None) -> Installed:
    """Put the agent into a disk image, qcow2 or raw, whose root is ext4; it is replaced when it is complete.

    As `install_into_folder`, and InvalidGuest for an image that is in use, was not shut down, or is not ext4.
    """
    with edit_image(image) as (tree, folder):
        installed, plan = _prepare(tree, wheels)
        apply_to_image(tree, plan, folder)
    return installed


def _prepare(tree: RootTree, wheels: Path | None) -> tuple[Installed, Plan]:
    python = find_python(tree)
    warnings = check_system(tree)
    lacking = find_lacking(tree, python)
    entries: list[Entry] = [*list_agent_files(), *carry_packages(lacking, python, wheels)]
    compiled = compile_modules(entries, python)
    installed = Installed(python, tuple(lacking), bool(compiled), tuple(warnings))
    return installed, plan_install(tree, [*entries, *compiled])
