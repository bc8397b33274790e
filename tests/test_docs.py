"""The pages in docs/ show what the tests run."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_on_testing_shows_the_example_that_is_run() -> None:
    page = (DOCS / "testing.md").read_text()
    assert f"```python\n{(DOCS / 'example' / 'test_counter.py').read_text()}```\n" in page


def test_links_lead_somewhere() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^):]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
