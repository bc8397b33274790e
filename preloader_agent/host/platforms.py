"""Which platform an image is wanted for, and which images run on it.

Names are Go's, made equal and compared as containerd does it (platforms.go, compare.go), but for one thing: the
architecture must be the same, since a guest is not asked whether it also runs 32-bit programs.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence

from preloader_agent.store.index import Platform

_ARCHITECTURES = {
    "aarch64": "arm64",
    "armel": "arm/v6",
    "armhf": "arm/v7",
    "armv5tel": "arm/v5",
    "armv6l": "arm/v6",
    "armv7l": "arm/v7",
    "armv8l": "arm/v8",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
    "x86_64": "amd64",
}
# What an architecture without a variant means.
_DEFAULT_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
_VARIANT = re.compile(r"v?(\d{1,3})(?:\.(\d{1,3}))?", re.ASCII)


def host_platform() -> Platform:
    """The platform of this machine."""
    return normalized(Platform("linux", platform.machine()))


def normalized(found: Platform) -> Platform:
    """A platform as Docker names it: x86_64 is amd64, arm is arm/v7, and arm64/v8 just arm64."""
    name = _ARCHITECTURES.get(found.architecture.lower(), found.architecture.lower())
    architecture, _, implied = name.partition("/")
    default = _DEFAULT_VARIANTS.get(architecture, "")
    variant = found.variant.lower() or implied or default
    variant = f"v{variant}" if variant[:1].isdigit() else variant
    is_said = architecture == "arm" or variant != default
    return Platform(found.os.lower() or "linux", architecture, variant if is_said else "")


def find_best(wanted: Platform, platforms: Sequence[Platform]) -> list[int]:
    """The positions of those platforms that run on the wanted one and come closest to it."""
    ranks = [_rank(normalized(wanted), normalized(found)) for found in platforms]
    best = max((rank for rank in ranks if rank is not None), default=None)
    return [position for position, rank in enumerate(ranks) if rank is not None and rank == best]


def list_platforms(platforms: Iterable[Platform]) -> str:
    """Platforms for people, each once."""
    return ", ".join(sorted({str(normalized(found)) for found in platforms}))


def _rank(wanted: Platform, found: Platform) -> tuple[int, int] | None:
    """How new the variant is that a platform has, None when the wanted one does not run it: v7 runs v6, not v8."""
    if wanted[:2] != found[:2]:
        return None
    newest, rank = _version(wanted), _version(found)
    if newest is None or rank is None:
        return (0, 0) if wanted == found else None
    return rank if rank <= newest else None


def _version(found: Platform) -> tuple[int, int] | None:
    variant = _VARIANT.fullmatch(found.variant or _DEFAULT_VARIANTS.get(found.architecture, "v0"))
    return (int(variant[1]), int(variant[2] or 0)) if variant else None
