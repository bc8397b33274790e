"""docker-archives: what `docker save` writes, before and since Docker 25, and what other tools write like it.

Both layouts have a manifest.json at the top that names each image's configuration, references and layers; only the
names of the files differ. Format: moby image/tarexport (load.go, save.go).
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from preloader_agent.errors import DigestMismatch, InvalidArchive, InvalidValue
from preloader_agent.host.files import Files
from preloader_agent.host.images import Image, make_image, parse_json, read_document
from preloader_agent.store.reference import Reference

MANIFEST = "manifest.json"
_MAX_NAME = 500  # characters; real ones have about 80
_HEX_NAME = re.compile(r"(?:^|/|sha256:)([0-9a-f]{64})(?:\.json)?$")


def read_docker_archive(files: Files, manifest: bytes) -> list[Image]:
    """The images that a manifest.json names. Raises InvalidArchive and DigestMismatch."""
    entries = parse_json(files, MANIFEST, manifest)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidArchive(files.name, "manifest.json is not a list of images, as `docker save` writes it")
    if not entries:
        raise InvalidArchive(files.name, "holds no image; save at least one")
    return [_read_image(files, entry) for entry in entries]


def _read_image(files: Files, entry: dict[str, Any]) -> Image:
    config_name = _file_name(files, entry.get("Config"))
    image = make_image(
        files,
        config_name,
        read_document(files, config_name),
        [_file_name(files, layer) for layer in _list(files, entry, "Layers")],
        [_reference(files, tag) for tag in _list(files, entry, "RepoTags")],
    )
    named = _HEX_NAME.search(config_name)
    if named and named[1] != image.image_id.hex:
        raise DigestMismatch(f"{files.name}: image configuration {config_name}", named[1], image.image_id.hex)
    return image


def _list(files: Files, entry: dict[str, Any], key: str) -> list[Any]:
    found = entry.get(key) or []
    if not isinstance(found, list):
        raise InvalidArchive(files.name, f"manifest.json: {key} is {found!r:.60}; expected a list")
    return found


def _reference(files: Files, tag: str) -> Reference:
    try:
        return Reference(tag)
    except InvalidValue as err:
        raise InvalidArchive(files.name, f"manifest.json: {err}") from err


def _file_name(files: Files, name: object) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise InvalidArchive(files.name, f"manifest.json names a file {name!r:.60}; expected a path in the archive")
    return posixpath.normpath(name)
