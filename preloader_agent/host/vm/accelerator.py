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


def choose_accelerator(kvm: bool, qemu: tuple[int, int]) -> Accelerator:
    """KVM where it works, else emulation as well as this version of QEMU does it correctly."""
    if kvm:
        return Accelerator("kvm", "host")
    # Before QEMU 8.1, one processor may translate code while another one patches it, and run the breakpoint that the
    # kernel had there for a moment: "Oops: int3" in one boot of some thousands. With one thread for all processors that
    # cannot happen, and a boot takes 1.5 times as long (Debian 13 on two cores).
    thread = "multi" if qemu >= (8, 1) else "single"
    # MiB of translated code. The default, 1 GiB, is never filled, so what a reboot leaves is only thrown away page by
    # page: measured on QEMU 7.2, a reboot takes 55 s of processor time instead of 37, and QEMU 1.6 GB instead of 0.6.
    accel = f"tcg,thread={thread},tb-size=128"
    # QEMU 7.2's TCG corrupts RFLAGS at CMPXCHG16B: kernels since about 6.6 double-fault in kmalloc.
    return Accelerator(accel, "max" if qemu >= (8, 0) else "Nehalem,-cx16")


def find_accelerator() -> Accelerator:
    """Probe this host."""
    qemu = find_tool(QEMU, "`apt install qemu-system-x86`")
    version = re.search(r"version (\d+)\.(\d+)", run([qemu, "--version"]))
    works = kvm_works(Path("/dev/kvm"), Path("/proc/cpuinfo"), platform.machine())
    return choose_accelerator(works, (int(version[1]), int(version[2])) if version else (0, 0))
