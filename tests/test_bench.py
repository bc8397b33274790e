"""The numbers in the README are those of the committed results, and so are the plots."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from bench.__main__ import known_parts
from bench.boot import NUMBERS, figures
from bench.bootunits import LOAD, NOTHING, OURS, SCRIPT, credentials, kernel_words, parse
from bench.records import Measured, Record, Spread, each_round, grouped
from bench.report import BLOCK, README, render, rounded, with_block
from bench.report import figures as figures_of_text
from bench.results import FOLDER, Results

MACHINE = {"date", "docker-preloader", "commit", "cpu", "cores", "memory, GiB", "kernel", "guests", "python", "qemu"}
VERSIONS = {"dockerd", "e2fsprogs", "guest's docker.io", "guest's systemd", "guest's linux-image-cloud-amd64"}
SAID = """ready=20.5
stat=9 8 7 6 5 4 2000 2 1 0 0
UserspaceTimestampMonotonic=4000000
docker.service:InactiveExitTimestampMonotonic=10000000
docker.service:ActiveEnterTimestampMonotonic=13000000
docker-preloader.service:InactiveExitTimestampMonotonic=8000000
docker-preloader.service:ActiveEnterTimestampMonotonic=8500000
bench-check.service:InactiveExitTimestampMonotonic=14000000
bench-check.service:ActiveEnterTimestampMonotonic=0
"""


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.read()


def test_the_readme_says_what_the_results_say(results: Results) -> None:
    page = README.read_text()
    assert with_block(page, render(results)) == page, "python -m bench.report rewrites the block"
    assert max(map(len, render(results).splitlines())) <= 120


def test_the_text_has_a_place_for_every_figure(results: Results) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(BLOCK.read_text()) if field}
    unused = set(figures_of_text(results)) - fields
    assert unused == {"nothing_bringing", "nothing_container", "script_container"}


def test_results_name_the_machine_and_the_versions(results: Results) -> None:
    assert results.machine.keys() >= MACHINE | VERSIONS
    assert all(str(value).strip() not in {"", "0", "unknown"} for value in results.machine.values())
    assert re.fullmatch("[0-9a-f]{12}", str(results.machine["commit"])), "measured with changes that no commit has"


def test_every_round_has_every_boot(results: Results) -> None:
    cases = {(NOTHING, 0), *((way, number) for way in (LOAD, SCRIPT, OURS) for number in NUMBERS)}
    found = sorted((record["round"], record["way"], record["images"]) for record in results.records("boot"))
    assert results.rounds("boot") >= 3
    assert found == sorted((number, *case) for number in range(results.rounds("boot")) for case in cases)


def test_plots_show_these_results(results: Results) -> None:
    page = (FOLDER / "README.md").read_text()
    names = re.findall(r"\]\((\w+)\.svg\)", page)
    plots = {f"{name}{form}" for name in names for form in (".svg", "-dark.svg", ".png")}
    assert {path.name for path in FOLDER.iterdir() if path.suffix in {".svg", ".png"}} == plots
    for name in plots:
        assert results.digest.encode() in (FOLDER / name).read_bytes(), f"{name}: python -m bench.plots draws it"


def test_only_parts_of_the_same_machine_and_commit_are_kept(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert known_parts(path, results.machine) == {}
    path.write_text(results.text)
    assert known_parts(path, {**results.machine, "date": "2000-01-01"}).keys() >= {"boot", "hotplug"}
    assert known_parts(path, {**results.machine, "commit": "0"}) == {}


def test_spread() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.1534, "0.15"), (1.0, "1.0"), (9.96, "10.0"), (42.4, "42"), (1234.5, "1234")]
)
def test_rounded(value: float, text: str) -> None:
    assert rounded(value) == text


def test_a_block_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n"
    assert with_block(page, "new\n") == page.replace("old", "new")
    with pytest.raises(ValueError, match="<!-- /bench -->"):
        with_block("a\n<!-- bench -->\n", "new\n")


def test_each_round_has_a_folder_of_its_own(tmp_path: Path) -> None:
    def measure(folder: Path) -> dict[str, float]:
        (folder / "file").touch(exist_ok=False)
        return {"s": 1.0}

    expected = Measured({"what": "x"}, [{"round": 0, "s": 1.0}, {"round": 1, "s": 1.0}])
    assert each_round(measure, "x")(tmp_path, 2) == expected
    assert list(tmp_path.iterdir()) == []


def test_records_are_grouped_by_what_they_are_about() -> None:
    records: list[Record] = [
        {"round": number, "way": way, "images": 2, "s": 1.5} for number in range(2) for way in "ab"
    ]
    assert {way: len(found) for way, found in grouped(records).items()} == {"a 2": 2, "b 2": 2}


def test_stages_add_up() -> None:
    found = figures(OURS, parse(SAID), 22.0)
    assert found.pop("written, MB") == pytest.approx(1.024)
    assert found == pytest.approx(
        {"kernel, s": 5.5, "bringing, s": 0.5, "dockerd, s": 3.0, "container, s": 6.5, "other units, s": 6.5}
    )
    assert sum(found.values()) == pytest.approx(22.0)


def test_only_one_way_brings_the_images() -> None:
    for way in (NOTHING, LOAD, SCRIPT, OURS):
        is_masked = "systemd.mask=docker-preloader.service" in kernel_words(way).split()
        assert is_masked == (way != OURS)
        units = [name.removeprefix("systemd.extra-unit.") for name in credentials(way, "dpl-0", 1, "true")]
        wanted = [word.removeprefix("systemd.wants=") for word in kernel_words(way).split() if "wants" in word]
        assert sorted(units) == sorted(wanted)
