"""What can be said of the units, the udev rule, the preset and the package without starting anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, ToolMissing
from preloader_agent.guest.sandbox import NAMESPACE_DIRECTIVES
from preloader_agent.host.run import environment, run

REPOSITORY = Path(__file__).parent.parent
UNITS = sorted((REPOSITORY / "units").glob("*.service"))
RULES = REPOSITORY / "units" / "70-docker-preloader.rules"
PRESET = REPOSITORY / "units" / "80-docker-preloader.preset"
EXPOSURE = 40  # 4.0 of 10; nothing that makes a mount namespace can be used

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze", path=environment()["PATH"]) is None, reason="needs systemd-analyze"
)


def settings(unit: Path) -> list[tuple[str, str, str]]:
    """Section, name and value of each assignment, in the order of the file."""
    found, section = [], ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, f"{unit.name}: {line}"
            found.append((section, name, value))
    return found


def values(unit: Path, name: str) -> list[str]:
    return [value for _, found, value in settings(unit) if found == name]


def hardening(unit: Path) -> list[tuple[str, str, str]]:
    lines = settings(unit)
    return [line for line in lines[[name for _, name, _ in lines].index("NoNewPrivileges") :] if line[0] == "Service"]


def rule_tokens() -> list[tuple[str, str, str]]:
    """Key, operator and value of each part of the rules, or a failure where udev would not parse them."""
    found = []
    for line in RULES.read_text().splitlines():
        if line.startswith("#"):
            continue
        for part in line.split(", "):
            match = re.fullmatch(r'([A-Z]+(?:\{\w+\})?)(==|!=|=|\+=|:=)"([^"]*)"', part)
            assert match is not None, part
            found.append((match[1], match[2], match[3]))
    return found


@needs_analyze
def test_units_are_clean(tmp_path: Path) -> None:
    # The command is not installed where the tests run; verify wants each ExecStart= to be there.
    copies = [tmp_path / unit.name for unit in UNITS]
    for unit, copy in zip(UNITS, copies, strict=True):
        copy.write_text(unit.read_text().replace("/usr/bin/python3", "/bin/sh"))
    # Docker's own unit, so that what the machine has of it does not matter.
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    env = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "SYSTEMD_LOG_LEVEL": "warning"}
    said = run(["sh", "-c", 'exec systemd-analyze verify --man=no "$@" 2>&1', "sh", *copies], env=env, timeout=30)
    assert said == ""


@needs_analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_exposure_stays_low(unit: Path) -> None:
    run(["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", unit], timeout=30)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_no_directive_makes_a_mount_namespace(unit: Path) -> None:
    assert {name for _, name, _ in settings(unit)} & NAMESPACE_DIRECTIVES == set()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_documented_wanted_by_docker_and_before_it(unit: Path) -> None:
    assert values(unit, "Documentation") == ["man:docker-preloader(8)"]
    assert values(unit, "WantedBy") == ["docker.service"]
    assert "docker.service" in values(unit, "Before")
    assert values(unit, "RequiredBy") == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_docker_never_waits_for_ever(unit: Path) -> None:
    (bound,) = values(unit, "TimeoutStartSec")
    assert 0 < int(bound) <= 60


def test_units_are_hardened_alike() -> None:
    agent, merge = (hardening(REPOSITORY / "units" / f"docker-preloader{part}.service") for part in ("", "-merge"))
    agent.remove(("Service", "DeviceAllow", "char-virtio-portsdev rw"))
    assert agent == merge
    assert len(agent) >= 15


def test_drivers_of_allowed_devices_are_there_before_the_agent() -> None:
    """systemd looks a driver up when the unit starts, and passes over one that is not registered by then."""
    unit = REPOSITORY / "units" / "docker-preloader.service"
    modules = {"block-virtblk": "virtio_blk", "block-sd": "sd_mod", "char-virtio-portsdev": "virtio_console"}
    for allowed in values(unit, "DeviceAllow"):
        module = f"modprobe@{modules[allowed.split()[0]]}.service"
        for key in ("Wants", "After"):
            assert module in " ".join(values(unit, key)).split()


def test_preset_enables_every_unit() -> None:
    lines = [line for line in PRESET.read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted(f"enable {unit.name}" for unit in UNITS)


def test_rule_keeps_automounters_off_our_disks_alone() -> None:
    tokens = rule_tokens()
    assert ("ENV{ID_FS_LABEL}", "==", "dpl-*") in tokens
    assert [token for token in tokens if token[1] not in ("==", "!=")] == [("ENV{UDISKS_IGNORE}", "=", "1")]


def test_rule_is_clean_for_udev() -> None:
    try:
        run(["udevadm", "verify", "--help"], timeout=10)
    except (CommandFailed, ToolMissing):
        pytest.skip("needs udevadm verify (systemd 254)")
    run(["udevadm", "verify", RULES], timeout=10)
