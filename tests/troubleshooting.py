"""docs/troubleshooting.md, as its entries: a block with one message or several, and the text that explains them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.messages import HOLE

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
AGENT, HOST = "Messages of the agent", "Messages of preloader, on the host"
_PLACEHOLDER = "<[^>]*>"
_BLOCK = re.compile(r"^```text\n(.*?)^```\n\n?(.*?)(?=^```text|^#|\Z)", re.M | re.S)


class Entry(NamedTuple):
    """Messages that mean the same, and what to do; `<word>` is HOLE."""

    messages: tuple[str, ...]
    explanation: str


def read_entries(section: str) -> list[Entry]:
    """The entries of a section; a line of a block that begins with spaces goes on with the message above it."""
    _, _, rest = PAGE.read_text().partition(f"\n## {section}\n")
    text = rest.partition("\n## ")[0]
    return [Entry(_messages(block), explanation.strip()) for block, explanation in _BLOCK.findall(text)]


def _messages(block: str) -> tuple[str, ...]:
    lines = re.sub(r"\n +", " ", block).splitlines()
    return tuple(re.sub(_PLACEHOLDER, HOLE, line) for line in lines)


def find_entry(line: str) -> Entry | None:
    """The entry of the agent's that a line of its log is explained by, by the longest of its messages' words."""
    found = [
        (len(message), entry)
        for entry in read_entries(AGENT)
        for message in entry.messages
        if re.search("(?:^|: )" + ".+".join(map(re.escape, message.split(HOLE))) + "$", line)
    ]
    return max(found)[1] if found else None
