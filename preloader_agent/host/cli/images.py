"""The commands that make image archives and look at them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from preloader_agent.host.cli.archives import output_option, reading
from preloader_agent.host.cli.output import count, human_size, print_table
from preloader_agent.host.cli.shell import complete_file
from preloader_agent.host.image.export import export_image
from preloader_agent.host.image.merge import merge_archives
from preloader_agent.host.image.output import STANDARD_OUTPUT
from preloader_agent.host.image.pull import pull_image
from preloader_agent.host.image.sources import list_images
from preloader_agent.host.images import Image

_ARCHIVE = click.argument("archive", metavar="ARCHIVE", shell_complete=complete_file)
_OUTPUT = output_option("IMAGE.tar", "archive")
_PLATFORM = click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="The platform to take of an index, instead of the host's."
)


@click.group()
def image() -> None:
    """Make, fetch and look at image archives, without a daemon."""


@image.command("list")
@_ARCHIVE
@_PLATFORM
@click.option("--json", "as_json", is_flag=True, help="Print the images as JSON, and nothing else.")
def list_(archive: str, platform: str | None, *, as_json: bool) -> None:
    """Show the images of an archive, or of anything else that `preloader build` takes."""
    with reading(platform=platform) as options:
        images = list_images(archive, options)
    if as_json:
        click.echo(json.dumps({"archive": archive, "images": [_document(one) for one in images]}))
    else:
        _print_images(images)


@image.command()
@click.argument("reference", metavar="REF")
@click.option("--digest", metavar="sha256:...", help="The digest of the image that is meant, or of an index with it.")
@_OUTPUT
@_PLATFORM
@click.option(
    "--tls-verify/--no-tls-verify",
    "is_tls_verified",
    default=True,
    help="Have the registry prove who it is (the default), or take any certificate, and plain HTTP.",
)
def pull(reference: str, digest: str | None, output: str, platform: str | None, *, is_tls_verified: bool) -> None:
    """Fetch an image of a registry by its digest: the same archive each time.

    Without --digest, nothing is fetched, but the digest that REF has now is told.
    """
    with reading(output, platform, is_tls_verified=is_tls_verified) as options:
        pulled = pull_image(reference, digest, output, options)
    _print_result(output, [pulled])


@image.command()
@_ARCHIVE
@click.option("--image", "wanted", metavar="NAME", help="The image to take of several: a name of it, or its image ID.")
@output_option("ROOTFS.tar", "tar file")
@_PLATFORM
def export(archive: str, wanted: str | None, output: str, platform: str | None) -> None:
    """Write the file system of an image's containers to one tar, all layers in one."""
    with reading(output, platform) as options:
        exported = export_image(archive, wanted, output, options)
    if output != STANDARD_OUTPUT:
        click.echo(f"{output}: the file system of {exported.name}, {human_size(Path(output).stat().st_size)}")


@image.command()
@click.argument("archives", metavar="ARCHIVE...", nargs=-1, required=True, shell_complete=complete_file)
@_OUTPUT
@_PLATFORM
def merge(archives: tuple[str, ...], output: str, platform: str | None) -> None:
    """Write the images of several archives to one, in which each layer stands once.

    An ARCHIVE is anything that `preloader build` takes. No image may be in two of them, and no name stand for two
    images.
    """
    with reading(output, platform) as options:
        images = merge_archives(archives, output, options)
    _print_result(output, images)


def _print_result(output: str, images: Sequence[Image]) -> None:
    """What was written, unless it went where this would go."""
    if output != STANDARD_OUTPUT:
        layers = {layer.diff_id for image in images for layer in image.layers}
        click.echo(f"{output}: {count(len(images), 'image')}, {count(len(layers), 'layer')}")
        _print_images(images)


def _print_images(images: Sequence[Image]) -> None:
    print_table([("IMAGE", "IMAGE ID", "PLATFORM", "LAYERS"), *(row for image in images for row in _rows(image))])


def _rows(image: Image) -> Iterator[tuple[str, ...]]:
    """A row for an image, and one for each name more than one."""
    first, *others = image.references or image.repo_digests or ("<none>",)
    yield first, image.image_id.hex[:12], str(image.platform), str(len(image.layers))
    for name in others:
        yield name, "", "", ""


def _document(image: Image) -> dict[str, object]:
    """The fields that a disk's index has of an image, too, and its configuration."""
    return {
        "id": image.image_id,
        "references": image.references,
        "repo_digests": image.repo_digests,
        "platform": image.platform._asdict(),
        "layers": [layer.diff_id for layer in image.layers],
        "chain": [layer.chain_id for layer in image.layers],
        "config": json.loads(image.config),
    }
