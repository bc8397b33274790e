"""What systemd.unit(5) says of files; tests/system compares with a real systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.guest.unitfiles import (
    Assignment,
    expand_specifiers,
    list_values,
    read_environment_file,
    read_unit,
    split_words,
    unit_files,
)

ETC, RUN, LOCAL, LIB = (
    f"{path}/systemd/system" for path in ("etc", "run", "usr/local/lib", "usr/lib")
)  # most important first


def write(root: Path, path: str, text: str) -> str:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def commands(root: Path, name: str = "x.service") -> list[str]:
    return [found.value for found in list_values(read_unit(name, str(root)), "Service", "ExecStart")]


def test_the_first_directory_that_has_the_unit_gives_it(tmp_path: Path) -> None:
    for folder in (LIB, LOCAL, RUN, ETC):
        path = write(tmp_path, f"{folder}/x.service", f"[Service]\nExecStart={folder}\n")
        assert read_unit("x.service", str(tmp_path)) == [Assignment(path, "Service", "ExecStart", folder)]


def test_no_unit_and_a_masked_one_have_no_assignments(tmp_path: Path) -> None:
    assert read_unit("x.service", str(tmp_path)) == []
    write(tmp_path, f"{LIB}/x.service", "[Service]\nExecStart=/a\n")
    (tmp_path / ETC).mkdir(parents=True)
    (tmp_path / ETC / "x.service").symlink_to("/dev/null")
    assert read_unit("x.service", str(tmp_path)) == []


def test_drop_ins_are_sorted_by_name_over_all_directories(tmp_path: Path) -> None:
    write(tmp_path, f"{LIB}/x.service", "[Service]\nExecStart=unit\n")
    write(tmp_path, f"{ETC}/x.service.d/10-a.conf", "[Service]\nExecStart=etc 10\n")
    write(tmp_path, f"{LIB}/x.service.d/20-b.conf", "[Service]\nExecStart=lib 20\n")
    write(tmp_path, f"{RUN}/x.service.d/30-c.conf", "[Service]\nExecStart=run 30\n")
    write(tmp_path, f"{RUN}/x.service.d/20-b.conf", "[Service]\nExecStart=run 20\n")
    write(tmp_path, f"{ETC}/x.service.d/40-d.txt", "[Service]\nExecStart=not a drop-in\n")
    write(tmp_path, f"{ETC}/x.service.d/.50-e.conf", "[Service]\nExecStart=hidden\n")
    assert commands(tmp_path) == ["unit", "etc 10", "run 20", "run 30"]


def test_a_drop_in_that_is_dev_null_masks_the_one_below(tmp_path: Path) -> None:
    write(tmp_path, f"{LIB}/x.service", "[Service]\nExecStart=unit\n")
    write(tmp_path, f"{LIB}/x.service.d/a.conf", "[Service]\nExecStart=masked\n")
    (tmp_path / ETC / "x.service.d").mkdir(parents=True)
    (tmp_path / ETC / "x.service.d" / "a.conf").symlink_to("/dev/null")
    assert commands(tmp_path) == ["unit"]


def test_drop_ins_of_a_prefix_of_the_type_and_of_an_alias_count(tmp_path: Path) -> None:
    write(tmp_path, f"{LIB}/engine.service", "[Service]\nExecStart=unit\n")
    (tmp_path / ETC).mkdir(parents=True)
    (tmp_path / ETC / "my-own-x.service").symlink_to(tmp_path / LIB / "engine.service")
    for number, folder in enumerate(("my-own-x", "my-own-", "my-", "engine")):
        write(tmp_path, f"{LIB}/{folder}.service.d/{number}.conf", f"[Service]\nExecStart={folder}\n")
    write(tmp_path, f"{LIB}/service.d/9.conf", "[Service]\nExecStart=all\n")
    assert commands(tmp_path, "my-own-x.service") == ["unit", "my-own-x", "my-own-", "my-", "engine", "all"]


def test_a_drop_in_of_the_unit_masks_that_of_all_services(tmp_path: Path) -> None:
    write(tmp_path, f"{LIB}/x.service", "")
    write(tmp_path, f"{ETC}/service.d/a.conf", "")
    own = write(tmp_path, f"{LIB}/x.service.d/a.conf", "")
    assert list(unit_files("x.service", str(tmp_path))) == [str(tmp_path / LIB / "x.service"), own]


def test_lines_are_joined_commented_and_taken_back(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"{LIB}/x.service",
        "# c\n; c\n[Unit]\nDescription = a=b \n\n[Service]\nExecStart=/a\n"
        "ExecStart=\n  ExecStart = /b -x \\\n# in between\n; too\n   -y \\\n  -z\nno assignment\n"
        "KillMode=process\\\\\n",
    )
    found = [(each.section, each.key, each.value.split()) for each in read_unit("x.service", str(tmp_path))]
    assert found == [
        ("Unit", "Description", ["a=b"]),
        ("Service", "ExecStart", ["/a"]),
        ("Service", "ExecStart", []),
        ("Service", "ExecStart", ["/b", "-x", "-y", "-z"]),
        ("Service", "KillMode", ["process\\\\"]),
    ]
    assert [each.split() for each in commands(tmp_path)] == [["/b", "-x", "-y", "-z"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a\tb  ", ["a", "b"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("--x='a b'c", ["--x=a bc"]),
        ("'' \"\"", ["", ""]),
        (r"a\ b \x41\101\u0042", ["a\\ b", "AAB"]),
        (r"a\sb \t", ["a b", "\t"]),
        (r"'\'' \"q\"", ["'", '"q"']),
        (r"\q \x4", ["\\q", "\\x4"]),
        ("tail\\", ["tail\\"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_words_of_a_variable_keep_what_follows_a_backslash() -> None:
    assert split_words(r"a\ b '\x' \n", is_unescaping=False) == ["a b", "x", "n"]


def test_environment_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "environment",
        "# c\n ; c\nA=1\n B = two words  \nC='a b'  \"c d\"\nD=\nE=x\\\ny\nF=\"a\nb\"\nG='a\\n'\n"
        'H="\\$\\q"\nno equals\nI=it\'s\nJ=a=b # no comment\nA=2\nK=last',
    )
    assert read_environment_file(path) == {
        "A": "2", "B": "two words", "C": "a bc d", "D": "", "E": "xy", "F": "a\nb", "G": "a\\n", "H": "$\\q",
        "I": "it's", "J": "a=b # no comment", "K": "last",
    }  # fmt: skip


def test_specifiers() -> None:
    assert expand_specifiers("%t/docker.sock 100%% %%t %S/%N %q", "docker.socket") == (
        "/run/docker.sock 100% %t /var/lib/docker %q"
    )
