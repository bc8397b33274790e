"""JSON objects of an input, checked where they are read: an input may hold anything, and an error must say what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from preloader_agent.errors import InvalidArchive, InvalidValue
from preloader_agent.host.files import Files
from preloader_agent.host.images import parse_json
from preloader_agent.store.index import checked_size

_MAX_TEXT = 4096
_Value = TypeVar("_Value")


class Document:
    """A JSON object; a field that is missing or null is empty, one of another type raises InvalidArchive."""

    def __init__(self, files: Files, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise InvalidArchive(files.name, f"{where} is {value!r:.60}; expected a JSON object")
        self._files = files
        self._where = where
        self._fields: dict[str, Any] = value

    @classmethod
    def parse(cls, files: Files, name: str, content: bytes) -> Document:
        """The object that a file holds."""
        return cls(files, name, parse_json(files, name, content))

    def __bool__(self) -> bool:
        """Whether it has any field."""
        return bool(self._fields)

    def value(self, key: str, make: Callable[[Any], _Value]) -> _Value:
        """What `make` makes of a field; it raises InvalidValue for one that is not right."""
        try:
            return make(self._fields.get(key))
        except InvalidValue as err:
            raise InvalidArchive(self._files.name, f"{self._where}: {key}: {err}") from err

    def text(self, key: str) -> str:
        """A text."""
        return self.value(key, _checked_text)

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        return self.value(key, lambda value: [_checked_text(item) for item in _checked_list(value)])

    def size(self, key: str) -> int:
        """A number of bytes, which must be there."""
        return self.value(key, checked_size)

    def object(self, key: str) -> Document:
        """An object."""
        found = self._fields.get(key)
        return Document(self._files, f"{self._where}: {key}", {} if found is None else found)

    def objects(self, key: str) -> list[Document]:
        """A list of objects."""
        items = enumerate(self.value(key, _checked_list))
        return [Document(self._files, f"{self._where}: {key}[{number}]", item) for number, item in items]


def _checked_text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise InvalidValue("text", value, f"at most {_MAX_TEXT} printable characters")
    return value


def _checked_list(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidValue("list", value, "a JSON list")
    return value
