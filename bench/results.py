"""The results that are committed, docs/bench/results.json, and what is asked of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.records import Record, Spread, Value

FOLDER = Path(__file__).parent.parent / "docs" / "bench"
RESULTS = FOLDER / "results.json"


@dataclass(frozen=True)
class Results:
    """What one run has measured, and where."""

    text: str

    @classmethod
    def read(cls, path: Path = RESULTS) -> Results:
        """Of a file that `python -m bench --output` wrote."""
        return cls(path.read_text())

    @cached_property
    def _report(self) -> Any:
        return json.loads(self.text)

    @property
    def machine(self) -> Mapping[str, Value]:
        """What `bench.machine` said."""
        return self._report["machine"]  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """What a plot of just these results carries."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def about(self, part: str) -> Mapping[str, Value]:
        """What a part was measured with."""
        return self._report["parts"][part]["about"]  # type: ignore[no-any-return]

    def records(self, part: str, **match: Value) -> list[Record]:
        """The records of a part, of all rounds, that have these values. Raises LookupError when there is none."""
        found = [record for record in self._report["parts"][part]["records"] if match.items() <= record.items()]
        if not found:
            raise LookupError(f"{part}: no record with {match}")
        return found

    def spread(self, part: str, field: str, **match: Value) -> Spread:
        """The median of a field, and its range."""
        return Spread.of([float(record[field]) for record in self.records(part, **match)])

    def middle(self, part: str, field: str, **match: Value) -> float:
        """The median of a field."""
        return self.spread(part, field, **match).middle

    def rounds(self, part: str) -> int:
        """How often a part was measured."""
        return len({record["round"] for record in self.records(part)})
