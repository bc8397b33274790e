"""Which versions a guest of each release of Debian has of what the agent lives with."""

from __future__ import annotations

import re

from preloader_agent.host.guests.base import Suite
from preloader_agent.host.vm.driver import Vm

_COMMANDS = {
    "systemd": "systemctl --version",
    "python": "python3 --version",
    "docker": "docker version --format '{{.Server.Version}}'",
    "kernel": "uname --kernel-release",
}
# Of a stable release, the versions begin so; testing goes on from there.
_EXPECTED: dict[Suite, dict[str, tuple[int, ...]]] = {
    Suite.BOOKWORM: {"systemd": (252,), "python": (3, 11), "docker": (20, 10), "kernel": (6, 1)},
    Suite.TRIXIE: {"systemd": (257,), "python": (3, 13), "docker": (26, 1), "kernel": (6, 12)},
    Suite.FORKY: {"systemd": (262,), "python": (3, 14), "docker": (28, 5), "kernel": (7,)},
}


def check_versions(vm: Vm, suite: Suite) -> None:
    """See that a guest is what it is thought to be."""
    found = {name: vm.succeed(command) for name, command in _COMMANDS.items()}
    numbers = {name: tuple(map(int, re.findall(r"\d+", text))) for name, text in found.items()}
    for name, expected in _EXPECTED[suite].items():
        if suite is Suite.FORKY:
            assert numbers[name] >= expected, found
        else:
            assert numbers[name][: len(expected)] == expected, found
