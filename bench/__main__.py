"""`make bench`: a disk against the way that it replaces, side by side in one run, as root.

The same archive of Debian packages is given to `docker load` of a real dockerd and made a disk of; then the disk is
adopted into a fresh data root. Each round does all of it; medians and ranges are printed, and a ratio where two things
do the same job. Absolute times are this machine's.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.dockerd import Dockerd
from tests.images import busybox_image, debian_image, write_docker_archive

ROUNDS = 5


def main() -> None:
    """Measure, and print a table, or JSON with --json."""
    rounds: list[dict[str, float]] = []
    with TemporaryDirectory(prefix="docker-preloader-bench-") as name:
        folder = Path(name)
        archive = write_docker_archive([busybox_image(), debian_image()], folder / "images.tar", "oci")
        for number in range(ROUNDS):
            rounds.append(measure(archive, folder / str(number)))
    report = {key: [figures[key] for figures in rounds] for key in rounds[0]}
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(report, indent=1))
        return
    for key, values in report.items():
        print(f"{key:45} {statistics.median(values):8.3f}   ({min(values):.3f} to {max(values):.3f})")


def measure(archive: Path, folder: Path) -> dict[str, float]:
    """One round: load, build, adopt."""
    folder.mkdir()
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


def used_bytes(path: Path) -> int:
    """What du counts for a tree."""
    return int(run(["du", "--summarize", "--block-size=1", path]).split()[0])


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
