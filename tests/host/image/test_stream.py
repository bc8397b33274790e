"""A program that writes an archive which is stored nowhere, as long as what it is made of stays as it is."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run
from tests.host.command import Preloader

RECIPE = """\
name = "streamed"
base = "base.tar"
contents = ["web", "etc"]

[config]
Cmd = ["cat", "/srv/index.html"]
"""
LARGE = 3_000_000  # bytes of a file, more than all that the program may store
ONE = pytest.mark.parametrize("recipe", ["plain"], indirect=True)  # where the name does not matter


@pytest.fixture(params=["plain", "a b'c\n\"$(d)\\", b"\xff\xfe"], ids=["plain", "quoted", "no text"])
def recipe(app_archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A recipe in a folder with such a name."""
    folder = tmp_path / os.fsdecode(request.param)
    for name in ("web/srv", "etc/etc"):
        (folder / name).mkdir(parents=True)
    (folder / "web/srv/index.html").write_text("hello\n")
    (folder / "web/srv/large").write_bytes(random.Random(1).randbytes(LARGE))
    (folder / "etc/etc/app.conf").write_text("a = 1\n")
    shutil.copy(app_archive, folder / "base.tar")
    (folder / "app.toml").write_text(RECIPE)
    return folder / "app.toml"


@pytest.fixture
def program(preloader: Preloader, recipe: Path) -> Path:
    """The program for it, elsewhere."""
    place = recipe.parent.parent / "out"
    place.mkdir()
    result = preloader("image", "stream", recipe, "-o", place / "app")
    assert (result.status, result.err) == (0, ""), result.err
    return place / "app"


def start_elsewhere(program: Path, output: Path, *before: str | Path, ok: int = 0) -> str:
    """Run it somewhere else, where nothing is as it was when it was written; returns what it says."""
    hostile = {"PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent", "TMPDIR": str(output.parent)}
    script: list[str | Path] = ["sh", "-c", 'cd / && umask 077 && out=$1 && shift && exec "$@" >"$out"', "sh", output]
    return run([*script, *before, program], env=hostile, ok=(ok,), with_stderr=True)


def test_it_writes_the_archive_of_layered(preloader: Preloader, recipe: Path, program: Path, tmp_path: Path) -> None:
    assert preloader("image", "layered", recipe, "-o", tmp_path / "stored.tar").status == 0
    (tmp_path / "tmp").mkdir()
    assert start_elsewhere(program, tmp_path / "tmp" / "streamed.tar") == ""
    assert (tmp_path / "tmp" / "streamed.tar").read_bytes() == (tmp_path / "stored.tar").read_bytes()
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["streamed.tar"]
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    assert program.stat().st_size < 10_000


@ONE
def test_a_disk_is_built_of_it(preloader: Preloader, recipe: Path, program: Path, tmp_path: Path) -> None:
    assert preloader("image", "layered", recipe, "-o", tmp_path / "stored.tar").status == 0
    build_disk([program], tmp_path / "x.qcow2")
    build_disk([tmp_path / "stored.tar"], tmp_path / "y.qcow2")
    assert (tmp_path / "x.qcow2").read_bytes() == (tmp_path / "y.qcow2").read_bytes()


@ONE
def test_its_own_layers_are_not_stored(recipe: Path, preloader: Preloader, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace('base = "base.tar"\n', ""))
    assert preloader("image", "stream", recipe, "-o", tmp_path / "app").status == 0
    argv: list[str | Path] = ["sh", "-c", '"$@" | wc --bytes', "sh", "prlimit", "--fsize=10000", tmp_path / "app"]
    assert int(run(argv, env={"TMPDIR": str(tmp_path)})) > LARGE


@ONE
@pytest.mark.parametrize("change", ["content", "longer", "new", "directory", "config", "scripts", "base", "gone"])
def test_what_was_changed(recipe: Path, program: Path, tmp_path: Path, change: str) -> None:
    folder = recipe.parent
    page = folder / "web/srv/index.html"
    changes: dict[str, Callable[[], object]] = {
        "content": lambda: page.write_text("HELLO\n"),
        "longer": lambda: page.write_text("hello" * 1000),
        "new": (folder / "etc/etc/new").touch,
        "directory": lambda: shutil.rmtree(folder / "etc/etc"),
        "config": lambda: recipe.write_text(RECIPE.replace("cat", "tac")),
        "scripts": lambda: recipe.write_text(f'run_as_root = "true"\n{RECIPE}'),
        "base": lambda: (folder / "base.tar").write_bytes(b"x" * 5000),
        "gone": lambda: shutil.rmtree(folder),
    }
    changes[change]()
    (tmp_path / "tmp").mkdir()
    said = start_elsewhere(program, tmp_path / "tmp" / "x.tar", ok=1)
    assert said.startswith(f"preloader: {recipe}: it, or what it names, was changed since this program was written: ")
    assert said.endswith("; write it again: preloader image stream\n")
    assert b"manifest.json" not in (tmp_path / "tmp" / "x.tar").read_bytes()
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["x.tar"]


@ONE
def test_no_disk_is_built_of_what_was_changed(recipe: Path, program: Path, tmp_path: Path) -> None:
    (recipe.parent / "web/srv/index.html").write_text("HELLO\n")
    with pytest.raises(CommandFailed, match="exit status 1"):
        build_disk([program], tmp_path / "x.qcow2")
    assert not (tmp_path / "x.qcow2").exists()


@ONE
def test_scripts_are_refused_before(preloader: Preloader, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(f'extra_commands = "true"\n{RECIPE}')
    result = preloader("image", "stream", recipe, "-o", tmp_path / "app")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"preloader: {recipe}:1: extra_commands: ")
    assert not (tmp_path / "app").exists()


@ONE
def test_full_standard_output(program: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    said = run(["sh", "-c", f"{program} >/dev/full"], env={"TMPDIR": str(tmp_path / "tmp")}, ok=(1,), with_stderr=True)
    assert said == "preloader: standard output: No space left on device\n"
    assert list((tmp_path / "tmp").iterdir()) == []
