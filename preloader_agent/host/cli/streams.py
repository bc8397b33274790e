"""What the programs run that `preloader image stream` writes."""

from __future__ import annotations

import json

import click

from preloader_agent.host.cli import main as run_command
from preloader_agent.host.cli.archives import reading
from preloader_agent.host.image.output import STANDARD_OUTPUT
from preloader_agent.host.image.stream import StreamPlan, stream_archive


def main(plan: str) -> None:
    """Write an archive to standard output and exit, like the commands; `plan` is a StreamPlan as JSON."""
    run_command(click.Command("stream", callback=lambda: _stream(StreamPlan(*json.loads(plan)))), [])


def _stream(plan: StreamPlan) -> None:
    with reading(STANDARD_OUTPUT) as options:
        stream_archive(plan, options)
