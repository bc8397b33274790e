"""The `preloader` command: with its modules, the only place of the host side that prints and exits."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from preloader_agent import __version__
from preloader_agent.errors import EXIT_FAILED, EXIT_INTERRUPTED, PreloaderError
from preloader_agent.host.cli.devices import attach, detach, libvirt_xml_, list_
from preloader_agent.host.cli.disks import build, inspect, verify
from preloader_agent.host.cli.guests import guest
from preloader_agent.host.cli.images import image
from preloader_agent.host.cli.recipes import build as build_recipe
from preloader_agent.host.cli.recipes import layered, stream
from preloader_agent.host.cli.vm import vm

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn container images into small disks that virtual machines attach instead of loading the images."""


for _command in (build, inspect, verify, attach, detach, list_, libvirt_xml_, image, vm, guest):
    cli.add_command(_command)
for _command in (build_recipe, layered, stream):
    image.add_command(_command)


def main(command: click.Command = cli, arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 the operation failed, 2 invalid input or usage, 130 interrupted."""
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    try:
        status = command.main(arguments, standalone_mode=False)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except PreloaderError as err:
        click.echo(f"preloader: {err}", err=True)
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt) as err:
        click.echo(f"preloader: interrupted; {str(err) or 'nothing was written'}", err=True)
        # Python's end takes the handlers away, and a further request would kill it there.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
        sys.exit(EXIT_INTERRUPTED)
    except OSError as err:  # of a path that cannot even be looked at, or of a standard output that is full
        click.echo(f"preloader: {err.filename or 'standard output'}: {err.strerror or err}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(status or 0)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A request to end, or a closed terminal, is like Ctrl-C: what is not finished is removed on the way out.

    Nothing interrupts that: a second request would leave a part of it behind.
    """
    for number in _INTERRUPTIONS:
        signal.signal(number, lambda *_: None)  # SIG_IGN would be passed on to programs, and spoken of if it races
    raise KeyboardInterrupt
