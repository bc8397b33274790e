"""`make bench`: what the README claims, side by side with what it is compared to in one run, as root.

    python -m bench [--rounds N] [--output FILE] [PART...]

Each part measures its ways in turn, round after round; medians and ranges are printed, `--output` keeps each round.
Absolute times are this machine's, and only a quiet one gives them: compare what one run has measured, never two runs.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.adoption import measure_adoption
from bench.boot import measure_boot
from bench.builder import measure_builder, measure_large
from bench.containers import measure_containers
from bench.hotplug import measure_hotplug
from bench.machine import describe_machine
from bench.readiness import measure_idle, measure_readiness
from bench.records import Measured, Part, Spread, each_round, grouped, watched


class Planned(NamedTuple):
    """A part, and how many rounds of it suffice."""

    measure: Part
    rounds: int


PARTS = {
    "containers": Planned(watched(measure_containers), 5),
    "hotplug": Planned(watched(measure_hotplug), 3),
    "boot": Planned(watched(measure_boot), 3),
    "adoption": Planned(each_round(measure_adoption, "busybox and Debian's Redis"), 5),
    "builder": Planned(each_round(measure_builder, "230 MB in two layers, and 50,000 files"), 5),
    "readiness": Planned(measure_readiness, 3),
    "large": Planned(each_round(measure_large, "2 GB"), 1),
    "idle": Planned(each_round(measure_idle, "the agent while nothing happens"), 1),
}


def main() -> None:
    """Measure, print a table, and keep all of it if asked, after each part what there is."""
    options = _parse_arguments()
    found: dict[str, Measured] = {}
    machine = describe_machine()
    for name in options.parts:
        started = time.monotonic()
        measure, rounds = PARTS[name]
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            found[name] = measure(Path(folder), options.rounds or rounds)
        print(f"{name}, {time.monotonic() - started:.0f} s")
        _print_table(found[name])
        if options.output:
            report = {"machine": machine, "parts": {part: values._asdict() for part, values in found.items()}}
            options.output.write_text(json.dumps(report, indent=1) + "\n")


def _parse_arguments() -> Namespace:
    parser = ArgumentParser(prog="bench", description="Measure what is named, or all parts.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, help="instead of what each part finds enough")
    parser.add_argument("--output", type=Path, help="a file for every round, as JSON")
    options = parser.parse_args()
    options.parts = options.parts or list(PARTS)
    if not PARTS.keys() >= set(options.parts):
        parser.error(f"the parts are {', '.join(PARTS)}")
    return options


def _print_table(measured: Measured) -> None:
    for way, records in grouped(measured.records).items():
        for key in (key for key, value in records[0].items() if isinstance(value, float)):
            spread = Spread.of([float(record[key]) for record in records])
            print(
                f"{f'{way} {key}'.strip():60} {spread.middle:9.3f}   ({spread.low:.3f} to {spread.high:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
