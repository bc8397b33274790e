"""Small root trees that look like guests, and small wheels, made without a network and without root."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from preloader_agent.host.diskimage import as_raw
from preloader_agent.host.run import run

MINOR = 99  # of the guests' Python: none that the host has
X86_64, S390X = 62, 22
SITE = "usr/lib/python3/dist-packages"
DISTRIBUTED = ("orjson/__init__.py", "pystemd/__init__.py", "pyudev/__init__.py", "sdnotify.py")


def make_guest(root: Path, lacking: str = "", minor: int = MINOR) -> Path:
    """A tree with what the agent asks for; `lacking` is a module that its Python does not have."""
    for name in DISTRIBUTED:
        if not lacking or not name.startswith(lacking):
            write(root / SITE / name)
    write(root / f"usr/bin/python3.{minor}", elf_header(X86_64))
    (root / "usr/bin/python3").symlink_to(f"python3.{minor}")
    for name in ("usr/lib/systemd/systemd", "usr/bin/udevadm", "usr/bin/dockerd", "etc/os-release"):
        write(root / name)
    (root / "usr/lib/systemd/systemd-udevd").symlink_to("../../bin/udevadm")
    (root / "lib").symlink_to("usr/lib")
    return root


def elf_header(machine: int) -> bytes:
    """The start of a 64-bit program; big-endian for s390x."""
    order, mark = (">", 2) if machine == S390X else ("<", 1)
    return struct.pack(f"{order}4sBBB9xHH", b"\x7fELF", 2, mark, 1, 2, machine)


def write(path: Path, content: bytes = b"") -> Path:
    """A file, with the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_wheel(folder: Path, name: str, tag: str = "py3-none-any", needs: str = "", **files: str) -> Path:
    """A wheel that pip takes, of version 9; `files` are beside `NAME.py`, with `__` for `/`."""
    folder.mkdir(exist_ok=True)
    wheel, info = folder / f"{name}-9-{tag}.whl", f"{name}-9.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"name = {name!r}\n")
        for path, text in files.items():
            archive.writestr(path.replace("__", "/"), text)
        requirement = f"Requires-Dist: {needs}\n" * bool(needs)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n{requirement}")
        pure = str(tag.endswith("any")).lower()
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def pack(root: Path, *options: str) -> Path:
    """A tar file of a tree, root's, with ./ before the names as mmdebstrap writes them."""
    tar = root.with_suffix(".tar")
    run(["tar", "--create", *options, "--file", tar, "--owner=root:0", "--group=root:0", "--directory", root, "."])
    return tar


def unpack(tar: Path, folder: Path) -> Path:
    """The tree in a tar file."""
    folder.mkdir()
    run(["tar", "--extract", "--file", tar, "--no-same-owner", "--directory", folder])
    return folder


def make_filesystem(root: Path, *options: str, size: str = "16M") -> Path:
    """A raw image with a tree on an ext4 file system, beside it; `options` of mke2fs's."""
    raw = root.with_suffix(".raw")
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, *options, raw, size])
    return raw


def dump_filesystem(image: Path, folder: Path, start: int = 0) -> Path:
    """The tree in a raw or qcow2 image, whose file system begins at a byte and must be sound."""
    folder.mkdir()
    with as_raw(image) as raw:
        device = f"{raw}?offset={start}"
        run(["e2fsck", "-fn", device])
        run(["debugfs", "-R", f"rdump / {folder}", device])
    (folder / "lost+found").rmdir()
    return folder
