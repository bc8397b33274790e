"""Images of real Debian packages, made with mmdebstrap and kept in the user's cache.

The base layer is the extracted tree of a few packages; an upper layer is what more packages add to it. Nothing is
configured, so nothing runs in the tree and the layers depend on the packages alone. Needs root or user namespaces,
and the network when the cache is empty.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from preloader_agent.host.run import run
from tests.images.archive import Image
from tests.images.layer import EPOCH_NS, Layer

SUITE = "trixie"
BASE_PACKAGES = ("base-files", "bash", "coreutils")
# What no program of ours reads: documentation, and what mmdebstrap leaves behind (it names this machine's mirror).
LEFT_OUT = (
    "./dev/",
    "./etc/apt/",
    "./usr/share/doc/",
    "./usr/share/info/",
    "./usr/share/locale/",
    "./usr/share/man/",
    "./var/cache/apt/",
    "./var/lib/apt/",
    "./var/lib/dpkg/",
    "./var/log/",
)


@cache
def debian_base_image() -> Image:
    """Bash and coreutils of Debian, in one layer."""
    return Image((debian_layer(),), ("debian-base:trixie",), {"Cmd": ["bash"]})


@cache
def debian_image() -> Image:
    """Redis on top of the base image: two layers, the lower one shared."""
    layers = (debian_layer(), debian_layer("redis-server"))
    return Image(layers, ("debian-redis:trixie",), {"Cmd": ["redis-server", "--version"], "Labels": {"suite": SUITE}})


@cache
def debian_layer(*packages: str) -> Layer:
    """What some packages, and those that they depend on, add to the base layer; without any, the base layer itself."""
    below = _members(debian_layer()) if packages else {}
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docker-preloader" / "images"
    key = " ".join((platform.machine(), *packages)).encode() + Path(__file__).read_bytes()
    folder = home / hashlib.sha256(key).hexdigest()[:16]  # it appears complete or not at all
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(home) as scratch:
            tree = scratch / "tree.tar"
            _extract_packages((*BASE_PACKAGES, *packages), tree)
            _write_layer(tree, scratch / "layer.tar", below)
            tree.unlink()
            try:
                scratch.rename(folder)
            except OSError:  # another test run was first
                if not folder.is_dir():
                    raise
    return Layer(folder / "layer.tar")


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".making-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract_packages(packages: tuple[str, ...], tar: Path) -> None:
    """Extract the packages and what they depend on, from the mirror that mmdebstrap knows."""
    include = f"--include={','.join(packages)}"
    run(
        ["mmdebstrap", "--variant=extract", include, "--format=tar", SUITE, tar],
        env={"SOURCE_DATE_EPOCH": str(EPOCH_NS // 10**9)},
        timeout=600,
    )


def _members(layer: Layer) -> dict[str, tuple[object, ...]]:
    with layer.open() as file, tarfile.open(fileobj=file) as tar:
        return {member.name: _identity(member) for member in tar}


def _identity(member: tarfile.TarInfo) -> tuple[object, ...]:
    return (member.type, member.mode, member.uid, member.gid, member.size, member.mtime, member.linkname)


def _write_layer(tree_tar: Path, layer_tar: Path, below: dict[str, tuple[object, ...]]) -> None:
    """Write what the tree has and the layers below have not, with the folders that lead to it."""
    with tarfile.open(tree_tar) as tree, tarfile.open(layer_tar, "w", format=tarfile.PAX_FORMAT) as layer:
        kept = [member for member in tree if not f"{member.name}/".startswith(LEFT_OUT)]
        new = {member.name for member in kept if below.get(member.name) != _identity(member)}
        folders = {str(parent) for name in new for parent in Path(name).parents}
        for member in kept:
            if member.name in new or member.name.removeprefix("./") in folders:
                layer.addfile(member, tree.extractfile(member) if member.isreg() else None)
