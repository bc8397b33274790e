"""docker-archives: what `docker save` writes, before and since Docker 25, and what other tools write like it.

Both layouts have a manifest.json at the top that names each image's configuration, references and layers; only the
names of the members differ. Format: moby image/tarexport (load.go, save.go). An archive may hold several images, and
one layer may be a symlink to another.
"""

from __future__ import annotations

import errno
import gzip
import json
import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from preloader_agent.errors import DigestMismatch, InvalidArchive, InvalidValue
from preloader_agent.store.digest import MAX_LAYERS, ChainID, DiffID, ImageID, chain_ids, sha256_digest
from preloader_agent.store.index import Platform, checked_text
from preloader_agent.store.reference import Reference

MAX_JSON = 16 << 20  # bytes of a manifest or configuration; real ones have a few kB
_GZIP = b"\x1f\x8b"
_UNREADABLE = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"))
_HEX_NAME = re.compile(r"(?:^|/|sha256:)([0-9a-f]{64})(?:\.json)?$")


@dataclass(frozen=True)
class Archive:
    """An open archive; members are found by their normalized names, since some writers put "./" before them."""

    tar: tarfile.TarFile
    members: Mapping[str, tarfile.TarInfo]

    @property
    def name(self) -> str:
        """What errors call the archive."""
        return str(self.tar.name)

    def open(self, member: tarfile.TarInfo) -> IO[bytes]:
        """The content of a regular file."""
        file = self.tar.extractfile(member)
        assert file is not None
        return file


@dataclass(frozen=True)
class LayerSource:
    """A layer of an image, and the archive member that holds its tar stream."""

    diff_id: DiffID
    chain_id: ChainID
    parent: ChainID | None
    archive: Archive
    member: tarfile.TarInfo

    @property
    def name(self) -> str:
        """What errors call the layer."""
        return f"{self.archive.name}: layer {self.member.name}"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The uncompressed tar stream; the block raises InvalidArchive when its compression is damaged."""
        with self.archive.open(self.member) as file:
            magic = file.read(6)
            file.seek(0)
            if magic.startswith(_GZIP):
                try:
                    with gzip.open(file) as stream:
                        yield cast(BinaryIO, stream)
                except (gzip.BadGzipFile, zlib.error, EOFError) as err:
                    raise InvalidArchive(self.name, f"its gzip stream is damaged: {err}") from err
                return
            _refuse_compression(self.name, magic)
            yield cast(BinaryIO, file)


@dataclass(frozen=True)
class Image:
    """An image as archives describe it; `config` is its configuration, byte by byte."""

    image_id: ImageID
    config: bytes
    references: tuple[Reference, ...]
    platform: Platform
    layers: tuple[LayerSource, ...]

    @property
    def name(self) -> str:
        """What a person calls the image."""
        return self.references[0] if self.references else self.image_id.hex[:12]


@contextmanager
def open_images(paths: Sequence[Path]) -> Iterator[list[Image]]:
    """All the images of some docker-archives, each once, with the references of all of them.

    Raises InvalidArchive, InvalidValue and DigestMismatch, before any layer is read.
    """
    with ExitStack() as stack:
        found: dict[ImageID, Image] = {}
        claims: dict[Reference, tuple[ImageID, Path]] = {}
        for path in paths:
            tar = stack.enter_context(_open_tar(path))
            members = {posixpath.normpath(member.name): member for member in tar.getmembers()}
            for image in _read_archive(Archive(tar, members)):
                _check_claims(image, path, claims)
                known = found.get(image.image_id, image)
                references = tuple(sorted({*known.references, *image.references}))
                found[image.image_id] = Image(known.image_id, known.config, references, known.platform, known.layers)
        yield sorted(found.values(), key=lambda image: image.image_id)


def _check_claims(image: Image, path: Path, claims: dict[Reference, tuple[ImageID, Path]]) -> None:
    """One reference names one image; two claims would leave it to chance which one a guest gets."""
    for reference in image.references:
        other, other_path = claims.setdefault(reference, (image.image_id, path))
        if other != image.image_id:
            raise InvalidArchive(
                path,
                f"{reference} names image {image.image_id.hex[:12]} here, and {other.hex[:12]} in {other_path}; "
                "tag one of them anew, or put them on two disks",
            )


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(_GZIP):
            raise InvalidArchive(path, "is compressed with gzip, which is not read yet; decompress it first")
        _refuse_compression(path, magic)
        archive = tarfile.open(path, mode="r:")  # noqa: SIM115 - the caller closes it
        archive.getmembers()  # reads every header: a truncated archive is found before anything is written
    except OSError as err:
        hint = "; a pipe is not read yet: save to a file first" if err.errno == errno.ESPIPE else ""
        raise InvalidArchive(path, f"cannot be read: {err.strerror or err}{hint}") from err
    except tarfile.TarError as err:
        raise InvalidArchive(path, f"not a sound tar file ({err}); expected what `docker save` writes") from err
    return archive


def _refuse_compression(name: object, magic: bytes) -> None:
    for start, tool in _UNREADABLE:
        if magic.startswith(start):
            raise InvalidArchive(name, f"is compressed with {tool}, which is not read yet; decompress it first")


def _read_archive(archive: Archive) -> Iterator[Image]:
    if "manifest.json" not in archive.members:
        is_oci = "oci-layout" in archive.members
        found = "is an OCI layout without manifest.json, which is not read yet" if is_oci else ""
        raise InvalidArchive(archive.name, f"{found or 'has no manifest.json'}; expected what `docker save` writes")
    manifest = _parse_json(archive, "manifest.json", _read_file(archive, "manifest.json"))
    if not isinstance(manifest, list) or not all(isinstance(entry, dict) for entry in manifest):
        raise InvalidArchive(archive.name, "manifest.json is not a list of images, as `docker save` writes it")
    if not manifest:
        raise InvalidArchive(archive.name, "holds no image; save at least one")
    for entry in manifest:
        yield _read_image(archive, entry)


def _read_image(archive: Archive, entry: dict[str, Any]) -> Image:
    config_name = _member_name(archive, entry.get("Config"))
    content = _read_file(archive, config_name)
    image_id = ImageID(sha256_digest(content))
    named = _HEX_NAME.search(config_name)
    if named and named[1] != image_id.hex:
        raise DigestMismatch(f"{archive.name}: image configuration {config_name}", named[1], image_id.hex)
    config = _parse_json(archive, config_name, content)
    diff_ids = _diff_ids(archive, config_name, config)
    layers = _list(archive, entry, "Layers")
    if len(layers) != len(diff_ids):
        raise InvalidArchive(
            archive.name, f"image {image_id.hex[:12]} has {len(diff_ids)} layers, manifest.json names {len(layers)}"
        )
    members = [_find_member(archive, _member_name(archive, layer)) for layer in layers]
    chain = chain_ids(diff_ids)
    parents: list[ChainID | None] = [None, *chain[:-1]] if chain else []
    return Image(
        image_id,
        content,
        tuple(_reference(archive, tag) for tag in _list(archive, entry, "RepoTags")),
        _platform(archive, config_name, config),
        tuple(
            LayerSource(diff_id, chain_id, parent, archive, member)
            for diff_id, chain_id, parent, member in zip(diff_ids, chain, parents, members, strict=True)
        ),
    )


def _list(archive: Archive, entry: dict[str, Any], key: str) -> list[Any]:
    found = entry.get(key) or []
    if not isinstance(found, list):
        raise InvalidArchive(archive.name, f"manifest.json: {key} is {found!r:.60}; expected a list")
    return found


def _reference(archive: Archive, tag: str) -> Reference:
    try:
        return Reference(tag)
    except InvalidValue as err:
        raise InvalidArchive(archive.name, f"manifest.json: {err}") from err


def _diff_ids(archive: Archive, name: str, config: Any) -> list[DiffID]:
    try:
        diff_ids = [DiffID(diff_id) for diff_id in config["rootfs"]["diff_ids"] or ()]
    except (KeyError, TypeError, InvalidValue) as err:
        raise InvalidArchive(archive.name, f"{name} is not an image configuration: rootfs.diff_ids: {err}") from err
    if len(diff_ids) > MAX_LAYERS:
        raise InvalidArchive(archive.name, f"{name} has {len(diff_ids)} layers; docker takes at most {MAX_LAYERS}")
    return diff_ids


def _platform(archive: Archive, name: str, config: dict[str, Any]) -> Platform:
    values = [config.get(key) for key in ("os", "architecture", "variant")]
    try:
        os, architecture, variant = (checked_text(value if isinstance(value, str) else "") for value in values)
    except InvalidValue as err:
        raise InvalidArchive(archive.name, f"{name}: platform: {err}") from err
    if os not in ("", "linux"):
        raise InvalidArchive(
            archive.name, f"{name} is an image for {os}, expected linux; docker would not load it either"
        )
    return Platform("linux", architecture, variant)


def _member_name(archive: Archive, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidArchive(archive.name, f"manifest.json names a file {name!r:.60}; expected a path in the archive")
    return posixpath.normpath(name)


def _find_member(archive: Archive, name: str) -> tarfile.TarInfo:
    """The regular file of a name; `docker save` before 25 makes a layer that it wrote already a symlink, tar a link."""
    visited: set[str] = set()
    while name not in visited:
        visited.add(name)
        member = archive.members.get(name)
        if member is None or not (member.isreg() or member.issym() or member.islnk()):
            break
        if member.isreg():
            return member
        folder = posixpath.dirname(name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(folder, member.linkname))
    raise InvalidArchive(
        archive.name, f"{name} is missing, though manifest.json needs it; save the image again (is the file complete?)"
    )


def _read_file(archive: Archive, name: str) -> bytes:
    member = _find_member(archive, name)
    if member.size > MAX_JSON:
        raise InvalidArchive(archive.name, f"{name} has {member.size} bytes, at most {MAX_JSON} are read")
    with archive.open(member) as file:
        return file.read()


def _parse_json(archive: Archive, name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as err:
        raise InvalidArchive(archive.name, f"{name} is not valid JSON: {err}") from err
