"""TOML files that people write, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preloader_agent.errors import InvalidFile
from preloader_agent.tables import MAX_BYTES, Table, read_table

DOCUMENT = b"""\
# a comment
name = "web"
ports = [
    # one a line
    "80:80",
    443,
]
text = '''
over = "lines"
[not.a.table]
'''

[config]
count = 7
is_on = true
words = { A = "1", B = 2 }

[[rules]]
path = "a"

[[rules]]
path = 1
"""


def table() -> Table:
    return read_table(DOCUMENT, "web.toml")


def problem(read: Callable[[Table], object]) -> str:
    with pytest.raises(InvalidFile) as raised:
        read(table())
    return str(raised.value)


def test_values_are_read() -> None:
    found = table()
    assert found.text("name") == "web"
    assert found.text("absent", "default") == "default"
    assert found.texts("absent") == ()
    assert found.mapping("absent") == {}
    assert found.table("config").number("count", 1, 0, 10) == 7
    assert found.table("config").flag("is_on") is True
    assert found.table("absent").flag("is_on") is False
    assert found.choice("name", ["db", "web"], "db") == "web"
    assert found.tables("rules")[0].text("path") == "a"
    assert "config" in found
    assert "absent" not in found


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda t: t.texts("name"), "web.toml:2: name: expected a list of texts, found 'web'"),
        (lambda t: t.texts("ports"), "web.toml:3: ports: expected text in quotes, found 443"),
        (lambda t: t.flag("text"), "web.toml:8: text: expected true or false, found "),
        (lambda t: t.table("config").text("count"), "web.toml:14: config.count: expected text in quotes, found 7"),
        (lambda t: t.table("config").number("count", 1, 8, 9), "config.count: expected a whole number from 8 to 9"),
        (lambda t: t.table("config").number("is_on", 1, 0, 9), "web.toml:15: config.is_on: expected a whole number"),
        (lambda t: t.table("config").mapping("words"), "web.toml:16: config.words.B: expected text in quotes, found 2"),
        (lambda t: t.table("name"), "web.toml:2: name: expected a table [name], found 'web'"),
        (lambda t: t.tables("config"), "web.toml:13: config: expected tables [[config]], found a table"),
        (lambda t: t.tables("rules")[1].text("path"), "web.toml:22: rules.path: expected text in quotes, found 1"),
        (lambda t: t.choice("name", ["a", "b", "c"], "a"), "web.toml:2: name: expected a, b or c, found 'web'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(read: Callable[[Table], object], expected: str) -> None:
    assert expected in problem(read)


def test_what_is_missing_has_no_line() -> None:
    assert str(table().invalid("image", "is missing")) == "web.toml: image: is missing"


def test_unknown_keys_are_refused_with_a_hint() -> None:
    def read(known: str) -> Callable[[Table], None]:
        def ask(found: Table) -> None:
            for key in ("name", "ports", "text", "rules"):
                found.value(key, lambda _: None)
            found.table("config").value(known, lambda _: None)
            found.refuse_unknown()

        return ask

    assert "web.toml:14: config.count: there is no such key; expected one of other" in problem(read("other"))
    assert "web.toml:15: config.is_on: there is no such key; expected one of count" in problem(read("count"))
    found = table()
    found.text("nmae")
    with pytest.raises(InvalidFile, match=r"web.toml:2: name: there is no such key; did you mean nmae\?"):
        found.refuse_unknown()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = 1\nb =\n", "web.toml:2: is not TOML: Invalid value"),
        (b'a = 1\nb = "', "web.toml:2: is not TOML: "),
        (b"a = 1\n\nb = \xff", "web.toml:3: is not TOML: it is not in UTF-8"),
        (b"a = " + b"[" * 20_000, "web.toml: is nested too deep"),
        (b"#" * (MAX_BYTES + 1), f"web.toml: has {MAX_BYTES + 1} bytes"),
    ],
)
def test_what_is_no_document_is_said(content: bytes, expected: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        read_table(content, "web.toml")
    assert str(raised.value).startswith(expected)


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(InvalidFile, match="cmd: expected text without a zero byte"):
        read_table(b'cmd = ["a\\u0000b"]', "web.toml").texts("cmd")
