"""The `preloader` command: the only place of the host side that prints and exits."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from preloader_agent import __version__
from preloader_agent.errors import EXIT_FAILED, EXIT_INTERRUPTED, PreloaderError
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.selection import NewName, parse_name, parse_platform, parse_tag
from preloader_agent.host.verification import MAX_FAULTS, Verdict, verify_disk
from preloader_agent.store.index import DiskIndex, ImageRecord, encode_index

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INPUT = click.Path(path_type=Path)
_OUTPUT = click.Path(path_type=Path, readable=False)  # it is only replaced
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the disk's index as JSON, and nothing else.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn container images into small disks that virtual machines attach instead of loading the images."""


@cli.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="DISK.qcow2", required=True, type=_OUTPUT, help="The disk to write.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Which image of an index to take (default: the host's).")
@click.option("--tag", "tags", metavar="NEW=OLD", multiple=True, help="Give the image OLD (a name or ID) a new name.")
@click.option("--name", metavar="NAME", help="Name the one image that has no name.")
@click.option(
    "--compress", "compression", type=click.Choice(["zstd"]), help="Compress the disk, for storage and transfer."
)
@click.option(
    "--tls-verify/--no-tls-verify", "is_tls_verified", default=True, help="Whether registries must prove who they are."
)
@click.option("--force", "is_forced", is_flag=True, help="Write the disk even if it is there with the same content.")
@_JSON
def build(inputs: tuple[str, ...], output: Path, as_json: bool, **chosen: Any) -> None:
    """Write container images to a read-only disk.

    An INPUT is a docker-archive (docker save) or an OCI image layout, as a file, a folder, a program that writes it to
    its standard output, or - for standard input; plain or compressed. Or it is docker://NAME for an image of a
    registry, docker-daemon:NAME for one of Docker's.

    No root, daemon or VM is needed. An existing disk is replaced once the new one is complete.
    """
    options = _build_options(**chosen)
    with _progress_bar(is_shown=not as_json and sys.stderr.isatty()) as (progress, say):
        built = build_disk(inputs, output, options, progress, _say_nothing if as_json else say)
    if not built.is_new:
        click.echo(f"preloader: {output} holds these images already, nothing was written (--force does)", err=True)
    _print_index(built.index, output, as_json=as_json)


def _build_options(*, platform: str | None, tags: tuple[str, ...], name: str | None, **others: Any) -> BuildOptions:
    names = [parse_tag(tag) for tag in tags]
    if name is not None:  # first, as long as there is an image without one
        names.insert(0, NewName(parse_name(name), None))
    return BuildOptions(parse_platform(platform) if platform else None, tuple(names), **others)


@cli.command()
@click.argument("disk", type=_INPUT)
@_JSON
def inspect(disk: Path, as_json: bool) -> None:
    """Show what is on a raw or qcow2 disk."""
    _print_index(inspect_disk(disk), disk, as_json=as_json)


@cli.command()
@click.argument("disk", type=_INPUT)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else.")
def verify(disk: Path, as_json: bool) -> int:
    """Check every byte of a raw or qcow2 disk that counts, and say what is not as it was built."""
    with _progress_bar(is_shown=not as_json and sys.stderr.isatty()) as (progress, _):
        verdict = verify_disk(disk, progress)
    _print_verdict(verdict, disk, as_json=as_json)
    return EXIT_FAILED if verdict.faults else 0


def _print_verdict(verdict: Verdict, disk: Path, *, as_json: bool) -> None:
    images, layers = (len(verdict.found.images), len(verdict.found.layers)) if verdict.found else (0, 0)
    if as_json:
        numbers = {"images": images, "layers": layers, "files": verdict.files, "bytes": verdict.size}
        faults, notes = ([item._asdict() for item in items] for items in (verdict.faults, verdict.notes))
        document = {"disk": str(disk), "is_sound": not faults, **numbers, "faults": faults, "notes": notes}
        click.echo(json.dumps(document))
        return
    for fault in verdict.faults:
        click.echo(f"{fault.path}: {fault.problem}")
    for note in verdict.notes:
        click.echo(f"note: {note.path}: {note.problem}")
    counts = f"{_count(images, 'image')}, {_count(layers, 'layer')}, {_count(verdict.files, 'file')}"
    number = f"{'at least ' * (len(verdict.faults) >= MAX_FAULTS)}{_count(len(verdict.faults), 'fault')}"
    judgement = f"{number}, build the disk again" if verdict.faults else "sound"
    click.echo(f"{disk}: {counts}, {_human_size(verdict.size)} checked: {judgement}")


_QMP = click.option("--qmp", metavar="SOCKET", required=True, type=_INPUT, help="A QMP monitor of the machine.")
_CONTROL = click.option("--control", metavar="SOCKET", type=_INPUT, help="The control channel to the guest's agent.")


@cli.command()
@_QMP
@_CONTROL
@click.option(
    "--force", "is_forced", is_flag=True, help="Unplug the disk even if the guest uses it or does not answer."
)
@click.argument("names", metavar="DISK...", nargs=-1, required=True)
def detach(names: tuple[str, ...], qmp: Path, control: Path | None, is_forced: bool) -> None:
    """Unplug disks from a running QEMU.

    A DISK is a device id, the disk's file or its label. With --control, the agent in the guest first takes its images
    out of Docker's store, which it refuses while a container uses one. Without, the disk is just pulled.
    """
    # The monitor's asyncio takes 60 ms to import, which is for those who need it.
    from preloader_agent.host.attached import detach_disk, find_disk, list_disks  # noqa: PLC0415
    from preloader_agent.host.qmp import Monitor  # noqa: PLC0415

    logging.basicConfig(format="preloader: %(message)s")
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises too
    try:
        with closing(Monitor(qmp)) as monitor:
            attached = list_disks(monitor)
            for disk in dict.fromkeys(find_disk(attached, name) for name in names):
                detach_disk(monitor, disk, control, force=is_forced)
                click.echo(f"{disk.name} ({disk.file}): detached")
    except KeyboardInterrupt as err:
        raise click.Abort("the same command again finishes what was begun") from err


def main() -> None:
    """Run the command and exit: 0 done, 1 the operation failed, 2 invalid input or usage, 130 interrupted."""
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except PreloaderError as err:
        click.echo(f"preloader: {err}", err=True)
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt) as err:
        click.echo(f"preloader: interrupted; {str(err) or 'nothing was written'}", err=True)
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


def _say_nothing(_line: str) -> None:
    """Where programs read what is printed."""


@contextmanager
def _progress_bar(*, is_shown: bool) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """What shows the progress of a stage, and what prints a line beside it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown, transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show(stage: str, done: int, total: int) -> None:
            known = {"completed": done, "total": total} if total else {}
            bar.update(task, description=stage, **known)  # type: ignore[arg-type]  # rich names each of its options

        yield show, lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_index(index: DiskIndex, disk: Path, *, as_json: bool) -> None:
    if as_json:
        document = json.loads(encode_index(index))
        click.echo(json.dumps({"disk": str(disk), "label": index.label, **document}))
        return
    counts = f"{_count(len(index.images), 'image')}, {_count(len(index.layers), 'layer')}"
    click.echo(f"{disk}: label {index.label}, {counts}, {_human_size(disk.stat().st_size)}")
    rows = [
        ("IMAGE", "IMAGE ID", "PLATFORM", "LAYERS", "SIZE"),
        *(row for image in index.images for row in _rows(image)),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _rows(image: ImageRecord) -> Iterator[tuple[str, ...]]:
    """A row for an image, and one for each name more than one."""
    first, *others = image.references or ("<none>",)
    yield first, image.image_id.hex[:12], str(image.platform), str(len(image.chain)), _human_size(image.size)
    for name in others:
        yield name, "", "", "", ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _human_size(size: float) -> str:
    """A size as Docker shows it: decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
