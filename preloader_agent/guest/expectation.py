"""Which disks whoever started the VM expects: the condition for being ready.

Said in a systemd credential (SMBIOS or fw_cfg, put by systemd below /run/credentials/@system), on the kernel command
line, or not at all; the first source that says anything counts. The value is `auto`, `none`, `count:N`, or a list of
disk labels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from preloader_agent.errors import InvalidValue

CREDENTIAL = "docker-preloader.expect"
_CMDLINE_KEY = "docker_preloader.expect="


class Expectation(NamedTuple):
    """Labels that must be there, or how many; with neither, the devices themselves decide (`auto`)."""

    labels: frozenset[str] = frozenset()
    number: int | None = None

    @property
    def is_automatic(self) -> bool:
        """Whether nobody said what to wait for."""
        return not self.labels and self.number is None

    def missing(self, attached: frozenset[str]) -> list[str]:
        """The labels still missing, or a placeholder for each disk of a count."""
        if self.number is not None:
            return ["any disk"] * (self.number - len(attached))
        return sorted(self.labels - attached)


def parse_expectation(text: str) -> Expectation:
    """Read a value. Raises InvalidValue."""
    words = text.replace(",", " ").split()
    if words in ([], ["auto"]):
        return Expectation()
    if words == ["none"]:
        return Expectation(number=0)
    if len(words) == 1 and words[0].startswith("count:"):
        number = words[0].removeprefix("count:")
        if not number.isdecimal() or int(number) > 1000:
            raise InvalidValue(CREDENTIAL, text, "`auto`, `none`, `count:N` or a list of disk labels")
        return Expectation(number=int(number))
    return Expectation(frozenset(words))


def read_expectation(root: str = "") -> Expectation:
    """What was said at this boot; `root` is put before every path. Raises InvalidValue."""
    for text in _sources(root):
        if text.strip():
            return parse_expectation(text)
    return Expectation()


def _sources(root: str) -> Iterator[str]:
    # Reading the system's credentials directly saves the 9 ms that LoadCredential= costs.
    for directory in (os.environ.get("CREDENTIALS_DIRECTORY", ""), f"{root}/run/credentials/@system"):
        if directory:
            yield _read(f"{directory}/{CREDENTIAL}")
    for word in _read(f"{root}/proc/cmdline").split():
        if word.startswith(_CMDLINE_KEY):
            yield word.removeprefix(_CMDLINE_KEY)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except (FileNotFoundError, NotADirectoryError):
        return ""
