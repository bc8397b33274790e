"""The pages show what the tests run."""

from __future__ import annotations

import dataclasses
import re

import pytest

from preloader_agent import host
from preloader_agent.errors import PreloaderError
from tests.walkthrough import DOCS, HOST, README, ROOT, Step, check_output, read_blocks, steps_of


def test_the_page_on_testing_shows_the_example_that_is_run() -> None:
    page = (DOCS / "testing.md").read_text()
    assert f"```python\n{(DOCS / 'example' / 'test_counter.py').read_text()}```\n" in page


def test_the_page_on_python_has_every_name_field_and_method() -> None:
    page = (DOCS / "python.md").read_text()
    fields = [field.name for field in dataclasses.fields(host.VmConfig)]
    methods = [name for name in vars(host.Vm) if not name.startswith("_")]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`+([^`]+)`+", page))))
    assert {*host.__all__, *fields, *methods} - named == set()


def test_links_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *DOCS.glob("*.md")):
        for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


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
