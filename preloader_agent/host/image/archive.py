"""The archives that are written: what `docker save` writes since Docker 25, the same bytes for the same images.

One tar has both formats, an OCI image layout and the manifest.json of docker-archives, over the same blobs. Layers are
not compressed, so that a layer's blob has its DiffID as its digest, and Docker before 25 reads them, too.
Formats: the OCI image specification (image-layout.md) and moby image/tarexport/save.go.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Protocol

from preloader_agent.errors import DigestMismatch
from preloader_agent.host.dockerarchive import MANIFEST
from preloader_agent.host.ocilayout import INDEX, NAME, OCI_INDEX, OCI_MANIFEST, REF_NAME, VERSION, blob_file
from preloader_agent.store.digest import ALGORITHM, DiffID, sha256_digest
from preloader_agent.store.reference import Reference

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_FOLDERS = ("blobs/", "blobs/sha256/")


class Layer(Protocol):
    """A layer whose identity is known before its content is read, which may be more than once."""

    @property
    def diff_id(self) -> DiffID:
        """The digest of its content."""

    @property
    def size(self) -> int:
        """Bytes of its content, an uncompressed tar stream."""

    def chunks(self) -> Iterator[bytes]:
        """Its content."""


class ArchivedImage(NamedTuple):
    """An image to write; `config` is its configuration, byte by byte, and `layers` are as many as that names."""

    config: bytes
    references: tuple[Reference, ...]
    layers: Sequence[Layer]


def write_archive(images: Sequence[ArchivedImage], stream: BinaryIO) -> None:
    """Write different images to a stream that need not be seekable, each blob once, in the order of their names.

    manifest.json stands behind all blobs, as in Docker's own: a stream that was cut short is no archive.
    Raises DigestMismatch for a layer whose content is not what it claims, before the archive is complete.
    """
    members: dict[str, bytes | Layer] = {}
    manifests = [_add_blobs(members, image) for image in images]
    for folder in _FOLDERS:
        stream.write(_header(folder, tarfile.DIRTYPE, 0o755))
    for name in sorted(members):
        _write_member(stream, name, members[name])
    _write_member(stream, INDEX, _encode(_index(images, manifests)))
    _write_member(stream, MANIFEST, _encode([_manifest_entry(image) for image in images]))
    _write_member(stream, VERSION, _encode({"imageLayoutVersion": "1.0.0"}))
    stream.write(bytes(2 * tarfile.BLOCKSIZE))


def _add_blobs(members: dict[str, bytes | Layer], image: ArchivedImage) -> bytes:
    """Add all that an image consists of; returns its manifest."""
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _describe(_CONFIG, image.config),
            "layers": [{"mediaType": _LAYER, "digest": layer.diff_id, "size": layer.size} for layer in image.layers],
        }
    )
    members |= {blob_file(layer.diff_id): layer for layer in image.layers}
    members |= {blob_file(sha256_digest(content)): content for content in (image.config, manifest)}
    return manifest


def _index(images: Sequence[ArchivedImage], manifests: Sequence[bytes]) -> Mapping[str, object]:
    """index.json: an entry for each reference, and one without any for an image that has none."""
    entries: list[Mapping[str, object]] = []
    for image, manifest in zip(images, manifests, strict=True):
        entry = _describe(OCI_MANIFEST, manifest)
        entries += [{**entry, "annotations": _annotations(name)} for name in image.references] or [entry]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}


def _annotations(reference: Reference) -> Mapping[str, str]:
    """What containerd calls the image, and what the specification has: the tag."""
    return {NAME: reference.full, REF_NAME: reference.removeprefix(f"{reference.name}:")}


def _manifest_entry(image: ArchivedImage) -> Mapping[str, object]:
    return {
        "Config": blob_file(sha256_digest(image.config)),
        "RepoTags": list(image.references) or None,  # null, as Docker has it: some readers take [] for a mistake
        "Layers": [blob_file(layer.diff_id) for layer in image.layers],
    }


def _describe(media_type: str, content: bytes) -> Mapping[str, object]:
    return {"mediaType": media_type, "digest": sha256_digest(content), "size": len(content)}


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _write_member(stream: BinaryIO, name: str, content: bytes | Layer) -> None:
    size = len(content) if isinstance(content, bytes) else content.size
    stream.write(_header(name, tarfile.REGTYPE, 0o644, size))
    if isinstance(content, bytes):
        stream.write(content)
    else:
        _write_layer(stream, content)
    stream.write(bytes(-size % tarfile.BLOCKSIZE))


def _write_layer(stream: BinaryIO, layer: Layer) -> None:
    """Write exactly as many bytes as were announced, or fail."""
    found, size = hashlib.sha256(), 0
    for chunk in layer.chunks():
        size += len(chunk)
        if size > layer.size:
            break
        found.update(chunk)
        stream.write(chunk)
    what = f"layer {layer.diff_id.hex[:12]}"
    if size != layer.size:
        raise DigestMismatch(what, f"{layer.size} bytes", f"{'more' if size > layer.size else f'{size} bytes'}")
    if ALGORITHM + found.hexdigest() != layer.diff_id:
        raise DigestMismatch(what, layer.diff_id, ALGORITHM + found.hexdigest())


def _header(name: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    """A member of root's, without a date; PAX is for layers of 8 GiB and more."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    return info.tobuf(tarfile.PAX_FORMAT)
