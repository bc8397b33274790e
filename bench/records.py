"""What a part of the bench measures: a record for each way in each round, never a mean of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

Value = str | float
Record = dict[str, Value]


class Measured(NamedTuple):
    """What was measured, and with what: sizes and the like."""

    about: Mapping[str, Value]
    records: list[Record]


Part = Callable[[Path, int], Measured]  # a folder for its files, and how many rounds


def each_round(measure: Callable[[Path], Mapping[str, float]], about: str) -> Part:
    """The part that is one function, called for each round with a folder that is then removed."""

    def part(folder: Path, rounds: int) -> Measured:
        records: list[Record] = []
        for number in range(rounds):
            with TemporaryDirectory(dir=folder) as own:
                records.append({"round": number, **measure(Path(own))})
        return Measured({"what": about}, records)

    return part


def grouped(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of all rounds by what else they are about: texts and whole numbers, but for the round."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        words = [str(value) for key, value in record.items() if key != "round" and not isinstance(value, float)]
        groups.setdefault(" ".join(words), []).append(record)
    return groups


def watched(measure: Part) -> Part:
    """The part, with what else the machine did meanwhile: cores that were busy with other programs than its own."""

    def part(folder: Path, rounds: int) -> Measured:
        began, busy, ours = time.monotonic(), _busy_seconds(), _own_seconds()
        about, records = measure(folder, rounds)
        others = _busy_seconds() - busy - (_own_seconds() - ours)
        return Measured({**about, "cores busy with others": round(others / (time.monotonic() - began), 3)}, records)

    return part


def _busy_seconds() -> float:
    """The processor time that all programs and the kernel have taken, and what the host of this machine took of it."""
    user, nice, system, _, _, *interrupts = (int(word) for word in Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Ours, and that of the programs that we have started and that have ended."""
    return sum(os.times()[:4])


class Spread(NamedTuple):
    """The median of some values, and the smallest and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one."""
        return cls(median(values), min(values), max(values))
