"""`preloader image build` and `layered`: layers hold what was meant, and the same recipe gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.host.image.filesystem import is_opaque, is_whiteout, walk
from preloader_agent.host.node import Node
from preloader_agent.host.run import run
from tests.host.command import COMMAND, NOBODYS_COMMAND, PYTHONPATH, Preloader
from tests.host.tars import read_members, read_tree
from tests.images import Entry, Image, Layer, edge_image, layer, make_layer, write_docker_archive
from tests.images.catalogue import CAP_NET_RAW

BASE = (
    layer.directory("usr"),
    layer.directory("usr/bin"),
    layer.file("usr/bin/tool", "tool", 0o4755),
    layer.symlink("bin", "usr/bin"),
    layer.directory("etc"),
    layer.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    layer.file("etc/shadow", "secret", 0o000).owned(0, 42),
    layer.file("etc/group", "root:x:0:\n").owned(3, 4),
    layer.file("etc/ping", "ping", 0o755).having(**{"security.capability": CAP_NET_RAW, "user.note": b"base"}),
    layer.directory("var", 0o555).owned(8, 9),
    layer.file("var/one", "1"),
    layer.file("var/two", "2"),
    layer.directory("share"),
    layer.file("share/page", "text"),
    layer.character_device("null", 1, 3),
    layer.file("first", "linked"),
    layer.hard_link("second", layer.file("first", "linked")),
    layer.file(b"\xff" * 250, "not UTF-8"),
    layer.symlink("absolute", "/etc"),
    layer.fifo("fifo"),
)


@pytest.fixture
def folder(folder: Path) -> Path:
    """A recipe's folder with a base to build on; others can get at it, unlike pytest's own."""
    write_docker_archive([base_image(BASE)], folder / "base.tar")
    (folder / "site").mkdir()
    return folder


def base_image(entries: Iterable[Entry], name: str = "base:1") -> Image:
    return Image((make_layer(entries),), (name,), {"Cmd": ["sh"], "Labels": {"of": "base"}})


def write_recipe(folder: Path, text: str = "", name: str = "app") -> Path:
    recipe = folder / f"{name}.toml"
    recipe.write_text(f'name = "{name}"\nbase = "base.tar"\ncontents = ["site"]\n{text}\n')
    return recipe


def read_archive(archive: Path | bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The configuration of the only image, and its layers, each with the digest that names it."""
    content = archive if isinstance(archive, bytes) else archive.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {member.name: tar.extractfile(member) for member in tar if member.isreg()}
        members = {name: file.read() for name, file in found.items() if file}
    (manifest,) = json.loads(members["manifest.json"])
    config = json.loads(members[manifest["Config"]])
    layers = [members[name] for name in manifest["Layers"]]
    assert [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers] == config["rootfs"]["diff_ids"]
    return config, layers


def build(preloader: Preloader, recipe: Path, *command: str) -> tuple[dict[str, Any], list[bytes]]:
    """What is in the archive that a command makes of a recipe."""
    output = recipe.with_suffix(".tar")
    result = preloader("image", *(command or ["build"]), recipe, "-o", output)
    assert result.status == 0, result.err
    return read_archive(output)


def paths_of(content: bytes) -> list[bytes]:
    """What a layer has: a path with "-" for what it hides, and with "=" for an opaque directory."""
    marks = {(True, False): b"-", (False, True): b"=", (False, False): b""}
    return [path + marks[is_whiteout(node), is_opaque(node)] for path, node in walk(read_tree(Layer(content)).root)]


def nodes_of(content: bytes) -> dict[bytes, Node]:
    return dict(walk(read_tree(Layer(content)).root))


def test_a_layer_with_what_is_new(preloader: Preloader, folder: Path) -> None:
    (folder / "site" / "srv").mkdir()
    (folder / "site" / "srv" / "index.html").write_text("hello")
    config, layers = build(preloader, write_recipe(folder, '[config]\nCmd = ["cat", "/srv/index.html"]'))
    assert paths_of(layers[1]) == [b"srv", b"srv/index.html"]
    assert layers[0] == base_image(BASE).layers[0].content
    assert config["config"]["Cmd"] == ["cat", "/srv/index.html"]
    assert config["config"]["Labels"] == {"of": "base"}
    assert config["created"] == "1970-01-01T00:00:01Z"
    assert {member.mtime_ns for member, _ in read_members(layers[1])} == {10**9}


def test_what_the_base_has_already_is_not_stored_again(preloader: Preloader, folder: Path) -> None:
    site = folder / "site"
    (site / "bin").mkdir()
    (site / "bin" / "tool").write_text("tool")
    (site / "bin" / "tool").chmod(0o4755)
    (site / "etc").mkdir(mode=0o700)
    (site / "etc" / "passwd").write_text("changed")
    (site / "etc" / "passwd").chmod(0o644)
    (site / "share").symlink_to("etc")
    _, layers = build(preloader, write_recipe(folder))
    found = nodes_of(layers[1])
    assert sorted(found) == [b"etc", b"etc/passwd", b"share"]
    assert found[b"etc"].mode == 0o755


@pytest.mark.parametrize("change", ["mode", "uid"])
def test_an_attribute_is_a_change(preloader: Preloader, folder: Path, change: str) -> None:
    (folder / "site" / "etc").mkdir()
    shutil.copy2(folder / "base.tar", folder / "site" / "etc" / "other")
    (folder / "site" / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (folder / "site" / "etc" / "passwd").chmod(0o644)
    rule = {"mode": '[[mode]]\npath = "/etc/passwd"\nmode = "600"', "uid": '[[owner]]\npath = "/etc/passwd"\nuid = 7'}
    _, layers = build(preloader, write_recipe(folder, rule[change]))
    found = nodes_of(layers[1])
    assert sorted(found) == [b"etc", b"etc/other", b"etc/passwd"]
    assert getattr(found[b"etc/passwd"], change) == {"mode": 0o600, "uid": 7}[change]


def test_nothing_new_is_no_layer(preloader: Preloader, folder: Path) -> None:
    """As after a Dockerfile that only sets something."""
    config, layers = build(preloader, write_recipe(folder, '[config]\nUser = "app"'))
    assert len(layers) == 1
    assert config["config"]["User"] == "app"
    assert config["history"][-1]["empty_layer"]


SCRIPTS = [
    ("rm etc/passwd", [b"etc", b"etc/passwd-"]),
    ("chmod u+w var && rm -r var", [b"var-"]),
    ("rm -r share && mkdir share && touch share/new", [b"share=", b"share/new"]),
    ("rm -r share && touch share", [b"share"]),
    ("rm share/page && mkdir share/page", [b"share", b"share/page"]),
    ("rm bin && mkdir bin", [b"bin"]),
    ("rm first && echo x >first", [b"first"]),
    ("rm second", [b"second-"]),
    ("ln first third", [b"first", b"second", b"third"]),
    ("cp first x && mv x second", [b"first", b"second"]),
    ("echo y >>first", [b"first", b"second"]),
    ("cp -p etc/passwd x && mv x etc/passwd && touch etc/group", []),
    ("chmod 700 share", [b"share"]),
    ("chmod 400 etc/passwd", [b"etc", b"etc/passwd"]),
    ("ln -sfn /nowhere absolute", [b"absolute"]),
    ("rm fifo && mkfifo fifo", []),
    ("rm -f $(printf '\\377%.0s' $(seq 250))", [b"\xff" * 250 + b"-"]),
    ("printf 'not UTF-8' >$(printf '\\376%.0s' $(seq 250))", [b"\xfe" * 250]),
    ("truncate -s 3M sparse && mkdir -p a/b && chmod 000 a/b sparse", [b"a", b"a/b", b"sparse"]),
]


@pytest.mark.parametrize(("script", "paths"), SCRIPTS, ids=[script for script, _ in SCRIPTS])
def test_scripts_change_the_base(preloader: Preloader, folder: Path, script: str, paths: list[bytes]) -> None:
    _, layers = build(preloader, write_recipe(folder, f"extra_commands = '''{script}'''"))
    assert [paths_of(content) for content in layers[1:]] == ([paths] if paths else [])


def test_what_a_script_does_not_see_it_does_not_change(preloader: Preloader, folder: Path) -> None:
    """Owners, xattrs and device nodes, which it could not make either, and permissions that we give it."""
    script = "chmod 711 var; echo x >>etc/shadow; echo x >>etc/group; chmod 700 etc/ping; echo x >new; [ ! -e null ]"
    _, layers = build(preloader, write_recipe(folder, f"extra_commands = '{script}'"))
    found = nodes_of(layers[1])
    assert {path: (node.mode, node.uid, node.gid) for path, node in found.items()} == {
        b"etc": (0o755, 0, 0),
        b"etc/group": (0o644, 3, 4),
        b"etc/ping": (0o700, 0, 0),
        b"etc/shadow": (0, 0, 42),
        b"new": (0o644, 0, 0),
        b"var": (0o711, 8, 9),
    }
    assert found[b"etc/ping"].xattrs == {b"security.capability": CAP_NET_RAW, b"user.note": b"base"}


def test_changed_content_loses_its_capability(preloader: Preloader, folder: Path) -> None:
    """As the kernel does it."""
    _, layers = build(preloader, write_recipe(folder, "extra_commands = 'echo x >>etc/ping'"))
    assert nodes_of(layers[1])[b"etc/ping"].xattrs == {b"user.note": b"base"}


def test_device_nodes_go_with_their_directory(preloader: Preloader, folder: Path) -> None:
    entries = (layer.directory("dev"), layer.character_device("dev/null", 1, 3), layer.file("dev/x"))
    write_docker_archive([base_image(entries)], folder / "base.tar")
    _, layers = build(preloader, write_recipe(folder, "extra_commands = 'rm dev/x'"))
    assert paths_of(layers[1]) == [b"dev", b"dev/x-"]
    _, layers = build(preloader, write_recipe(folder, "extra_commands = 'rm -r dev'"))
    assert paths_of(layers[1]) == [b"dev-"]


def test_rules_are_about_what_scripts_make_as_well(preloader: Preloader, folder: Path) -> None:
    rules = 'owner = [{ path = "/data/**", uid = 5, gid = 6 }]\nmode = [{ path = "/data", mode = "1777" }]'
    _, layers = build(preloader, write_recipe(folder, f"extra_commands = 'mkdir data; echo x >data/x'\n{rules}"))
    found = {path: (node.mode, node.uid, node.gid) for path, node in nodes_of(layers[1]).items()}
    assert found == {b"data": (0o1777, 5, 6), b"data/x": (0o644, 5, 6)}


def test_rules_are_about_what_scripts_change_as_well(preloader: Preloader, folder: Path) -> None:
    rules = 'owner = [{ path = "/etc/group", uid = 5 }]\nmode = [{ path = "/etc/*", mode = "0600" }]'
    _, layers = build(preloader, write_recipe(folder, f"extra_commands = 'echo x >>etc/group'\n{rules}"))
    nodes = nodes_of(layers[1])
    assert nodes.keys() == {b"etc", b"etc/group"}
    assert (nodes[b"etc/group"].mode, nodes[b"etc/group"].uid, nodes[b"etc/group"].gid) == (0o600, 5, 4)


@pytest.mark.parametrize("script", ["extra_commands = 'rm etc/group'", "run_as_root = 'exit 1'"])
def test_rules_are_about_nothing_else(preloader: Preloader, folder: Path, script: str) -> None:
    """Nor is the script started that the rule would not be about."""
    rule = 'owner = [{ path = "/etc/group", uid = 5 }]'
    result = preloader("image", "build", write_recipe(folder, f"{script}\n{rule}"), "-o", folder / "app.tar")
    assert (result.status, "owner.path: is about nothing that is added" in result.err) == (2, True), result.err


def test_a_script_sees_the_contents_and_what_it_prints_is_passed_on(preloader: Preloader, folder: Path) -> None:
    (folder / "site" / "x").write_text("hello")
    recipe = write_recipe(folder, "extra_commands = 'cat x; echo $SOURCE_DATE_EPOCH $TZ $(stat -c %Y x) $(umask)'")
    result = preloader("image", "build", recipe, "-o", folder / "app.tar")
    assert result.err == "hello1 UTC 1 0022\n"


def test_a_script_that_fails(preloader: Preloader, folder: Path) -> None:
    recipe = write_recipe(folder, "extra_commands = '''echo so far\nls nowhere\necho not here'''")
    before = sorted(folder.iterdir())
    result = preloader("image", "build", recipe, "-o", folder / "app.tar")
    assert result.status == 1
    assert result.err.startswith("preloader: extra_commands: exit status 2: ls: cannot access 'nowhere': No such file")
    assert result.err.endswith("so far\n")
    assert sorted(folder.iterdir()) == before


def test_a_script_that_does_nothing(preloader: Preloader, folder: Path) -> None:
    """Whatever layers can hold comes back from the folder as it was."""
    write_docker_archive([edge_image()], folder / "base.tar")
    _, layers = build(preloader, write_recipe(folder, "extra_commands = 'true'"))
    assert layers == [one.content for one in edge_image().layers]


def test_an_interrupted_script_leaves_nothing(folder: Path) -> None:
    os.mkfifo(folder / "started")
    recipe = write_recipe(folder, f"extra_commands = 'chmod 0 etc; echo $$ >{folder}/started; sleep 1000'")
    before = sorted(folder.iterdir())
    argv: list[str | Path] = [*COMMAND, "image", "build", recipe, "-o", folder / "app.tar"]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": PYTHONPATH}, stderr=subprocess.PIPE) as process:
        script = int((folder / "started").read_text())
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, b"preloader: interrupted; nothing was written")
    assert sorted(folder.iterdir()) == before
    with pytest.raises(ProcessLookupError):
        os.kill(script, 0)


def test_what_cannot_be_read(folder: Path) -> None:
    (folder / "site" / "secret").write_text("x")
    (folder / "site" / "secret").chmod(0)
    give_to_all(folder)
    argv = [*NOBODYS_COMMAND, "image", "build", str(write_recipe(folder)), "-o", str(folder / "app.tar")]
    printed = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(2,), with_stderr=True)
    assert printed == f"preloader: {folder}/site/secret: cannot be read: Permission denied\n"
    assert not (folder / "app.tar").exists()


@pytest.mark.parametrize("text", ["", "extra_commands = 'head -c 3000000 /dev/zero >x'"])
def test_no_room(folder: Path, text: str) -> None:
    (folder / "site" / "large").write_bytes(bytes(3_000_000))
    before = sorted([*folder.iterdir(), write_recipe(folder, text)])
    argv: list[str | Path] = ["prlimit", "--fsize=2000000", *COMMAND, "image", "build", folder / "app.toml", "-o"]
    printed = run([*argv, folder / "app.tar"], env={"PYTHONPATH": PYTHONPATH}, ok=(1,), with_stderr=True)
    assert printed.startswith(f"preloader: {folder}/app.tar: no space left, or a limit reached")
    assert sorted(folder.iterdir()) == before


def test_without_a_base(preloader: Preloader, folder: Path) -> None:
    (folder / "site" / "hello").write_text("x")
    recipe = folder / "app.toml"
    recipe.write_text('name = "app"\ntag = "1"\ncontents = ["site"]\narchitecture = "arm64"\n')
    config, layers = build(preloader, recipe)
    assert [paths_of(content) for content in layers] == [[b"hello"]]
    assert (config["architecture"], config["os"], config["config"]) == ("arm64", "linux", {})
    assert "\napp:1 " in preloader("image", "list", folder / "app.tar").out


@pytest.fixture
def several(folder: Path) -> Path:
    images = [base_image([layer.file(name)], name) for name in ("a:1", "a:2", "b:1")]
    unnamed = Image((make_layer([layer.file("x")]),))
    return write_docker_archive([*images, unnamed], folder / "base.tar", "oci")


@pytest.mark.parametrize(
    ("keys", "found"),
    [('base_name = "b"', b"b:1"), ('base_tag = "2"', b"a:2"), ('base_name = "a"\nbase_tag = "1"', b"a:1")],
)
def test_one_image_of_several(preloader: Preloader, several: Path, keys: str, found: bytes) -> None:
    _, layers = build(preloader, write_recipe(several.parent, keys))
    assert paths_of(layers[0]) == [found]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("", ":2: base: 4 images of {base} could be meant; say which by base_name and base_tag; it holds "),
        ('base_name = "a"', ":4: base_name: 2 images of {base} could be meant; say which by base_name and base_tag"),
        ('base_name = "c"', ":4: base_name: {base} has no such image; it holds "),
        ('base_name = "b"\nbase_tag = "2"', ":5: base_tag: {base} has no such image; it holds "),
    ],
)
def test_which_image_of_several(preloader: Preloader, several: Path, keys: str, problem: str) -> None:
    result = preloader("image", "build", write_recipe(several.parent, keys), "-o", several.parent / "app.tar")
    assert result.status == 2
    assert problem.format(base=several) in result.err
    if "holds" in problem:
        assert "a:1, a:2, b:1" in result.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('architecture = "s390x"', "base:1 is for linux/amd64, expected linux/s390x"),
        ('owner = [{ path = "/srv/**", uid = 1 }]', "app.toml:4: owner.path: is about nothing that is added"),
        ('base_name = "x"\nbase_nam = "y"', "app.toml:5: base_nam: there is no such key; did you mean base_name?"),
    ],
)
def test_recipes_that_cannot_be_made(preloader: Preloader, folder: Path, text: str, problem: str) -> None:
    recipe, before = write_recipe(folder, text), sorted(folder.iterdir())
    result = preloader("image", "build", recipe, "-o", folder / "app.tar")
    assert (result.status, result.out) == (2, "")
    assert problem in result.err
    assert sorted(folder.iterdir()) == sorted({*before, recipe})


def test_more_layers_than_docker_takes(preloader: Preloader, folder: Path) -> None:
    layers = [make_layer([layer.file(str(number), "x")]) for number in range(125)]
    write_docker_archive([Image(tuple(layers), ("base:1",))], folder / "base.tar")
    (folder / "site" / "page").write_text("x")
    for command in ("build", "layered"):
        arguments = ("--max-layers", "125") if command == "layered" else ()
        result = preloader("image", command, write_recipe(folder), "-o", folder / "app.tar", *arguments)
        problem = "app.toml:2: base: has 125 layers, so that the image would have 126; docker takes at most 125"
        assert (result.status, problem in result.err) == (2, True), result.err
    assert not (folder / "app.tar").exists()


def test_outputs_that_cannot_be(preloader: Preloader, folder: Path) -> None:
    recipe = write_recipe(folder)
    for output, problem in (
        (folder / "site" / "app.tar", f"a file that is not in {folder}/site, whose content goes into the image"),
        (folder / "base.tar", "another file than the archive that is read"),
        (recipe, "another file than the archive that is read"),
        (folder / "nowhere" / "app.tar", "a file in a directory that exists"),
    ):
        result = preloader("image", "build", recipe, "-o", output)
        assert (result.status, problem in result.err) == (2, True), result.err


@pytest.mark.parametrize("epoch", ["x", "-1", "1.5", "", "253402300800", "٣", "1" * 5000])
def test_a_time_that_is_none(preloader: Preloader, folder: Path, monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    result = preloader("image", "build", write_recipe(folder), "-o", folder / "app.tar")
    assert result.status == 2
    assert "SOURCE_DATE_EPOCH: expected seconds since 1970, such as 1700000000, found" in result.err


def test_another_time(preloader: Preloader, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (folder / "site" / "x").touch()
    config, layers = build(preloader, write_recipe(folder))
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert nodes_of(layers[1])[b"x"].mtime_ns == 1_700_000_000 * 10**9


def make_site(folder: Path, names: Sequence[str]) -> None:
    """The same files, made in some order, at any time."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


@pytest.mark.parametrize("command", ["build", "layered"])
def test_the_same_recipe_is_the_same_bytes(folder: Path, command: str) -> None:
    """Whatever the umask, time, folder, locale, time zone, order of directory entries and user."""
    names = [f"d{number}/é{number}" for number in range(20)] + ["srv/x"]
    script = "mkdir made; date -d @$SOURCE_DATE_EPOCH >made/x; echo x >made/y; ls -l made/y srv; echo y >>etc/shadow"
    script += "; chmod 0 etc/ping share"
    text = 'owner = [{ path = "/srv/**", uid = 7 }]\n'
    if command == "build":
        text += f"extra_commands = '{script}; stat -c %Y srv/x >made/time'"
    found = set()
    elsewhere = folder / "else where"
    elsewhere.mkdir()
    shutil.copy(folder / "base.tar", elsewhere)
    umask = ["sh", "-c", 'umask "$0"; exec "$@"']
    for place, order, program in (
        (folder, names, ["env", "LC_ALL=C", *umask, "000", *COMMAND]),
        (elsewhere, names[::-1], ["env", "LC_ALL=C.UTF-8", "TZ=Asia/Tokyo", *umask, "077", *COMMAND]),
        (elsewhere, [], NOBODYS_COMMAND),
    ):
        make_site(place / "site", order)
        recipe = write_recipe(place, text)
        give_to_all(folder)
        before = sorted(place.iterdir())
        run(
            [*program, "image", command, recipe, "-o", place / "app.tar"],
            env={"PYTHONPATH": PYTHONPATH, "LC_ALL": None},
        )
        found.add((place / "app.tar").read_bytes())
        (place / "app.tar").unlink()
        assert sorted(place.iterdir()) == before
    assert len(found) == 1


def give_to_all(folder: Path) -> None:
    """Let another user in."""
    for path in (folder, *folder.iterdir()):
        if path.is_dir():
            path.chmod(0o777)


def test_standard_output(folder: Path) -> None:
    """It has nothing but the archive, whatever a script prints."""
    recipe = write_recipe(folder, "extra_commands = 'echo out; echo err >&2; touch x'")
    program = [*COMMAND, "image", "build", str(recipe), "-o"]
    env = {"PYTHONPATH": PYTHONPATH}
    printed = run(["sh", "-c", '"$@" 2>/dev/null | sha256sum', "sh", *program, "-"], env=env)
    run([*program, folder / "app.tar"], env=env)
    assert printed.split()[0] == hashlib.sha256((folder / "app.tar").read_bytes()).hexdigest()


def write_layered(folder: Path, name: str, contents: Sequence[str], text: str = "") -> Path:
    for content in contents:
        (folder / content / content).mkdir(parents=True, exist_ok=True)
        (folder / content / content / "x").write_text(content)
    recipe = folder / f"{name}.toml"
    recipe.write_text(f'name = "{name}"\nbase = "base.tar"\ncontents = {json.dumps(contents)}\n{text}\n')
    return recipe


def test_a_layer_for_each_directory_which_images_share(preloader: Preloader, folder: Path) -> None:
    _, one = build(preloader, write_layered(folder, "one", ["a", "etc", "b"]), "layered")
    _, other = build(preloader, write_layered(folder, "other", ["c", "etc"]), "layered")
    assert [paths_of(content) for content in one[1:]] == [[b"a", b"a/x"], [b"etc", b"etc/x"], [b"b", b"b/x"]]
    assert one[2] == other[2]


def test_directories_for_which_there_is_no_layer_are_in_the_last_one(preloader: Preloader, folder: Path) -> None:
    recipe = write_layered(folder, "app", ["a", "b", "c", "etc"])
    _, layers = build(preloader, recipe, "layered", "--max-layers", "3")
    assert [paths_of(content) for content in layers[1:]] == [
        [b"a", b"a/x"],
        [b"b", b"b/x", b"c", b"c/x", b"etc", b"etc/x"],
    ]
    for number in ("1", "126"):
        result = preloader("image", "layered", recipe, "-o", folder / "x.tar", "--max-layers", number)
        assert result.status == 2
        expected = "2 (the base has 1) to 125, which is all that docker takes"
        assert f"--max-layers: expected {expected}, found {number}" in result.err


def test_both_commands_make_the_same_file_system(preloader: Preloader, folder: Path) -> None:
    """Also where directories overlap, and where one makes a symlink that another one's files go through."""
    recipe = write_layered(folder, "app", ["a", "b", "etc"], 'mode = [{ path = "/etc/passwd", mode = "640" }]')
    (folder / "a" / "lib").symlink_to("usr/bin")
    (folder / "b" / "lib").mkdir()
    (folder / "b" / "lib" / "tool").write_text("newer")
    (folder / "b" / "a").mkdir()
    (folder / "b" / "a" / "x").mkdir()
    (folder / "etc" / "b").write_text("no directory")
    (folder / "etc" / "etc" / "passwd").write_text("new")
    exported = []
    for command in ("build", "layered"):
        build(preloader, recipe, command)
        assert preloader("image", "export", folder / "app.tar", "-o", folder / "root.tar").status == 0
        exported.append(read_members((folder / "root.tar").read_bytes()))
    built, layered = ([(member._replace(raw=b"", mtime_ns=0), data) for member, data in found] for found in exported)
    assert built == layered
    assert any(member.name == b"usr/bin/tool" and data == b"newer" for member, data in built)


def test_scripts_are_of_no_layer(preloader: Preloader, folder: Path) -> None:
    for key in ("extra_commands", "run_as_root"):
        result = preloader("image", "layered", write_recipe(folder, f'{key} = "true"'), "-o", folder / "x.tar")
        assert result.status == 2
        assert f"app.toml:4: {key}: a script works on all directories at once" in result.err
