"""A search, guided by coverage, for what the parsers of disks and the merge cannot bear.

    python -m bench.fuzz [--seconds N] [--corpus DIR] [PROPERTY]

Each property is one that the tests state; each is searched in a process of its own, for an equal part of the time. The
first input that breaks one ends the search with its traceback, as does one that takes ten seconds or a gigabyte.
`--corpus` keeps what was found interesting for the next search.
"""

from __future__ import annotations

import io
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import atheris

with atheris.instrument_imports(include=["preloader_agent"], enable_loader_override=False):
    from hypothesis import settings
    from hypothesis.stateful import get_state_machine_test

    from preloader_agent.host.run import run
    from preloader_agent.store.index import encode_index
    from preloader_agent.store.reference import Reference
    from preloader_agent.store.repositories import EMPTY
    from tests.guest import test_properties as guest
    from tests.guest.disks import image_id, make_index
    from tests.soundness import check_index_is_sound, check_repositories_are_sound, sealed
    from tests.store import test_properties as store
    from tests.strategies import bounded

INPUT_SECONDS, INPUT_MEGABYTES, INPUT_BYTES = 10, 1024, 8192


def choices_of(test: Any) -> Callable[[bytes], object]:
    """A test of Hypothesis as a function of bytes, which are its choices."""
    return test.hypothesis.fuzz_one_input  # type: ignore[no-any-return]


def try_index(content: bytes) -> None:
    """As it is, and with the digest that belongs to it, which no search finds."""
    check_index_is_sound(content)
    check_index_is_sound(sealed(content))


PROPERTIES: dict[str, Callable[[bytes], object]] = {
    "index": try_index,
    "repositories": check_repositories_are_sound,
    "changed-index": choices_of(store.test_an_index_that_was_changed_is_refused_or_sound),
    "reference": choices_of(store.test_a_reference_is_read_back_as_itself),
    "disk": choices_of(guest.test_a_damaged_disk_is_refused_or_adopted_and_leaves_again),
    "data-root": choices_of(guest.test_a_damaged_copy_of_a_data_root_is_refused_or_sound),
    "marker": choices_of(guest.test_whatever_a_marker_holds_the_users_images_stay),
    "merge": choices_of(get_state_machine_test(guest.Guest, settings=settings(bounded, stateful_step_count=10))),
}
SEEDS = {
    "index": encode_index(
        make_index((("base", "app"), ("app:1", "example/app:1")), (("base",), ("base:1",)), ((), ()))
    ),
    "repositories": EMPTY.with_changes(remove={}, add={Reference("app:1"): image_id(("app",))}).encode(),
}


def main() -> None:
    """Search. Ends with an error when something was found."""
    parser = ArgumentParser(prog="bench.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="a folder, which need not exist")
    parser.add_argument("property", nargs="?", choices=PROPERTIES)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="docker-preloader-fuzz-") as folder:
        corpus = options.corpus or Path(folder)
        if options.property:
            search(options.property, options.seconds, corpus / options.property)
        for name in PROPERTIES:
            seconds = str(max(options.seconds // len(PROPERTIES), 1))
            argv = [sys.executable, "-m", "bench.fuzz", "--seconds", seconds, "--corpus", str(corpus), name]
            said = run(argv, with_stderr=True)
            (inputs,) = re.findall(r"executed_units: (\d+)", said)
            (coverage,) = re.findall(r"DONE +cov: (\d+)", said)
            print(f"{name:14} {inputs:>9} inputs, {coverage:>4} branches")


def search(name: str, seconds: int, corpus: Path) -> NoReturn:
    """Search for inputs that break a property; ends the process, with status 0 when nothing was found."""
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "seed").write_bytes(SEEDS.get(name) or Random(name).randbytes(1000))
    limits = [f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={INPUT_MEGABYTES}", f"-max_len={INPUT_BYTES}"]
    bounds = [f"-max_total_time={seconds}", "-print_final_stats=1", "-len_control=0", f"-artifact_prefix={corpus}/"]

    def try_input(content: bytes) -> None:
        with redirect_stderr(io.StringIO()):  # what the agent would tell the journal
            PROPERTIES[name](content)

    atheris.Setup([sys.argv[0], *limits, *bounds, str(corpus)], try_input)
    atheris.Fuzz()
    raise AssertionError("it ends the process")


if __name__ == "__main__":
    main()
