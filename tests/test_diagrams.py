"""The diagrams of the pages: that they fit, and are shown."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.walkthrough import DOCS, README

PAGES = (README, *DOCS.glob("*.md"))
DIAGRAMS = sorted((DOCS / "diagrams").glob("*.svg"))
WIDTH = 880  # what GitHub has room for
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=lambda diagram: diagram.name)
def test_a_diagram_fits_and_has_words(diagram: Path) -> None:
    root = ElementTree.parse(diagram).getroot()
    assert int(root.attrib["width"]) <= WIDTH
    assert root.attrib["viewBox"].split()[2:] == [root.attrib["width"], root.attrib["height"]]
    assert root.findtext(f"{SVG}title")
    assert len(list(root.iter(f"{SVG}text"))) > 5
    assert not list(root.iter(f"{SVG}image"))


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=lambda diagram: diagram.name)
def test_nothing_of_a_diagram_is_outside_of_it(diagram: Path) -> None:
    root = ElementTree.parse(diagram).getroot()
    right, bottom = int(root.attrib["width"]), int(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x + width <= right
        assert y + height <= bottom
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["x"]) < right
        assert 0 < float(text.attrib["y"]) < bottom


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=lambda diagram: diagram.name)
def test_a_diagram_is_shown_with_what_it_says(diagram: Path) -> None:
    title = ElementTree.parse(diagram).getroot().findtext(f"{SVG}title")
    assert any(f"![{title}](diagrams/{diagram.name})" in page.read_text() for page in PAGES)
