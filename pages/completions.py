"""The scripts that complete both commands in bash, zsh and fish.

`preloader` is asked what fits, by click's scripts. `docker-preloader` is not, so that no guest starts Python for it:
shtab writes down what its parser takes.
"""

from __future__ import annotations

import argparse

import shtab
from click.shell_completion import get_completion_class

from preloader_agent.guest.cli import make_parser
from preloader_agent.guest.paths import Paths
from preloader_agent.host.cli import cli

# Where each shell looks for the script of a command, by the name that it has there.
FILES = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}

_LIST = f"command ls {Paths().mounts} 2>/dev/null"  # the labels of the mounted disks
_LABELS = {
    "bash": "_docker_preloader_labels",
    "zsh": "_docker_preloader_labels",
    "fish": f"({_LIST})",
    "preamble": {
        "bash": f'_docker_preloader_labels() {{\n  compgen -W "$({_LIST})" -- "$1"\n}}',
        "zsh": f"_docker_preloader_labels() {{\n  compadd -- $({_LIST})\n}}",
    },
}
_VALUES = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE, "DEV": shtab.FILE, "LABEL": _LABELS}  # by metavar


def completions() -> dict[str, str]:
    """Each script by its path below completions/."""
    found = {}
    for shell, name in FILES.items():
        found[f"{shell}/{name.format('preloader')}"] = _by_click(shell)
        found[f"{shell}/{name.format('docker-preloader')}"] = _by_shtab(shell)
    return found


def _by_click(shell: str) -> str:
    completion = get_completion_class(shell)
    assert completion is not None, f"click completes no {shell}"
    script = completion(cli, {}, "preloader", "_PRELOADER_COMPLETE").source()
    # click 8.5 for zsh: called again after it was loaded, it would complete nothing and register itself instead.
    return script.replace("== loadautofunc", "== *func")


def _by_shtab(shell: str) -> str:
    parser = make_parser()
    _say_values(parser)
    return str(shtab.complete(parser, shell)).rstrip() + "\n"


def _say_values(parser: argparse.ArgumentParser) -> None:
    """Tell shtab what the values are of which the parser knows but the metavar."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _say_values(inner)
        elif action.metavar in _VALUES:
            action.complete = _VALUES[str(action.metavar)]  # type: ignore[attr-defined]  # shtab's own
