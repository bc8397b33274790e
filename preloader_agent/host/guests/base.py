"""A fresh Debian tree, as mmdebstrap unpacks and configures it from the distribution's packages.

All of it is in one tar file: without root, the owners of its files exist nowhere else.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preloader_agent.errors import CommandFailed, ReleaseExpired
from preloader_agent.host.guests.agentfiles import CODE
from preloader_agent.host.guests.bytecode import COMPILE
from preloader_agent.host.run import find_tool, run

PARTS = Path(__file__).parent / "parts"
MMDEBSTRAP_HINT = "`apt install mmdebstrap`, and uidmap where you are not root"
CLEAN_UP = 60.0  # seconds that an interrupted mmdebstrap has to remove its tree

# busybox is for our own initrd. The last line is what the agent needs, but for what a suite lacks.
_PACKAGES = (
    *(
        "systemd",
        "systemd-sysv",
        "systemd-resolved",
        "udev",
        "dbus",
        "kmod",
        "iproute2",
        "iptables",
        "procps",
        "login",
        "passwd",
    ),
    *("linux-image-cloud-amd64", "busybox-static", "docker.io", "qemu-guest-agent"),
    *("python3-pystemd", "python3-pyudev", "python3-sdnotify"),
)
# Documentation and translations are what no test reads.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*")
_EXPIRED = "is expired"


class Suite(enum.Enum):
    """A release of Debian that a guest can be made of."""

    BOOKWORM = "bookworm"
    TRIXIE = "trixie"
    FORKY = "forky"

    @property
    def packages(self) -> tuple[str, ...]:
        """What a guest has installed.

        In Debian 12, docker.io has the client itself, there is no orjson, and Docker 20.10 starts no container without
        apparmor_parser where the kernel has AppArmor.
        """
        own = ("apparmor",) if self is Suite.BOOKWORM else ("docker-cli", "python3-orjson")
        return (*_PACKAGES, *own)


@dataclass(frozen=True)
class BaseConfig:
    """What goes into a tree: the suite's own packages, and some more. Expired Release files are refused if checked."""

    suite: Suite
    include: Sequence[str] = ()
    is_validity_checked: bool = True


def make_base(config: BaseConfig, tar: Path) -> None:
    """Write the tree of a guest without the agent to a tar file.

    Raises ReleaseExpired, ToolMissing, and CommandFailed with the last that mmdebstrap said.
    """
    find_tool("mmdebstrap", MMDEBSTRAP_HINT)
    packages = ",".join([*config.suite.packages, *config.include])
    options = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    if not config.is_validity_checked:
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    # The hook is given as text: without root, mmdebstrap's user namespace may not enter the folder of our code.
    options.append(f"--customize-hook={(PARTS / 'configure').read_text()}")
    argv = ["mmdebstrap", "--variant=apt", f"--include={packages}", *options, config.suite.value, tar]
    try:
        # No initrd of the distribution's: ours is a tenth of the size.
        run(argv, env={"INITRD": "No"}, grace=CLEAN_UP)
    except CommandFailed as err:
        if _EXPIRED in err.output:
            lines = [line for line in err.output.splitlines() if _EXPIRED in line]
            raise ReleaseExpired(config.suite.value, lines) from err
        raise CommandFailed(["mmdebstrap", config.suite.value], err.status, err.output) from err


def install_package(suite: Suite, base: Path, package: Path, tar: Path) -> None:
    """Write the tree of a tar file, with a Debian package installed in it, to another.

    Raises ToolMissing, and CommandFailed if the package cannot be installed.
    """
    upload = f"upload {_quoted(package)} /package.deb"
    _change_tree(suite, base, tar, upload, 'chroot "$1" dpkg --install /package.deb && rm "$1/package.deb"')


def compile_agent(suite: Suite, base: Path, tar: Path) -> None:
    """Write the tree of a tar file, with the agent's modules compiled by its own Python, to another.

    Raises ToolMissing, and CommandFailed if that Python cannot be run here.
    """
    _change_tree(suite, base, tar, f'chroot "$1" python3 {shlex.join(COMPILE)} /{CODE}')


def _change_tree(suite: Suite, base: Path, tar: Path, *hooks: str) -> None:
    find_tool("mmdebstrap", MMDEBSTRAP_HINT)
    options = ["--quiet", "--variant=custom", "--skip=update,cleanup/apt/lists"]
    options += [f"--setup-hook=tar-in {_quoted(base)} /", *(f"--customize-hook={hook}" for hook in hooks)]
    # tar ends at an archive's end, and mmdebstrap at the SIGPIPE of what fills up the last record, unless tar reads on.
    run(["mmdebstrap", *options, suite.value, tar], env={"TAR_OPTIONS": "--ignore-zeros"}, grace=CLEAN_UP)


def _quoted(path: Path) -> str:
    """A path in a hook: mmdebstrap takes its words apart as a shell would."""
    return shlex.quote(str(path.absolute()))
