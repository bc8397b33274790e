"""How long a unit takes to start in a guest, from an empty store and unmounted disks.

The times are systemd's own, of the same start: `systemctl start` would add its own start and the bus, which are equal
for all, and so make every ratio look better. A start before docker's is what the boot sees; docker is stopped.
"""

from __future__ import annotations

from typing import Protocol

OURS = "docker-preloader.service"
FLOOR = "bench-floor.service"  # the same sandbox and interpreter, and a program that is ready at once

FLOOR_PROGRAM = """
import os, signal, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""

# What our unit says, drop-ins included, but for what runs in it.
INSTALL_FLOOR = f"""
cat >/etc/bench-floor.py <<'END'
{FLOOR_PROGRAM}
END
cd /etc/systemd/system
mkdir -p {FLOOR}.d
cp /usr/lib/systemd/system/{OURS} {FLOOR}
cp {OURS}.d/* {FLOOR}.d/ 2>/dev/null || true
sed -i -e 's|^ExecStart=.* /usr/bin/docker-preloader run|ExecStart=/usr/bin/python3 -I /etc/bench-floor.py|' \
    -e '/^Before=/d' -e '/^WantedBy=/d' {FLOOR}
grep -q bench-floor.py {FLOOR}
systemctl daemon-reload
"""

RESET = f"""
systemctl stop docker.socket docker.service {OURS} {FLOOR} 2>/dev/null
for disk in /run/docker-preloader/disks/*; do
    [ ! -d "$disk" ] || umount "$disk" || exit 1
done
rm -rf /run/docker-preloader /var/lib/docker/image /var/lib/docker/overlay2
systemctl reset-failed # the limit of starts a minute
sync
"""


class Guest(Protocol):
    """A guest of tests.system.nspawn."""

    def succeed(self, command: str, timeout: float = ...) -> str:
        """Run a shell command that must succeed, and return its output."""


def start_job(guest: Guest, unit: str) -> float:
    """Start a unit; the milliseconds from its first process to the end of its start."""
    guest.succeed(RESET)
    guest.succeed(f"systemctl start {unit}")
    found = properties(guest, unit)
    assert found["ActiveState"] == "active", found["ActiveState"]
    began, ended = (int(found[f"{event}TimestampMonotonic"]) for event in ("InactiveExit", "ActiveEnter"))
    return (ended - began) / 1000


def properties(guest: Guest, unit: str) -> dict[str, str]:
    """What `systemctl show` prints."""
    lines = guest.succeed(f"systemctl show {unit}").splitlines()
    return dict(line.partition("=")[::2] for line in lines)
