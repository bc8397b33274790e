"""What a guest is told for a boot that is measured: units in credentials, wanted on the kernel's command line.

The guest itself is the same for all ways. The last unit of each boot looks whether every image is runnable, says so on
a port of its own, and then when each stage began and ended, by systemd's own clock.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

NOTHING, LOAD, SCRIPT, OURS = "nothing", "docker load", "script", "preloader"
AGENT = "docker-preloader.service"
CHECK = "bench-check.service"
BRINGS = {LOAD: "bench-load.service", SCRIPT: "bench-script.service", OURS: AGENT}  # the unit that brings the images
LOAD_LABEL = "bench-load"  # of the file system that the archive stands on
PORT = "bench"

_SCRIPT_FILE = Path(__file__).with_name("nixos.sh")
_LOAD_UNIT = f"""
[Unit]
After=docker.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount -o ro /dev/disk/by-label/{LOAD_LABEL} /mnt
ExecStart=docker load --quiet --input /mnt/images.tar
"""
_SCRIPT_UNIT = """
[Unit]
Before=docker.service
After={device}
Requires={device}
[Service]
Type=oneshot
RemainAfterExit=yes
StandardInput=data
StandardInputData={script}
ExecStart=/bin/bash -s -- {label}
"""
_CHECK_UNIT = """
[Unit]
After=docker.service bench-load.service
[Service]
Type=oneshot
RemainAfterExit=yes
StandardInput=data
StandardInputData={script}
ExecStart=/bin/bash -s
"""
_CHECK_SCRIPT = """
set -eu
exec >/dev/virtio-ports/{port} 2>&1
trap 'echo end=' EXIT
listed=$(docker image ls --quiet | wc -l)
[ "$listed" = {number} ] || {{ echo "docker lists $listed images, not {number}"; exit 1; }}
{container}
read -r now _ </proc/uptime
echo "ready=$now"
sync
echo "stat=$(cat "/sys/dev/block/$(stat --format=%Hd:%Ld /)/stat")"
systemctl show --property=UserspaceTimestampMonotonic
for unit in docker.service {units}; do
    systemctl show --property=InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic "$unit" | sed "s/^/$unit:/"
done
"""


def credentials(way: str, label: str, number: int, container: str) -> dict[str, str]:
    """The units of a boot; `container` is a command that runs one, or nothing."""
    units = f"{BRINGS.get(way, '')} {CHECK}"
    check = _CHECK_SCRIPT.format(port=PORT, number=number, container=container, units=units)
    found = {CHECK: _CHECK_UNIT.format(script=_encoded(check))}
    if way == LOAD:
        found[BRINGS[LOAD]] = _LOAD_UNIT
    if way == SCRIPT:
        device = f"dev-disk-by\\x2dlabel-{label.replace('-', chr(92) + 'x2d')}.device"
        script = _encoded(_SCRIPT_FILE.read_text())
        found[BRINGS[SCRIPT]] = _SCRIPT_UNIT.format(device=device, script=script, label=label)
    return {f"systemd.extra-unit.{name}": text for name, text in found.items()}


def kernel_words(way: str) -> str:
    """What is wanted in a boot beside what the guest wants itself; the agent is masked where it is not the way."""
    words = [f"systemd.wants={CHECK}"]
    if way in {LOAD, SCRIPT}:
        words.append(f"systemd.wants={BRINGS[way]}")
    if way != OURS:
        words.append(f"systemd.mask={AGENT}")
    return " ".join(words)


def parse(said: str) -> dict[str, str]:
    """What the last unit said, by name."""
    return dict(line.partition("=")[::2] for line in said.splitlines())


def span(values: Mapping[str, str], unit: str) -> tuple[float, float]:
    """The seconds on the guest's clock when a unit began to start, and when it had started."""
    began, ended = (int(values[f"{unit}:{event}TimestampMonotonic"]) / 1e6 for event in ("InactiveExit", "ActiveEnter"))
    return began, ended


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
