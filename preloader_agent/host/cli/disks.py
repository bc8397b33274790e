"""The commands that make disks and look at them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from preloader_agent.errors import EXIT_FAILED
from preloader_agent.host.cli.output import count, human_size, print_table, progress_bar
from preloader_agent.host.cli.shell import complete_file
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.verification import MAX_FAULTS, Verdict, verify_disk
from preloader_agent.store.index import DiskIndex, ImageRecord, encode_index

_INPUT = click.Path(path_type=Path)
_OUTPUT = click.Path(path_type=Path, readable=False)  # it is only replaced
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the disk's index as JSON, and nothing else.")


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, shell_complete=complete_file)
@click.option(
    "-o", "--output", metavar="DISK.qcow2", required=True, type=_OUTPUT, help="The disk to write, or its folder."
)
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="The platform to take of an index, instead of the host's."
)
@click.option(
    "--tag", "tags", metavar="NEW=OLD", multiple=True, help="Give the image OLD (a name or ID) a further name."
)
@click.option("--name", metavar="NAME", help="Name the one image that has no name.")
@click.option(
    "--container",
    "containers",
    metavar="NAME.toml",
    multiple=True,
    type=_INPUT,
    shell_complete=complete_file,
    help="Bring a container that runs as a service in guests with containers_from_disks=yes.",
)
@click.option(
    "--compress", "compression", type=click.Choice(["zstd"]), help="Compress the disk, for storage and transfer."
)
@click.option(
    "--tls-verify/--no-tls-verify",
    "is_tls_verified",
    default=True,
    help="Have registries prove who they are (the default), or take any certificate, and plain HTTP.",
)
@click.option("--force", "is_forced", is_flag=True, help="Write the disk even if it is there with the same content.")
@_JSON
def build(inputs: tuple[str, ...], output: Path, as_json: bool, **chosen: Any) -> None:
    """Write container images to a read-only disk.

    An INPUT is a docker-archive (docker save) or an OCI image layout, as a file, a folder, a program that writes it to
    its standard output, or - for standard input; plain or compressed. Or it is docker://NAME for an image of a
    registry, docker-daemon:NAME for one of Docker's.

    No root, daemon or VM is needed. An existing disk is replaced once the new one is complete. In a folder, a disk is
    named by its label.
    """
    options = BuildOptions.of(**chosen)
    with progress_bar(is_shown=not as_json and sys.stderr.isatty()) as (progress, say):
        built = build_disk(inputs, output, options, progress, _say_nothing if as_json else say)
    if not built.is_new:
        click.echo(f"preloader: {built.path} holds these images already, nothing was written (--force does)", err=True)
    _print_index(built.index, built.path, as_json=as_json)


@click.command()
@click.argument("disk", metavar="DISK", type=_INPUT)
@_JSON
def inspect(disk: Path, as_json: bool) -> None:
    """Show what is on a raw or qcow2 disk."""
    _print_index(inspect_disk(disk), disk, as_json=as_json)


@click.command()
@click.argument("disk", metavar="DISK", type=_INPUT)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else.")
def verify(disk: Path, as_json: bool) -> int:
    """Check every byte of a raw or qcow2 disk that counts, and say what is not as it was built."""
    with progress_bar(is_shown=not as_json and sys.stderr.isatty()) as (progress, _):
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
    counts = f"{count(images, 'image')}, {count(layers, 'layer')}, {count(verdict.files, 'file')}"
    number = f"{'at least ' * (len(verdict.faults) >= MAX_FAULTS)}{count(len(verdict.faults), 'fault')}"
    judgement = f"{number}, build the disk again" if verdict.faults else "sound"
    click.echo(f"{disk}: {counts}, {human_size(verdict.size)} checked: {judgement}")


def _say_nothing(_line: str) -> None:
    """Where programs read what is printed."""


def _print_index(index: DiskIndex, disk: Path, *, as_json: bool) -> None:
    if as_json:
        document = json.loads(encode_index(index))
        click.echo(json.dumps({"disk": str(disk), "label": index.label, **document}))
        return
    counts = f"{count(len(index.images), 'image')}, {count(len(index.layers), 'layer')}"
    if index.containers:
        counts += f", {count(len(index.containers), 'container')}"
    click.echo(f"{disk}: label {index.label}, {counts}, {human_size(disk.stat().st_size)}")
    rows = [
        ("IMAGE", "IMAGE ID", "PLATFORM", "LAYERS", "SIZE"),
        *(row for image in index.images for row in _rows(image)),
    ]
    print_table(rows)
    if index.containers:
        print_table([("CONTAINER", "SIZE"), *((each.name, human_size(each.size)) for each in index.containers)])


def _rows(image: ImageRecord) -> Iterator[tuple[str, ...]]:
    """A row for an image, and one for each name more than one."""
    first, *others = image.references or ("<none>",)
    yield first, image.image_id.hex[:12], str(image.platform), str(len(image.chain)), human_size(image.size)
    for name in others:
        yield name, "", "", "", ""
