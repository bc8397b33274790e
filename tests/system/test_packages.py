"""Both Debian packages beside each other in a Debian 13 that does not run, as one that is being installed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from preloader_agent import __version__
from preloader_agent.errors import CommandFailed
from preloader_agent.host.run import run
from tests.cachedguests import packages
from tests.images import app_image, busybox_image, write_docker_archive
from tests.tree import describe_tree, tree_differences

# dpkg's own notes, and what its programs have written about themselves.
CHANGING = ("var/lib/dpkg", "var/log", "var/cache", "dev", "proc", "sys", "tmp", "var/lib/docker")


class Root:
    """A changed copy of a tree: what is written to it is in memory, and gone with it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def succeed(self, command: str) -> str:
        """Run a shell command in it, which must succeed."""
        return run(["chroot", self.path, "sh", "-euc", command], timeout=120)


@pytest.fixture(scope="module")
def root(tree: Path) -> Iterator[Root]:
    """The test guest's tree, with a copy of both packages, and without the one that it was made with."""
    with TemporaryDirectory(prefix="dpl-root-") as folder:
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "root", folder])
        try:
            upper, work, place = (Path(folder, name) for name in ("upper", "work", "root"))
            for path in (upper, work, place):
                path.mkdir()
            run(["mount", "-t", "overlay", "-o", f"lowerdir={tree},upperdir={upper},workdir={work}", "root", place])
            run(["mount", "-t", "proc", "proc", place / "proc"])  # e2fsck looks what is mounted
            (place / "tmp" / "debs").mkdir(parents=True)
            for package in packages():
                shutil.copy(package, place / "tmp" / "debs")
            root = Root(place)
            root.succeed("dpkg --purge docker-preloader")
            yield root
        finally:
            run(["umount", "--recursive", folder])


def test_both_are_installed_do_their_work_and_leave_nothing(root: Root) -> None:
    skipped = [path.encode() for path in CHANGING]
    before = describe_tree(root.path, skipped)
    assert [path for path in before if b"preloader" in path] == []

    root.succeed("dpkg --install /tmp/debs/*.deb")
    for command in ("preloader", "docker-preloader"):
        assert __version__ in root.succeed(f"{command} --version")
    check_disk(root)
    root.succeed("dpkg --audit && dpkg --verify preloader docker-preloader")
    check_guest_install(root)

    root.succeed("dpkg --remove preloader docker-preloader && dpkg --purge preloader docker-preloader")
    differences = tree_differences(before, describe_tree(root.path, skipped))
    assert [line for line in differences if ": mtime_ns: " not in line] == []  # of folders that were written to


def check_disk(root: Root) -> None:
    """A disk is built, read and checked by the host's package."""
    write_docker_archive([busybox_image(), app_image()], root.path / "tmp" / "images.tar")
    root.succeed("cd /tmp && preloader build images.tar -o disk.qcow2 && preloader verify disk.qcow2")
    inspected = json.loads(root.succeed("preloader inspect --json /tmp/disk.qcow2"))
    assert {image["id"] for image in inspected["images"]} == {busybox_image().image_id, app_image().image_id}


def check_guest_install(root: Root) -> None:
    """The agent is put into a guest, by the same command, which sees the guest's own package there."""
    with pytest.raises(CommandFailed, match="has the Debian package or RPM docker-preloader"):
        root.succeed("preloader guest install --root /")
    guest = root.path / "tmp" / "guest"
    for path in ("usr/lib/systemd/systemd", "usr/lib/systemd/systemd-udevd", "usr/bin/python3.13", "usr/bin/dockerd"):
        (guest / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root.path / path.replace("bin/dockerd", "sbin/dockerd"), guest / path)
    (guest / "usr/bin/python3").symlink_to("python3.13")
    for module in ("orjson", "pystemd", "pyudev", "sdnotify"):
        (guest / "usr/lib/python3/dist-packages" / module).mkdir(parents=True)
    root.succeed("preloader guest install --root /tmp/guest")
    for path in ("usr/bin/docker-preloader", "usr/lib/systemd/system/docker-preloader.service"):
        assert (guest / path).is_file()
    assert os.access(guest / "usr/lib/systemd/system-generators/docker-preloader-generator", os.X_OK)
    assert (guest / "usr/share/man/man8/docker-preloader.8").is_file()
