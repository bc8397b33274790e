"""Images and the archives that `docker save` writes of them, byte for byte the same each time.

Two layouts are in the wild. `old`: until Docker 24, a folder per layer, named by a "v1" id. `oci`: since Docker 25, an
OCI image layout that still has manifest.json. Both list their members in alphabetical order, so a layer, or a symlink
to it, may come before the configuration that names it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tests.images.layer import EPOCH_NS, Layer

Layout = Literal["old", "oci"]
Json = dict[str, Any]

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
CREATED = "2023-11-14T22:13:20Z"  # EPOCH_NS
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Image:
    """Layers (base first) with a configuration, and the names that the image has."""

    layers: tuple[Layer, ...]
    references: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)  # the "config" part: Cmd, Env, Labels, User, ...

    @cached_property
    def config_bytes(self) -> bytes:
        config: Json = {"Env": [DEFAULT_PATH], **self.config}
        return to_json(
            {
                "architecture": ARCHITECTURE,
                "config": config,
                "created": CREATED,
                "history": [{"created": CREATED, "created_by": f"layer {n}"} for n, _ in enumerate(self.layers)],
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            }
        )

    @property
    def image_id(self) -> str:
        return sha256(self.config_bytes)

    @property
    def diff_ids(self) -> list[str]:
        return [layer.diff_id for layer in self.layers]

    @cached_property
    def chain_ids(self) -> list[str]:
        chain: list[str] = []
        for diff_id in self.diff_ids:
            chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
        return chain


@dataclass(frozen=True)
class SymlinkTo:
    """A member of an archive that is a symlink."""

    target: str


Member = bytes | Layer | SymlinkTo


def write_docker_archive(images: Sequence[Image], path: Path, layout: Layout = "old") -> Path:
    """Write what `docker save IMAGE...` writes; returns the path."""
    return write_members(old_members(images) if layout == "old" else oci_members(images), path)


def write_members(members: Mapping[str, Member], path: Path) -> Path:
    """Write an archive's members in alphabetical order, each after its folder; for damaged archives as well."""
    folders = {str(parent) for name in members for parent in Path(name).parents} - {"."}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(folders | members.keys(), key=lambda name: name.split("/")):
            if name in folders:
                archive.addfile(_tar_info(name, tarfile.DIRTYPE, stat.S_IFDIR | 0o755))
            else:
                _add_member(archive, name, members[name])
    return path


def _add_member(archive: tarfile.TarFile, name: str, member: Member) -> None:
    if isinstance(member, SymlinkTo):
        info = _tar_info(name, tarfile.SYMTYPE, stat.S_IFLNK | 0o777)
        info.linkname = member.target
        archive.addfile(info)
        return
    layer = member if isinstance(member, Layer) else Layer(member)
    info = _tar_info(name, tarfile.REGTYPE, stat.S_IFREG | 0o644)
    info.size = layer.size
    with layer.open() as stream:
        archive.addfile(info, stream)


def _tar_info(name: str, type_: bytes, mode: int) -> tarfile.TarInfo:
    """As dockerd has it: the type's bits in the mode (until Docker 24), and no date for the two lists of all images."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = type_, mode
    info.mtime = 0 if name in ("manifest.json", "repositories") else EPOCH_NS // 10**9
    return info


# --- the layout until Docker 24 -----------------------------------------------------------------------------------


def old_members(images: Iterable[Image]) -> dict[str, Member]:
    """The members of an archive in the old layout; the top layer's v1 id is not that of the same layer further down."""
    members: dict[str, Member] = {}
    stored: dict[str, str] = {}  # DiffID -> the layer.tar that holds it
    manifest: list[Json] = []
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        folders = _v1_configurations(image)
        for folder, layer in zip(folders, image.layers, strict=True):
            tar = f"{folder}/layer.tar"
            members |= {f"{folder}/VERSION": b"1.0", f"{folder}/json": folders[folder]}
            if tar not in members:
                first = stored.setdefault(layer.diff_id, tar)
                members[tar] = layer if first == tar else SymlinkTo(f"../{first}")
        members[f"{_hex(image.image_id)}.json"] = image.config_bytes
        manifest.append(_manifest_entry(image, f"{_hex(image.image_id)}.json", [f"{f}/layer.tar" for f in folders]))
        _add_references(repositories, image, next(reversed(folders), ""))
    members["manifest.json"] = to_json(manifest) + b"\n"
    if repositories:
        members["repositories"] = to_json(dict(sorted(repositories.items()))) + b"\n"
    return members


def _v1_configurations(image: Image) -> dict[str, bytes]:
    """What Docker before 1.10 knew of each layer: its v1 id, base first, and its configuration."""
    found: dict[str, bytes] = {}
    parent: Json = {}
    for chain_id in image.chain_ids:
        is_top = chain_id == image.chain_ids[-1]
        v1: Json = {**parent, "created": CREATED if is_top else "1970-01-01T00:00:00Z", "os": "linux"}
        if is_top:
            v1 |= {"config": dict(image.config), "architecture": ARCHITECTURE}
        name = _hex(sha256(to_json({**v1, "layer_id": chain_id})))
        found[name] = to_json({"id": name, **v1})
        parent = {"parent": name}
    return found


# --- the layout since Docker 25 -----------------------------------------------------------------------------------


def oci_members(images: Iterable[Image]) -> dict[str, Member]:
    """The members of an archive in the new layout: content-addressed blobs, an OCI index, and manifest.json."""
    members: dict[str, Member] = {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"})}
    index: list[Json] = []
    manifest: list[Json] = []
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        layers = [_descriptor("layer.v1.tar", layer.diff_id, layer.size) for layer in image.layers]
        config = _descriptor("config.v1+json", image.image_id, len(image.config_bytes))
        oci_manifest = to_json(
            {"schemaVersion": 2, "mediaType": _media_type("manifest.v1+json"), "config": config, "layers": layers}
        )
        members |= {_blob(layer.diff_id): layer for layer in image.layers}
        members |= {_blob(sha256(v1)): v1 for v1 in _v1_configurations(image).values()}  # nothing refers to them
        members |= {_blob(image.image_id): image.config_bytes, _blob(sha256(oci_manifest)): oci_manifest}
        index += _index_entries(image, oci_manifest)
        entry = _manifest_entry(image, _blob(image.image_id), [_blob(diff_id) for diff_id in image.diff_ids])
        manifest.append({**entry, "LayerSources": {layer["digest"]: layer for layer in layers}})
        _add_references(repositories, image, _hex(image.diff_ids[-1]) if image.layers else "")
    members["index.json"] = to_json({"schemaVersion": 2, "mediaType": _media_type("index.v1+json"), "manifests": index})
    members["manifest.json"] = to_json(manifest) + b"\n"
    if repositories:
        members["repositories"] = to_json(dict(sorted(repositories.items()))) + b"\n"
    return members


def _index_entries(image: Image, manifest: bytes) -> list[Json]:
    """One entry per name; dockerd leaves images without a name out of the index."""
    entry = _descriptor("manifest.v1+json", sha256(manifest), len(manifest))
    return [
        {
            **entry,
            "annotations": {"io.containerd.image.name": _full(ref), "org.opencontainers.image.ref.name": _tag(ref)},
        }
        for ref in image.references
    ]


def _descriptor(kind: str, digest: str, size: int) -> Json:
    return {"mediaType": _media_type(kind), "digest": digest, "size": size}


def _media_type(kind: str) -> str:
    return f"application/vnd.oci.image.{kind}"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{_hex(digest)}"


# --- both ---------------------------------------------------------------------------------------------------------


def _manifest_entry(image: Image, config: str, layers: list[str]) -> Json:
    return {"Config": config, "RepoTags": list(image.references) or None, "Layers": layers}


def _add_references(repositories: dict[str, dict[str, str]], image: Image, top: str) -> None:
    for reference in image.references:
        repositories.setdefault(reference.rpartition(":")[0], {})[_tag(reference)] = top


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _tag(reference: str) -> str:
    return reference.rpartition(":")[2]


def _full(reference: str) -> str:
    """A familiar name in full; a first part with a dot or a port is a registry."""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return reference
    return f"docker.io/{reference}" if slash else f"docker.io/library/{reference}"
