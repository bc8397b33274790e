"""Which containers stand on the layers of a disk: read from Docker's store, whether dockerd runs or not.

dockerd notes for each container, running or stopped, the layer that it was made on.
"""

from __future__ import annotations

import json

from preloader_agent.errors import InvalidValue
from preloader_agent.guest.storestate import list_names, read_layers
from preloader_agent.store.digest import ChainID
from preloader_agent.store.layout import Store


def is_served_from(store: Store, mountpoint: str) -> bool:
    """Whether a layer of the store is on the disk that is mounted there. Raises OSError."""
    return any(layer.is_on(mountpoint) for layer in read_layers(store))


def containers_using(store: Store, mountpoint: str) -> list[str]:
    """The names of the containers that use a layer of the disk that is mounted there. Raises OSError."""
    places = {layer.chain_id: layer for layer in read_layers(store)}
    ours = {layer.link for layer in places.values() if layer.link and layer.is_on(mountpoint)}
    found = []
    for container in list_names(store.container_layers):
        try:
            with open(f"{store.container_layers}/{container}/parent", encoding="ascii", errors="replace") as file:
                place = places.get(ChainID(file.read()))
        except (FileNotFoundError, InvalidValue):
            continue  # it stands on nothing, or is being removed just now
        if place is not None and not ours.isdisjoint([place.link, *place.lower.replace("l/", "").split(":")]):
            found.append(_name(store, container))
    return sorted(found)


def _name(store: Store, container: str) -> str:
    """What the user calls it; its short ID when its configuration cannot be read."""
    try:
        with open(store.container_config(container), "rb") as file:
            return str(json.load(file)["Name"]).lstrip("/")
    except (OSError, ValueError, KeyError, TypeError):
        return container[:12]
