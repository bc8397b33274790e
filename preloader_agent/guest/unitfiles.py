"""What a systemd unit is told by its files, read without asking systemd.

On the boot path there is no D-Bus call and no program is run, so this reads what systemd.unit(5) describes: the unit's
own file from the first directory that has one, then the drop-ins of all directories, sorted by file name; a name in an
earlier directory masks the same name in a later one. systemd itself reads them at daemon-reload, so a file that was
changed since then is seen here and not in force yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# The system manager's load path (systemd.unit(5), systemd 257), most important first.
UNIT_PATH = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
)

# systemd.syntax(7); \xHH, \OOO, \uHHHH and \UHHHHHHHH are numbers.
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " ", "\\": "\\", '"': '"',
    "'": "'",
}  # fmt: skip
_NUMBERS = {"x": (2, 16), "u": (4, 16), "U": (8, 16)}
_SPACES = " \t\n\r"


class Assignment(NamedTuple):
    """`key=value` in a section of the file `path`."""

    path: str
    section: str
    key: str
    value: str


def read_unit(name: str, root: str = "") -> list[Assignment]:
    """All assignments of a unit below `root`, in the order in which systemd applies them; none if there is no unit."""
    found: list[Assignment] = []
    for path in unit_files(name, root):
        found.extend(_read_assignments(path))
    return found


def unit_files(name: str, root: str = "") -> Iterator[str]:
    """The files that make a unit: its own, then its drop-ins."""
    directories = [f"{root}{path}" for path in UNIT_PATH if os.path.isdir(f"{root}{path}")]
    names = [name]
    for directory in directories:
        path = f"{directory}/{name}"
        if os.path.exists(path):  # also /dev/null, where the unit is masked: it is empty
            yield path
            alias = os.path.basename(os.path.realpath(path))
            if alias != name and alias.endswith(os.path.splitext(name)[1]):
                names.append(alias)
            break
    drop_ins: dict[str, str] = {}
    for folder in _drop_in_folders(names, directories):
        for entry in _list_folder(folder):
            if entry.endswith(".conf") and not entry.startswith("."):
                drop_ins.setdefault(entry, f"{folder}/{entry}")
    for _, path in sorted(drop_ins.items()):
        yield path


def list_values(assignments: Iterable[Assignment], section: str, key: str) -> list[Assignment]:
    """The assignments of a setting that is a list; an empty one takes back those before it."""
    found: list[Assignment] = []
    for assignment in assignments:
        if (assignment.section, assignment.key) == (section, key):
            found = [*found, assignment] if assignment.value else []
    return found


def split_words(text: str, *, is_unescaping: bool = True) -> list[str]:
    """Words as systemd splits them: quotes may stand anywhere and are removed.

    Without `is_unescaping`, as in the value of a variable, a backslash only takes the next character as it is.
    """
    words: list[str] = []
    word: str | None = None
    quote, position = "", 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and position < len(text):
            escaped, position = _unescape(text, position) if is_unescaping else (text[position], position + 1)
            word = (word or "") + escaped
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "\"'":
            quote, word = character, word or ""
        elif character in _SPACES:
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + character
    return words if word is None else [*words, word]


def read_environment_file(path: str) -> dict[str, str]:
    """The variables of an EnvironmentFile= (systemd.exec(5)). Raises OSError."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read()
    variables = {}
    position = 0
    while position < len(text):
        start, position = position, _end_of_line(text, position)
        key, equals, rest = text[start:position].partition("=")
        if equals and not key.lstrip().startswith(("#", ";")):
            value, position = _read_value(text, position - len(rest))
            variables[key.strip()] = value
    return variables


def expand_specifiers(text: str, unit: str) -> str:
    """`%` and a letter, as far as dockerd's command line may need it (systemd.unit(5)); others stay as they are."""
    if "%" not in text:
        return text
    name = os.path.splitext(unit)[0]
    known: Mapping[str, str] = {
        "%": "%", "n": unit, "N": name, "p": name, "t": "/run", "S": "/var/lib", "C": "/var/cache", "L": "/var/log",
        "E": "/etc", "T": "/tmp", "V": "/var/tmp", "h": "/root", "u": "root", "H": os.uname().nodename,
    }  # fmt: skip
    first, *others = text.split("%")
    expanded, parts = first, iter(others)
    for part in parts:
        if not part:  # %%
            expanded += "%" + next(parts, "")
        else:
            expanded += known.get(part[0], f"%{part[0]}") + part[1:]
    return expanded


def _drop_in_folders(names: list[str], directories: list[str]) -> Iterator[str]:
    """docker-preloader.service has drop-ins in docker-preloader.service.d, in docker-.service.d and in service.d."""
    for name in names:
        stem, suffix = os.path.splitext(name)
        stems = [stem]
        while (dash := stem.rstrip("-").rfind("-")) > 0:
            stem = stem[: dash + 1]
            stems.append(stem)
        for directory in directories:
            for each in stems:
                yield f"{directory}/{each}{suffix}.d"
    for directory in directories:
        yield f"{directory}/{os.path.splitext(names[0])[1][1:]}.d"


def _list_folder(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # most units have no drop-ins
        return []


def _read_assignments(path: str) -> Iterator[Assignment]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().removeprefix("\ufeff").splitlines()
    except OSError:  # a dangling link, or a folder of that name
        return
    section = ""
    for line in _logical_lines(lines):
        if line.startswith("["):
            section = line.strip().strip("[]")
        else:
            key, equals, value = line.partition("=")
            if equals:
                yield Assignment(path, section, key.strip(), value.strip())


def _logical_lines(lines: Iterable[str]) -> Iterator[str]:
    """A backslash at the end joins the next line with a blank; comments between the two are left out."""
    joined = ""
    for line in lines:
        stripped = line.lstrip()
        if stripped.startswith(("#", ";")):
            continue
        joined += stripped if not joined else line
        if (len(joined) - len(joined.rstrip("\\"))) % 2:
            joined = joined[:-1] + " "
            continue
        if joined.strip():
            yield joined
        joined = ""
    if joined.strip():
        yield joined


def _unescape(text: str, position: int) -> tuple[str, int]:
    """What stands after a backslash, and where the text goes on; an unknown sequence is left as it is."""
    letter = text[position]
    if letter in _ESCAPES:
        return _ESCAPES[letter], position + 1
    length, base = _NUMBERS.get(letter, (3, 8))
    start = position + (letter in _NUMBERS)
    digits = text[start : start + length]
    try:
        if len(digits) == length and digits.isalnum():
            return chr(int(digits, base)), start + length
    except (ValueError, OverflowError):
        pass
    return f"\\{letter}", position + 1


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _read_value(text: str, position: int) -> tuple[str, int]:
    """The value of a variable, and where the next line begins: quoted, over several lines, or up to the line's end."""
    value, kept, quote, is_bare = "", 0, "", False
    while position < len(text):
        character = text[position]
        following = text[position + 1 : position + 2]
        position += 1
        if character == "\\" and quote != "'":
            position += 1
            if following != "\n":
                value += following if not quote or following in '"\\`$' else f"\\{following}"
            is_bare, kept = is_bare or not quote, len(value)
        elif quote:
            if character == quote:
                quote = ""
            else:
                value += character
            kept = len(value)
        elif character == "\n":
            break
        elif character in "\"'" and not is_bare:
            quote = character
        elif character not in _SPACES or is_bare:
            is_bare = True
            value += character
            kept = len(value) if character not in _SPACES else kept
    return value[:kept], position
