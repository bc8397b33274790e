"""From exec to READY in one VM, against the shell script that the agent descends from: the same disks, in turn."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from bench.disks import four_disks
from bench.startjob import FLOOR, INSTALL_FLOOR, OURS, SCRIPT, exec_to_ready
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.cachedguests import packaged_guest

SCRIPT_FILE = Path(__file__).with_name("nixos.sh")
INSTALL_SCRIPT = """
echo {script} | base64 --decode >/etc/bench-nixos.sh
cat >/etc/systemd/system/{unit} <<END
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash /etc/bench-nixos.sh {labels}
END
systemctl daemon-reload
"""


def measure_vm(folder: Path, rounds: int) -> dict[str, list[float]]:
    """The agent, the script and the floor, with what they read in the page cache and without, as at boot."""
    disks = [disk.rename(disk.with_stem(inspect_disk(disk).label)) for disk in four_disks(folder)]
    labels = " ".join(disk.stem for disk in disks)
    config = VmConfig.of_guest(packaged_guest())
    figures: dict[str, list[float]] = {}
    with Vm(replace(config, disks=tuple(disks), credentials={"docker-preloader.expect": labels})) as vm:
        vm.wait_booted()
        vm.succeed(INSTALL_FLOOR)
        script = base64.b64encode(SCRIPT_FILE.read_bytes()).decode()
        vm.succeed(INSTALL_SCRIPT.format(script=script, unit=SCRIPT, labels=labels))
        for _ in range(rounds):
            for name, is_cold in (("warm", False), ("cold", True)):
                times = {unit: exec_to_ready(vm, unit, is_cold=is_cold) for unit in (OURS, SCRIPT, FLOOR)}
                figures.setdefault(f"VM, {name}: exec to READY, 4 disks, ms", []).append(times[OURS])
                figures.setdefault(f"VM, {name}: NixOS's script, ms", []).append(times[SCRIPT])
                figures.setdefault(f"VM, {name}: READY=1 alone, ms", []).append(times[FLOOR])
                ratio = times[OURS] / times[SCRIPT]
                figures.setdefault(f"VM, {name}: ours / script (goal 0.2)", []).append(ratio)
    return figures
