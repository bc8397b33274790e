"""What a measurement was made on: the machine, the versions of all that took part, and of ours."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

from bench.records import Value
from preloader_agent import __version__
from preloader_agent.host.run import run
from preloader_agent.host.vm.accelerator import QEMU, find_accelerator
from tests.cachedguests import packaged_guest

GUEST_PACKAGES = ("linux-image-cloud-amd64", "systemd", "docker.io", "containerd", "runc", "python3")
_NUMBER = re.compile(r"\d+(\.\d+)+")


def describe_machine() -> dict[str, Value]:
    """For people, and to tell whether two results may be compared: only if all of this is equal, and hardly then."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    accelerator = find_accelerator()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "docker-preloader": __version__,
        "commit": describe_commit(),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory, GiB": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "guests": "KVM" if accelerator.accel == "kvm" else f"emulated ({accelerator.accel}, {accelerator.cpu})",
        "python": platform.python_version(),
        "qemu": _version([QEMU, "--version"]),
        "dockerd": _version(["dockerd", "--version"]),
        "e2fsprogs": _version(["mke2fs", "-V"]),
        **guest_packages(packaged_guest()),
    }


def describe_commit() -> str:
    """The last commit that changed what is measured, and whether it was just that."""
    measured = ["--", "preloader_agent", "units"]
    commit = run(["git", "log", "-1", "--format=%h", "--abbrev=12", *measured]).strip()
    changed = run(["git", "status", "--porcelain", *measured])
    return f"{commit} with changes" if changed else commit


def guest_packages(guest: Path) -> dict[str, str]:
    """The versions of what runs in the guest."""
    status = run(["tar", "--extract", "--to-stdout", "--file", guest / "root.tar", "./var/lib/dpkg/status"])
    versions = dict(re.findall(r"^Package: (\S+)$(?:\n.+)*?\nVersion: (\S+)$", status, re.MULTILINE))
    return {f"guest's {name}": versions[name] for name in GUEST_PACKAGES}


def _version(argv: list[str]) -> str:
    found = _NUMBER.search(run(argv, with_stderr=True))
    return found[0] if found else "unknown"
