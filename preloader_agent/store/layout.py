"""Paths in Docker's overlay2 store, the same below a data root in the guest and on a disk.

Every function of the product that needs a path in a store asks here. Modes are those that dockerd 20.10, 26.1 and 28.5
give, as seen by loading the same image into each.
"""

from __future__ import annotations

from typing import NamedTuple

from preloader_agent.store.digest import CacheID, ChainID, ImageID, Link

INDEX_NAME = "preload.json"
CONTAINERS_DIRECTORY, CONTAINERS_MODE = "containers", 0o755  # of definitions, on a disk that has some

# Directories of a store, parents first, with their modes.
STORE_DIRECTORIES = (
    ("image", 0o700),
    ("image/overlay2", 0o700),
    ("image/overlay2/imagedb", 0o700),
    ("image/overlay2/imagedb/content", 0o700),
    ("image/overlay2/imagedb/content/sha256", 0o700),
    ("image/overlay2/imagedb/metadata", 0o700),
    ("image/overlay2/imagedb/metadata/sha256", 0o700),
    ("image/overlay2/layerdb", 0o700),
    ("image/overlay2/layerdb/sha256", 0o755),
    ("image/overlay2/layerdb/tmp", 0o755),
    ("overlay2", 0o710),
    ("overlay2/l", 0o700),
)
LAYER_DIRECTORY_MODE = 0o710
LAYERDB_DIRECTORY_MODE = 0o700
LAYERDB_FILE_MODE = 0o644
PRIVATE_FILE_MODE = 0o600  # committed, image configurations, repositories.json


class Store(NamedTuple):
    """Docker's store below `root`: a data root such as /var/lib/docker, or the top of a disk."""

    root: str

    @property
    def index_file(self) -> str:
        """The index of a disk; a data root has none."""
        return f"{self.root}/{INDEX_NAME}"

    def container_definition(self, name: str) -> str:
        """On a disk, the definition of a container that is to be a service."""
        return f"{self.root}/{CONTAINERS_DIRECTORY}/{name}.toml"

    @property
    def repositories(self) -> str:
        """The file that gives images their references."""
        return f"{self.root}/image/overlay2/repositories.json"

    @property
    def kept_repositories(self) -> str:
        """What that file held before the agent replaced it last."""
        return f"{self.repositories}.docker-preloader-kept"

    def damaged_repositories(self, number: int) -> str:
        """A file that could not be read any more, and was set aside."""
        return f"{self.repositories}.docker-preloader-broken-{number}"

    @property
    def image_configs(self) -> str:
        """The directory of image configurations, each named by its image ID."""
        return f"{self.root}/image/overlay2/imagedb/content/sha256"

    @property
    def images_metadata(self) -> str:
        """The directory of what dockerd notes about images, each in a directory named by its image ID."""
        return f"{self.root}/image/overlay2/imagedb/metadata/sha256"

    @property
    def layerdb(self) -> str:
        """The directory of layer records, each named by its ChainID."""
        return f"{self.root}/image/overlay2/layerdb/sha256"

    @property
    def layerdb_staging(self) -> str:
        """Where dockerd, too, prepares layer records before it renames them into place."""
        return f"{self.root}/image/overlay2/layerdb/tmp"

    @property
    def container_layers(self) -> str:
        """Where dockerd notes which layer each container was made on."""
        return f"{self.root}/image/overlay2/layerdb/mounts"

    @property
    def layers(self) -> str:
        """The directory of layers, each named by its CacheID."""
        return f"{self.root}/overlay2"

    @property
    def links(self) -> str:
        """The directory of short links."""
        return f"{self.layers}/l"

    def image_config(self, image: ImageID) -> str:
        """The configuration of an image."""
        return f"{self.image_configs}/{image.hex}"

    def image_metadata(self, image: ImageID) -> str:
        """The directory of what dockerd notes about an image; deleted by dockerd with the image."""
        return f"{self.images_metadata}/{image.hex}"

    def container_config(self, container: str) -> str:
        """What dockerd knows of a container, its name among it."""
        return f"{self.root}/containers/{container}/config.v2.json"

    def layer_record(self, chain: ChainID) -> str:
        """The directory that records a layer."""
        return f"{self.layerdb}/{chain.hex}"

    def tar_split(self, chain: ChainID) -> str:
        """What `docker save` needs beside the tree to write the layer's tar stream again."""
        return f"{self.layer_record(chain)}/tar-split.json.gz"

    def layer(self, cache_id: CacheID) -> str:
        """The directory of a layer's tree and of its place in the overlay."""
        return f"{self.layers}/{cache_id}"

    def diff(self, cache_id: CacheID) -> str:
        """A layer's tree; in a shim, a symlink to the tree on a disk."""
        return f"{self.layer(cache_id)}/diff"

    def link(self, link: Link) -> str:
        """A short link."""
        return f"{self.links}/{link}"


def link_target(cache_id: CacheID) -> str:
    """What a short link holds; dockerd reads it back, so no other form works."""
    return f"../{cache_id}/diff"


def lower_of(parent_link: str, parent_lower: str) -> str:
    """The `lower` of a layer: the parent's link, then what the parent lists, nearest first ("" for none)."""
    return f"l/{parent_link}:{parent_lower}" if parent_lower else f"l/{parent_link}"
