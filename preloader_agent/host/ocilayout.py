"""OCI image layouts: index.json names manifests, or lists of them by platform, and each manifest an image's blobs.

Docker's own manifests and lists may stand in one as well. Format: the OCI image specification, image-layout.md; names
are annotations of the entries of index.json, as containerd, BuildKit, podman and skopeo write them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from preloader_agent.errors import DigestMismatch, InvalidArchive, InvalidValue
from preloader_agent.host.documents import Document
from preloader_agent.host.files import Files, missing
from preloader_agent.host.images import Image, make_image, read_document
from preloader_agent.host.platforms import find_best, host_platform, list_platforms
from preloader_agent.store.digest import ALGORITHM, Digest, sha256_digest
from preloader_agent.store.index import Platform
from preloader_agent.store.reference import Reference

INDEX = "index.json"
NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
VERSION = "oci-layout"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEXES = (OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = (OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
_CONFIGS = ("", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_UNKNOWN = Platform("unknown", "unknown")


class Descriptor(NamedTuple):
    """What a document says of a blob; `label` is its name or tag in index.json, which need not be a reference."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None
    is_attestation: bool
    urls: tuple[str, ...]
    label: str
    reference: Reference | None

    @property
    def file(self) -> str:
        """The file that holds the blob."""
        return blob_file(self.digest)


class _Candidate(NamedTuple):
    """A manifest below an entry of index.json; its image, if that had to be read to know the platform."""

    entry: Descriptor
    manifest: Descriptor
    platform: Platform
    image: Image | None


def blob_file(digest: str) -> str:
    """The file that holds a blob."""
    return f"blobs/sha256/{digest.removeprefix(ALGORITHM)}"


def read_oci_layout(files: Files, content: bytes, platform: Platform | None) -> list[Image]:
    """The images that an index.json names, for a platform (by default the host's).

    Raises InvalidArchive and DigestMismatch.
    """
    _check_version(files)
    index = Document.parse(files, INDEX, content)
    groups = _group(files, [parse_descriptor(entry) for entry in index.objects("manifests")])
    wanted = platform or host_platform()
    images, others = [], []
    for group in groups:
        best = find_best(wanted, [candidate.platform for candidate in group])
        images += _read_images(files, [group[position] for position in best])
        others += [] if best else group
    # Whoever gave a name wants that image; mere tags may stand for platforms.
    lacking = [other for other in others if other.entry.reference or not images]
    if lacking:
        raise _no_image_for(files, lacking, wanted, "the platform of this host" if platform is None else "--platform")
    if not images:
        raise InvalidArchive(files.name, "holds no image, if anything other artifacts; save at least one image")
    return images


def _check_version(files: Files) -> None:
    content = files.read(VERSION)
    if content is None:
        return
    version = Document.parse(files, VERSION, content).text("imageLayoutVersion")
    if not version.startswith("1."):
        raise InvalidArchive(files.name, f"has the layout version {version!r:.20}; expected 1.0.0")


def _group(files: Files, entries: Sequence[Descriptor]) -> list[list[_Candidate]]:
    """Those manifests together of which a platform has one: all of an index, or all with one label in index.json."""
    groups: dict[str | int, list[_Candidate]] = {}
    for number, entry in enumerate(entries):
        key = number if entry.media_type in _INDEXES else entry.label
        groups.setdefault(key, []).extend(_candidates(files, entry))
    return [group for group in groups.values() if group]


def _candidates(files: Files, entry: Descriptor) -> Iterator[_Candidate]:
    """The manifests below an entry, in their order, each once: an index may name indexes."""
    waiting, known = deque([entry]), set[Digest]()
    while waiting:
        found = waiting.popleft()
        if found.digest in known or found.is_attestation:
            continue
        known.add(found.digest)
        if found.media_type in _INDEXES:
            index = Document.parse(files, found.file, read_blob(files, found))
            waiting.extendleft(reversed([parse_descriptor(inner) for inner in index.objects("manifests")]))
        elif found.media_type in _MANIFESTS:
            yield from _candidate(files, entry, found)


def _candidate(files: Files, entry: Descriptor, manifest: Descriptor) -> Iterator[_Candidate]:
    """A manifest, if it is that of an image; one whose platform is not said has that of its configuration."""
    if manifest.platform is not None:
        if manifest.platform != _UNKNOWN:
            yield _Candidate(entry, manifest, manifest.platform, None)
    elif image := _read_image(files, entry, manifest):
        yield _Candidate(entry, manifest, image.platform, image)


def _read_images(files: Files, candidates: Sequence[_Candidate]) -> list[Image]:
    """The images of some manifests; of an index, only the first, as the specification asks."""
    found = [candidate.image or _read_image(files, candidate.entry, candidate.manifest) for candidate in candidates]
    images = [image for image in found if image]
    return images[:1] if candidates and candidates[0].entry != candidates[0].manifest else images


def _no_image_for(files: Files, lacking: Sequence[_Candidate], wanted: Platform, who: str) -> InvalidArchive:
    name = lacking[0].entry.reference or "its image"
    there = list_platforms(candidate.platform for candidate in lacking)
    return InvalidArchive(
        files.name, f"{name} is there for {there}; expected {wanted} ({who}); give the --platform that is meant"
    )


def _read_image(files: Files, entry: Descriptor, manifest: Descriptor) -> Image | None:
    """The image of a manifest, None when it is that of something else, such as a signature."""
    document = Document.parse(files, manifest.file, read_blob(files, manifest))
    config = parse_descriptor(document.object("config"))
    layers = [parse_descriptor(layer) for layer in document.objects("layers")]
    if config.media_type not in _CONFIGS or (layers and not any(map(_is_layer, layers))):
        return None
    content = read_blob(files, config)
    for layer in layers:
        _check_layer(files, layer)
    names = [entry.reference] if entry.reference else []
    tagged = [name for name in names if "@" not in name]
    repo_digests = [Reference(f"{name.name}@{entry.digest}") for name in names]
    return make_image(files, config.file, content, [layer.file for layer in layers], tagged, repo_digests)


def _is_layer(layer: Descriptor) -> bool:
    return layer.media_type.startswith(_LAYERS)


def _check_layer(files: Files, layer: Descriptor) -> None:
    if layer.media_type.endswith("+encrypted"):
        raise InvalidArchive(files.name, f"layer {layer.file} is encrypted; decrypt the image first")
    if files.has(layer.file):
        return
    if layer.urls:
        where = ", ".join(layer.urls)
        raise InvalidArchive(files.name, f"layer {layer.file} is missing, it must be fetched from {where:.200}")
    raise missing(files.name, layer.file)


def read_blob(files: Files, blob: Descriptor) -> bytes:
    """An index, a manifest or a configuration. Raises InvalidArchive and DigestMismatch."""
    content = read_document(files, blob.file)
    found = sha256_digest(content)
    if found != blob.digest:
        raise DigestMismatch(f"{files.name}: {blob.file}", blob.digest, found)
    if len(content) != blob.size:
        raise DigestMismatch(f"{files.name}: {blob.file}", f"{blob.size} bytes", f"{len(content)} bytes")
    return content


def parse_descriptor(document: Document) -> Descriptor:
    """What a document says of a blob. Raises InvalidArchive."""
    annotations = document.object("annotations")
    labels = [annotations.text(key) for key in (NAME, REF_NAME)]
    platform = document.object("platform")
    return Descriptor(
        document.text("mediaType"),
        document.value("digest", Digest),
        document.size("size"),
        Platform(*(platform.text(key) for key in ("os", "architecture", "variant"))) if platform else None,
        annotations.text("vnd.docker.reference.type") == "attestation-manifest",
        tuple(document.texts("urls")),
        next(filter(None, labels), ""),
        next(filter(None, map(_reference, labels)), None),
    )


def _reference(label: str) -> Reference | None:
    """The name that a label is, with its tag or else its digest; a mere tag is none."""
    for text in (label.partition("@")[0], label):
        with suppress(InvalidValue):
            return Reference(text)
    return None
