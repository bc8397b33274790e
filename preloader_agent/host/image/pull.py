"""`preloader image pull`: an image of a registry, pinned by its digest, becomes an archive."""

from __future__ import annotations

from dataclasses import replace

from preloader_agent.errors import InvalidArchive, InvalidValue
from preloader_agent.host.image.archive import write_archive
from preloader_agent.host.image.output import open_output, open_scratch
from preloader_agent.host.image.sources import ReadOptions, open_sources
from preloader_agent.host.images import Image
from preloader_agent.host.selection import parse_name
from preloader_agent.host.skopeo import REGISTRY, Skopeo
from preloader_agent.store.digest import Digest, sha256_digest
from preloader_agent.store.reference import Reference


def pull_image(name: str, digest: str | None, output: str, options: ReadOptions) -> Image:
    """Write the image that a registry has under a digest to an archive, where it has the name; returns it.

    The digest is that of a manifest or of an index of several platforms. Every byte is checked against it, so that the
    registry can give no other image. Raises InvalidArchive without a digest, and tells which the name has now;
    DigestMismatch, and what `open_output` and `open_sources` raise.
    """
    reference = _parse_tagged(name)
    if digest is None:
        raise _unpinned(reference, options)
    pinned = f"{REGISTRY}{reference.name}@{Digest(digest)}"
    with open_output(output, ()) as (stream, folder), open_sources([pinned], folder, options) as sources:
        (source,) = sources.read(sources.images)
        pulled = source._replace(image=replace(source.image, references=(reference,)))
        write_archive([pulled.archived], stream)
        return pulled.image


def _parse_tagged(name: str) -> Reference:
    if "@" in name:
        raise InvalidValue("REF", name, "a name with a tag, such as redis:8; the digest goes to --digest")
    return parse_name(name)


def _unpinned(reference: Reference, options: ReadOptions) -> InvalidArchive:
    with open_scratch() as folder:
        content = Skopeo(folder, options.say, options.is_tls_verified).inspect(reference)
    problem = f"is not pinned, and may be another image tomorrow; now it is --digest {sha256_digest(content)}"
    return InvalidArchive(reference, problem)
