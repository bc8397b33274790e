"""Rules of a recipe that give files an owner or a mode, by patterns of their paths in the image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from preloader_agent.errors import InvalidFile, InvalidValue
from preloader_agent.host.image.filesystem import is_whiteout, walk
from preloader_agent.host.node import Node
from preloader_agent.host.tarstream import SYM
from preloader_agent.tables import Table

_MAX_ID = 2**32 - 2  # the kernel's, whose -1 means to change nothing
_PATTERN = "a pattern of paths from the root on, such as /srv/** or /usr/bin/*"
_MODE = 'a mode in quotes, in octal, such as "0755"'
_WILDCARDS = {"/**/": "/(?:.*/)?", "/**": "(?:/.*)?", "*": "[^/]*", "?": "[^/]"}
_WORD = re.compile(r"/\*\*/|/\*\*$|[*?]|[^*?/]+|/")


class Rule(NamedTuple):
    """What files at some paths get; None leaves it as it is. `nowhere` is the error if there are no such files."""

    pattern: re.Pattern[str]
    uid: int | None
    gid: int | None
    mode: int | None
    nowhere: InvalidFile

    def is_about(self, path: bytes) -> bool:
        """Whether it is about a path of the image."""
        return bool(self.pattern.fullmatch("/" + path.decode(errors="surrogateescape")))


def read_rules(table: Table) -> tuple[Rule, ...]:
    """The `owner` and `mode` rules of a recipe, in the order in which they are applied."""
    return (*map(_read_owner, table.tables("owner")), *map(_read_mode, table.tables("mode")))


def apply_rules(rules: Iterable[Rule], path: bytes, node: Node) -> None:
    """Give a node at a path of the image what the last rule of each kind says; a symlink has no mode."""
    for rule in filter(lambda rule: rule.is_about(path), rules):
        node.uid = node.uid if rule.uid is None else rule.uid
        node.gid = node.gid if rule.gid is None else rule.gid
        node.mode = node.mode if rule.mode is None or node.type == SYM else rule.mode


def refuse_unused(rules: Iterable[Rule], layers: Iterable[Node]) -> None:
    """Raises InvalidFile for a rule that is about nothing in some layers: its pattern must be a mistake."""
    paths = [path for layer in layers for path, node in walk(layer) if not is_whiteout(node)]
    for rule in rules:
        if not any(rule.is_about(path) for path in paths):
            raise rule.nowhere


def compile_pattern(text: str) -> re.Pattern[str]:
    """A pattern: `*` and `?` stand for parts of a name, `**` for any directories, `/srv/**` for /srv as well."""
    return re.compile("".join(_WILDCARDS.get(word) or re.escape(word) for word in _WORD.findall(text)), re.DOTALL)


def _read_owner(table: Table) -> Rule:
    uid, gid = (table.value(key, _checked_id) for key in ("uid", "gid"))
    if uid is None and gid is None:
        raise table.invalid("", "expected uid, gid, or both")
    return Rule(_read_pattern(table), uid, gid, None, _nowhere(table))


def _read_mode(table: Table) -> Rule:
    _need(table, "mode", _MODE)
    return Rule(_read_pattern(table), None, None, table.value("mode", _checked_mode), _nowhere(table))


def _read_pattern(table: Table) -> re.Pattern[str]:
    _need(table, "path", _PATTERN)
    return compile_pattern(table.value("path", _checked_pattern))


def _need(table: Table, key: str, expected: str) -> None:
    if key not in table:
        raise table.invalid("", f"{key} is missing; expected {expected}")


def _nowhere(table: Table) -> InvalidFile:
    return table.invalid("path", "is about nothing that is added to the image; is it a path from the root on?")


def _checked_pattern(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidValue("path", value, _PATTERN)
    return value


def _checked_id(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_ID):
        raise InvalidValue("id", value, f"a whole number from 0 to {_MAX_ID}")
    return value


def _checked_mode(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch("[0-7]{3,4}", value):
        raise InvalidValue("mode", value, _MODE)
    return int(value, 8)
