"""One pass: the mounted disks and Docker's store in, a merged store out. `merge` is the guest pipeline.

mounted disks -> store -> plan -> apply -> report. The daemon makes a pass before it is ready, the merge unit between a
stop and a start of docker, and `docker-preloader sync` whenever somebody asks. While dockerd may run, `prepare` looks
what there is to do, and leaves it to docker's next start.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from preloader_agent.errors import (
    DigestMismatch,
    InvalidDisk,
    InvalidValue,
    PreloaderError,
    StoreError,
    StoreFull,
    StoreUnused,
)
from preloader_agent.guest import log
from preloader_agent.guest.apply import apply_operations, apply_plan, write_file
from preloader_agent.guest.disks import Disk, attached_disks
from preloader_agent.guest.diskusers import containers_using
from preloader_agent.guest.docker import is_running
from preloader_agent.guest.mounts import list_mounts, mounted_device, unmount
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.plan import Adopted, Plan, plan_merge, plan_undo
from preloader_agent.guest.released import add_released, drop_released, read_released
from preloader_agent.guest.report import count_of, write_store
from preloader_agent.guest.storestate import read_layers, read_store
from preloader_agent.store.digest import ImageID
from preloader_agent.store.reference import Reference


class _Outcome(NamedTuple):
    """What a pass came to: its last plan, the disks that are served, and why others are not, by label."""

    plan: Plan
    served: list[Disk]
    refused: dict[str, str]


def merge(paths: Paths, known: Mapping[str, Disk] | None = None) -> bool:
    """Make the store show the mounted disks; False, and a pending mark, when that must wait for docker to stop.

    `known` are disks by label that were read already. Raises StoreError, and nothing that dockerd relies on is half
    done.
    """
    started = time.monotonic()
    with exclusive(paths):
        if is_running(paths):
            return _prepare(paths, known or {})
        leaving = _leaving(paths)
        disks, unreadable = attached_disks(paths, known or {}, leaving)
        outcome = _change_store(paths, disks, leaving, _read_adopted(paths))
        outcome.refused.update(unreadable)
        for label in leaving:
            _unmount_released(paths, label)
        _finish(paths, outcome, time.monotonic() - started)
    for problem in outcome.plan.problems:
        log.warning("%s", problem)
    if outcome.plan.operations:
        what, whence = count_of(len(outcome.plan.images), "image"), count_of(len(outcome.served), "disk")
        log.info("merged %s from %s in %.3f s", what, whence, time.monotonic() - started)
    return True


def prepare(paths: Paths, known: Mapping[str, Disk]) -> bool:
    """Whether the store shows the mounted disks; if not, a pending mark is made, and what is urgent is done.

    For whenever dockerd may run. Raises StoreError.
    """
    with exclusive(paths):
        return _prepare(paths, known)


def release_all(paths: Paths) -> None:
    """Have every disk leave in the next pass, whatever uses it; one that no layer came from is unmounted now.

    Raises OSError and PreloaderError.
    """
    with exclusive(paths):
        layers = list(read_layers(paths.store))
        for mount in list_mounts(paths.mounts):
            add_released(paths, os.path.basename(mount.target), is_forced=True)
            if not any(layer.is_on(mount.target) for layer in layers):
                unmount(mount.target)


def forget_own_files(paths: Paths) -> None:
    """Remove what is of no use in a store without our images: the copy of what repositories.json held before."""
    with exclusive(paths), suppress(FileNotFoundError):
        os.unlink(paths.store.kept_repositories)


@contextmanager
def exclusive(paths: Paths) -> Iterator[None]:
    """Be the only one who mounts disks or changes the store."""
    os.makedirs(paths.mounts, mode=0o755, exist_ok=True)
    with open(paths.lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def request_pass(paths: Paths) -> None:
    """Have the merge unit run before docker's next start: it looks for this file."""
    with open(paths.pending, "wb"):
        pass


def last_request(paths: Paths) -> int | None:
    """When a pass was requested last that has not been made since; None if none is (nanoseconds, of the file)."""
    try:
        return os.stat(paths.pending).st_mtime_ns
    except FileNotFoundError:
        return None


def _prepare(paths: Paths, known: Mapping[str, Disk]) -> bool:
    started = time.monotonic()
    released = read_released(paths)
    disks, unreadable = attached_disks(paths, known, released)
    try:
        store = read_store(paths.store, _mountpoints(paths, released))
        plan = plan_merge(disks, store, _read_adopted(paths))
    except StoreUnused:
        raise  # a restart of docker would change nothing
    except StoreError:
        request_pass(paths)  # by then it may be repaired
        raise
    if plan.operations and not store.layers:
        _check_fresh(paths)
    apply_operations(plan.urgent, paths.store)
    if len(plan.operations) > len(plan.urgent) or any(mounted_device(paths.mountpoint(label)) for label in released):
        request_pass(paths)
        return False
    _finish(paths, _Outcome(plan, disks, unreadable), time.monotonic() - started)
    return True


def _check_fresh(paths: Paths) -> None:
    from preloader_agent.guest.freshstore import check_fresh_store  # seldom needed

    check_fresh_store(paths)


def _leaving(paths: Paths) -> list[str]:
    """The labels of disks that are to leave now; a release is taken back where containers have come to use the disk."""
    leaving = []
    for label, is_forced in read_released(paths).items():
        users = [] if is_forced else containers_using(paths.store, paths.mountpoint(label))
        if users:
            log.warning("not releasing %s: containers use it: %s", label, ", ".join(users))
            drop_released(paths, label)
        else:
            leaving.append(label)
    return leaving


def _change_store(paths: Paths, disks: Sequence[Disk], leaving: list[str], adopted: Adopted) -> _Outcome:
    """All disks at once; where there is no room, or one has gone bad since it was read, as many as can be."""
    plan, problem = _attempt(paths, disks, leaving, adopted)
    if problem is None:
        return _Outcome(plan, list(disks), {})
    log.warning("%s; trying one disk at a time", problem)
    adopted = _without_lost(adopted, plan)
    refused = {disk.label: str(problem) for disk in disks if plan.adds_from(disk)}
    for label in list(refused):
        _, problem = _attempt(paths, disks, leaving, adopted, refused.keys() - {label})
        if problem is None:
            del refused[label]
        else:
            refused[label] = str(problem)
    plan, problem = _attempt(paths, disks, leaving, adopted, refused)
    if problem is not None:
        raise problem
    return _Outcome(plan, [disk for disk in disks if disk.label not in refused], refused)


def _attempt(
    paths: Paths, disks: Sequence[Disk], leaving: list[str], adopted: Adopted, skipping: Collection[str] = ()
) -> tuple[Plan, PreloaderError | None]:
    """Plan and apply; when that fails because of a disk, the store is left as it was. Raises StoreError."""
    store = read_store(paths.store, _mountpoints(paths, leaving))
    plan = plan_merge(disks, store, adopted, skipping)
    if plan.operations and not store.layers:
        _check_fresh(paths)
    if plan.lost_images:
        # First: a pass that goes on after a kill must not take them for removed by the user.
        _write_adopted(paths, _without_lost(adopted, plan))
    try:
        apply_plan(plan, paths.store)
    except (StoreFull, InvalidDisk, DigestMismatch) as err:
        apply_operations(plan_undo(plan, store), paths.store)
        return plan, err
    return plan, None


def _without_lost(adopted: Adopted, plan: Plan) -> Adopted:
    lost = plan.lost_images
    return {image: names for image, names in adopted.items() if image not in lost}


def _mountpoints(paths: Paths, labels: Iterable[str]) -> list[str]:
    return [paths.mountpoint(label) for label in labels]


def _unmount_released(paths: Paths, label: str) -> None:
    if mounted_device(paths.mountpoint(label)) is not None:
        unmount(paths.mountpoint(label))
        log.info("released %s: its images are out of docker's store, and it is unmounted", label)


def _finish(paths: Paths, outcome: _Outcome, seconds: float) -> None:
    for label, reason in outcome.refused.items():
        log.error("not adopting %s: %s", label, reason)
    _write_adopted(paths, outcome.plan.adopted)
    _write_report(paths, outcome, seconds)
    if os.path.exists(paths.pending):
        os.unlink(paths.pending)


def _write_report(paths: Paths, outcome: _Outcome, seconds: float) -> None:
    images = [
        {"id": image.image_id, "references": image.references, "size": image.size, "disk": label}
        for image, label in outcome.plan.images
    ]
    layers = {chain for image, _ in outcome.plan.images for chain in image.chain}
    write_store(
        paths,
        {
            "images": images,
            "layers": len(layers),
            "merged": [disk.label for disk in outcome.served],
            "refused": outcome.refused,
            "problems": outcome.plan.problems,
            "pass_seconds": round(seconds, 4),
        },
    )


def _read_adopted(paths: Paths) -> dict[ImageID, frozenset[Reference]]:
    try:
        with open(paths.adopted, "rb") as file:
            document = json.load(file)
        return {ImageID(image): frozenset(map(Reference, names)) for image, names in document.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidValue) as err:
        log.warning("not using %s: %s; images removed since boot may come back", paths.adopted, err)
        return {}


def _write_adopted(paths: Paths, adopted: Adopted) -> None:
    document = {image: sorted(references) for image, references in adopted.items()}
    write_file(paths.adopted, json.dumps(document).encode(), 0o600)
