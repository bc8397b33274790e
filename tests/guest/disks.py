"""Small disks and stores in plain folders: what a mounted disk looks like to the agent, without a device."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from preloader_agent.guest.apply import apply_plan
from preloader_agent.guest.disks import Disk, read_disk
from preloader_agent.guest.plan import Adopted, Plan, plan_merge
from preloader_agent.guest.storestate import read_store
from preloader_agent.store.digest import CacheID, DiffID, ImageID, Link, chain_ids, sha256_digest
from preloader_agent.store.index import DiskIndex, ImageRecord, LayerRecord, Platform, encode_index
from preloader_agent.store.layout import Store
from preloader_agent.store.reference import Reference

LAYER_SIZE = 10


def diff_id(name: str) -> DiffID:
    """The DiffID of an imaginary layer."""
    return DiffID("sha256:" + hashlib.sha256(name.encode()).hexdigest())


def config_of(layers: Sequence[str], salt: str = "") -> bytes:
    """An image configuration."""
    diff_ids = [diff_id(layer) for layer in layers]
    return json.dumps({"os": "linux", "salt": salt, "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()


def image_id(layers: Sequence[str], salt: str = "") -> ImageID:
    """The ID of the image that `config_of` describes."""
    return ImageID(sha256_digest(config_of(layers, salt)))


def make_index(*images: tuple[Sequence[str], Sequence[str]]) -> DiskIndex:
    """The index of a disk with some images, each given by its layers' names and its references."""
    layers: dict[str, LayerRecord] = {}
    records = []
    for names, references in images:
        chain = chain_ids(diff_id(name) for name in names)
        for name, link in zip(names, chain, strict=True):
            layers[link] = LayerRecord(diff_id(name), link, CacheID.of_chain(link), Link.of_chain(link), LAYER_SIZE)
        tags = tuple(sorted(map(Reference, references)))
        size = LAYER_SIZE * len(chain)
        records.append(ImageRecord(image_id(names), tags, (), Platform("linux", "amd64"), tuple(chain), size))
    return DiskIndex(tuple(records), tuple(layers.values()), "tests")


def make_disk(folder: Path, *images: tuple[Sequence[str], Sequence[str]]) -> Disk:
    """A mounted disk with some images, each given by its layers' names and its references."""
    index = make_index(*images)
    mountpoint = folder / index.label
    store = Store(str(mountpoint))
    for layer in index.layers:
        os.makedirs(store.diff(layer.cache_id))
        os.makedirs(store.layer_record(layer.chain_id))
        Path(store.tar_split(layer.chain_id)).write_bytes(b"")
    os.makedirs(store.image_configs)
    for names, _ in images:
        Path(store.image_config(image_id(names))).write_bytes(config_of(names))
    Path(store.index_file).write_bytes(encode_index(index))
    return read_disk(str(mountpoint), "/dev/test")


def make_pass(store: Store, disks: Sequence[Disk], adopted: Adopted | None = None) -> Plan:
    """Read, plan and apply, as the agent does."""
    plan = plan_merge(disks, read_store(store), adopted or {})
    apply_plan(plan, store)
    return plan


def add_local_image(store: Store, layers: Sequence[str], references: Sequence[str], salt: str = "local") -> ImageID:
    """What dockerd leaves behind after a build or a load: real layers, an image and its references."""
    chain = chain_ids(diff_id(layer) for layer in layers)
    lower = ""
    for position, (name, link) in enumerate(zip(layers, chain, strict=True)):
        record = Path(store.layer_record(link))
        if record.exists():
            cache_id = CacheID((record / "cache-id").read_text())
            parent_link = (Path(store.layer(cache_id)) / "link").read_text()
            lower = f"l/{parent_link}" + (f":{lower}" if lower else "")
            continue
        cache_id = CacheID(hashlib.sha256(b"local" + link.encode()).hexdigest())
        place = Path(store.layer(cache_id))
        short = Link("LOCAL" + Link.of_chain(link)[5:])
        (place / "diff").mkdir(parents=True)
        (place / "link").write_text(short)
        if lower:
            (place / "lower").write_text(lower)
        os.makedirs(store.links, exist_ok=True)
        os.symlink(f"../{cache_id}/diff", store.link(short))
        record.mkdir(parents=True)
        (record / "diff").write_text(diff_id(name))
        (record / "size").write_text("1")
        (record / "cache-id").write_text(cache_id)
        if position:
            (record / "parent").write_text(chain[position - 1])
        lower = f"l/{short}" + (f":{lower}" if lower else "")
    os.makedirs(store.image_configs, exist_ok=True)
    image = image_id(layers, salt)
    Path(store.image_config(image)).write_bytes(config_of(layers, salt))
    change_references(store, dict.fromkeys(references, image))
    return image


def change_references(store: Store, changes: dict[str, ImageID | None]) -> None:
    """What `docker tag` and `docker rmi NAME` do to repositories.json."""
    path = Path(store.repositories)
    document = json.loads(path.read_text()) if path.exists() else {"Repositories": {}}
    for text, image in changes.items():
        entries = document["Repositories"].setdefault(Reference(text).name, {})
        if image is None:
            del entries[text]
        else:
            entries[text] = image
    document["Repositories"] = {name: entries for name, entries in document["Repositories"].items() if entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, separators=(",", ":"), sort_keys=True))


def references_of(store: Store) -> dict[str, str]:
    """Every reference, with the image that it names."""
    return {str(reference): str(image) for reference, image in read_store(store).repositories.references()}


def snapshot(root: Path) -> dict[str, object]:
    """Everything below a folder: modes, link targets and contents; not the references that the agent replaced last."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        if path.name.endswith(".docker-preloader-kept"):
            continue
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (
            oct(stat.S_IMODE(status.st_mode)) if not path.is_symlink() else "",
            content,
        )
    return found


def problems_of_store(store: Store) -> list[str]:
    """What dockerd could not use in a store, or would lose: the acceptance list for every state that a crash leaves."""
    state = read_store(store)  # repositories.json must parse, or dockerd does not start
    problems = []
    for layer in state.layers.values():
        record = Path(store.layer_record(layer.chain_id))
        if not layer.is_sound and not layer.shim:
            problems.append(f"{layer.chain_id}: not sound")
        parent = record / "parent"
        if parent.exists() and not Path(store.layerdb, parent.read_text()[7:]).is_dir():
            problems.append(f"{layer.chain_id}: parent is missing")
        if layer.cache_id and os.readlink(store.link(Link(layer.link))) != f"../{layer.cache_id}/diff":
            problems.append(f"{layer.chain_id}: short link is wrong")
    for image in state.images:
        content = Path(store.image_config(image)).read_bytes()
        if sha256_digest(content) != image:
            problems.append(f"{image}: content does not match")
        chain = chain_ids(map(DiffID, json.loads(content)["rootfs"]["diff_ids"]))
        problems += [f"{image}: layer {link} is missing" for link in chain if link not in state.layers]
    return problems
