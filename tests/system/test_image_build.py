"""Images made of recipes, in a real dockerd: what its containers see is what the recipe means.

What it means is made a second time by other programs, on a real file system: GNU tar lays the contents over the base,
and root runs the script there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.image.build import build_image
from preloader_agent.host.image.export import export_image
from preloader_agent.host.image.layered import build_layered
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.run import environment, find_tool, run
from preloader_agent.host.verification import verify_disk
from tests.dockerd import HINT, Dockerd
from tests.host.command import COMMAND, NOBODY, NOBODYS_COMMAND, PYTHONPATH
from tests.images import Image, layer, make_layer, write_docker_archive
from tests.images.catalogue import CAP_NET_RAW
from tests.tree import Tree, describe_tree, tree_differences

OPTIONS = ReadOptions()
LONG = b"\xff\xfe" + b"n" * 248  # a name of 250 bytes that is not UTF-8
BUSYBOX = "usr/bin/busybox"
ABLE = ("security.capability", CAP_NET_RAW)


def base_image() -> Image:
    """A system with a merged /usr, and in a second layer one of everything that can be changed."""
    busybox = Path(find_tool("busybox", "install busybox-static")).read_bytes()
    tools = ("sh", "cat", "ls", "rm", "mkdir", "echo", "id", "chown", "ln", "mv", "chmod", "touch", "test", "stat")
    system = [
        *(layer.directory(name) for name in ("usr", "usr/bin", "usr/lib", "dev", "proc", "sys", "etc", "root")),
        layer.directory("tmp", 0o1777),
        layer.symlink("bin", "usr/bin"),
        layer.symlink("lib", "usr/lib"),
        layer.file(BUSYBOX, busybox, 0o755),
        *(layer.symlink(f"usr/bin/{name}", "busybox") for name in tools),
        layer.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        layer.file("etc/hidden", "of the first layer"),
        *(layer.directory(name) for name in ("data", "gone", "gone/sub", "anew", "opaque")),
        layer.file("gone/sub/x", "x"),
        *(layer.file(f"anew/{name}", name) for name in ("x", "y")),
        layer.file("opaque/x", "x"),
    ]
    names = [
        "kept",
        "content",
        "mode",
        "owner",
        "noted",
        "able",
        "becomes-folder",
        "becomes-symlink",
        "hard-a",
        "removed",
    ]
    things = [
        *(layer.file(f"data/{name}", name) for name in names),
        layer.file("data/able-kept", "able", 0o755).having(**dict([ABLE])),
        layer.hard_link("data/hard-b", layer.file("data/hard-a", "hard-a")),
        layer.hard_link("data/hard-c", layer.file("data/hard-a", "hard-a")),
        layer.directory("data/becomes-file"),
        layer.file("data/becomes-file/x", "x"),
        layer.directory("data/folder-becomes-symlink", 0o700),
        layer.symlink("data/symlink-becomes-folder", "nowhere"),
        layer.symlink("data/symlink-becomes-file", "kept"),
        layer.symlink("data/dangling", "/nowhere"),
        layer.file("data/setuid", "s", 0o4755),
        layer.file(b"data/" + LONG, "long"),
        layer.file(b"data/" + LONG[:-1] + b"-", "removed"),
        layer.directory("data/owned", 0o2770).owned(1000, 2000),
        layer.character_device("data/null", 1, 3),
        layer.fifo("data/fifo"),
        layer.whiteout("etc/hidden"),
        layer.opaque("opaque"),
        layer.file("opaque/y", "y"),
    ]
    return Image((make_layer(system), make_layer(things)), ("base:1",), {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=base"]})


RECIPE = """
name = "app"
tag = "1"
base = "base.tar"
contents = ["contents"]
extra_commands = '''
SCRIPT
'''

[[owner]]
path = "/data/owner"
uid = 1000
gid = 3_000_000

[[mode]]
path = "/data/mode"
mode = "4711"

[config]
Entrypoint = ["cat"]
Cmd = ["/srv/page"]
Env = ["A=recipe"]
WorkingDir = "/srv"
"""
SCRIPT = """
cat data/kept >data/from-script
rm data/removed data/fifo data/hard-c data/*n-
rm -r gone
rm -r anew && mkdir anew && echo new >anew/z
rm data/symlink-becomes-folder && mkdir data/symlink-becomes-folder
ln data/setuid data/setuid-too
ln -s /nowhere srv/dangling
chmod 1777 srv
"""


def make_contents(folder: Path) -> None:
    """One of everything, laid over the base."""
    data = folder / "data"
    for path in ("data/becomes-folder", "bin", "lib/new", "srv", "usr/lib/also", "data/owned"):
        (folder / path).mkdir(parents=True)
    for name in ("kept", "content", "mode", "owner", "noted", "able", "symlink-becomes-file", "becomes-file"):
        (data / name).write_text("changed" if name == "content" else name)
    (data / "able-kept").write_text("able")
    (data / "able-kept").chmod(0o755)
    os.setxattr(data / "able-kept", *ABLE)
    os.setxattr(data / "able", *ABLE)
    os.setxattr(data / "noted", "user.note", b"\0\xff=\n")
    (data / "becomes-folder" / "x").write_text("x")
    (data / "becomes-symlink").symlink_to("/etc/passwd")
    (data / "folder-becomes-symlink").symlink_to("owned")
    (data / "owned" / "x").write_text("x")
    (data / os.fsdecode(LONG)).write_text("changed")
    (folder / "bin" / "script").write_text("#!/bin/sh\necho script\n")
    (folder / "bin" / "script").chmod(0o4755)
    (folder / "lib" / "new" / "one").write_text("linked")
    (folder / "lib" / "new" / "two").hardlink_to(folder / "lib" / "new" / "one")
    (folder / "srv" / "page").write_text("hello\n")
    with (folder / "srv" / "sparse").open("wb") as file:
        file.truncate(3 << 20)
    os.mkfifo(folder / "srv" / "fifo")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A dockerd for all of these tests."""
    if shutil.which("dockerd", path=environment()["PATH"]) is None:
        pytest.skip(f"needs dockerd: {HINT}")
    with Dockerd(tmp_path_factory.mktemp("docker")) as daemon:
        yield daemon


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a recipe, with a base; others can get at it, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="dpl-recipe-") as name:
        write_docker_archive([base_image()], Path(name, "base.tar"))
        Path(name, "contents").mkdir()
        yield Path(name)


def stored(archive: Path) -> tuple[str, list[str]]:
    """The image ID and the DiffIDs of the only image, as the digests of what is stored."""
    with tarfile.open(archive) as tar:
        (manifest,) = json.load(_member(tar, "manifest.json"))
        digests = [_digest(tar, name) for name in (manifest["Config"], *manifest["Layers"])]
    return digests[0], digests[1:]


def _member(tar: tarfile.TarFile, name: str) -> Any:
    return tar.extractfile(name)


def _digest(tar: tarfile.TarFile, name: str) -> str:
    return f"sha256:{hashlib.file_digest(_member(tar, name), 'sha256').hexdigest()}"


def load(daemon: Dockerd, archive: Path) -> dict[str, Any]:
    """What dockerd says of an image, once it is the one that is stored."""
    daemon.docker("load", "--input", archive)
    image_id, diff_ids = stored(archive)
    found = daemon.inspect(image_id)
    assert (found["Id"], found["RootFS"]["Layers"]) == (image_id, diff_ids)
    return found


def on_a_disk(archives: Sequence[Path], output: Path) -> int:
    """How many layers a disk of some archives has, once it is found to be sound."""
    built = build_disk(archives, output)
    verdict = verify_disk(output, lambda *_: None)
    assert not verdict.faults
    assert not verdict.notes
    return len(built.index.layers)


def timeless(tree: Tree) -> Tree:
    return {path: replace(node, mtime_ns=0) for path, node in tree.items()}


def lay_over(folder: Path, script: str) -> Path:
    """What the recipe means, made by other programs."""
    meant, contents = folder / "meant", folder / "laid.tar"
    meant.mkdir()
    export_image(str(folder / "base.tar"), None, str(folder / "base-root.tar"), OPTIONS)
    xattrs = ["--xattrs", "--xattrs-include=*"]
    run(["tar", "--extract", *xattrs, "--same-owner", "-p", "-C", meant, "-f", folder / "base-root.tar"])
    run(["tar", "--create", *xattrs, "--owner=0", "--group=0", "-C", folder / "contents", "-f", contents, "."])
    for name in ("becomes-file", "becomes-folder", "folder-becomes-symlink"):  # tar would not
        run(["rm", "-r", meant / "data" / name])
    over = ["--keep-directory-symlink", "--no-overwrite-dir", "--same-owner", "-p"]
    run(["tar", "--extract", *xattrs, *over, "-C", meant, "-f", contents])
    run(["sh", "-e", "-c", f"cd '{meant}'; umask 022\n{script}"])
    return meant


def test_a_base_with_one_of_every_change(daemon: Dockerd, folder: Path) -> None:
    make_contents(folder / "contents")
    (folder / "app.toml").write_text(RECIPE.replace("SCRIPT", SCRIPT))
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    found = load(daemon, folder / "app.tar")
    assert found["Config"]["Env"] == ["PATH=/bin", "A=recipe"]
    meant = lay_over(folder, SCRIPT)
    os.chown(meant / "data" / "owner", 1000, 3_000_000)
    (meant / "data" / "mode").chmod(0o4711)
    tree = daemon.container_tree("app:1")
    assert tree_differences(timeless(describe_tree(meant)), timeless(tree)) == []
    assert {node.mtime_ns for path, node in tree.items() if path.startswith(b"srv")} == {10**9}
    assert daemon.run("app:1") == "hello\n"
    assert daemon.docker("run", "--rm", "--entrypoint=script", "app:1") == "script\n"
    assert on_a_disk([folder / "app.tar"], folder / "app.qcow2") == 3


def test_what_is_as_in_the_base_is_not_in_the_layer(folder: Path) -> None:
    make_contents(folder / "contents")
    (folder / "app.toml").write_text(RECIPE.replace("SCRIPT", SCRIPT))
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    found = names_in_top_layer(folder / "app.tar")
    assert BUSYBOX not in found
    names = {name.removeprefix("data/") for name in found if name.startswith("data/")}
    assert not names & {"kept", "able-kept", "dangling", "null"}
    assert {".wh.removed", ".wh.fifo", ".wh.hard-c", "content", "setuid-too"} <= names
    assert not names & {"hard-a", "hard-b"}


def names_in_top_layer(archive: Path) -> list[str]:
    """What the uppermost layer has, markers and all."""
    with tarfile.open(archive) as tar:
        (manifest,) = json.load(_member(tar, "manifest.json"))
        with tarfile.open(fileobj=_member(tar, manifest["Layers"][-1])) as top:
            return top.getnames()


def test_a_script_as_root_of_the_image(daemon: Dockerd, folder: Path) -> None:
    """After the other one, over what that has made."""
    (folder / "app.toml").write_text(
        """
name = "root"
base = "base.tar"
extra_commands = "echo app:x:1000:1000::/:/bin/sh >>etc/passwd; mkdir srv; echo x >srv/page; echo y >srv/other"
run_as_root = '''
echo "$(id -u) $(cat /srv/page) $TZ $SOURCE_DATE_EPOCH" >/srv/seen
chown 1000:1000 /srv /srv/page
rm /srv/other /etc/passwd
rm -r /anew && mkdir -m 700 /anew
chmod 6711 /data/kept
'''
"""
    )
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    load(daemon, folder / "app.tar")
    tree = daemon.container_tree("root:latest")
    below = timeless(dict(daemon.container_tree(loaded_base(daemon, folder))))
    assert [
        (tree[path].uid, tree[path].mode) for path in (b"srv", b"srv/page", b"srv/seen", b"anew", b"data/kept")
    ] == [
        (1000, 0o755),
        (1000, 0o644),
        (0, 0o644),
        (0, 0o700),
        (0, 0o6711),
    ]
    assert below.keys() - tree.keys() == {b"etc/passwd", b"anew/x", b"anew/y"}
    assert tree.keys() - below.keys() == {b"srv", b"srv/page", b"srv/seen"}
    changed = {path for path in below.keys() & tree.keys() if timeless(tree)[path] != below[path]}
    assert changed == {b"anew", b"data/kept"}
    assert daemon.run("root:latest", "cat", "/srv/seen") == "0 x UTC 1\n"
    assert sorted(names_in_top_layer(folder / "app.tar")) == [
        "anew",
        "anew/.wh..wh..opq",
        "data",
        "data/kept",
        "etc",
        "etc/.wh..wh..opq",
        "srv",
        "srv/page",
        "srv/seen",
    ]


def loaded_base(daemon: Dockerd, folder: Path) -> str:
    daemon.docker("load", "--input", folder / "base.tar")
    return "base:1"


def test_a_root_that_is_opaque_hides_nothing(daemon: Dockerd, folder: Path) -> None:
    """As it is with overlayfs, so what is laid over such a base is compared with what containers see."""
    entries = ([layer.file("below", "x")], [layer.opaque(""), layer.file("above")])
    write_docker_archive([Image(tuple(map(make_layer, entries)), ("opaque:1",))], folder / "base.tar")
    (folder / "contents" / "below").write_text("x")
    (folder / "contents" / "below").chmod(0o644)
    (folder / "app.toml").write_text('name = "app"\nbase = "base.tar"\ncontents = ["contents"]\n')
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    assert len(load(daemon, folder / "app.tar")["RootFS"]["Layers"]) == 2
    assert sorted(daemon.container_tree("app:latest")) == [b"above", b"below"]


def test_settings_alone(daemon: Dockerd, folder: Path) -> None:
    (folder / "app.toml").write_text('name = "set"\nbase = "base.tar"\n[config]\nCmd = ["echo", "set"]\n')
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    found = load(daemon, folder / "app.tar")
    assert found["RootFS"]["Layers"] == base_image().diff_ids
    assert daemon.run("set:latest") == "set\n"


DOCKERFILE = """
FROM inherited:1
ENV A=recipe NEW=b=c
LABEL own="a label"
EXPOSE 80 53/udp
VOLUME /data
USER nobody
STOPSIGNAL SIGINT
"""
SETTINGS = """
name = "built"
base = "inherited.tar"

[config]
Env = ["A=recipe", "NEW=b=c"]
Labels = { own = "a label" }
ExposedPorts = { "80" = {}, "53/udp" = {} }
Volumes = { "/data" = {} }
User = "nobody"
StopSignal = "SIGINT"
"""


@pytest.mark.parametrize(
    ("commands", "settings"),
    [
        ("", ""),
        ('CMD ["x", "y"]', 'Cmd = ["x", "y"]'),
        ('ENTRYPOINT ["x"]', 'Entrypoint = ["x"]'),
        ('CMD ["y"]\nENTRYPOINT ["x"]', 'Cmd = ["y"]\nEntrypoint = ["x"]'),
        ("WORKDIR /etc", 'WorkingDir = "/etc"'),
    ],
)
def test_settings_are_inherited_as_by_docker_build(daemon: Dockerd, folder: Path, commands: str, settings: str) -> None:
    inherited = {
        "Cmd": ["sh"],
        "Entrypoint": ["cat"],
        "Env": ["PATH=/bin", "A=base", "B=base"],
        "ExposedPorts": {"443/tcp": {}},
        "Labels": {"of": "base", "own": "other"},
        "Volumes": {"/tmp": {}},
        "WorkingDir": "/root",
    }
    base = replace(base_image(), references=("inherited:1",), config=inherited)
    daemon.docker("load", "--input", write_docker_archive([base], folder / "inherited.tar"))
    (folder / "app.toml").write_text(SETTINGS + settings)
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    built = load(daemon, folder / "app.tar")["Config"]
    daemon.docker("build", "--quiet", "--tag", "dockers:1", "-", stdin=(DOCKERFILE + commands).encode())
    of_docker = daemon.inspect("dockers:1")["Config"]
    about_its_making = ("Hostname", "Image")
    assert {**built, **dict.fromkeys(about_its_making)} == {**of_docker, **dict.fromkeys(about_its_making)}


def test_without_a_base(daemon: Dockerd, folder: Path) -> None:
    (folder / "contents" / "busybox").write_bytes(Path(find_tool("busybox", "install busybox-static")).read_bytes())
    (folder / "contents" / "busybox").chmod(0o755)
    (folder / "app.toml").write_text(
        'name = "alone"\ncontents = ["contents"]\n[config]\nEntrypoint = ["/busybox"]\nCmd = ["echo", "alone"]\n'
    )
    build_image(folder / "app.toml", str(folder / "app.tar"), 1, OPTIONS)
    load(daemon, folder / "app.tar")
    assert daemon.run("alone:latest") == "alone\n"
    assert on_a_disk([folder / "app.tar"], folder / "app.qcow2") == 1


def test_images_share_the_layers_of_their_directories(daemon: Dockerd, folder: Path) -> None:
    for name, contents in (("one", ["contents", "a"]), ("two", ["contents", "b"])):
        (folder / contents[1]).mkdir()
        (folder / contents[1] / "page").write_text(name)
        text = f'name = "{name}"\nbase = "base.tar"\ncontents = {json.dumps(contents)}\n'
        (folder / f"{name}.toml").write_text(f'{text}[config]\nCmd = ["cat", "page"]\n')
    (folder / "contents" / "bin").mkdir()
    (folder / "contents" / "bin" / "shared").write_bytes(os.urandom(1 << 20))
    layers = {}
    for name in ("one", "two"):
        build_layered(folder / f"{name}.toml", str(folder / f"{name}.tar"), 100, 1, OPTIONS)
        layers[name] = load(daemon, folder / f"{name}.tar")["RootFS"]["Layers"]
        assert daemon.run(f"{name}:latest") == name
    assert layers["one"][:3] == layers["two"][:3]
    assert layers["one"][3] != layers["two"][3]
    assert on_a_disk([folder / "one.tar", folder / "two.tar"], folder / "both.qcow2") == 5


def test_an_ordinary_user_makes_the_same(folder: Path) -> None:
    """Though the base has files that only root can read, and owners that only root can give."""
    make_contents(folder / "contents")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for path in (folder / "contents" / "data" / "able", folder / "contents" / "data" / "able-kept"):
        os.setxattr(path, *ABLE)  # which went with the owner
    (folder / "contents" / "bin" / "script").chmod(0o4755)
    (folder / "app.toml").write_text(RECIPE.replace("SCRIPT", SCRIPT))
    for program, output in ((NOBODYS_COMMAND, "nobody.tar"), (COMMAND, "root.tar")):
        argv: list[str | Path] = [*program, "image", "build", folder / "app.toml", "-o", folder / output]
        run(argv, env={"PYTHONPATH": PYTHONPATH})
    assert (folder / "nobody.tar").read_bytes() == (folder / "root.tar").read_bytes()
