"""A page of docs/man as roff, by docutils' writer of manual pages."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.core import publish_string
from docutils.writers import manpage

from pages.directives import register


class _Translator(manpage.Translator):
    """The title and the name of a page as man(7) has them."""

    def header(self) -> str:
        """The page's title line, and the section in which whatis(1) looks for its name and purpose.

        Words are not hyphenated, half of them are names: .nh says so, and HY to groff's .EE, which begins it anew.
        """
        info = self._docinfo  # type: ignore[attr-defined]  # types-docutils 0.23 lacks it
        words = (info["title"].upper(), *(info[key] for key in ("manual_section", "date", "version", "manual_group")))
        title = " ".join(f'"{word}"' for word in words)
        return f".TH {title}\n.nr HY 0\n.nh\n.SH NAME\n{info['title']} \\- {info['subtitle']}\n"

    def visit_term(self, node: nodes.term) -> None:  # noqa: ARG002
        """Start a term, which says itself which of its words are bold."""
        self.body.append("\n")


class _Writer(manpage.Writer):
    def __init__(self) -> None:
        super().__init__()
        self.translator_class = _Translator


def render(source: Path) -> str:
    """The roff of a page. Raises docutils' SystemMessage, with file and line, for anything it warns of."""
    register()
    settings = {"halt_level": 2, "report_level": 2, "output_encoding": "unicode", "_disable_config": True}
    text = source.read_text(encoding="utf-8")
    roff = str(publish_string(text, source_path=str(source), writer=_Writer(), settings_overrides=settings))
    return re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", roff, flags=re.MULTILINE)  # mandoc warns of space that does nothing
