"""`make pages`: write the manual pages into docs/ and the completions into completions/."""

from __future__ import annotations

from pathlib import Path

from pages.completions import completions
from pages.manpage import render

ROOT = Path(__file__).parent.parent


def make_pages() -> dict[Path, str]:
    """What the pages and scripts should contain, by path."""
    sources = sorted((ROOT / "docs" / "man").glob("*.rst"))
    pages = {ROOT / "docs" / source.stem: render(source) for source in sources}
    return pages | {ROOT / "completions" / path: script for path, script in completions().items()}


if __name__ == "__main__":
    for path, content in make_pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
