"""`docker-preloader containers`: two commands for people, and four that systemd calls.

What a command needs is imported when it is called: systemd waits for each of the four.
"""

from __future__ import annotations

import os

from preloader_agent.errors import EXIT_INVALID
from preloader_agent.guest import log

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Define the commands."""
    from argparse import REMAINDER

    check = commands.add_parser("check", help="Say what is wrong with files that describe containers.")
    check.add_argument("files", metavar="FILE...", nargs="*", help="Files to look at, instead of all that count here.")
    check.set_defaults(command=_check)
    show = commands.add_parser("show", help="Print the systemd unit of a container.")
    show.add_argument("name", metavar="NAME", help="The container's name, which is its file's without .toml.")
    show.set_defaults(command=_show)
    generate = commands.add_parser("generate", help="Write the units of all containers; systemd's generator calls it.")
    generate.add_argument("folder", metavar="DIR", help="The folder for them.")
    generate.set_defaults(command=_generate)
    prepare = commands.add_parser("prepare", help="See to a container's image, and to what is left of its last run.")
    prepare.add_argument("file", metavar="FILE", help="The file that describes it.")
    prepare.set_defaults(command=_prepare)
    wait = commands.add_parser("wait", help="Wait until a container has started, or $MAINPID has ended.")
    wait.set_defaults(command=_wait)
    remove = commands.add_parser("remove", help="Remove a container that its service has made.")
    remove.set_defaults(command=_remove)
    for command in (wait, remove):
        command.add_argument("name", metavar="NAME", help="The container's name.")
        command.add_argument("options", metavar="OPTION...", nargs=REMAINDER, help="Options of the docker command.")


def _check(options: Namespace) -> int:
    from preloader_agent.guest.definitions import check_files

    problems = check_files([os.path.abspath(file) for file in options.files])
    for problem in problems:
        log.error("%s", problem)
    return EXIT_INVALID if problems else 0


def _show(options: Namespace) -> int:
    from preloader_agent.guest.definitions import list_files, read_definitions
    from preloader_agent.guest.generator import unit_text

    for definition in read_definitions(list_files()):
        if definition.name == options.name:
            if definition.problem is not None:
                raise definition.problem
            print(unit_text(definition), end="")
            return 0
    log.error("docker-preloader: no file describes a container %s", options.name)
    return EXIT_INVALID


def _generate(options: Namespace) -> int:
    from preloader_agent.guest.generator import write_units

    write_units(options.folder)
    return 0


def _prepare(options: Namespace) -> int:
    from preloader_agent.guest.definitions import read_container
    from preloader_agent.guest.servicesteps import prepare_container

    prepare_container(read_container(os.path.abspath(options.file)))
    return 0


def _wait(options: Namespace) -> int:
    from preloader_agent.guest.servicesteps import wait_for_start

    wait_for_start(options.name, options.options, int(os.environ.get("MAINPID", os.getpid())))
    return 0


def _remove(options: Namespace) -> int:
    from preloader_agent.guest.servicesteps import clean_up

    clean_up(options.name, options.options)
    return 0
