"""`make demo`: the whole product by hand, from two archives to a container of a disk that was plugged while the VM ran.

Every step says what it does and how long it took, and shows what a person would look at. The end is reached only if
all of it was seen; anything else is an error and exit status 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from preloader_agent.errors import PreloaderError
from preloader_agent.host.disk import build_disk
from preloader_agent.host.vm.config import VmConfig
from preloader_agent.host.vm.driver import Ending, Vm
from tests.cachedguests import packaged_guest
from tests.images import busybox_image, debian_base_image, debian_image, write_docker_archive

RUN = "docker run --rm --network none"


def main() -> int:
    """Run the demo; the exit status."""
    started = time.monotonic()
    try:
        with TemporaryDirectory(prefix="docker-preloader-demo-") as folder:
            show_product(Path(folder))
    except PreloaderError as err:
        print(f"\nThe demo failed: {err}", file=sys.stderr)
        return 1
    print(f"\nAll of it was seen, in {time.monotonic() - started:.0f} s.")
    return 0


def show_product(folder: Path) -> None:
    """The steps of the demo."""
    with step("Make two image archives of Debian packages, as `docker save` would; their images share a layer"):
        first_archive = write_docker_archive([busybox_image(), debian_base_image()], folder / "base.tar", "oci")
        second_archive = write_docker_archive([debian_image()], folder / "redis.tar", "old")
    with step("Turn each into a disk, named by its label: preloader build ARCHIVE -o FOLDER"):
        first = build(first_archive)
        second = build(second_archive)
    with step("Build the guest: Debian 13 with docker.io and the docker-preloader package (cached)"):
        guest = packaged_guest()
    with Vm(replace(VmConfig.of_guest(guest), disks=(first,))) as vm:
        with step(f"Boot it with {first.name} attached"):
            vm.wait_booted()
        show_guest(vm, second)


def show_guest(vm: Vm, second: Path) -> None:
    """What is seen in the guest, before and after the second disk is plugged."""
    with step("Look at the agent and at docker's images"):
        show(vm, "systemctl status --no-pager docker-preloader", "2 images from 1 disk, ready in")
        show(vm, "docker images", "busybox", "debian-base")
    with step("Run a container of each image"):
        show(vm, f"{RUN} busybox:test /bin/busybox echo hello from busybox", "hello from busybox")
        show(vm, f"{RUN} debian-base:trixie /bin/bash --version", "GNU bash")
    with step(f"Plug {second.name} into the running VM"):
        device = vm.attach(second)
        vm.wait_until_succeeds("docker image inspect debian-redis:trixie")
        show(vm, "docker-preloader status", "3 images from 2 disks")
        show(vm, f"{RUN} debian-redis:trixie redis-server --version", "Redis server")
    with step("Unplug it again: the agent is asked first, and takes its image out of docker's store"):
        vm.detach(device)
        show(vm, "docker-preloader status", "2 images from 1 disk")
        show(vm, "docker images", "busybox", "debian-base", absent="redis")
    with step("Power off"):
        ending = vm.shutdown()
        if ending is not Ending.POWEROFF:
            raise PreloaderError(f"expected that the guest powers off, but {ending.value}")


def build(archive: Path) -> Path:
    """Build a disk beside its archive, named by its label, and show it."""
    built = build_disk([archive], archive.parent)
    images = ", ".join(image.name for image in built.index.images)
    print(
        f"    {built.path.name}: {built.path.stat().st_size / 1e6:.1f} MB, {len(built.index.layers)} layers, {images}"
    )
    return built.path


def show(vm: Vm, command: str, *expected: str, absent: str = "") -> None:
    """Run a command in the guest, show its output, and see in it what must be there."""
    output = vm.succeed(command)
    print(f"    $ {command}")
    for line in output.splitlines():
        print(f"    | {line}")
    for text in expected:
        if text not in output:
            raise PreloaderError(f"{command}: expected {text!r} in its output")
    if absent and absent in output:
        raise PreloaderError(f"{command}: expected no {absent!r} in its output")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"\n==> {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"    ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
