"""One pass: the mounted disks and Docker's store in, a merged store out. `merge` is the guest pipeline.

mounted disks -> store -> plan -> apply -> report. The daemon makes a pass before it is ready, the merge unit between a
stop and a start of docker, and `docker-preloader sync` whenever somebody asks. While dockerd runs, nothing is changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from preloader_agent.errors import InvalidValue
from preloader_agent.guest import log
from preloader_agent.guest.apply import apply_plan, write_file
from preloader_agent.guest.disks import attached_disks
from preloader_agent.guest.docker import is_running
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.plan import Plan, plan_merge
from preloader_agent.guest.report import count_of, write_store
from preloader_agent.guest.storestate import read_store
from preloader_agent.store.digest import ImageID
from preloader_agent.store.reference import Reference


def merge(paths: Paths) -> bool:
    """Make the store show the mounted disks; False, and a pending mark, when that must wait for docker to stop.

    Raises StoreError, and nothing that dockerd relies on is half done.
    """
    started = time.monotonic()
    with exclusive(paths):
        disks = attached_disks(paths)
        store = read_store(paths.store)
        plan = plan_merge(disks, store, _read_adopted(paths))
        if plan.operations and is_running(paths):
            mark_pending(paths)
            return False
        apply_plan(plan, paths.store)
        _write_adopted(paths, plan)
        _write_report(paths, plan, [disk.label for disk in disks], time.monotonic() - started)
        _clear_pending(paths)
    for problem in plan.problems:
        log.warning("%s", problem)
    if plan.operations:
        what, whence = count_of(len(plan.images), "image"), count_of(len(disks), "disk")
        log.info("merged %s from %s in %.3f s", what, whence, time.monotonic() - started)
    return True


@contextmanager
def exclusive(paths: Paths) -> Iterator[None]:
    """Be the only one who mounts disks or changes the store."""
    os.makedirs(paths.mounts, mode=0o755, exist_ok=True)
    with open(paths.lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mark_pending(paths: Paths) -> None:
    """Have the merge unit run before docker's next start."""
    with open(paths.pending, "wb"):
        pass


def _clear_pending(paths: Paths) -> None:
    if os.path.exists(paths.pending):
        os.unlink(paths.pending)


def _write_report(paths: Paths, plan: Plan, labels: list[str], seconds: float) -> None:
    images = [
        {"id": image.image_id, "references": image.references, "size": image.size, "disk": label}
        for image, label in plan.images
    ]
    layers = {chain for image, _ in plan.images for chain in image.chain}
    write_store(
        paths,
        {
            "images": images,
            "layers": len(layers),
            "merged": labels,
            "problems": plan.problems,
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
    except (ValueError, AttributeError, InvalidValue) as err:
        log.warning("not using %s: %s; images removed since boot may come back", paths.adopted, err)
        return {}


def _write_adopted(paths: Paths, plan: Plan) -> None:
    document = {image: sorted(references) for image, references in plan.adopted.items()}
    write_file(paths.adopted, json.dumps(document).encode(), 0o600, is_durable=False)
