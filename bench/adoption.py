"""A disk in a guest against `docker load` there: the same archive of Debian packages, natively, side by side."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.measure import seconds, used_bytes
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.dockerd import Dockerd
from tests.images import busybox_image, debian_image, write_docker_archive


def measure_adoption(folder: Path) -> dict[str, float]:
    """Load, build, adopt."""
    archive = write_docker_archive([busybox_image(), debian_image()], folder / "images.tar", "oci")
    disk, raw = folder / "disk.qcow2", folder / "disk.raw"
    with Dockerd(folder / "loaded") as dockerd:
        load = seconds(lambda: dockerd.docker("load", "-i", str(archive)))
        layers = sum(used_bytes(path) for path in dockerd.data_root.glob("overlay2/*/diff"))
    build = seconds(lambda: build_disk([archive], disk))
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    device = run(["losetup", "--find", "--show", "--read-only", raw]).strip()
    run_dir = folder / "run"
    sync: list[str | Path] = [
        sys.executable,
        "-m",
        "preloader_agent.guest",
        "sync",
        "--docker-root",
        folder / "adopted",
    ]
    sync += ["--docker-pidfile", folder / "none", "--run-dir", run_dir, "--device", device]
    try:
        adopt = seconds(lambda: run(sync))
    finally:
        for mount in (run_dir / "disks").iterdir():
            run(["umount", mount])
        run(["losetup", "--detach", device])
    return {
        "docker load, s": load,
        "preloader build (once for all VMs), s": build,
        "docker-preloader sync (in each VM), s": adopt,
        "build / docker load": build / load,
        "adoption / docker load": adopt / load,
        "disk, MB": disk.stat().st_size / 1e6,
        "disk / unique layers (du)": disk.stat().st_size / layers,
    }
