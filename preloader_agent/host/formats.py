"""Which format an input has: a docker-archive has a manifest.json at its top, as dockerd expects it."""

from __future__ import annotations

from collections.abc import Sequence

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.dockerarchive import MANIFEST, read_docker_archive
from preloader_agent.host.files import EXPECTED, Files
from preloader_agent.host.images import Image, parse_json
from preloader_agent.host.ocilayout import INDEX, read_oci_layout
from preloader_agent.host.platforms import find_best
from preloader_agent.store.index import Platform


def read_images(files: Files, platform: Platform | None) -> list[Image]:
    """The images of an input; `platform` selects among those of an OCI layout, by default the host's.

    A docker-archive has each image for one platform; it is checked only against a platform that is given.

    Where both formats are, as in what `docker save` writes since Docker 25, the docker-archive counts, as for dockerd.
    Raises InvalidArchive and DigestMismatch, before any layer is read.
    """
    manifest, index = files.read(MANIFEST), files.read(INDEX)
    if index is not None and not (manifest and _names_images(files, manifest)):
        return read_oci_layout(files, index, platform)
    if manifest is not None:
        images = read_docker_archive(files, manifest)
        _check_platforms(files, images, platform)
        return images
    raise InvalidArchive(files.name, f"has neither manifest.json nor index.json; {EXPECTED}")


def _check_platforms(files: Files, images: Sequence[Image], platform: Platform | None) -> None:
    for image in images:
        if platform and image.platform.architecture and not find_best(platform, [image.platform]):
            raise InvalidArchive(files.name, f"{image.name} is for {image.platform}, expected {platform} (--platform)")


def _names_images(files: Files, manifest: bytes) -> bool:
    found = parse_json(files, MANIFEST, manifest)
    return isinstance(found, list) and bool(found)
