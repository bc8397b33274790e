"""`make bench`: what the README claims, side by side with what it is compared to in one run, as root.

Each round does all of it; medians and ranges are printed, and a ratio where two things do the same job. Absolute times
are this machine's, and only a quiet one gives them. `python -m bench PART...` measures the parts that are named, and
options what is slow: `--large` images of 2 GB and their memory, `--idle` the agent's wake-ups and memory, both once,
and `--vm` its start in QEMU against the shell script that it descends from. `--json` prints every round.
"""

from __future__ import annotations

import json
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.adoption import measure_adoption
from bench.builder import measure_builder, measure_large
from bench.emulated import measure_vm
from bench.readiness import measure_idle, measure_readiness

ROUNDS = 5
PARTS = {"adoption": measure_adoption, "builder": measure_builder, "readiness": measure_readiness}
SLOW = {"large": measure_large, "idle": measure_idle}


def main() -> None:
    """Measure, and print a table or JSON."""
    options = _parse_arguments()
    rounds = [_measure(PARTS[name] for name in options.parts) for _ in range(ROUNDS)]
    report = {key: [figures[key] for figures in rounds] for key in rounds[0]}
    once = _measure(measure for name, measure in SLOW.items() if getattr(options, name))
    report |= {key: [value] for key, value in once.items()}
    if options.vm:
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            report |= measure_vm(Path(folder), ROUNDS)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print_table(report)


def _parse_arguments() -> Namespace:
    parser = ArgumentParser(prog="bench", description="Measure what is named, or all parts.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--large", action="store_true", help="images of 2 GB")
    parser.add_argument("--idle", action="store_true", help="wake-ups and memory of the agent")
    parser.add_argument("--vm", action="store_true", help="the agent's start in QEMU")
    parser.add_argument("--json", action="store_true", help="print every round")
    options = parser.parse_args()
    is_all = not (options.parts or options.large or options.idle or options.vm)
    options.parts = list(PARTS) if is_all else options.parts
    if not PARTS.keys() >= set(options.parts):
        parser.error(f"the parts are {', '.join(PARTS)}")
    return options


def _measure(measures: Iterable[Callable[[Path], dict[str, float]]]) -> dict[str, float]:
    """Some figures, each part's in a folder of its own."""
    figures: dict[str, float] = {}
    for measure in measures:
        with TemporaryDirectory(prefix="docker-preloader-bench-") as folder:
            figures |= measure(Path(folder))
    return figures


def _print_table(report: Mapping[str, Sequence[float]]) -> None:
    for key, values in report.items():
        print(f"{key:50} {statistics.median(values):8.3f}   ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
