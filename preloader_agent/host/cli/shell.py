"""What the shells complete where click's types do not say it."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def complete_file(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A path, of a parameter that may also be something else, or whose path is looked at later."""
    return [CompletionItem(incomplete, type="file")]
