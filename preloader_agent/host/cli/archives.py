"""What the commands that write archives have in common: where the result goes, and how what they read is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from preloader_agent.host.cli.output import progress_bar
from preloader_agent.host.image.output import STANDARD_OUTPUT
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.selection import parse_platform


def output_option(metavar: str, what: str) -> Callable[[Any], Any]:
    """The option that says where a result goes."""
    text = f"The {what} to write, or - for standard output."
    kind = click.Path(readable=False, allow_dash=True)
    return click.option("-o", "--output", metavar=metavar, required=True, type=kind, help=text)


@contextmanager
def reading(output: str = "", platform: str | None = None, *, is_tls_verified: bool = True) -> Iterator[ReadOptions]:
    """Options for what reads inputs and writes to an output, with a progress bar on a terminal."""
    wanted = parse_platform(platform) if platform else None
    try:
        with progress_bar(is_shown=sys.stderr.isatty()) as (progress, say):
            yield ReadOptions(wanted, is_tls_verified, progress, say)
    except KeyboardInterrupt as err:
        if output == STANDARD_OUTPUT:
            raise click.Abort("what is on standard output is not complete") from err
        raise
