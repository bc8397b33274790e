"""Recipes: what they say, and for each mistake the line and key with what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.errors import InputError, InvalidFile
from preloader_agent.host.image.recipe import Recipe, read_recipe
from preloader_agent.host.image.rules import compile_pattern
from preloader_agent.store.index import Platform

COMPLETE = """
name = "registry.example/team/app"
tag = "1.0"
base = "../base.tar"
base_name = "debian"
base_tag = "13"
contents = ["site", "."]
architecture = "arm/v7"
extra_commands = "rm -r tmp"
run_as_root = "useradd app"
owner = [{ path = "/srv/**", uid = 1000, gid = 100 }]

[[mode]]
path = "/usr/bin/*"
mode = "4755"

[config]
Cmd = ["app"]
Entrypoint = []
Env = ["A=b=c", "EMPTY="]
ExposedPorts = { "80" = {}, "53/udp" = {}, "8000-8010/tcp" = {} }
Labels = { "org.example" = "a label" }
StopSignal = "SIGRTMIN+3"
User = "app"
Volumes = { "/var/lib/app" = {} }
WorkingDir = "/srv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path


def read(folder: Path, text: str) -> Recipe:
    (folder / "app.toml").write_text(text)
    return read_recipe(folder / "app.toml")


def test_everything_that_a_recipe_can_say(folder: Path) -> None:
    recipe = read(folder, COMPLETE)
    assert recipe.reference == "registry.example/team/app:1.0"
    assert recipe.base == folder / "../base.tar"
    assert (recipe.base_name, recipe.base_tag) == ("debian", "13")
    assert recipe.contents == (folder / "site", folder)
    assert recipe.platform == Platform("linux", "arm", "v7")
    assert (recipe.extra_commands, recipe.run_as_root) == ("rm -r tmp", "useradd app")
    assert [(rule.uid, rule.gid, rule.mode) for rule in recipe.rules] == [(1000, 100, None), (None, None, 0o4755)]
    assert recipe.settings == {
        "Cmd": ["app"],
        "Entrypoint": [],
        "Env": ["A=b=c", "EMPTY="],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8010/tcp": {}},
        "Labels": {"org.example": "a label"},
        "StopSignal": "SIGRTMIN+3",
        "User": "app",
        "Volumes": {"/var/lib/app": {}},
        "WorkingDir": "/srv",
    }


def test_a_name_is_enough(folder: Path) -> None:
    recipe = read(folder, 'name = "app"')
    assert recipe.reference == "app:latest"
    assert (recipe.base, recipe.contents, recipe.rules, recipe.platform, recipe.settings) == (None, (), (), None, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ": name: is missing; expected a name such as app or registry.example/team/app, without a tag"),
        ('name = "App"', ":1: name: App:latest is no reference; expected a name such as"),
        ('name = "app:1"', ":1: name: app:1:latest is no reference; expected a name"),
        ('name = "app"\ntag = "a b"', ":1: name: app:a b is no reference; expected a name such as app"),
        ('name = "app"\ntags = "1"', ":2: tags: there is no such key; did you mean tag?"),
        ('name = "app"\n[config]\nCmd = "x"', ":3: config.Cmd: expected a list of texts, found 'x'"),
        ('name = "app"\n[config]\ncmd = ["x"]', ":3: config.cmd: there is no such key; did you mean Cmd?"),
        ('name = "app"\n[config]\nEnv = ["A"]', ':3: config.Env: expected a list such as ["NAME=value"], found a list'),
        (
            'name = "app"\n[config]\nEnv = { A = "b" }',
            ':3: config.Env: expected a list such as ["NAME=value"], found a table',
        ),
        (
            'name = "app"\n[config]\nExposedPorts = ["80"]',
            ':3: config.ExposedPorts: expected a table such as { "80/tcp" = {} }, found a list',
        ),
        ('name = "app"\n[config]\nExposedPorts = { x = {} }', ":3: config.ExposedPorts: expected a table such as"),
        ('name = "app"\n[config]\nVolumes = { x = {} }', ":3: config.Volumes: expected a table such as"),
        ('name = "app"\n[config]\nVolumes = { "/x" = 1 }', ":3: config.Volumes: expected a table such as"),
        ('name = "app"\n[config]\nLabels = { x = 1 }', ":3: config.Labels.x: expected text in quotes, found 1"),
        ('name = "app"\n[config]\nWorkingDir = "srv"', ":3: config.WorkingDir: expected a path from the root on"),
        ('name = "app"\n[config]\nStopSignal = "stop it"', ":3: config.StopSignal: expected a signal, such as SIGTERM"),
        ('name = "app"\nbase_tag = "1"', ":2: base_tag: there is no base to take an image of"),
        ('name = "app"\nbase = "docker://redis:8"', ":2: base: expected an archive, which `preloader image pull` or"),
        ('name = "app"\nbase = "-"', ":2: base: expected an archive, which"),
        ('name = "app"\ncontents = "site"', ":2: contents: expected a list of texts, found 'site'"),
        ('name = "app"\ncontents = ["nowhere"]', "nowhere is not a directory"),
        ('name = "app"\ncontents = ["app.toml"]', "app.toml is not a directory"),
        ('name = "app"\narchitecture = "arm/v7/x"', ":2: architecture: expected ARCH or ARCH/VARIANT, such as arm64"),
        (
            'name = "app"\n[[mode]]\npath = "/x"\nmode = 755',
            ":4: mode.mode: expected a mode in quotes, in octal, such as",
        ),
        ('name = "app"\n[[mode]]\npath = "/x"\nmode = "0855"', ":4: mode.mode: expected a mode in quotes, in octal"),
        ('name = "app"\n[[mode]]\npath = "/x"', ":2: mode: mode is missing; expected a mode in quotes"),
        ('name = "app"\n[[mode]]\nmode = "755"', ":2: mode: path is missing; expected a pattern of paths"),
        ('name = "app"\n[[owner]]\npath = "/x"', ":2: owner: expected uid, gid, or both"),
        (
            'name = "app"\n[[owner]]\npath = "x"\nuid = 1',
            ":3: owner.path: expected a pattern of paths from the root on",
        ),
        (
            'name = "app"\n[[owner]]\npath = "/x"\nuid = -1',
            ":4: owner.uid: expected a whole number from 0 to 4294967294",
        ),
        ('name = "app"\n[[owner]]\npath = "/x"\nuid = "root"', ":4: owner.uid: expected a whole number"),
        ('name = "app"\n[[owner]]\npath = "/x"\nuid = 1\nmode = "1"', ":5: owner.mode: there is no such key"),
        ("name = app", ":1: is not TOML: Invalid value"),
    ],
)
def test_mistakes(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        read(folder, text)
    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(folder / "app.toml"))


def test_a_recipe_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read: No such file or directory"):
        read_recipe(folder / "none.toml")


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("/srv/**", ["/srv", "/srv/a", "/srv/a/b", "/srv/\n/x"], ["/srvx", "/x/srv", "/"]),
        ("/**", ["/a", "/a/b"], []),
        ("/usr/bin/*", ["/usr/bin/x", "/usr/bin/.x"], ["/usr/bin", "/usr/bin/x/y"]),
        ("/**/*.sh", ["/a.sh", "/x/y/a.sh"], ["/a.sh/x", "/ash"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/x/y/b"], ["/ab", "/a/xb"]),
        ("/a?c", ["/abc", "/a\udcffc"], ["/ac", "/a/c"]),
        ("/a+[b](c)", ["/a+[b](c)"], ["/aab", "/aabc"]),
        ("/a**b", ["/ab", "/axxb"], ["/a/b"]),
    ],
)
def test_patterns(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = compile_pattern(pattern)
    assert [text for text in matches if not compiled.fullmatch(text)] == []
    assert [text for text in others if compiled.fullmatch(text)] == []
