"""docs/troubleshooting.md has each message that the agent can log at WARNING or above, and none that is gone."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.messages import HOLE, PACKAGE, agent_messages, literal_texts
from tests.troubleshooting import AGENT, HOST, PAGE, read_entries


def messages(section: str) -> list[str]:
    return [message for entry in read_entries(section) for message in entry.messages]


def pattern_of(message: str) -> str:
    """What the text of a message matches as it stands in the source, whole or but for a variable part at its ends."""
    return "^" + ".*".join(map(re.escape, f"{HOLE}{message.strip(f'{HOLE};: ')}{HOLE}".split(HOLE))) + "$"


def test_every_message_of_the_agent_has_an_entry() -> None:
    assert sorted(agent_messages() - {*messages(AGENT)}) == []


def test_every_entry_is_about_a_message_of_the_agent() -> None:
    assert sorted({*messages(AGENT)} - agent_messages()) == []


def test_no_message_has_two_entries() -> None:
    assert [message for message, number in Counter(messages(AGENT)).items() if number > 1] == []


@pytest.mark.parametrize("section", ["Symptoms", HOST])
def test_other_messages_are_there_too(section: str) -> None:
    texts = "\n".join(literal_texts(PACKAGE))
    assert [message for message in messages(section) if not re.search(pattern_of(message), texts, re.M)] == []
    assert messages(section)


@pytest.mark.parametrize("section", [AGENT, HOST])
def test_every_entry_says_something(section: str) -> None:
    assert [entry for entry in read_entries(section) if len(entry.explanation) < 20] == []


def test_every_block_is_in_a_section() -> None:
    found = sum(len(read_entries(section)) for section in ("Symptoms", AGENT, HOST))
    assert found == PAGE.read_text().count("```text\n")
