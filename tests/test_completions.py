"""The shells complete both commands: real shells with our scripts, on a terminal where they need one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pages.__main__ import ROOT
from preloader_agent.guest.paths import Paths
from preloader_agent.host.run import environment, run
from tests.host.terminal import Terminal

BOUND = 30.0  # seconds for what takes one
PROGRAM = f"""\
#!{sys.executable}
import sys
sys.path[:0] = {[str(ROOT), *filter(None, sys.path)]!r}
from preloader_agent.host.cli import main
main()
"""
STARTS = {
    "bash": (["bash", "--norc", "-i"], ". completions/preloader; . completions/docker-preloader"),
    "zsh": (
        ["zsh", "-f", "-i"],
        'fpath=("$PWD/completions" $fpath); autoload -Uz compinit; compinit -u -D; unsetopt auto_remove_slash',
    ),
}
PRINTING = "words() { printf '<%s>' \"$@\"; echo; }"  # its words in brackets, which are not in what was typed
LINE_START = "\x01"  # Ctrl-A

# What is typed before a tab, and the words that stand there after it.
COMPLETED = {
    "preloader ver": "preloader verify",
    "preloader vm run --disk-interface virtio-s": "preloader vm run --disk-interface virtio-scsi",
    "preloader inspect dis": "preloader inspect disk.qcow2",
    "preloader build ima": "preloader build images.tar",
    "preloader image merge ima": "preloader image merge images.tar",
    "preloader guest install --image gue": "preloader guest install --image guest.qcow2",
    "preloader detach --qmp vm.q": "preloader detach --qmp vm.qmp",
    "docker-preloader stat": "docker-preloader status",
    "docker-preloader sync --docker-r": "docker-preloader sync --docker-root",
    "docker-preloader sync --docker-root fold": "docker-preloader sync --docker-root folder/",
    "docker-preloader sync --device dis": "docker-preloader sync --device disk.qcow2",
    "docker-preloader release dpl-1": "docker-preloader release dpl-123456789abc",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with files to complete, both programs, and two disks that the agent has mounted."""
    for name in ("disk.qcow2", "images.tar", "guest.qcow2", "vm.qmp"):
        (tmp_path / name).touch()
    for name in ("folder", "bin", "completions", "run/disks/dpl-123456789abc", "run/disks/dpl-abcdef012345"):
        (tmp_path / name).mkdir(parents=True)
    program = tmp_path / "bin" / "preloader"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def install(shell: str, place: Path) -> dict[str, str | None]:
    """Put a shell's scripts there, which look for disks there, too; and the environment that the shell needs."""
    if shutil.which(shell, path=environment()["PATH"]) is None:
        pytest.skip(f"needs {shell}")
    for script in (ROOT / "completions" / shell).iterdir():
        text = script.read_text().replace(Paths().run_dir, str(place / "run"))
        (place / "completions" / script.name).write_text(text)
    path = f"{place / 'bin'}:{environment()['PATH']}"
    return {"PATH": path, "HOME": str(place), "TERM": "dumb", "PS1": "$ ", "XDG_CONFIG_HOME": None, "ZDOTDIR": None}


@pytest.mark.parametrize("shell", STARTS)
def test_a_tab_completes_the_line(shell: str, place: Path) -> None:
    env = install(shell, place)
    start, setting = STARTS[shell]
    with Terminal(["env", "-C", place, *start], env, BOUND) as terminal:
        terminal.type(f"{setting}; {PRINTING}; words ready\r")
        terminal.wait_shown("<ready>")
        for typed, words in COMPLETED.items():
            terminal.type(f"{typed}\t{LINE_START}words \r")
            terminal.wait_shown("".join(f"<{word}>" for word in words.split()) + "\n")


def test_fish_offers_what_completes_the_line(place: Path) -> None:
    env = install("fish", place)
    asked = [
        "fish",
        "--private",
        "--no-config",
        "-c",
        "cd $argv[1]; for script in completions/*; source $script; end; complete -C $argv[2]",
    ]
    for typed, words in COMPLETED.items():
        offered = run([*asked, place, typed], env=env, timeout=BOUND).splitlines()
        assert [line.partition("\t")[0] for line in offered] == [words.split()[-1]], typed
