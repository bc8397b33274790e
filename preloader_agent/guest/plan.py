"""What must be done so that Docker's store shows the attached disks, and nothing of absent ones. Pure.

The store's own content wins: an image, layer or reference that is there is never changed. Layers go in parents first,
images after their layers, references last. When an image of an absent disk goes, its marker goes at the very end, so
that a killed pass is gone on with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from preloader_agent.guest.disks import Disk
from preloader_agent.guest.storestate import StoreState
from preloader_agent.store.digest import CacheID, ChainID, DiffID, ImageID, Link
from preloader_agent.store.index import ImageRecord, LayerRecord
from preloader_agent.store.layout import lower_of
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import Repositories

# The references of each image that was adopted since boot.
Adopted = Mapping[ImageID, frozenset[Reference]]


class RemoveLeftover(NamedTuple):
    """Remove what a killed pass left behind."""

    path: str


class RemoveImage(NamedTuple):
    """Take out an image whose layers went with their disk; its marker stays for now."""

    image_id: ImageID


class ForgetImage(NamedTuple):
    """Remove the marker of an image that was taken out."""

    image_id: ImageID


class RemoveLayer(NamedTuple):
    """Take out a shim whose disk is absent."""

    chain_id: ChainID
    cache_id: CacheID
    link: str


class PointLayer(NamedTuple):
    """Point an existing shim at a disk that is there."""

    chain_id: ChainID
    cache_id: CacheID
    diff: str
    tar_split: str


class AddLayer(NamedTuple):
    """Add a shim: a layer of docker's store whose tree is on a disk."""

    chain_id: ChainID
    parent: ChainID | None
    diff_id: DiffID
    cache_id: CacheID
    link: str
    lower: str
    size: int
    diff: str
    tar_split: str


class AddLink(NamedTuple):
    """Give a layer of docker's own the short link that a shim in its place had: layers built on that name it."""

    chain_id: ChainID
    cache_id: CacheID
    link: Link


class MarkImage(NamedTuple):
    """Note that a disk brings an image, and the references that come with it."""

    image_id: ImageID
    disk: Disk
    references: tuple[Reference, ...]


class AddImage(NamedTuple):
    """Copy an image's configuration from a disk."""

    image_id: ImageID
    disk: Disk


class Sync(NamedTuple):
    """Have everything so far on stable storage before anything that follows."""


class WriteReferences(NamedTuple):
    """Write what repositories.json is to hold, beside it."""

    repositories: Repositories


class SetReferences(NamedTuple):
    """Put what was written in the place of repositories.json, which is kept under another name."""

    keep_as: str


Operation = (
    RemoveLeftover
    | RemoveImage
    | RemoveLayer
    | PointLayer
    | AddLayer
    | AddLink
    | MarkImage
    | AddImage
    | Sync
    | WriteReferences
    | SetReferences
    | ForgetImage
)


class Plan(NamedTuple):
    """Operations in the order in which they are safe, and what a person should know."""

    operations: tuple[Operation, ...]
    images: tuple[tuple[ImageRecord, str], ...]
    adopted: dict[ImageID, frozenset[Reference]]
    problems: tuple[str, ...]

    def adds_from(self, disk: Disk) -> bool:
        """Whether something of a disk is new to the store."""
        return any(
            (isinstance(operation, AddLayer) and operation.diff.startswith(f"{disk.store.root}/"))
            or (isinstance(operation, MarkImage) and operation.disk.label == disk.label)
            for operation in self.operations
        )

    @property
    def lost_images(self) -> frozenset[ImageID]:
        """The images that are taken out, some of them to come in again."""
        return frozenset(operation.image_id for operation in self.operations if isinstance(operation, RemoveImage))

    @property
    def urgent(self) -> tuple[PointLayer, ...]:
        """What need not wait for docker to stop: a layer's tree is looked up anew for each container."""
        return tuple(operation for operation in self.operations if isinstance(operation, PointLayer))


def describe(operation: Operation) -> str:
    """An operation in a line, for whoever looks for a fault."""
    subject = operation[0].hex[:12] if operation and isinstance(operation[0], (ChainID, ImageID)) else ""
    return f"{type(operation).__name__} {subject}".rstrip()


def plan_merge(disks: Iterable[Disk], store: StoreState, adopted: Adopted, skipping: Collection[str] = ()) -> Plan:
    """Plan how the store comes to show the images of `disks`; `adopted` is what came in since boot.

    Nothing is added of the disks whose labels are in `skipping`; what is there of them stays.
    """
    planner = _Planner(list(disks), store, adopted)
    planner.remove_what_is_lost()
    planner.keep_links()
    for disk in planner.disks:
        if disk.label not in skipping:
            for image in disk.contents.images:
                planner.adopt(image, disk)
    return planner.finish()


def plan_undo(plan: Plan, before: StoreState) -> tuple[Operation, ...]:
    """What takes back all that a plan adds, whether it was carried out or not; `before` is what it was made for.

    It needs no room. What the plan removes or moves, it does because a disk is gone, and that stays.
    """
    operations: list[Operation] = []
    for operation in reversed(plan.operations):
        if isinstance(operation, AddImage) and operation.image_id not in before.images:
            operations.append(RemoveImage(operation.image_id))
        elif isinstance(operation, MarkImage) and operation.image_id not in before.brought:
            operations.append(ForgetImage(operation.image_id))
        elif isinstance(operation, AddLayer):
            operations.append(RemoveLayer(operation.chain_id, operation.cache_id, operation.link))
    return tuple(operations)


class _Planner:
    def __init__(self, disks: list[Disk], store: StoreState, adopted: Adopted) -> None:
        self.disks = disks
        self.store = store
        self.adopted_before = dict(adopted)
        self.sources: dict[ChainID, tuple[Disk, LayerRecord]] = {}
        for disk in disks:
            for layer in disk.contents.layers:
                self.sources.setdefault(layer.chain_id, (disk, layer))
        # The link and lower of each layer that is in the store when the plan is done.
        self.places = {chain: (layer.link, layer.lower) for chain, layer in store.layers.items() if layer.is_sound}
        self.operations: list[Operation] = [RemoveLeftover(path) for path in store.leftovers]
        # One for each image, also when two disks carry it.
        self.new_images: dict[ImageID, MarkImage] = {}
        self.removed: dict[Reference, ImageID] = {}
        self.added: dict[Reference, ImageID] = {}
        self.lost_images: dict[ImageID, None] = {}  # an ordered set
        self.images: dict[ImageID, tuple[ImageRecord, str]] = {}
        self.adopted: dict[ImageID, frozenset[Reference]] = {}
        self.problems: list[str] = []

    def remove_what_is_lost(self) -> None:
        """Shims of absent disks go, or move to a disk that has the layer, too; then the images that need them."""
        lost = [layer for layer in self.store.layers.values() if layer.shim and not layer.is_sound]
        lost.sort(key=lambda layer: -len(layer.lower))  # children first: what is listed always has its parent
        moves: list[Operation] = []
        removals: list[Operation] = []
        for layer in lost:
            assert layer.cache_id is not None
            if layer.chain_id in self.sources and layer.is_whole:
                self.places[layer.chain_id] = layer.link, layer.lower
                moves.append(PointLayer(layer.chain_id, layer.cache_id, *self._trees(layer.chain_id)))
            else:
                removals.append(RemoveLayer(layer.chain_id, layer.cache_id, layer.link))
        carried = {image.image_id for disk in self.disks for image in disk.contents.images}
        for image_id, brought in self.store.brought.items():
            # An image goes with its disk also where its layers stay: the user, or another disk, has them, too.
            is_usable = brought.chain is not None and all(chain in self.places for chain in brought.chain)
            if not is_usable or image_id not in carried:
                self.lost_images[image_id] = None
                self.adopted_before.pop(image_id, None)  # what we take out was not removed by the user
                self.operations.append(RemoveImage(image_id))
                names = [name for name in brought.references if self.store.repositories.find(name) == image_id]
                self.removed.update(dict.fromkeys(names, image_id))
        self.operations += removals + moves  # in this order, because a move needs room for a moment

    def keep_links(self) -> None:
        """Layers that a user built on a shim still name its link when the user has loaded the same layer since."""
        named = {link for layer in self.store.layers.values() for link in layer.lower.split(":")}
        for chain, layer in self.store.layers.items():
            ours = Link.of_chain(chain)
            if layer.is_sound and layer.shim is None and f"l/{ours}" in named and ours not in self.store.links:
                assert layer.cache_id is not None
                self.operations.append(AddLink(chain, layer.cache_id, ours))

    def adopt(self, image: ImageRecord, disk: Disk) -> None:
        """Add what is missing of an image, unless the user removed it since boot."""
        is_stored = image.image_id in self.store.images and image.image_id not in self.lost_images
        is_known = image.image_id in self.store.images or image.image_id in self.store.brought
        if image.image_id in self.adopted_before and not is_known:  # removed by the user
            self.adopted[image.image_id] = self.adopted_before[image.image_id]
            return
        for chain in image.chain:
            self._add_layer(chain, image.chain)
        self._add_references(image, disk)
        brought = self.store.brought.get(image.image_id)
        known = self.images.get(image.image_id)
        if known is not None:
            self.images[image.image_id] = (_union(known[0], image), known[1])
        else:
            self.images[image.image_id] = (image, disk.label)
        if not is_stored or (brought is not None and not {*_names(image)} <= {*brought.references}):
            self._add_image(image, disk)

    def finish(self) -> Plan:
        """The plan, with repositories.json last."""
        repositories = self.store.repositories.with_changes(remove=self.removed, add=self.added)
        if self.new_images:
            self.operations += [*self.new_images.values(), Sync()]
            self.operations += [AddImage(image.image_id, image.disk) for image in self.new_images.values()]
        if self.store.is_damaged:
            self.problems.append(
                "repositories.json was damaged after docker-preloader had written it; what it held before is back, and "
                f"the damaged file is {self.store.keep_as}"
            )
        if repositories != self.store.repositories or self.store.is_damaged:
            self.operations += [WriteReferences(repositories), Sync(), SetReferences(self.store.keep_as)]
        self.operations += [ForgetImage(image) for image in self.lost_images if image not in self.new_images]
        return Plan(tuple(self.operations), tuple(self.images.values()), self.adopted, tuple(self.problems))

    def _trees(self, chain: ChainID) -> tuple[str, str]:
        disk, layer = self.sources[chain]
        return disk.store.diff(layer.cache_id), disk.store.tar_split(chain)

    def _add_layer(self, chain: ChainID, whole: tuple[ChainID, ...]) -> None:
        if chain in self.places:
            return
        position = whole.index(chain)
        parent = whole[position - 1] if position else None
        link = Link.of_chain(chain)
        lower = lower_of(*self.places[parent]) if parent else ""
        self.places[chain] = link, lower
        _, layer = self.sources[chain]
        cache_id = CacheID.of_chain(chain)
        trees = self._trees(chain)
        self.operations.append(AddLayer(chain, parent, layer.diff_id, cache_id, link, lower, layer.size, *trees))

    def _add_image(self, image: ImageRecord, disk: Disk) -> None:
        brought = self.store.brought.get(image.image_id)
        before = brought.references if brought is not None and image.image_id not in self.lost_images else ()
        references = tuple(sorted({*before, *_names(self.images[image.image_id][0])}))
        self.new_images[image.image_id] = MarkImage(image.image_id, disk, references)

    def _add_references(self, image: ImageRecord, disk: Disk) -> None:
        # A reference that is missing in an older file was not removed by the user.
        before = frozenset() if self.store.is_damaged else self.adopted_before.get(image.image_id, frozenset())
        refused = set()
        for reference in _names(image):
            found = self.added.get(reference) or self._find(reference)
            if found is None and reference not in before:
                self.added[reference] = image.image_id
            elif found is not None and found != image.image_id:
                refused.add(reference)
                self.problems.append(
                    f"{reference} stays with image {found[7:19]}; image {image.image_id.hex[:12]} of disk {disk.label} "
                    "does not get that name"
                )
        adopted = self.adopted.get(image.image_id, frozenset())
        self.adopted[image.image_id] = adopted | before | ({*_names(image)} - refused)

    def _find(self, reference: Reference) -> str | None:
        """What a reference names in the store once the images of absent disks are out."""
        found = self.store.repositories.find(reference)
        return None if found is not None and self.removed.get(reference) == found else found


def _names(image: ImageRecord) -> tuple[Reference, ...]:
    """All that repositories.json is to have of an image."""
    return *image.references, *image.repo_digests


def _union(image: ImageRecord, other: ImageRecord) -> ImageRecord:
    """An image with the names that either of two disks gives it."""
    return image._replace(
        references=tuple(sorted({*image.references, *other.references})),
        repo_digests=tuple(sorted({*image.repo_digests, *other.repo_digests})),
    )
