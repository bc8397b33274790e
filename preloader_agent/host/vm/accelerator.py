"""How QEMU runs a guest here: with KVM, where that works, or by emulation."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from preloader_agent.host.run import find_tool, run

QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Accelerator:
    """How the guest's instructions are run, and which processor it sees."""

    accel: str
    cpu: str


def kvm_works(kvm: Path, cpuinfo: Path, machine: str) -> bool:
    """Whether KVM can run a guest here.

    On x86 a /dev/kvm without vmx or svm (a nested one that emulates) opens, and then hangs at "Booting from ROM".
    """
    try:
        os.close(os.open(kvm, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    if machine not in {"x86_64", "i686"}:
        return True
    return re.search(r"^flags\b.*\b(vmx|svm)\b", cpuinfo.read_text(), re.MULTILINE) is not None


def choose_accelerator(kvm: bool, qemu_major: int) -> Accelerator:
    """KVM where it works, else emulation with the best processor that this QEMU emulates correctly."""
    if kvm:
        return Accelerator("kvm", "host")
    # MiB of translated code. The default, 1 GiB, is never filled, so what a reboot leaves is only thrown away page by
    # page: measured on QEMU 7.2, a reboot takes 55 s of processor time instead of 37, and QEMU 1.6 GB instead of 0.6.
    accel = "tcg,thread=multi,tb-size=128"
    # QEMU 7.2's TCG corrupts RFLAGS at CMPXCHG16B: kernels since about 6.6 double-fault in kmalloc.
    return Accelerator(accel, "max" if qemu_major >= 8 else "Nehalem,-cx16")


def find_accelerator() -> Accelerator:
    """Probe this host."""
    qemu = find_tool(QEMU, "`apt install qemu-system-x86`")
    version = re.search(r"version (\d+)", run([qemu, "--version"]))
    works = kvm_works(Path("/dev/kvm"), Path("/proc/cpuinfo"), platform.machine())
    return choose_accelerator(works, int(version[1]) if version else 0)
