"""What the agent was told: by the guest's files, the kernel command line and systemd credentials.

Whoever starts the VM can override what is in the image: a credential (SMBIOS or fw_cfg, put by systemd below
/run/credentials/@system) comes before the kernel command line, and both before the files. A value that cannot be used
is reported, and the next source counts: docker has to start in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from preloader_agent.errors import InvalidValue
from preloader_agent.store.index import LABEL_PREFIX

CONFIG = "/etc/docker-preloader.conf"
PREFIX = "docker-preloader."  # of a credential's name
MAX_SECONDS = 3600.0
_CMDLINE_PREFIX = "docker_preloader."
_MAX_BYTES = 65536
_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}

RESTART, IDLE, DEFER = "restart", "idle", "defer"


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

    def __str__(self) -> str:
        if self.number is not None:
            return f"count:{self.number}" if self.number else "none"
        return " ".join(sorted(self.labels)) or "auto"


class Settings(NamedTuple):
    """What is in force. `labels` are glob patterns, `timeout` is in seconds."""

    labels: tuple[str, ...] = (f"{LABEL_PREFIX}*",)
    expect: Expectation = Expectation()
    timeout: float = 30.0
    required: bool = False
    hotplug: str = IDLE
    containers_from_disks: bool = False

    def as_json(self) -> dict[str, object]:
        """What `status --json` prints."""
        return {**self._asdict(), "expect": str(self.expect)}


def read_settings(root: str = "") -> tuple[Settings, list[str]]:
    """What was said, and what of it cannot be used; `root` is put before every path."""
    problems: list[str] = []
    values: dict[str, object] = {}
    for source, key, text in _sources(root, problems):
        if key in values or not text.strip():
            continue
        try:
            values[key] = _PARSERS[key](text.strip())
        except KeyError:
            problems.append(f"{source}: there is no setting {key!r:.60}; expected one of {', '.join(_PARSERS)}")
        except InvalidValue as err:
            problems.append(f"{source}: {err}; it is not used")
    return Settings(**values), problems  # type: ignore[arg-type]


def parse_expectation(text: str) -> Expectation:
    """Read a value of `expect`. Raises InvalidValue."""
    words = text.replace(",", " ").split()
    if words in ([], ["auto"]):
        return Expectation()
    if words == ["none"]:
        return Expectation(number=0)
    if len(words) == 1 and words[0].startswith("count:"):
        number = words[0].removeprefix("count:")
        if not number.isdecimal() or len(number) > 4 or int(number) > 1000:  # int() raises for thousands of digits
            raise InvalidValue("expect", text, "`auto`, `none`, `count:N` or a list of disk labels")
        return Expectation(number=int(number))
    return Expectation(frozenset(words))


def _parse_labels(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _parse_timeout(text: str) -> float:
    seconds = float(text) if text.isascii() and text.replace(".", "", 1).isdecimal() else -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise InvalidValue("timeout", text, f"seconds, from 0 to {MAX_SECONDS:.0f}")
    return seconds


def _parse_flag(key: str) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if text.lower() not in _WORDS:
            raise InvalidValue(key, text, "yes or no")
        return _WORDS[text.lower()]

    return parse


def _parse_hotplug(text: str) -> str:
    if text not in (RESTART, IDLE, DEFER):
        raise InvalidValue("hotplug", text, f"{RESTART}, {IDLE} or {DEFER}")
    return text


_PARSERS = {
    "labels": _parse_labels,
    "expect": parse_expectation,
    "timeout": _parse_timeout,
    "required": _parse_flag("required"),
    "hotplug": _parse_hotplug,
    "containers_from_disks": _parse_flag("containers_from_disks"),
}


def _sources(root: str, problems: list[str]) -> Iterator[tuple[str, str, str]]:
    """Where something is said, of which key, and what: what counts most comes first."""
    # Reading the system's credentials directly saves the 9 ms that LoadCredential= costs.
    for directory in (os.environ.get("CREDENTIALS_DIRECTORY", ""), f"{root}/run/credentials/@system"):
        for name in _list(directory):
            if name.startswith(PREFIX):
                yield f"credential {name}", name.removeprefix(PREFIX), _read(f"{directory}/{name}")
    for word in reversed(_read(f"{root}/proc/cmdline").split()):  # the last one counts, as for the kernel
        if word.startswith(_CMDLINE_PREFIX):
            key, _, text = word.removeprefix(_CMDLINE_PREFIX).partition("=")
            yield "kernel command line", key, text
    drop_ins = sorted((name for name in _list(f"{root}{CONFIG}.d") if name.endswith(".conf")), reverse=True)
    for path in (*(f"{CONFIG}.d/{name}" for name in drop_ins), CONFIG):
        yield from _lines(path, _read(f"{root}{path}"), problems)


def _lines(path: str, content: str, problems: list[str]) -> Iterator[tuple[str, str, str]]:
    """The assignments of a file; of two for one key the later one counts."""
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        key, equals, text = line.strip().partition("=")
        if not key or key.startswith("#"):
            continue
        if equals:
            found.append((f"{path}:{number}", key.strip(), text))
        else:
            problems.append(f"{path}:{number}: expected KEY=VALUE, found {line.strip()!r:.60}")
    return reversed(found)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory)) if directory else []
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
