"""UEFI for a machine: found as QEMU has firmware described, so that it does not matter where a distribution puts it.

Format: QEMU docs/interop/firmware.json. Of the descriptions in a folder, those with the lower numbers come first.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from preloader_agent.errors import ToolMissing
from preloader_agent.host.run import environment
from preloader_agent.host.vm.accelerator import QEMU

MACHINE = "pc-q35-7.2"  # any version: descriptions name them all, as pc-q35-*
_FOLDERS = (Path("/etc/qemu/firmware"), Path("/usr/local/share/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_UNWANTED = {"requires-smm", "enrolled-keys"}  # Secure Boot: guests of all kinds shall boot


class Firmware(NamedTuple):
    """A UEFI in flash memory, and what its variables start as."""

    code: Path
    code_format: str
    variables: Path
    variables_format: str


def find_firmware() -> Firmware:
    """The first UEFI of this host for our machines. Raises ToolMissing when there is none."""
    for description in _descriptions():
        if _fits(description):
            mapping = description["mapping"]
            code, variables = mapping["executable"], mapping["nvram-template"]
            return Firmware(Path(code["filename"]), code["format"], Path(variables["filename"]), variables["format"])
    looked = ", ".join(map(str, _folders()))
    raise ToolMissing("UEFI firmware", f"`apt install ovmf`, or what else describes one in {looked}")


def _folders() -> list[Path]:
    """Where descriptions are: the usual places, and beside a QEMU that is installed elsewhere."""
    qemu = shutil.which(QEMU, path=environment()["PATH"])
    beside = [Path(qemu).resolve().parent.parent / "share/qemu/firmware"] if qemu else []
    return list(dict.fromkeys([*_FOLDERS, *beside]))


def _descriptions() -> Iterator[dict[str, Any]]:
    files = sorted((path for folder in _folders() for path in folder.glob("*.json")), key=lambda path: path.name)
    for path in files:
        with suppress(ValueError):  # what is not JSON describes nothing
            yield json.loads(path.read_text())


def _fits(description: dict[str, Any]) -> bool:
    mapping = description["mapping"]
    return (
        "uefi" in description["interface-types"]
        and mapping.get("device") == "flash"
        and "nvram-template" in mapping
        and not _UNWANTED.intersection(description["features"])
        and any(_is_target(target) for target in description["targets"])
        and Path(mapping["executable"]["filename"]).exists()
    )


def _is_target(target: dict[str, Any]) -> bool:
    machines = target["machines"]
    return target["architecture"] == "x86_64" and any(fnmatch.fnmatch(MACHINE, machine) for machine in machines)
