"""What the agent says when something is wrong, provoked for real, is explained in docs/troubleshooting.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preloader_agent.host.run import run
from preloader_agent.store.layout import Store
from tests.agent import COMMAND, REPOSITORY, Agent
from tests.crafted import CraftedDisk
from tests.folders import folder_in_memory
from tests.guest.disks import image_id
from tests.troubleshooting import find_entry

LAYERS = ("base", "app")


@pytest.fixture
def agent() -> Iterator[Agent]:
    with folder_in_memory() as folder, Agent(folder, folder / "docker") as agent:
        agent.data_root.mkdir()
        yield agent


def say(agent: Agent, command: str, *options: str) -> list[str]:
    """What the command logs at WARNING or above."""
    argv = [*COMMAND, command, f"--run-dir={agent.run_dir}", *options]
    env = {"PYTHONPATH": str(REPOSITORY), "JOURNAL_STREAM": "1"}  # has each line begin with its priority
    said = run(argv, env=env, ok=(0, 1, 2), with_stderr=True)
    return [line[3:] for line in said.splitlines() if line.startswith(("<3>", "<4>"))]


def sync(agent: Agent, *devices: str) -> list[str]:
    root, pid_file = f"--docker-root={agent.data_root}", f"--docker-pidfile={agent.pid_file}"
    return say(agent, "sync", root, pid_file, *(f"--device={device}" for device in devices))


def loop(agent: Agent, name: str = "crafted:1") -> str:
    return agent.loop(CraftedDisk(agent.folder / f"{name}.disk", (LAYERS, (name,))).write())


def check(lines: list[str], message: str) -> None:
    """The one line is explained by the entry that has the message."""
    (line,) = lines
    entry = find_entry(line)
    assert entry is not None, line
    assert any(message in each for each in entry.messages), (line, entry)


def test_a_disk_that_is_attached_twice(agent: Agent) -> None:
    first, twin = loop(agent), loop(agent)
    assert sync(agent, first) == []
    check(sync(agent, twin), "with the same label is there")


def test_no_disk_at_all(agent: Agent) -> None:
    empty = agent.folder / "empty"
    empty.write_bytes(bytes(1 << 20))
    check(sync(agent, agent.loop(empty)), "holds no ext4 file system")


def test_a_name_that_the_store_has(agent: Agent) -> None:
    repositories = Path(Store(str(agent.data_root)).repositories)
    repositories.parent.mkdir(parents=True)
    repositories.write_text(json.dumps({"Repositories": {"crafted": {"crafted:1": image_id(("other",))}}}))
    check(sync(agent, loop(agent)), "does not get that name")


def test_a_damaged_repositories_file(agent: Agent) -> None:
    repositories = Path(Store(str(agent.data_root)).repositories)
    repositories.parent.mkdir(parents=True)
    repositories.write_text('{"Repositories":')
    check(sync(agent, loop(agent)), "dockerd would not start with it: repair or remove it")


def test_another_storage_driver(agent: Agent) -> None:
    (agent.data_root / "image" / "btrfs").mkdir(parents=True)
    check(sync(agent, loop(agent)), "not overlay2; its store is left alone")


def test_an_agent_that_does_not_run(agent: Agent) -> None:
    check(say(agent, "status"), "nothing to show yet")
    check(say(agent, "release", "dpl-0123456789ab"), "docker-preloader.service does not run")


def test_a_line_that_nobody_knows_has_no_entry() -> None:
    assert find_entry("something else") is None
