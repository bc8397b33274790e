"""The pages in docs/ show what the tests run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from preloader_agent import host

DOCS = Path(__file__).parent.parent / "docs"


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
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^):]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
