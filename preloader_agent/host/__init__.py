"""The host side: image archives become disks, and disks reach virtual machines.

    from preloader_agent.host import Vm, VmConfig, build_disk

What is named here is the interface for programs; all else may change. Each name is imported when it is first used: who
builds a disk does not wait for asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preloader_agent.host.disk import BuildOptions as BuildOptions
    from preloader_agent.host.disk import Built as Built
    from preloader_agent.host.disk import build_disk as build_disk
    from preloader_agent.host.vm.config import Forward as Forward
    from preloader_agent.host.vm.config import SharedFolder as SharedFolder
    from preloader_agent.host.vm.config import UserNetwork as UserNetwork
    from preloader_agent.host.vm.config import VmConfig as VmConfig
    from preloader_agent.host.vm.driver import Ending as Ending
    from preloader_agent.host.vm.driver import Vm as Vm

_MODULES = {
    "preloader_agent.host.disk": ("BuildOptions", "Built", "build_disk"),
    "preloader_agent.host.vm.config": ("Forward", "SharedFolder", "UserNetwork", "VmConfig"),
    "preloader_agent.host.vm.driver": ("Ending", "Vm"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
