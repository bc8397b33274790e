"""What the command lines take: values, read from the objects of click and argparse that parse them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import click

from preloader_agent.guest.cli import make_parser
from preloader_agent.host.cli import cli

_MAX_NAMED = 3  # optional options that a synopsis names; more are [OPTION]...


@dataclass(frozen=True)
class Option:
    """An option. `names` are all its forms, `metavar` is empty for one that takes no value."""

    names: tuple[str, ...]
    metavar: str
    help: str
    default: str = ""
    is_required: bool = False
    is_repeated: bool = False


@dataclass(frozen=True)
class Command:
    """A command by its full name, such as `preloader vm run`; an argument is named as in its help: `INPUT...`."""

    name: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...]
    is_group: bool = False

    def synopsis(self) -> list[str]:
        """The words after the name: what is required, with its value, and what may be there in brackets."""
        required = [" ".join((option.names[0], option.metavar)) for option in self.options if option.is_required]
        optional = [option for option in self.options if not option.is_required]
        named = [f"[{' '.join(filter(None, (option.names[0], option.metavar)))}]" for option in optional]
        repeated = ["..." * option.is_repeated for option in optional]
        shown = [word + dots for word, dots in zip(named, repeated, strict=True)]
        return [*required, *(shown if len(shown) <= _MAX_NAMED else ["[OPTION]..."]), *self.arguments]


def list_commands() -> dict[str, Command]:
    """Both programs and all of their commands, by name, in the order of their help."""
    found = [*_read_click(cli, "preloader"), *_read_argparse(make_parser(), "docker-preloader")]
    return {command.name: command for command in found}


def _read_click(command: click.Command, name: str) -> Iterator[Command]:
    context = click.Context(command, info_name=name, **command.context_settings)
    is_top = " " not in name
    parameters = command.get_params(context) if is_top else command.params  # with --help, which is said once
    options = tuple(_click_option(one, context) for one in parameters if isinstance(one, click.Option))
    arguments = tuple(one.make_metavar(context) for one in parameters if isinstance(one, click.Argument))
    commands = command.commands if isinstance(command, click.Group) else {}
    yield Command(name, options, arguments, bool(commands))
    for word, inner in commands.items():
        yield from _read_click(inner, f"{name} {word}")


def _click_option(option: click.Option, context: click.Context) -> Option:
    default = str(option.get_help_extra(context).get("default", ""))
    if default and option.is_flag:  # one of a pair of switches: click says its name without the dashes
        default = f"--{default}"
    if isinstance(option.type, click.Choice):
        metavar = "|".join(map(str, option.type.choices))
    else:
        metavar = "" if option.is_flag else option.make_metavar(context)
    names = (*option.opts, *option.secondary_opts)
    return Option(names, metavar, option.help or "", default, option.required, option.multiple)


def _read_argparse(parser: argparse.ArgumentParser, name: str) -> Iterator[Command]:
    commands: dict[str, argparse.ArgumentParser] = {}
    options, arguments = [], []
    for action in parser._actions:  # what others that read parsers use, too: there is no public way
        if isinstance(action, argparse._SubParsersAction):
            commands = action.choices
        elif not action.option_strings:
            arguments.append(str(action.metavar))
        elif " " not in name or not isinstance(action, argparse._HelpAction):
            options.append(_argparse_option(action))
    yield Command(name, tuple(options), tuple(arguments), bool(commands))
    for word, inner in commands.items():
        yield from _read_argparse(inner, f"{name} {word}")


def _argparse_option(action: argparse.Action) -> Option:
    metavar = str(action.metavar) if action.nargs != 0 else ""
    text = (action.help or "") % vars(action)  # such as its %(default)s
    is_repeated = isinstance(action, argparse._AppendAction)
    return Option(tuple(action.option_strings), metavar, text, "", action.required, is_repeated)
