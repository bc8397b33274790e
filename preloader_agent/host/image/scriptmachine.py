"""A machine in which an image is unpacked, and a script is real root: that of a guest, which is thrown away.

The guest is anybody's: it needs qemu-guest-agent, overlayfs, GNU tar, e2fsprogs and util-linux, which guests of
`preloader guest build` have. What goes in and comes out are tars on disks without a file system, so that the guest,
whoever is root there, can write nothing else of the host.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from preloader_agent.errors import CommandFailed, VmError
from preloader_agent.host.diskimage import large_files_folder
from preloader_agent.host.image.shellparts import part_words
from preloader_agent.host.run import OUTPUT_TAIL
from preloader_agent.host.scratch import scratch_folder
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from preloader_agent.host.vm.syntax import escaped

_FOLDER = "/run/preloader-image"
_WORK_SIZE = _OUTPUT_SIZE = 64 << 30  # bytes; both take only what is written to them
_TIMEOUT = 24 * 3600.0  # seconds; whoever does not want to wait that long interrupts us
_DISK = "/dev/disk/by-id/virtio-"
_TOTAL = re.compile(r"^Total bytes written: (\d+) ", re.MULTILINE)  # of tar's --totals


@dataclass(frozen=True)
class ScriptMachine:
    """A running machine, and the file that its output goes to. See overlay.Place."""

    vm: Vm
    output: Path

    def run(self, script: str) -> str:
        """See Place."""
        encoded = base64.b64encode(script.encode()).decode()
        return _run_part(self.vm, "run-in-overlay", before=f"echo {encoded} | base64 -d | ")

    @contextmanager
    def packed_changes(self) -> Iterator[BinaryIO]:
        """See Place."""
        said = _run_part(self.vm, "pack-changes", "--totals", after=f" >{_DISK}output")
        total = _TOTAL.search(said)
        if total is None:
            raise VmError(f"the guest's tar is not GNU tar: {said}")
        os.truncate(self.output, int(total[1]))
        with self.output.open("rb") as packed:
            yield packed


@contextmanager
def open_machine(config: VmConfig, chunks: Iterable[bytes]) -> Iterator[ScriptMachine]:
    """A machine with an image's file system, which comes as a tar, for a block. Raises VmError and ToolError.

    What it writes is not kept, and it has no network, whatever the configuration says.
    """
    with scratch_folder(large_files_folder()) as folder:
        given, output = folder / "input", folder / "output"
        with given.open("wb") as file:
            file.writelines(chunks)
        output.touch()
        os.truncate(output, _OUTPUT_SIZE)
        words = (*_drive("input", given, "on"), *_drive("output", output, "off"))
        sealed = replace(config, snapshot=True, network=None, empty_disks=(_WORK_SIZE,), is_interactive=False)
        with Vm(replace(sealed, qemu_args=(*config.qemu_args, *words))) as vm:
            vm.wait_for_shell()  # nothing here needs docker
            vm.wait_until_succeeds(" && ".join(f"test -b {_DISK}{name}" for name in ("empty0", "input", "output")))
            vm.succeed(f"mkfs.ext4 -q -O ^has_journal {_DISK}empty0")
            vm.succeed(f"mkdir {_FOLDER} && mount {_DISK}empty0 {_FOLDER}")
            _run_part(vm, "unpack-image", after=f" <{_DISK}input")
            yield ScriptMachine(vm, output)


def _run_part(vm: Vm, name: str, *arguments: str, before: str = "", after: str = "") -> str:
    words = shlex.join(part_words(name, _FOLDER, *arguments))
    status, output = vm.execute(f"{before}{words}{after}", _TIMEOUT)
    if status != 0:
        raise CommandFailed(["run_as_root:", name], status, output[-OUTPUT_TAIL:])
    return output


def _drive(name: str, path: Path, read_only: str) -> list[str]:
    """A raw disk, which the guest knows by its serial."""
    drive = f"file={escaped(path)},format=raw,if=none,id={name},read-only={read_only},discard=unmap"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]
