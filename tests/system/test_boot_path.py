"""What the agent costs, in the unit that is shipped: what is imported before READY=1, and what it needs while idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.test_boot_path import EXPECTED, FORBIDDEN
from tests.images import app_image, busybox_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest

UNIT = "docker-preloader.service"
IMPORTS = "/run/imports.txt"
# Python writes a line for each module as it is imported.
LIST_IMPORTS = f"""[Service]
ExecStart=
ExecStart=/usr/bin/python3 -I -X importtime /usr/bin/docker-preloader run
StandardError=file:{IMPORTS}
"""
# What is imported when it is needed, and was: by a pass that puts the first layer into a store.
FIRST_LAYER = {"preloader_agent.guest.freshstore"}
MAX_RESIDENT = 25_000_000  # bytes
IDLE_SECONDS = 5


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("disks")
    return [make_raw_disk(folder / str(number), image()) for number, image in enumerate((busybox_image, app_image))]


def of_process(guest: NspawnGuest, field: str) -> int:
    """A number of the agent's /proc/PID/status."""
    line = guest.succeed(f"grep ^{field}: /proc/$(systemctl show --property=MainPID --value {UNIT})/status")
    return int(line.split()[1])


@pytest.mark.parametrize("number", [0, 1])
def test_the_unit_imports_what_the_list_says(tree: Path, disks: list[Path], number: int) -> None:
    files = {f"etc/systemd/system/{UNIT}.d/imports.conf": LIST_IMPORTS}
    with NspawnGuest(tree, disks[:number], files=files) as guest:
        assert f"{number} image" in guest.succeed("docker-preloader status")
        lines = guest.succeed(f"grep '^import time:' {IMPORTS}").splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    ours = {name for name in imported if name.startswith("preloader_agent")}
    assert ours == EXPECTED | (FIRST_LAYER if number else set())
    assert {name for name in imported if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN} == set()
    assert "_hashlib" not in imported  # OpenSSL


def test_an_idle_agent_sleeps(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        # The events of all loop devices of the host arrive in this guest.
        guest.succeed("systemctl stop systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service")
        before = of_process(guest, "voluntary_ctxt_switches")
        guest.succeed(f"sleep {IDLE_SECONDS}")
        assert of_process(guest, "voluntary_ctxt_switches") - before <= 1  # the watchdog's


def test_the_agent_stays_small_also_when_it_has_restarted_docker(tree: Path, disks: list[Path]) -> None:
    with NspawnGuest(tree, disks[:1]) as guest:
        assert of_process(guest, "VmHWM") * 1024 <= MAX_RESIDENT
        guest.attach(disks[1])
        guest.wait_until_succeeds("docker-preloader status | grep '^2 images from 2 disks'")
        assert of_process(guest, "VmHWM") * 1024 <= MAX_RESIDENT
