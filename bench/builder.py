"""The host builder against the way that it replaces, and against what it cannot be quicker than."""

from __future__ import annotations

import hashlib
import tarfile
from contextlib import ExitStack
from pathlib import Path

from bench.inputs import LARGE_FILES, MANY_FILES, SMALL_FILES, TWO_LAYERS, Content, write_archive
from bench.measure import memory_of_build, preloader, read_disk, seconds, used_bytes
from preloader_agent.host.run import run
from tests.dockerd import Dockerd


def measure_builder(folder: Path) -> dict[str, float]:
    """A 230 MB image in two layers, and 50,000 small files."""
    archive = write_archive(folder, "two", TWO_LAYERS)
    disk = folder / "two.qcow2"
    build = seconds(lambda: preloader("build", archive, "-o", disk))
    layers = sorted(folder.glob("two*.layer"))
    hashing = seconds(lambda: [hash_file(layer) for layer in layers])
    old_way, unpacked = measure_old_way(archive, folder / "old")
    filesystem = measure_mke2fs(layers, folder)
    small = write_archive(folder, "small", SMALL_FILES)
    small_disk = folder / "small.qcow2"
    small_build = seconds(lambda: preloader("build", small, "-o", small_disk))
    small_hashing = seconds(lambda: hash_file(small))
    return {
        "build of 230 MB, s": build,
        "build / dockerd on an ext4 image": build / old_way,
        "build / (sha256 + mke2fs -d)": build / (hashing + filesystem),
        "build / sha256": build / hashing,
        "verify / build": seconds(lambda: preloader("verify", disk)) / build,
        "disk / unpacked layers (du)": disk.stat().st_size / unpacked,
        "build of 50,000 files of 1 KB, s": small_build,
        "build of 50,000 files / sha256": small_build / small_hashing,
        "disk of 50,000 files / unpacked (du)": small_disk.stat().st_size / unpack(folder / "small0.layer", folder),
        **measure_compression(archive, disk, folder),
    }


def measure_old_way(archive: Path, folder: Path) -> tuple[float, int]:
    """An ext4 image as the data root of a dockerd: load, stop, trim, convert. Also what du counts for the layers."""
    raw, mount = folder / "disk.raw", folder / "mount"
    mount.mkdir(parents=True)
    run(["truncate", "--size=1G", raw])

    def load() -> int:
        run(["mke2fs", "-q", "-t", "ext4", raw])
        with ExitStack() as stack:
            run(["mount", "-o", "loop", raw, mount])
            stack.callback(run, ["umount", mount])
            with Dockerd(mount / "docker") as dockerd:
                dockerd.docker("load", "--input", archive)
            run(["fstrim", mount])
            unpacked = sum(used_bytes(path) for path in mount.glob("docker/root/overlay2/*/diff"))
        run(["qemu-img", "convert", "-O", "qcow2", raw, folder / "disk.qcow2"])
        return unpacked

    found: list[int] = []
    return seconds(lambda: found.append(load())), found[0]


def measure_mke2fs(layers: list[Path], folder: Path) -> float:
    """How long mke2fs takes for a tar of the same tree, which is made first."""
    ready, raw = folder / "ready.tar", folder / "ready.raw"
    with tarfile.open(ready, "w") as tar:
        for layer in layers:
            with tarfile.open(layer) as source:
                for member in source:
                    tar.addfile(member, source.extractfile(member))
    options = ["-q", "-t", "ext4", "-b", "4096", "-N", "16384", "-O", "^has_journal"]
    return seconds(lambda: run(["mke2fs", *options, "-d", ready, raw, "400M"]))


def measure_compression(archive: Path, disk: Path, folder: Path) -> dict[str, float]:
    """What `--compress zstd` saves, and what reading the whole disk then costs."""
    compressed = folder / "compressed.qcow2"
    preloader("build", archive, "-o", compressed, "--compress", "zstd")
    plain_read, compressed_read = (read_disk(path, folder) for path in (disk, compressed))
    return {
        "compressed disk / disk": compressed.stat().st_size / disk.stat().st_size,
        "reading the compressed disk / the disk": compressed_read / plain_read,
    }


def unpack(layer: Path, folder: Path) -> int:
    """What du counts for a layer."""
    tree = folder / "tree"
    tree.mkdir()
    run(["tar", "--extract", "--file", layer, "--directory", tree])
    return used_bytes(tree)


def measure_large(folder: Path) -> dict[str, float]:
    """Two images of 2 GB: the memory that building them takes."""
    figures = {}
    for name, contents in (("large", LARGE_FILES), ("many", MANY_FILES)):
        figures[f"memory for 2 GB in {contents[0].files} files, MB"] = measure_memory(folder, name, contents)
    return figures


def measure_memory(folder: Path, name: str, contents: tuple[Content, ...]) -> float:
    """The peak memory of building an image, whose files are removed again."""
    archive, disk = write_archive(folder, name, contents), folder / f"{name}.qcow2"
    try:
        return memory_of_build(archive, disk)
    finally:
        for path in folder.glob(f"{name}*"):
            path.unlink()


def hash_file(path: Path) -> str:
    """The lower bound of all that verifies what it reads."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
