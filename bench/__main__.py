"""`make bench`: what the README claims, side by side with what it is compared to in one run, as root.

    python -m bench [--rounds N] [--output FILE] [PART...]

Each part measures its ways in turn, round after round; medians and ranges are printed, `--output` keeps each round.
Absolute times are this machine's, and only a quiet one gives them: compare what one run has measured, never two runs.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench.adoption import measure_adoption
from bench.boot import measure_boot
from bench.builder import measure_builder, measure_large
from bench.containers import measure_containers
from bench.hotplug import measure_hotplug
from bench.machine import describe_machine
from bench.readiness import measure_idle, measure_readiness
from bench.records import Part, Record, Spread, Value, each_round, grouped, watched


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
    machine = describe_machine()
    parts = {} if options.output is None else known_parts(options.output, machine)
    for name in options.parts:
        began = time.time()
        measure, rounds = PARTS[name]
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            about, records = measure(Path(folder), options.rounds or rounds)
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began))
        parts[name] = {"about": {**about, "began": when}, "records": records}
        print(f"{name}, {time.time() - began:.0f} s")
        _print_table(records)
        if options.output:
            options.output.write_text(json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n")


def known_parts(path: Path, machine: Mapping[str, Value]) -> dict[str, Any]:
    """The parts that a file has of the same machine and versions: one part can be measured again.

    A part only compares what it measured itself, and says when that was.
    """
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    is_same = {**report["machine"], "date": ""} == {**machine, "date": ""}
    return dict(report["parts"]) if is_same else {}


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


def _print_table(measured: Iterable[Record]) -> None:
    for way, records in grouped(measured).items():
        for key in (key for key, value in records[0].items() if isinstance(value, float)):
            spread = Spread.of([float(record[key]) for record in records])
            print(
                f"{f'{way} {key}'.strip():60} {spread.middle:9.3f}   ({spread.low:.3f} to {spread.high:.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
