"""Images of registries and Docker daemons, fetched by skopeo: `docker://NAME` and `docker-daemon:NAME`.

A registry is read as an OCI image layout whose files are fetched when they are asked for: an index.json that names what
stands under the name there, then manifests and configurations. Layers are fetched only for a disk that is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from preloader_agent.errors import DigestMismatch
from preloader_agent.host.dockerarchive import MANIFEST
from preloader_agent.host.documents import Document
from preloader_agent.host.files import FolderFiles, check_document_size, missing
from preloader_agent.host.ocilayout import INDEX, NAME, OCI_INDEX, OCI_MANIFEST, blob_file, parse_descriptor
from preloader_agent.host.run import find_tool, run, run_aloud
from preloader_agent.host.selection import parse_name
from preloader_agent.host.staging import StagedLayer, Stager
from preloader_agent.store.digest import ALGORITHM, sha256_digest
from preloader_agent.store.reference import Reference

REGISTRY = "docker://"
DAEMON = "docker-daemon:"


@dataclass(frozen=True)
class Skopeo:
    """How skopeo is run: what it fetches goes to `folder`, what it prints to `say`."""

    folder: Path
    say: Callable[[str], None] = lambda _: None
    is_tls_verified: bool = True

    def inspect(self, reference: str, *options: str) -> bytes:
        """What a registry has under a reference, byte by byte."""
        _find_skopeo()
        tls = [] if self.is_tls_verified else ["--tls-verify=false"]
        argv = ["skopeo", "inspect", "--raw", *options, *tls, f"{REGISTRY}{reference}"]
        return run(argv).encode("utf-8", "surrogateescape")

    def copy(self, source: str, *options: str) -> Path:
        """Fetch one image; returns a folder with its manifest, and its blobs under the digits of their digests."""
        _find_skopeo()
        folder = Path(mkdtemp(prefix="skopeo.", dir=self.folder))
        tls = [] if self.is_tls_verified else ["--src-tls-verify=false"]
        argv = ["skopeo", "--tmpdir", str(self.folder), "copy", *options, *tls, source, f"dir:{folder}"]
        run_aloud(argv, self.say)
        return folder


def _find_skopeo() -> None:
    find_tool("skopeo", "`apt install skopeo`")


class RegistryFiles:
    """The files of an OCI image layout with what stands under one name in a registry."""

    def __init__(self, argument: str, skopeo: Skopeo) -> None:
        self.name = argument
        self._reference = _parse_reference(argument.removeprefix(REGISTRY))
        self._skopeo = skopeo
        self._documents: dict[str, bytes] = {}
        self._owners: dict[str, str] = {}  # configuration or layer -> digest of the manifest that names it
        self._sizes: dict[str, int] = {}  # of layers
        self._copies: dict[str, Path] = {}

    def has(self, name: str) -> bool:
        """See Files."""
        return name in self._documents or name in self._owners

    def read(self, name: str) -> bytes | None:
        """See Files."""
        if name == INDEX:
            return self._make_index()
        if not name.startswith(blob_file("")):
            return None
        if name not in self._documents:
            self._documents[name] = self._fetch(name)
        return self._documents[name]

    def stage(self, name: str, stager: Stager) -> StagedLayer:
        """See Files; what was staged is removed."""
        if name not in self._sizes:
            raise missing(self.name, name)
        manifest = self._owners[name]
        if manifest not in self._copies:
            self._copies[manifest] = self._skopeo.copy(f"{REGISTRY}{self._at(manifest)}")
        folder, file = self._copies[manifest], name.removeprefix(blob_file(""))
        staged = FolderFiles(folder).stage(file, stager)
        (folder / file).unlink()
        return staged

    def size(self, name: str) -> int:
        """See Files."""
        return self._sizes.get(name, 0)

    def _make_index(self) -> bytes:
        content = self._skopeo.inspect(self._reference)
        digest = sha256_digest(content)
        if "@" in self._reference and not self._reference.endswith(f"@{digest}"):
            raise DigestMismatch(self.name, self._reference.rpartition("@")[2], digest)
        self._keep(digest, content)
        document = Document.parse(self, self._reference, content)
        # A manifest need not repeat its type.
        media_type = document.text("mediaType") or (OCI_INDEX if document.objects("manifests") else OCI_MANIFEST)
        entry = {
            "mediaType": media_type,
            "digest": digest,
            "size": len(content),
            "annotations": {NAME: self._reference},
        }
        return json.dumps({"manifests": [entry]}).encode()

    def _fetch(self, name: str) -> bytes:
        if name in self._owners:
            return self._skopeo.inspect(self._at(self._owners[name]), "--config")
        digest = ALGORITHM + name.removeprefix(blob_file(""))
        return self._keep(digest, self._skopeo.inspect(self._at(digest)))

    def _keep(self, digest: str, content: bytes) -> bytes:
        """Keep an index or manifest, and note what a manifest names."""
        name = blob_file(digest)
        check_document_size(self.name, name, len(content))
        self._documents[name] = content
        document = Document.parse(self, name, content)
        if document.object("config"):
            self._owners[parse_descriptor(document.object("config")).file] = digest
        for layer in map(parse_descriptor, document.objects("layers")):
            self._owners[layer.file], self._sizes[layer.file] = digest, layer.size
        return content

    def _at(self, digest: str) -> str:
        return f"{self._reference.name}@{digest}"


class DaemonFiles(FolderFiles):
    """The files of a docker-archive with one image of a Docker daemon."""

    def __init__(self, argument: str, skopeo: Skopeo) -> None:
        image = argument.removeprefix(DAEMON)
        self._references = [] if image.startswith(ALGORITHM) else [parse_name(image)]
        host = os.environ.get("DOCKER_HOST")
        options = ["--src-daemon-host", host] if host else []
        super().__init__(skopeo.copy(DAEMON + next(iter(self._references), image), *options))
        self.name = argument

    def read(self, name: str) -> bytes | None:
        """See Files."""
        content = super().read(name)
        if content is None or name != MANIFEST:
            return content
        document = Document.parse(self, MANIFEST, content)
        config, *layers = map(parse_descriptor, [document.object("config"), *document.objects("layers")])
        entry = {"Config": config.digest.hex, "RepoTags": self._references, "Layers": [at.digest.hex for at in layers]}
        return json.dumps([entry]).encode()


def _parse_reference(text: str) -> Reference:
    """As `docker pull` takes it: a digest counts more than a tag."""
    name, at, digest = text.partition("@")
    return Reference(f"{parse_name(name).name}@{digest}") if at else parse_name(name)
