"""Containers of an image that stands on a preloaded disk, in each of its formats, and of one that was loaded.

In one guest, in turn. The four images hold the same files, but no two share a layer, so none is read for another.
Before a cold run the image's files are in no page cache, neither the guest's nor the host's; docker's own programs are
in the guest's, because a container of a further image has just run. A warm run is the same command once more.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from bench.bootunits import LOAD_LABEL
from bench.disks import own_layer
from bench.records import Measured, Record
from bench.stock import archive_disk
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.run import run
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Vm
from tests.cachedguests import packaged_guest
from tests.images import Image, busybox_image, debian_image, write_docker_archive

LOADED, PLAIN, ZSTD, RAW = "loaded", "qcow2", "qcow2, zstd", "raw"
COLD, WARM = "cold", "warm"
PLACES = (LOADED, PLAIN, ZSTD, RAW)
LOAD = f"mount -o ro /dev/disk/by-label/{LOAD_LABEL} /mnt && docker load --input /mnt/images.tar && umount /mnt && sync"
FORGET = "sync; echo 3 >/proc/sys/vm/drop_caches; docker run --rm --network none busybox:test true"
# By the guest's own clock: what it takes to ask the guest is not the container's.
RUN = "date +%s.%N && docker run --rm --network none {} bash -c '{}' | tail --lines=1"
READ = "cat /usr/bin/* /usr/lib/*/* 2>/dev/null | wc -c"
STEPS = f"redis-server --version; began=$EPOCHREALTIME; {READ}; echo $began $EPOCHREALTIME"
LOAD_TIMEOUT = 900.0  # seconds


def measure_containers(folder: Path, rounds: int) -> Measured:
    """A container from each place, cold and then warm."""
    images = {place: _own_image(folder, number) for number, place in enumerate(PLACES)}
    disks = {place: _make_disk(folder / str(number), place, images[place]) for number, place in enumerate(PLACES)}
    busybox = _build([busybox_image()], folder / "busybox", None)
    records: list[Record] = []
    with Vm(replace(VmConfig.of_guest(packaged_guest()), disks=(*disks.values(), busybox))) as vm:
        vm.wait_booted()
        vm.succeed(LOAD, LOAD_TIMEOUT)
        files = {**disks, LOADED: vm.files.overlay}
        for number in range(rounds):
            for place, image in images.items():
                records += [{"round": number, "place": place, **run} for run in measure_runs(vm, files[place], image)]
    sizes = {f"{place} disk, MB": disk.stat().st_size / 1e6 for place, disk in disks.items() if place != LOADED}
    return Measured({"image, MB": sum(layer.size for layer in images[RAW].layers) / 1e6, **sizes}, records)


def measure_runs(vm: Vm, file: Path, image: Image) -> list[Record]:
    """A cold run of an image whose files are on one disk, and a warm one."""
    evict(file)
    vm.succeed(FORGET)
    return [{"cache": cache, **measure_run(vm, image.references[0])} for cache in (COLD, WARM)]


def measure_run(vm: Vm, reference: str) -> dict[str, float]:
    """The seconds until a container's program has run, and those that reading its image takes then."""
    words = vm.succeed(RUN.format(reference, STEPS)).split()
    asked, started, ended = (float(word) for word in words)
    return {"start, s": started - asked, "read, s": ended - started}


def evict(file: Path) -> None:
    """Have the host's page cache forget a file; what is not written yet, it writes first."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _own_image(folder: Path, number: int) -> Image:
    layers = [
        own_layer(layer, number, folder / f"{number}-{place}") for place, layer in enumerate(debian_image().layers)
    ]
    return replace(debian_image(), layers=tuple(layers), references=(f"bench-{number}:1",))


def _make_disk(path: Path, place: str, image: Image) -> Path:
    if place == LOADED:
        return archive_disk([image], path, LOAD_LABEL)
    disk = _build([image], path, "zstd" if place == ZSTD else None)
    if place != RAW:
        return disk
    raw = path.with_suffix(".raw")
    run(["qemu-img", "convert", "-O", "raw", disk, raw])
    return raw


def _build(images: list[Image], path: Path, compression: str | None) -> Path:
    archive = write_docker_archive(images, path.with_suffix(".tar"), "oci")
    options = BuildOptions(compression=compression)
    return build_disk([archive], path.with_suffix(".qcow2"), options).path
