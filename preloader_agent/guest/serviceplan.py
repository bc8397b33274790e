"""Which containers of disks get a service, and what has to change for it: values in, a plan out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from preloader_agent.guest.servicefiles import Key
from preloader_agent.store.digest import Digest
from preloader_agent.store.index import ContainerRecord


class ServicePlan(NamedTuple):
    """What leads from the services that are there to those that are wanted.

    `resumed` are there, and nobody knows whether they were started; `refused` says why others are not to be there.
    """

    leaving: tuple[Key, ...]
    coming: tuple[Key, ...]
    resumed: tuple[Key, ...]
    refused: dict[Key, str]
    touched: frozenset[Key]

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to do; systemd may not have read what was changed last."""
        return bool(self.touched)


def plan_services(
    wanted: Mapping[str, Iterable[ContainerRecord]],
    installed: Mapping[Key, Digest],
    unfinished: Collection[Key],
    objections: Mapping[Key, str],
) -> ServicePlan:
    """Plan for the containers of adopted disks, by label; `installed` are the digests of what is there.

    `unfinished` is what an earlier plan was about that was not carried out to its end, `objections` say what keeps a
    container from having a service, whatever the others are. A name is that of one container: of the one that has it
    already, else of the disk whose label comes first.
    """
    digests = {Key(label, each.name): each.digest for label, containers in wanted.items() for each in containers}
    chosen: dict[Key, Digest] = {}
    refused: dict[Key, str] = {}
    holders: dict[str, str] = {}
    for key in sorted(digests, key=lambda key: (key not in installed, key)):
        if problem := objections.get(key, ""):
            refused[key] = problem
        elif key.name in holders:
            refused[key] = f"{holders[key.name]} has brought a container of that name"
        else:
            chosen[key] = digests[key]
            holders[key.name] = key.label
    leaving = tuple(key for key in sorted(installed) if chosen.get(key) != installed[key])
    coming = tuple(key for key in chosen if installed.get(key) != chosen[key])
    resumed = tuple(key for key in sorted(unfinished) if key in chosen and key not in coming)
    return ServicePlan(leaving, coming, resumed, refused, frozenset((*leaving, *coming, *unfinished)))
