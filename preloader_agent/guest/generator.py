"""The units of containers, written when systemd reads its units: at boot, and on `systemctl daemon-reload`.

systemd waits for it, so the script that it runs (units/docker-preloader-generator) comes here only where a file
describes a container. A file that cannot be used has a unit that fails with the reason: nobody reads what a generator
prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from preloader_agent.containers.definition import unit_name
from preloader_agent.containers.unit import make_failing_unit, make_unit
from preloader_agent.guest.definitions import Definition, list_files, read_definitions

_KERNEL_LOG = "/dev/kmsg"  # the journal may not run yet (systemd.generator(7))
_TARGET = "multi-user.target"


def write_units(folder: str, root: str = "") -> None:
    """Write a unit for each container into a folder of systemd's. Raises OSError."""
    for definition in read_definitions(list_files(root), root):
        if definition.problem is not None:
            _write_kernel_log(f"docker-preloader: {definition.problem}")
        if definition.can_have_unit:
            _write_unit(folder, definition)


def unit_text(definition: Definition) -> str:
    """The unit of a container, or of one that cannot be started."""
    program = (sys.executable, "-I", os.path.abspath(sys.argv[0]))
    if definition.container is None:
        return make_failing_unit(definition.name, definition.file, program)
    return make_unit(definition.container, definition.file, program)


def _write_unit(folder: str, definition: Definition) -> None:
    unit = unit_name(definition.name)
    with open(f"{folder}/{unit}", "w", encoding="utf-8") as file:
        file.write(unit_text(definition))
    if definition.is_started_at_boot:
        os.makedirs(f"{folder}/{_TARGET}.wants", exist_ok=True)
        os.symlink(f"../{unit}", f"{folder}/{_TARGET}.wants/{unit}")


def _write_kernel_log(text: str) -> None:
    line = "".join(character if character.isprintable() else " " for character in text)
    with suppress(OSError):  # a machine that is a container may have none
        log = os.open(_KERNEL_LOG, os.O_WRONLY | os.O_NOCTTY)
        os.write(log, f"<3>{line}\n".encode()[:900])  # the kernel takes 1000
        os.close(log)
