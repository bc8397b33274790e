"""TOML files that people write: every value is checked where it is read, and an error names its line and key.

Both sides read such files, the host a recipe of an image, the guest the description of a container. tomllib says what a
document holds, not where; the line is looked for when there is an error to tell.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from preloader_agent.errors import InvalidFile, InvalidValue

MAX_BYTES = 1 << 16  # of a file; people write some hundred
_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_Value = TypeVar("_Value")
_KeyPath = tuple[str | int, ...]


def read_table(content: bytes, file: object) -> Table:
    """The table at the top of a TOML document; `file` names it in errors. Raises InvalidFile."""
    if len(content) > MAX_BYTES:
        raise InvalidFile(file, 0, "", f"has {len(content)} bytes, at most {MAX_BYTES} are read")
    try:
        text = content.decode()
        return Table(_Document(text, str(file)), (), tomllib.loads(text))
    except tomllib.TOMLDecodeError as err:
        found = _LINE.search(str(err))
        line = int(found[1]) if found else text.count("\n") + 1
        raise InvalidFile(file, line, "", f"is not TOML: {_LINE.sub('', str(err))}") from err
    except UnicodeDecodeError as err:
        line = content[: err.start].count(b"\n") + 1
        raise InvalidFile(file, line, "", "is not TOML: it is not in UTF-8") from err
    except RecursionError as err:
        raise InvalidFile(file, 0, "", "is nested too deep") from err


class Table:
    """A table of a document. What is asked for is known from then on: `refuse_unknown` names the rest."""

    def __init__(self, document: _Document, path: _KeyPath, values: Mapping[str, Any]) -> None:
        self._document = document
        self._path = path
        self._values = values
        self._known: dict[str, list[Table]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def value(self, key: str, make: Callable[[Any], _Value]) -> _Value:
        """What `make` makes of a value, of None if there is none; its InvalidValue becomes InvalidFile."""
        self._known.setdefault(key, [])
        try:
            return make(self._values.get(key))
        except InvalidValue as err:
            raise self.invalid(key, f"expected {err.expected}, found {_show(err.found)}") from err

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        return self.value(key, lambda value: default if value is None else _checked_text(value))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty if there is none."""
        return self.value(key, lambda value: tuple(map(_checked_text, _checked(value or [], list, "a list of texts"))))

    def mapping(self, key: str) -> dict[str, str]:
        """A table of texts, empty if there is none."""
        found = self.table(key)
        return {name: found.text(name) for name in found._values}

    def flag(self, key: str, *, default: bool = False) -> bool:
        """true or false."""
        return self.value(key, lambda value: default if value is None else _checked(value, bool, "true or false"))

    def number(self, key: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        expected = f"a whole number from {least} to {most}"

        def make(value: Any) -> int:
            number: int = default if value is None else _checked(value, int, expected)
            if not least <= number <= most:
                raise InvalidValue(key, value, expected)
            return number

        return self.value(key, make)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of some words."""

        def make(value: Any) -> str:
            if value is not None and value not in choices:
                raise InvalidValue(key, value, " or ".join([", ".join(choices[:-1]), choices[-1]]))
            return default if value is None else str(value)

        return self.value(key, make)

    def table(self, key: str) -> Table:
        """A table, empty if there is none."""
        values = self.value(key, lambda value: _checked({} if value is None else value, dict, f"a table [{key}]"))
        found = Table(self._document, (*self._path, key), values)
        self._known[key].append(found)
        return found

    def tables(self, key: str) -> list[Table]:
        """A list of tables, empty if there is none."""
        expected = f"tables [[{key}]]"
        items = self.value(key, lambda value: [_checked(item, dict, expected) for item in _list(value, expected)])
        found = [Table(self._document, (*self._path, key, number), item) for number, item in enumerate(items)]
        self._known[key] += found
        return found

    def invalid(self, key: str, problem: str) -> InvalidFile:
        """The error for what is wrong with a value."""
        path = (*self._path, key) if key else self._path
        shown = ".".join(str(part) for part in path if isinstance(part, str))
        return InvalidFile(self._document.file, self._document.line(path), shown, problem)

    def refuse_unknown(self) -> None:
        """Raises InvalidFile for a key that nobody has asked for, here or in a table below."""
        for key in self._values:
            if key not in self._known:
                similar = difflib.get_close_matches(key, self._known, 1)
                hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(sorted(self._known))}"
                raise self.invalid(key, f"there is no such key; {hint}")
        for tables in self._known.values():
            for table in tables:
                table.refuse_unknown()


class _Document:
    """The text of a document, for the lines of what stands in it."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._lines = text.split("\n")

    def line(self, path: _KeyPath) -> int:
        """Where what stands at a path begins, counted from 1; 0 for what stands nowhere.

        That is the line after the last beginning of the document that is TOML as well and does not have it yet.
        """
        start = 0
        for number in range(1, len(self._lines) + 1):
            try:
                values = tomllib.loads("\n".join(self._lines[:number]))
            except tomllib.TOMLDecodeError:  # it ends within a value
                continue
            if path and _has(values, path):
                return start + 1
            start = number
        return 0


def _has(values: Any, path: _KeyPath) -> bool:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _list(value: Any, expected: str) -> list[Any]:
    found: list[Any] = _checked([] if value is None else value, list, expected)
    return found


def _checked(value: Any, kind: type, expected: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidValue("value", value, expected)
    return value


def _checked_text(value: Any) -> str:
    """No program can be given a zero byte."""
    text: str = _checked(value, str, "text in quotes")
    if "\0" in text:
        raise InvalidValue("text", text, "text without a zero byte")
    return text


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    return f"{value!r:.80}"
