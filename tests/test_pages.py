"""The manual pages: made from the definitions of the commands, complete, and without fault for what reads them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from docutils.utils import SystemMessage

from pages.__main__ import ROOT, make_pages
from pages.commands import Command, list_commands
from pages.manpage import render
from preloader_agent import errors
from preloader_agent.guest import settings
from preloader_agent.host.run import environment, run

DOCS = ROOT / "docs"
PAGES = (
    "preloader.1",
    "preloader-recipe.5",
    "docker-preloader.conf.5",
    "docker-preloader-containers.5",
    "docker-preloader.8",
)
COMMANDS = list_commands()


def written(page: str) -> str:
    """A page as it was written."""
    return (DOCS / "man" / f"{page}.rst").read_text()


def section(page: str, title: str) -> str:
    """The text of a section."""
    found = re.search(rf"^{title}\n=+\n(.*?)(^[A-Z' -]+\n=+\n|\Z)", written(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title}"
    return found[1]


def test_pages_and_completions_are_what_their_sources_give() -> None:
    made = make_pages()
    stale = [path for path, content in made.items() if not path.is_file() or path.read_text() != content]
    assert not stale, "run `make pages`"
    files = {*DOCS.glob("*.[0-9]"), *(path for path in (ROOT / "completions").glob("**/*") if path.is_file())}
    assert files == made.keys()
    assert {path.name for path in DOCS.glob("*.[0-9]")} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("tool", "options"),
    [("man", "--warnings=w -l"), ("groff", "-man -Tutf8 -ww"), ("mandoc", "-T lint -W warning")],
)
def test_readers_find_no_fault(page: str, tool: str, options: str) -> None:
    if shutil.which(tool, path=environment()["PATH"]) is None:
        pytest.skip(f"needs {tool}")
    said = run(["sh", "-c", f'exec {tool} {options} "$1" 2>&1 >"$2"', "sh", DOCS / page, "/dev/null"], timeout=30)
    assert said == ""


@pytest.mark.parametrize("page", PAGES)
def test_no_name_is_hyphenated(page: str) -> None:
    if shutil.which("man", path=environment()["PATH"]) is None:
        pytest.skip("needs man")
    for width in ("72", "80", "100"):
        shown = run(["man", "-l", DOCS / page], env={"MANWIDTH": width}, timeout=30)
        assert len(shown.splitlines()) > 50
        assert "\N{HYPHEN}\n" not in shown


@pytest.mark.parametrize("page", PAGES)
def test_whatis_finds_the_name_and_what_it_is(page: str) -> None:
    if shutil.which("lexgrog", path=environment()["PATH"]) is None:
        pytest.skip("needs man-db")
    said = run(["lexgrog", DOCS / page], timeout=30)
    assert re.search(rf': "{page.rpartition(".")[0]} - \w.+"$', said.strip())


@pytest.mark.parametrize("command", [one for one in COMMANDS.values() if not one.is_group], ids=lambda one: one.name)
def test_each_command_has_its_section_and_options(command: Command) -> None:
    page = "docker-preloader.8" if command.name.startswith("docker-") else "preloader.1"
    assert f"\n{command.name}\n{'-' * len(command.name)}\n" in section(page, "COMMANDS")
    if command.options:
        assert f"\n.. options:: {command.name}\n" in section(page, "COMMANDS")
        roff = (DOCS / page).read_text().replace("\\", "").partition(f".SS {command.name}\n")[2]
        shown = re.split(r"^\.S[HS] ", roff, maxsplit=1, flags=re.MULTILINE)[0]
        assert {name for option in command.options for name in option.names if f"fB{name}fP" not in shown} == set()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
def test_each_option_has_a_help_of_a_sentence(command: Command) -> None:
    for option in command.options:
        assert re.fullmatch(r"[A-Z].*[^.]\.", option.help), f"{command.name} {option.names}: {option.help!r}"


def test_the_pages_of_commands_name_every_exit_status() -> None:
    statuses = {0, *(value for name, value in vars(errors).items() if name.startswith("EXIT_"))}
    assert len(statuses) > 3
    named = {
        page: set(re.findall(r"^``(\d+)``$", section(page, "EXIT STATUS"), re.M))
        for page in PAGES
        if not page.endswith(".5")
    }
    assert named["docker-preloader.8"] == set(map(str, statuses))
    assert named["preloader.1"] == set(map(str, statuses - {errors.EXIT_MISSING})), "which is the agent's alone"


def test_each_page_names_its_files() -> None:
    for page in PAGES:
        assert re.search(r"^\*/\S+\*", section(page, "FILES"), re.MULTILINE), page
    files = section("docker-preloader.conf.5", "FILES")
    assert f"*{settings.CONFIG}*" in files
    assert f"``{settings.PREFIX}``" in section("docker-preloader.conf.5", "PRECEDENCE")


def test_each_setting_is_shown_with_its_default() -> None:
    page = (DOCS / "docker-preloader.conf.5").read_text().replace("\\", "")
    shown = re.findall(r"^fB(\w+)=fP(.*)$", page, re.MULTILINE)
    defaults = {"labels": "dpl-*", "expect": "auto", "timeout": "30", "required": "no", "hotplug": "idle"}
    assert dict(shown) == {**defaults, "containers_from_disks": "no"}
    assert tuple(key for key, _ in shown) == settings.Settings._fields


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            ".. settings::\n\n   labels\n      Which.\n",
            "expect, hotplug, required, timeout: nothing is said of it here",
        ),
        (".. options:: preloader buidl\n", "preloader buidl: no such command; expected one of preloader, "),
        (
            ".. options:: preloader build\n\n   --outptu\n      Where.\n",
            "--outptu: not defined; expected -o, --output, ",
        ),
        (".. options:: preloader build\n\n   Where.\n", "expected a list of options or definitions, found 'Where.'"),
    ],
)
def test_what_is_not_defined_cannot_be_described(text: str, said: str, tmp_path: Path) -> None:
    page = tmp_path / "page.1.rst"
    page.write_text(text)
    with pytest.raises(SystemMessage) as caught:
        render(page)
    assert said in str(caught.value)
    assert f"{page}:" in str(caught.value)
