from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.errors import InvalidValue
from preloader_agent.guest.expectation import CREDENTIAL, Expectation, parse_expectation, read_expectation

LABELS = frozenset({"dpl-000000000001", "dpl-000000000002"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Expectation()),
        ("auto\n", Expectation()),
        ("none", Expectation(number=0)),
        ("count:3", Expectation(number=3)),
        ("dpl-000000000001 dpl-000000000002", Expectation(LABELS)),
        ("dpl-000000000001,dpl-000000000002\n", Expectation(LABELS)),
    ],
)
def test_values(text: str, expected: Expectation) -> None:
    assert parse_expectation(text) == expected


@pytest.mark.parametrize("text", ["count:", "count:-1", "count:x", "count:99999"])
def test_a_count_that_is_no_number_is_refused_with_the_forms_that_are_read(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected `auto`, `none`, `count:N` or a list of disk labels"):
        parse_expectation(text)


def test_what_is_missing() -> None:
    one = frozenset({"dpl-000000000001"})
    assert Expectation(LABELS).missing(one) == ["dpl-000000000002"]
    assert Expectation(LABELS).missing(LABELS | {"dpl-other"}) == []
    assert len(Expectation(number=3).missing(one)) == 2
    assert Expectation(number=0).missing(frozenset()) == []
    assert Expectation().missing(frozenset()) == []
    assert Expectation().is_automatic
    assert not Expectation(number=0).is_automatic


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_credential_comes_before_the_kernel_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    root = str(tmp_path)
    assert read_expectation(root) == Expectation()
    write(tmp_path / "proc/cmdline", "quiet docker_preloader.expect=count:2 root=/dev/vda\n")
    assert read_expectation(root) == Expectation(number=2)
    write(tmp_path / "run/credentials/@system" / CREDENTIAL, "none")
    assert read_expectation(root) == Expectation(number=0)
    write(tmp_path / "service" / CREDENTIAL, "count:1")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "service"))
    assert read_expectation(root) == Expectation(number=1)
