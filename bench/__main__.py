"""`make bench`: what the README claims, side by side with what it is compared to in one run, as root.

Each round does all of it; medians and ranges are printed, and a ratio where two things do the same job. Absolute times
are this machine's. `--large` adds images of 2 GB, whose memory is measured once; `--json` prints every round.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.adoption import measure_adoption
from bench.builder import measure_builder, measure_large

ROUNDS = 5


def main() -> None:
    """Measure, and print a table or JSON."""
    rounds = [measure_round() for _ in range(ROUNDS)]
    report = {key: [figures[key] for figures in rounds] for key in rounds[0]}
    if "--large" in sys.argv:
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            report |= {key: [value] for key, value in measure_large(Path(folder)).items()}
    if "--json" in sys.argv:
        print(json.dumps(report, indent=1))
        return
    for key, values in report.items():
        print(f"{key:45} {statistics.median(values):8.3f}   ({min(values):.3f} to {max(values):.3f})")


def measure_round() -> dict[str, float]:
    """Everything once, in a folder of its own."""
    figures: dict[str, float] = {}
    for measure in (measure_adoption, measure_builder):
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            figures |= measure(Path(folder))
    return figures


if __name__ == "__main__":
    main()
