"""docs/security.md says what the code and the units do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preloader_agent.guest import control, mounts
from preloader_agent.host import verification
from preloader_agent.host.run import run
from preloader_agent.store import containername, index
from tests.test_units import UNITS, hardening, needs_analyze

PAGE = (Path(__file__).parent.parent / "docs" / "security.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"# {title}\n")[2].partition("\n#")[0]


def test_every_setting_of_the_sandbox_is_in_the_table() -> None:
    table = [line for line in section("The agent").splitlines() if line.startswith("|")]
    named = {word.partition("=")[0] for line in table for word in re.findall(r"`(\w+=[^`]*)`", line)}
    assert named == {name for unit in UNITS for _, name, _ in hardening(unit)}
    full = {word for line in table for word in re.findall(r"`(\w+=[^`]+)`", line)}
    assert full <= {f"{name}={value}" for unit in UNITS for _, name, value in hardening(unit)}


@needs_analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_exposure_is_that_of_the_units(unit: Path) -> None:
    if not run(["systemd-analyze", "--version"], timeout=10).startswith("systemd 252 "):
        pytest.skip("the figure is that of systemd 252; other versions count in another way")
    said = run(["systemd-analyze", "security", "--offline=yes", "--no-pager", unit], timeout=30)
    (figure,) = re.findall(r"Overall exposure level for \S+: (\S+) OK", said)
    assert f"gives both {figure} of 10" in " ".join(PAGE.split())


def test_the_mount_options_are_those_of_the_code() -> None:
    names = {
        "_MS_RDONLY": "ro",
        "_MS_NOSUID": "nosuid",
        "_MS_NODEV": "nodev",
        "_MS_NOEXEC": "noexec",
        "_MS_NOATIME": "noatime",
    }
    used = {word for flag, word in names.items() if mounts._FLAGS & getattr(mounts, flag)}
    assert sum(getattr(mounts, flag) for flag in names) == mounts._FLAGS
    table = [line.split("|")[1] for line in section("How it is mounted").splitlines() if line.startswith("| `")]
    assert set(re.findall("`([^`]*)`", " ".join(table))) == {*used, *["noload", "errors=continue"]}


def test_the_bounds_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"at most {index.MAX_IMAGES} images and {index.MAX_DISK_LAYERS} layers" in text
    assert f"an index of at most {index.MAX_INDEX_BYTES >> 20} MiB" in text
    definition = f"at most {index.MAX_CONTAINER_BYTES >> 10} KiB, and a disk has at most {index.MAX_CONTAINERS};"
    assert definition in text
    assert f"(no path, at most {containername.MAX_NAME} letters," in text
    assert f"at most {control.MAX_REQUEST} bytes and an answer at most {control.MAX_ANSWER >> 20} MiB" in text
    memory, seconds = verification._E2FSCK_MEMORY, verification._E2FSCK_BOUND
    assert f"at most {memory >> 30} GiB of memory and {seconds:.0f} seconds" in text
