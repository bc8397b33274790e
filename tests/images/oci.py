"""OCI image layouts as containerd, BuildKit, podman and skopeo write them, part by part."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import zstandard

from tests.images.archive import Image, Json, Member, sha256, to_json, write_members
from tests.images.layer import Layer

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": lambda content: gzip.compress(content, 1, mtime=0),
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "bzip2": lambda content: bz2.compress(content, 1),
}
NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
REFERENCE_TYPE = "vnd.docker.reference.type"


class OciLayout:
    """Blobs, and the entries of index.json. What a method returns is the descriptor of the blob that it added."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.entries: list[Json] = []
        self.others: dict[str, Member] = {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"})}

    def blob(self, content: bytes, media_type: str) -> Json:
        digest = sha256(content)
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def image(
        self, image: Image, compression: str | Sequence[str] = "gzip", *, platform: str = "", is_docker: bool = False
    ) -> Json:
        """An image's manifest; its configuration says the platform, if one is given, the descriptor does not."""
        ways = [compression] * len(image.layers) if isinstance(compression, str) else compression
        config = _config_for(image, platform)
        return self.manifest(
            self.blob(config, f"{DOCKER}.container.image.v1+json" if is_docker else f"{OCI}.config.v1+json"),
            [self.layer(layer, way, is_docker=is_docker) for layer, way in zip(image.layers, ways, strict=True)],
            is_docker=is_docker,
        )

    def layer(self, layer: Layer, compression: str, *, is_docker: bool = False) -> Json:
        with layer.open() as stream:
            content = COMPRESSORS[compression](stream.read())
        if is_docker:
            return self.blob(content, f"{DOCKER}.image.rootfs.diff.tar{compression and '.' + compression}")
        return self.blob(content, f"{OCI}.layer.v1.tar{compression and '+' + compression}")

    def manifest(self, config: Json, layers: Sequence[Json], *, is_docker: bool = False) -> Json:
        media_type = f"{DOCKER}.distribution.manifest.v2+json" if is_docker else f"{OCI}.manifest.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": list(layers)}
        return self.blob(to_json(document), media_type)

    def attestation(self, of: Json) -> Json:
        """What BuildKit puts beside an image: a manifest whose one layer is a statement about it."""
        statement = self.blob(b'{"_type": "https://in-toto.io/Statement/v0.1"}', "application/vnd.in-toto+json")
        config = {
            "architecture": "unknown",
            "os": "unknown",
            "rootfs": {"type": "layers", "diff_ids": [statement["digest"]]},
        }
        manifest = self.manifest(self.blob(to_json(config), f"{OCI}.config.v1+json"), [statement])
        annotations = {REFERENCE_TYPE: "attestation-manifest", "vnd.docker.reference.digest": of["digest"]}
        return {**on("unknown/unknown", manifest), "annotations": annotations}

    def index(self, manifests: Sequence[Json], *, is_docker: bool = False) -> Json:
        media_type = f"{DOCKER}.distribution.manifest.list.v2+json" if is_docker else f"{OCI}.index.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(manifests)}
        return self.blob(to_json(document), media_type)

    def add(self, entry: Json, **annotations: str) -> OciLayout:
        """Make it an entry of index.json: `name` for containerd's annotation, `ref_name` for the specification's."""
        keys = {"name": NAME, "ref_name": REF_NAME}
        said = {keys[key]: value for key, value in annotations.items()}
        self.entries.append({**entry, "annotations": {**entry.get("annotations", {}), **said}} if said else entry)
        return self

    def members(self) -> dict[str, Member]:
        index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": self.entries}
        blobs = {f"blobs/sha256/{digest.removeprefix('sha256:')}": content for digest, content in self.blobs.items()}
        return {**blobs, "index.json": to_json(index), **self.others}

    def write_tar(self, path: Path) -> Path:
        """Write an archive (blobs come first); returns the path."""
        return write_members(self.members(), path)

    def write_folder(self, path: Path) -> Path:
        """Write a folder; returns its path."""
        with tarfile.open(self.write_tar(path.with_name(f"{path.name}.tar"))) as archive:
            archive.extractall(path, filter="data")
        return path


def on(platform: str, descriptor: Json) -> Json:
    """A descriptor that says the platform: OS/ARCH[/VARIANT]."""
    return {**descriptor, "platform": dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))}


def _config_for(image: Image, platform: str) -> bytes:
    if not platform:
        return image.config_bytes
    os, architecture, *variant = platform.split("/")
    document = {**json.loads(image.config_bytes), "os": os, "architecture": architecture}
    return to_json({**document, "variant": variant[0]} if variant else document)
