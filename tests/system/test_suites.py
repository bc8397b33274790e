"""The guests of the releases of Debian that tests/vm/test_matrix.py boots.

They are built here, because tests of this tier run beside each other, and those that boot machines do not.
"""

from __future__ import annotations

import pytest

from preloader_agent.host.guests.base import Suite
from preloader_agent.host.run import run
from tests.cachedguests import cached_guest

RELEASE, COMMAND = "./usr/lib/os-release", "./usr/bin/docker-preloader"


@pytest.mark.parametrize("suite", [Suite.BOOKWORM, Suite.FORKY], ids=lambda suite: suite.value)
def test_a_guest_of_another_release(suite: Suite) -> None:
    guest = cached_guest(suite)
    assert {path.name for path in guest.iterdir()} >= {"root.tar", "disk.qcow2", "vmlinuz", "initrd"}
    found = run(["tar", "--extract", "--to-stdout", "--file", guest / "root.tar", RELEASE, COMMAND])
    assert f"VERSION_CODENAME={suite.value}\n" in found
    assert "preloader_agent.guest.cli" in found
