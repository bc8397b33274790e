from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.errors import InvalidValue
from preloader_agent.guest.settings import Expectation, Settings, parse_expectation, read_settings

ONE, TWO = "dpl-000000000001", "dpl-000000000002"
LABELS = frozenset({ONE, TWO})


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Expectation()),
        ("auto\n", Expectation()),
        ("none", Expectation(number=0)),
        ("count:3", Expectation(number=3)),
        (f"{ONE} {TWO}", Expectation(LABELS)),
        (f"{ONE},{TWO}\n", Expectation(LABELS)),
    ],
)
def test_expectations(text: str, expected: Expectation) -> None:
    assert parse_expectation(text) == expected
    assert parse_expectation(str(expected)) == expected


@pytest.mark.parametrize("text", ["count:", "count:-1", "count:x", "count:99999", "count:" + "9" * 5000])
def test_a_count_that_is_no_number_is_refused_with_the_forms_that_are_read(text: str) -> None:
    with pytest.raises(InvalidValue, match="expected `auto`, `none`, `count:N` or a list of disk labels"):
        parse_expectation(text)


def test_what_is_missing() -> None:
    one = frozenset({ONE})
    assert Expectation(LABELS).missing(one) == [TWO]
    assert Expectation(LABELS).missing(LABELS | {"dpl-other"}) == []
    assert len(Expectation(number=3).missing(one)) == 2
    assert Expectation(number=0).missing(frozenset()) == []
    assert Expectation().missing(frozenset()) == []
    assert Expectation().is_automatic
    assert not Expectation(number=0).is_automatic


def test_without_a_word_the_defaults_are_in_force(tmp_path: Path) -> None:
    assert read_settings(str(tmp_path)) == (Settings(("dpl-*",), Expectation(), 30.0, False, "idle", False), [])


def test_every_setting_can_be_said_in_a_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        "etc/docker-preloader.conf",
        "# comment\n\n labels = dpl-* nix-????\nexpect=count:2\ntimeout=2.5\nrequired=yes\nhotplug=defer\n"
        "containers_from_disks=on\n",
    )
    settings, problems = read_settings(str(tmp_path))
    assert settings == Settings(("dpl-*", "nix-????"), Expectation(number=2), 2.5, True, "defer", True)
    assert problems == []
    assert settings.as_json() == {
        "labels": ("dpl-*", "nix-????"), "expect": "count:2", "timeout": 2.5, "required": True, "hotplug": "defer",
        "containers_from_disks": True,
    }  # fmt: skip


def test_of_two_that_say_something_the_stronger_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    write(tmp_path, "etc/docker-preloader.conf", "timeout=1\nhotplug=restart\ntimeout=2\n")
    assert read_settings(root)[0].timeout == 2
    write(tmp_path, "etc/docker-preloader.conf.d/10-a.conf", "timeout=10\n")
    write(tmp_path, "etc/docker-preloader.conf.d/20-b.conf", "timeout=20\n")
    write(tmp_path, "etc/docker-preloader.conf.d/30-c.conf.bak", "timeout=30\n")
    assert read_settings(root)[0].timeout == 20
    write(tmp_path, "proc/cmdline", "quiet docker_preloader.timeout=30 x docker_preloader.timeout=31 root=/dev/vda\n")
    assert read_settings(root)[0].timeout == 31
    write(tmp_path, "run/credentials/@system/docker-preloader.timeout", "40\n")
    assert read_settings(root)[0].timeout == 40
    write(tmp_path, "service/docker-preloader.timeout", "50")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "service"))
    settings, problems = read_settings(root)
    assert (settings.timeout, settings.hotplug, problems) == (50, "restart", [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("timeout=soon", "timeout: expected seconds, from 0 to 3600, found 'soon'"),
        ("timeout=1e9", "timeout: expected seconds"),
        ("timeout=-1", "timeout: expected seconds"),
        ("required=maybe", "required: expected yes or no, found 'maybe'"),
        ("containers_from_disks=some", "containers_from_disks: expected yes or no, found 'some'"),
        ("hotplug=now", "hotplug: expected restart, idle or defer, found 'now'"),
        ("expect=count:many", "expect: expected `auto`"),
        ("hotplugs=idle", "there is no setting 'hotplugs'; expected one of labels, expect, timeout, required, hotplug"),
        ("just words", "expected KEY=VALUE, found 'just words'"),
    ],
)
def test_what_cannot_be_used_is_reported_with_its_line_and_the_next_source_counts(
    tmp_path: Path, line: str, problem: str
) -> None:
    write(tmp_path, "etc/docker-preloader.conf", "timeout=7\nrequired=yes\nhotplug=defer\nexpect=none\n")
    write(tmp_path, "etc/docker-preloader.conf.d/a.conf", f"\n{line}\n")
    settings, problems = read_settings(str(tmp_path))
    assert settings == Settings(("dpl-*",), Expectation(number=0), 7, True, "defer")
    assert len(problems) == 1
    assert problems[0].startswith(f"/etc/docker-preloader.conf.d/a.conf:2: {problem}")


def test_a_credential_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    write(tmp_path, "run/credentials/@system/docker-preloader.hotplug", "sometimes")
    settings, problems = read_settings(str(tmp_path))
    assert settings == Settings()
    assert problems[0].startswith("credential docker-preloader.hotplug: hotplug: expected restart, idle or defer")
