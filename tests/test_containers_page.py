"""docs/containers.md and docker-preloader-containers(5): the files that they show can be used, no key is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preloader_agent.containers.definition import parse_container
from preloader_agent.errors import InvalidFile
from preloader_agent.guest.definitions import OWN, check_files, list_files

DOCS = Path(__file__).parent.parent / "docs"
MANUAL = (DOCS / "man" / "docker-preloader-containers.5.rst").read_text()


def known_keys() -> set[str]:
    """What a description may say, as the error for what it may not says it."""
    with pytest.raises(InvalidFile) as raised:
        parse_container(b'image = "w:1"\n"?" = 1', "web.toml", "web")
    return set(raised.value.problem.rpartition("expected one of ")[2].split(", "))


def test_the_files_of_the_page_can_be_used_together(tmp_path: Path) -> None:
    shown = re.findall(r"^```toml\n# (\S+)\n(.*?)^```", (DOCS / "containers.md").read_text(), re.M | re.S)
    assert len(shown) >= 6
    for file, content in shown:
        path = Path(f"{tmp_path}{file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert sorted(list_files(str(tmp_path))) == sorted(file for file, _ in shown)
    assert check_files([], str(tmp_path)) == []


def test_the_files_of_the_manual_page_can_be_used_together(tmp_path: Path) -> None:
    example = MANUAL.partition("\nEXAMPLE\n")[2].partition("\nSEE ALSO\n")[0]
    blocks = re.findall(rf"^   # ({OWN}/\S+)\n(.*?)(?=^   #|^\S|\Z)", example, re.M | re.S)
    assert len(blocks) == 2
    for file, content in blocks:
        path = Path(f"{tmp_path}{file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub("^   ", "", content, flags=re.M))
    assert check_files([], str(tmp_path)) == []


def test_the_manual_page_has_every_key_and_no_other() -> None:
    keys = MANUAL.partition("\nKEYS\n")[2].partition("\nTHE SERVICE'S LIFE\n")[0]
    terms = re.findall(r"^``[a-z_`, ]+``$", keys, re.M)
    assert {key for term in terms for key in re.findall("[a-z_]+", term)} == known_keys()
