"""A whole Debian 13 that never had our package: the agent is put into its disk image, and that guest is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from preloader_agent.host.diskimage import as_raw
from preloader_agent.host.guests.install import install_into_image
from preloader_agent.host.run import run
from tests.images import app_image, busybox_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest

MIB = 1 << 20
START = 9 * MIB  # of the root partition
SIZE = 1200 * MIB
# Of our package, and orjson, which other distributions do not have.
NOT_THERE = ("*docker-preloader*", "*docker_preloader*", "*preloader_agent*", "*/dist-packages/orjson*")
CODE = "/usr/lib/docker-preloader"


@pytest.fixture(scope="module")
def bare_tar(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test guest's tree without the agent, in a tar file."""
    tar = tmp_path_factory.mktemp("bare") / "root.tar"
    excluded = [f"--exclude={pattern}" for pattern in NOT_THERE]
    run(["tar", "--create", "--file", tar, "--numeric-owner", "--one-file-system", *excluded, "--directory", tree, "."])
    return tar


@pytest.fixture(scope="module")
def image(bare_tar: Path) -> Path:
    """A qcow2 image with a partition, to which the kernel has written these files."""
    raw, image = bare_tar.with_name("disk.raw"), bare_tar.with_name("disk.qcow2")
    with raw.open("wb") as file:
        file.truncate(START + SIZE + MIB)
    table = f"label: gpt\nstart={MIB // 512},size={8 * MIB // 512},type=U\nstart={START // 512},type=L\n"
    run(["sfdisk", "--quiet", raw], stdin=table.encode())
    run(["mke2fs", "-q", "-t", "ext4", "-E", f"offset={START}", raw, f"{SIZE >> 10}k"])
    with mounted(raw, "rw") as root:
        run(["tar", "--extract", "--file", bare_tar, "--numeric-owner", "--directory", root])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image])
    raw.unlink()
    return image


@contextmanager
def mounted(raw: Path, option: str) -> Iterator[Path]:
    """The file system of the root partition."""
    with TemporaryDirectory(prefix="dpl-root-") as folder:
        run(["mount", "-o", f"{option},loop,offset={START}", raw, folder])
        try:
            yield Path(folder)
        finally:
            run(["umount", folder])


def test_agent_of_an_image(image: Path, tmp_path: Path) -> None:
    disks = [make_raw_disk(tmp_path / make.__name__, make()) for make in (busybox_image, app_image)]
    assert install_into_image(image).carried == ("orjson",)
    with as_raw(image) as raw, mounted(raw, "ro") as root, NspawnGuest(root, disks[:1]) as guest:
        # At boot, then plugged: docker is restarted by what the guest's own Python has, pystemd.
        assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"
        guest.attach(disks[1])
        guest.wait_until_succeeds("docker-preloader status | grep '^2 images from 2 disks'")
        assert len(json.loads(guest.succeed("docker-preloader status --json"))["images"]) == 2
        for unit in ("docker-preloader.service", "docker-preloader-merge.service"):
            assert guest.succeed(f"systemctl is-enabled {unit}").strip() == "enabled"
        assert guest.succeed("systemctl --failed --plain --no-legend") == ""
