"""What the commands print alike: tables, sizes and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(*, is_shown: bool) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """What shows the progress of a stage, and what prints a line beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown, transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show(stage: str, done: int, total: int) -> None:
            known = {"completed": done, "total": total} if total else {}
            bar.update(task, description=stage, **known)  # type: ignore[arg-type]  # rich names each of its options

        yield show, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as they must be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def human_size(size: float) -> str:
    """A size as Docker shows it: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
