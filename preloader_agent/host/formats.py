"""Which format an input has: a docker-archive has a manifest.json at its top, as dockerd expects it."""

from __future__ import annotations

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.dockerarchive import MANIFEST, read_docker_archive
from preloader_agent.host.images import Image
from preloader_agent.host.inputs import EXPECTED, Files
from preloader_agent.store.index import Platform


def read_images(files: Files, platform: Platform | None) -> list[Image]:
    """The images of an input; `platform` selects among those of an OCI layout, by default the host's.

    Raises InvalidArchive and DigestMismatch, before any layer is read.
    """
    manifest = files.read(MANIFEST)
    if manifest is not None:
        return read_docker_archive(files, manifest)
    raise InvalidArchive(files.name, f"has no manifest.json; {EXPECTED}")
