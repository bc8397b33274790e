"""The pages show what the tests run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from preloader_agent import host
from preloader_agent.errors import PreloaderError
from tests.walkthrough import DOCS, HOST, README, ROOT, Step, check_output, read_blocks, steps_of

PAGES = (*ROOT.glob("*.md"), *DOCS.glob("*.md"))


def links_of(page: Path) -> list[tuple[str, str]]:
    """Each link of a page to the repository's own: a path, and the name of a heading behind "#"; one may be empty."""
    return re.findall(r"\]\((?!\w+://)([^)#]*)#?([^)]*)\)", page.read_text())


def anchors_of(page: Path) -> set[str]:
    """What the headings of a page are called in links, by the rules of those who show Markdown."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_on_testing_shows_the_example_that_is_run() -> None:
    page = (DOCS / "testing.md").read_text()
    assert f"```python\n{(DOCS / 'example' / 'test_counter.py').read_text()}```\n" in page


def test_the_page_on_python_has_every_name_field_and_method() -> None:
    page = (DOCS / "python.md").read_text()
    fields = [field.name for field in dataclasses.fields(host.VmConfig)]
    methods = [name for name in vars(host.Vm) if not name.startswith("_")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`+([^`]+)`+", page))))
    assert {*host.__all__, *fields, *methods} - named == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links_of(page):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), f"{target}#{anchor}"


def test_both_indexes_lead_to_all_pages() -> None:
    for index in (README, DOCS / "README.md"):
        linked = {(index.parent / target).resolve() for target, _ in links_of(index)}
        pages = {*DOCS.glob("*.md"), *DOCS.glob("*.[0-9]")} - {DOCS / "README.md"}
        assert pages - linked == set(), index


def test_hacking_names_files_that_are_there() -> None:
    words = re.findall(r"`([\w./*-]+)`", (ROOT / "HACKING.md").read_text())
    paths = [word for word in words if re.match(r"(preloader_agent|tests|docs|packaging)/|.*/.*\.py$", word)]
    assert len(paths) > 10
    assert [path for path in paths if not [*ROOT.glob(path), *ROOT.glob(f"preloader_agent/{path}")]] == []


def test_the_commands_of_the_readme_are_those_of_its_tour() -> None:
    """What is in console blocks is run by test_readme.py; what is indented are commands for people to type."""
    shown = re.findall(r"^    (preloader .*?)(?: +#.*)?$", README.read_text(), re.MULTILINE)
    assert len(shown) == 2
    assert set(shown) <= {step.command for step in steps_of(read_blocks(README, {}))}


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("images: 1, 35.5 MB\n...\n", "images: 1, 7 MB\n"),
        ("...\ndebian  13  efea48e8a1a6  3 years ago\n", "a\nb\ndebian   13   0123456789ab   11 months ago\n"),
        ("Redis server v=8...\n", "Redis server v=8.0.2 sha=0\n"),
        ("", ""),
    ],
)
def test_what_may_differ_from_a_page(shown: str, output: str) -> None:
    check_output(Step(HOST, "command", shown), output)


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        ("images: 1, 35.5 MB\n", "images: 2, 35.5 MB\n"),
        ("images: 1, 35.5 MB\n", "images: 1, 35.5 GB\n"),
        ("one line\n", "one line\nanother\n"),
        ("one line\n", ""),
        ("", "something\n"),
    ],
)
def test_what_may_not_differ_from_a_page(shown: str, output: str) -> None:
    with pytest.raises(PreloaderError, match="command: expected as the page shows it"):
        check_output(Step(HOST, "command", shown), output)
