"""What a guest boots from: its kernel, and an initrd of ours that finds and mounts a virtio disk with an ext4 root.

Debian's own initrd takes 165 s in an emulated machine; this one, with busybox and exactly the modules needed, takes the
kernel's own time.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import zstandard

from preloader_agent.errors import InvalidGuest
from preloader_agent.host.guests.base import PARTS
from preloader_agent.host.run import find_tool, run
from preloader_agent.host.scratch import scratch_folder

# The lists of the initrd, and the modules whose dependencies each holds. The numbers are virtio's for block and SCSI.
_LISTS = {
    "always": ("virtio_pci", "ext4"),
    "virtio-0x0002": ("virtio_blk",),
    "virtio-0x0008": ("virtio_scsi", "sd_mod"),
}
_MODULES = "./usr/lib/modules/"
_DECOMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda content: zstandard.ZstdDecompressor().decompressobj().decompress(content),
}


@dataclass(frozen=True)
class BootFiles:
    """A kernel, and the initrd that goes with it."""

    kernel: Path
    initrd: Path


def make_boot_files(tar: Path, folder: Path) -> BootFiles:
    """Write FOLDER/vmlinuz and FOLDER/initrd for the tree of a tar file.

    Raises ToolMissing, CommandFailed, and InvalidGuest when something is not in the tree.
    """
    files = BootFiles(folder / "vmlinuz", folder / "initrd")
    with tarfile.open(tar, "r:") as tree:
        files.kernel.write_bytes(_read(tree, f"./boot/vmlinuz-{_kernel_version(tree)}"))
        write_initrd(tree, (PARTS / "init").read_bytes(), _LISTS, files.initrd)
    return files


def write_initrd(tree: tarfile.TarFile, init: bytes, lists: Mapping[str, Sequence[str]], initrd: Path) -> None:
    """Write an initrd with a script and what it needs of a tree.

    That is /bin/busybox, /modules/NAME.ko for all modules of `lists` and those they need, and for each list
    /lists/NAME, with the names of its modules in the order in which they are loaded.
    """
    find_tool("modprobe", "`apt install kmod`")
    find_tool("bsdtar", "`apt install libarchive-tools`")
    files = {"init": init, **_initrd_files(tree, _module_lists(tree, lists))}
    # Not compressed: an emulated machine reads it faster than it decompresses it.
    run(["bsdtar", "--create", "--format=newc", f"--file={initrd.absolute()}", "@-"], stdin=_pack(files))


def _kernel_version(tree: tarfile.TarFile) -> str:
    """The version of the one kernel in it; of the last, if there are several."""
    versions = [name.rpartition("/vmlinuz-")[2] for name in tree.getnames() if name.startswith("./boot/vmlinuz-")]
    if not versions:
        raise InvalidGuest(tree.name, "has no kernel: expected /boot/vmlinuz-*, of a linux-image package")
    return versions[-1]


def _module_lists(tree: tarfile.TarFile, lists: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    """For each list of the initrd the names of its modules in the tar file, in the order in which they are loaded."""
    version = _kernel_version(tree)
    with scratch_folder() as folder:
        for member in tree.getmembers():
            if member.isreg() and member.name.startswith(f"{_MODULES}{version}/"):
                target = folder / member.name.removeprefix("./usr/")
                target.parent.mkdir(parents=True, exist_ok=True)
                # modprobe reads its indexes; of a module, it looks whether it is there.
                target.write_bytes(_read(tree, member.name) if target.name.startswith("modules.") else b"")
        return {name: _load_order(folder, version, modules) for name, modules in lists.items()}


def _load_order(root: Path, version: str, modules: Sequence[str]) -> list[str]:
    """modprobe prints the order: "insmod PATH", or "builtin NAME"."""
    order: dict[str, None] = {}
    for module in modules:
        output = run(["modprobe", "-d", root, "-S", version, "--show-depends", module])
        for line in output.splitlines():
            action, path, *_ = line.split()
            if action == "insmod":
                order[f"./usr/{Path(path).relative_to(root)}"] = None
    return list(order)


def _initrd_files(tree: tarfile.TarFile, lists: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """The files of the initrd, but for its script. A module is named as the kernel names it in /sys/module."""
    files = {"bin/busybox": _read(tree, "./usr/bin/busybox")}
    for name, modules in lists.items():
        files[f"lists/{name}"] = "".join(f"{_module_name(module)}\n" for module in modules).encode()
        for module in modules:
            content = _read(tree, module)
            # Without the suffix, busybox's insmod tells the kernel that it is compressed.
            files[f"modules/{_module_name(module)}.ko"] = _DECOMPRESSORS[PurePosixPath(module).suffix](content)
    return files


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.partition(".")[0].replace("-", "_")


def _read(tree: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tree.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise InvalidGuest(tree.name, f"expected a file {name.removeprefix('.')} in it, found none")
    with file:
        return file.read()


def _pack(files: Mapping[str, bytes]) -> bytes:
    """A tar file, for bsdtar to make a cpio archive of. The kernel makes no folder that is not in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in sorted({str(PurePosixPath(name).parent) for name in files} - {"."}):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o755, len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
