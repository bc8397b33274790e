"""Which containers cannot be started because of what they depend on: values in, reasons out."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def find_faults(dependencies: Mapping[str, Collection[str]], known: Collection[str]) -> dict[str, str]:
    """What is wrong with the dependencies of a container, by its name; `known` are the names that there are."""
    faults = {}
    for name, needed in dependencies.items():
        unknown = sorted(set(needed).difference(known))
        if unknown:
            faults[name] = f"there is no container {unknown[0]}"
        elif cycle := _find_cycle(name, dependencies):
            faults[name] = f"is a cycle: {' -> '.join(cycle)}; none of these can be started before the others"
    return faults


def _find_cycle(name: str, dependencies: Mapping[str, Collection[str]]) -> list[str]:
    """A shortest way from a container back to itself; empty if there is none."""
    ways = [[name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        for needed in dependencies.get(way[-1], ()):
            if needed == name:
                return [*way, name]
            if needed not in seen:
                seen.add(needed)
                ways.append([*way, needed])
    return []
