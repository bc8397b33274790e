"""The guests that tests boot: made as `preloader guest build` makes them, and cached from one session to the next.

    python -m tests.cachedguests     prints the folder of the guest with our Debian package

A folder holds root.tar (the whole tree, for systemd-nspawn too), disk.qcow2 (the same as a disk that boots), vmlinuz
and initrd: see VmConfig.of_guest. Two steps are cached, because the first takes half a minute, with a fast mirror, and
only the second depends on our code; each stands under the hash of all that goes into it and appears with one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from preloader_agent.host.guests.base import BaseConfig, Suite, make_base
from preloader_agent.host.guests.boot import make_boot_files
from preloader_agent.host.guests.build import GuestConfig, add_agent, make_disk
from preloader_agent.host.run import run

ROOT = Path(__file__).resolve().parent.parent
BUILD_TIMEOUT = 1200.0  # both trees of the packages from a mirror; a minute and a half each with a fast one
INCLUDED = ("jq", "rsync")  # for the shell script of bench/, 2 MB
# What the host's package needs; only Debian 13 has all of it.
HOST_NEEDS = ("e2fsprogs", "python3-click", "python3-rich", "python3-zstandard", "qemu-utils")

_BASE_SOURCES = ("preloader_agent/host/guests/base.py", "preloader_agent/host/guests/parts/configure")
_GUEST_SOURCES = (
    "preloader_agent/host/guests",
    "preloader_agent/host/vm/config.py",
    "preloader_agent/__init__.py",
    "preloader_agent/errors.py",
    "preloader_agent/tables.py",
    "preloader_agent/containers",
    "preloader_agent/guest",
    "preloader_agent/store",
    "units",
    "docs/docker-preloader.8",
    "docs/docker-preloader.conf.5",
    "docs/docker-preloader-containers.5",
    "completions",
)
_NEW = ".new"  # of what is being made
_KEPT = 6  # of each kind; two for each suite
_IN_USE = 4 * 3600.0  # seconds: a folder of the last hours may still be used by other tests


def packages() -> tuple[Path, Path]:
    """Our Debian packages: the guest's and the host's."""
    paths = run([ROOT / "packaging/build-deb"], timeout=BUILD_TIMEOUT).splitlines()
    of_name = {Path(path).name.partition("_")[0]: Path(path) for path in paths}
    return of_name["docker-preloader"], of_name["preloader"]


def packaged_guest() -> Path:
    """The folder of a Debian 13 guest in which the guest's Debian package is installed."""
    package, _ = packages()
    return cached_guest(Suite.TRIXIE, package)


def cached_guest(suite: Suite, package: Path | None = None) -> Path:
    """The folder of a guest with our Debian package, or with the agent as `preloader guest install` installs it."""
    # Testing's mirrors may be snapshots, whose Release files expire.
    included = (*INCLUDED, *HOST_NEEDS) if suite is Suite.TRIXIE else INCLUDED
    base = BaseConfig(suite, included, is_validity_checked=suite is not Suite.FORKY)
    config = GuestConfig(base, package)
    base_key = _hash([suite.value, *included], _BASE_SOURCES)
    agent = hashlib.sha256(package.read_bytes()).hexdigest() if package else ""
    made = _cached("bases", base_key, lambda folder: make_base(base, folder / "root.tar"))
    return _cached(
        "guests",
        _hash([base_key, agent], _GUEST_SOURCES),
        lambda folder: _make_guest(config, made / "root.tar", folder),
    )


def _make_guest(config: GuestConfig, base: Path, folder: Path) -> None:
    tree = folder / "root.tar"
    add_agent(config, base, tree)
    make_disk(tree, make_boot_files(tree, folder), config.size, folder / "disk.qcow2")


def _cached(kind: str, key: str, make: Callable[[Path], object]) -> Path:
    """A folder of the cache, made unless it is there; concurrent callers wait for the one that makes it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "docker-preloader")
    folder = cache / kind / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache, f"{kind}-{key}"):
        if not folder.is_dir():
            new = folder.with_name(f"{key}{_NEW}")
            shutil.rmtree(new, ignore_errors=True)  # of one that was killed: we hold the lock
            new.mkdir()
            make(new)
            new.rename(folder)
        os.utime(folder)
    with _locked(cache, kind):
        _drop_old(folder.parent)
    return folder


@contextmanager
def _locked(cache: Path, name: str) -> Iterator[None]:
    path = cache / "locks" / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _drop_old(folder: Path) -> None:
    ages = {path: time.time() - path.stat().st_mtime for path in folder.iterdir() if path.suffix != _NEW}
    for path in sorted(ages, key=ages.__getitem__)[_KEPT:]:
        if ages[path] > _IN_USE:
            shutil.rmtree(path)


def _hash(words: Sequence[str], sources: Sequence[str]) -> str:
    """A key of some words and some files of ours."""
    digest = hashlib.sha256("\n".join(words).encode())
    for source in sources:
        path = ROOT / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(ROOT)} {content}\n".encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(packaged_guest())
