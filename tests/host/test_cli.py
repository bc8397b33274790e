"""The `preloader` command as people and machines use it: what it prints, how it exits, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from preloader_agent import __version__
from preloader_agent.host.cli import main
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import find_tool, run, start
from tests import images
from tests.images import Image, Layer, Layout, SymlinkTo, make_layer, old_members, write_members
from tests.images.layer import file, whiteout

BOUND = 20.0  # seconds for what takes a fraction of one


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Preloader = Callable[..., Result]


@pytest.fixture
def preloader(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Preloader:
    """Runs the command with some arguments, in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*args: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["preloader", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGTERM, before)
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    return images.write_docker_archive([images.busybox_image()], tmp_path / "busybox.tar")


# --- what is printed ---


def test_build_says_what_is_on_the_disk(preloader: Preloader, archives: dict[Layout, Path], tmp_path: Path) -> None:
    output = tmp_path / "x.qcow2"
    result = preloader("build", archives["oci"], "-o", output)
    assert (result.status, result.err) == (0, "")
    first, heading, *rows = result.out.splitlines()
    size = r"[\d.]+ [kM]B"
    assert re.fullmatch(rf"{re.escape(str(output))}: label dpl-[0-9a-f]{{12}}, 5 images, 10 layers, {size}", first)
    assert heading.split() == ["IMAGE", "IMAGE", "ID", "PLATFORM", "LAYERS", "SIZE"]
    app = images.app_image()
    assert re.search(
        rf"^app:1 +{app.image_id[7:19]}  linux/{images.archive.ARCHITECTURE} +3 +{size}$", result.out, re.M
    )
    assert [row for row in rows if " " not in row] == list(app.references[1:]), "names that have no row of their own"
    assert any(row.startswith("<none>  ") for row in rows)
    assert preloader("inspect", output).out == result.out


def test_json_is_for_machines(preloader: Preloader, busybox: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.qcow2"
    built = preloader("build", "--json", busybox, "-o", output)
    inspected = preloader("inspect", "--json", output)
    assert (built.status, built.err, built.out) == (0, "", inspected.out)
    found = json.loads(built.out)
    index = inspect_disk(output)
    assert (found["disk"], found["label"], found["format"]) == (str(output), index.label, 1)
    assert [image["id"] for image in found["images"]] == [images.busybox_image().image_id]
    assert found["images"][0]["references"] == ["busybox:test"]
    assert found["images"][0]["platform"]["os"] == "linux"
    assert [layer["chain_id"] for layer in found["layers"]] == images.busybox_image().chain_ids


def test_version_and_help(preloader: Preloader) -> None:
    assert __version__ in preloader("--version").out
    result = preloader("build", "--help")
    assert result.status == 0
    assert "ARCHIVE..." in result.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["build", "-o", "x"], "Missing argument 'ARCHIVE...'"),
        (["build", "x.tar"], "Missing option '-o'"),
        (["inspect"], "Missing argument 'DISK'"),
        (["inspect", "--yaml", "x"], "No such option"),
        (["destroy"], "No such command 'destroy'"),
    ],
)
def test_wrong_usage(preloader: Preloader, args: list[str], problem: str) -> None:
    result = preloader(*args)
    assert result.status == 2
    assert problem in result.err
    assert not result.out


# --- archives that are none, or damaged ---


class Refusal(NamedTuple):
    """The archive to build from, and what must be said of it after its name."""

    archive: Path
    message: str


def app_members() -> dict[str, bytes | Layer | SymlinkTo]:
    return old_members([images.app_image()])


def changed_manifest(**changes: object) -> bytes:
    manifest = app_members()["manifest.json"]
    assert isinstance(manifest, bytes)
    return json.dumps([{**json.loads(manifest)[0], **changes}]).encode()


def layer_names() -> list[str]:
    manifest = app_members()["manifest.json"]
    assert isinstance(manifest, bytes)
    names: list[str] = json.loads(manifest)[0]["Layers"]
    return names


def config_name() -> str:
    return f"{images.app_image().image_id[7:]}.json"


def archive_of(folder: Path, **changes: bytes | Layer | SymlinkTo | None) -> Path:
    """An archive of the app image with some members replaced, or left out."""
    members = {name: member for name, member in {**app_members(), **changes}.items() if member is not None}
    return write_members(members, folder / "app.tar")


def nonexistent(folder: Path) -> Refusal:
    return Refusal(folder / "app.tar", "cannot be read: No such file or directory")


def folder_itself(folder: Path) -> Refusal:
    return Refusal(folder, "cannot be read: Is a directory")


def text(folder: Path) -> Refusal:
    (folder / "app.tar").write_text("FROM scratch\n" * 100)
    return Refusal(folder / "app.tar", r"not a sound tar file \(.*\); expected what `docker save` writes")


def empty_file(folder: Path) -> Refusal:
    (folder / "app.tar").touch()
    return Refusal(folder / "app.tar", r"not a sound tar file \(empty file\); expected what `docker save` writes")


def tar_of_something_else(folder: Path) -> Refusal:
    found = write_members({"etc/passwd": b"root:x:0:0::/:/bin/sh\n"}, folder / "app.tar")
    return Refusal(found, r"has no manifest\.json; expected what `docker save` writes")


def compressed(start: bytes, tool: str) -> Callable[[Path], Refusal]:
    def make(folder: Path) -> Refusal:
        (folder / "app.tar").write_bytes(start + bytes(1000))
        return Refusal(folder / "app.tar", f"is compressed with {tool}, which is not read yet; decompress it first")

    return make


def truncated(fraction: float) -> Callable[[Path], Refusal]:
    """The layer of busybox is most of the archive; where the cut is, decides what notices it first."""

    def make(folder: Path) -> Refusal:
        path = archive_of(folder)
        os.truncate(path, int(path.stat().st_size * fraction) // 512 * 512 + 100)
        return Refusal(path, r"(.*missing.*|not a sound tar file.*|.*truncated.*)")

    return make


def no_images(folder: Path) -> Refusal:
    return Refusal(archive_of(folder, **{"manifest.json": b"[]"}), "holds no image; save at least one")


def manifest_is_no_list(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": b'{"Config": "x"}'})
    return Refusal(path, r"manifest\.json is not a list of images, as `docker save` writes it")


def manifest_is_no_json(folder: Path) -> Refusal:
    return Refusal(archive_of(folder, **{"manifest.json": b"[{"}), r"manifest\.json is not valid JSON: .*")


def manifest_is_nested(folder: Path) -> Refusal:
    return Refusal(archive_of(folder, **{"manifest.json": b"[" * 100_000}), r"manifest\.json is not valid JSON: .*")


def manifest_names_numbers(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Layers=[1, 2, 3])})
    return Refusal(path, r"manifest\.json names a file 1; expected a path in the archive")


def layers_are_no_list(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Layers=7)})
    return Refusal(path, r"manifest\.json: Layers is 7; expected a list")


def tags_are_no_list(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(RepoTags="app:1")})
    return Refusal(path, r"manifest\.json: RepoTags is 'app:1'; expected a list")


def no_config_name(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Config=None)})
    return Refusal(path, r"manifest\.json names a file None; expected a path in the archive")


def invalid_tag(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(RepoTags=["Not A Tag"])})
    return Refusal(path, r"manifest\.json: Reference: expected an image reference such as name:tag, found 'Not A Tag'")


def too_few_layers(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Layers=layer_names()[:2])})
    return Refusal(path, rf"image {images.app_image().image_id[7:19]} has 3 layers, manifest\.json names 2")


def missing_layer(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(archive_of(folder, **{name: None}), rf"{name} is missing, though manifest\.json needs it; .*")


def missing_config(folder: Path) -> Refusal:
    return Refusal(archive_of(folder, **{config_name(): None}), rf"{config_name()} is missing, .*")


def layer_links_to_itself(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(archive_of(folder, **{name: SymlinkTo("layer.tar")}), rf"{name} is missing, .*")


def layer_links_out_of_the_archive(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(
        archive_of(folder, **{name: SymlinkTo("../../../etc/passwd")}), r"\.\./\.\./etc/passwd is missing, .*"
    )


def changed_config(folder: Path) -> Refusal:
    config = images.app_image().config_bytes.replace(b"/app/start", b"/app/evil!")
    path = archive_of(folder, **{config_name(): config})
    return Refusal(
        path, rf"image configuration {config_name()}: expected {config_name()[:64]}, found [0-9a-f]{{64}}; .*"
    )


def config_without_layers(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Config="c"), "c": b'{"os": "linux"}'})
    return Refusal(path, r"c is not an image configuration: rootfs\.diff_ids: .*")


def config_is_a_list(folder: Path) -> Refusal:
    path = archive_of(folder, **{"manifest.json": changed_manifest(Config="c"), "c": b"[1]"})
    return Refusal(path, r"c is not an image configuration: rootfs\.diff_ids: .*")


def wrong_diff_id(folder: Path) -> Refusal:
    name = layer_names()[1]
    other = make_layer([file("app/greeting", "changed\n")])
    expected = rf"layer {name}: expected {images.app_image().diff_ids[1]}, found {other.diff_id}; .*"
    return Refusal(archive_of(folder, **{name: other}), expected)


def layer_is_no_tar(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(
        archive_of(folder, **{name: b"This is not a tar file. " * 100}),
        rf"layer {name}: a tar header has a wrong checksum; the archive is damaged",
    )


def compressed_layer(folder: Path) -> Refusal:
    name = layer_names()[1]
    path = archive_of(folder, **{name: b"\x28\xb5\x2f\xfd" + bytes(600)})
    return Refusal(path, rf"layer {name}: is compressed with zstd, which is not read yet; decompress it first")


def damaged_gzip_layer(folder: Path) -> Refusal:
    name = layer_names()[1]
    path = archive_of(folder, **{name: b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(range(256))})
    return Refusal(path, rf"layer {name}: its gzip stream is damaged: .*")


def too_many_layers(folder: Path) -> Refusal:
    deep = Image(tuple(make_layer([file(f"f{n}")]) for n in range(126)), ("deep:1",))
    path = images.write_docker_archive([deep], folder / "app.tar")
    return Refusal(path, rf"{deep.image_id[7:]}\.json has 126 layers; docker takes at most 125")


def contradicting_layer(folder: Path) -> Refusal:
    odd = Image((make_layer([file("a"), whiteout("a")]),), ("odd:1",))
    path = images.write_docker_archive([odd], folder / "app.tar")
    return Refusal(path, r"layer \S+: '\.wh\.a' removes what the same layer adds, which dockerd refuses, too")


def large_attributes(folder: Path) -> Refusal:
    attributes = {f"user.{n}": bytes(1000) for n in range(5)}
    odd = Image((make_layer([file("a").having(**attributes)]),), ("odd:1",))
    path = images.write_docker_archive([odd], folder / "app.tar")
    return Refusal(path, r"layer \S+: 'a' has \d+ bytes of xattrs, at most \d+ fit on ext4")


REFUSALS = (
    nonexistent,
    folder_itself,
    text,
    empty_file,
    tar_of_something_else,
    compressed(b"\x1f\x8b\x08", "gzip"),
    compressed(b"\x28\xb5\x2f\xfd", "zstd"),
    compressed(b"\xfd7zXZ\0", "xz"),
    compressed(b"BZh9", "bzip2"),
    truncated(0.01),
    truncated(0.5),
    truncated(0.99),
    no_images,
    manifest_is_no_list,
    manifest_is_no_json,
    manifest_is_nested,
    manifest_names_numbers,
    layers_are_no_list,
    tags_are_no_list,
    no_config_name,
    invalid_tag,
    too_few_layers,
    missing_layer,
    missing_config,
    layer_links_to_itself,
    layer_links_out_of_the_archive,
    changed_config,
    config_without_layers,
    config_is_a_list,
    wrong_diff_id,
    layer_is_no_tar,
    compressed_layer,
    damaged_gzip_layer,
    too_many_layers,
    contradicting_layer,
    large_attributes,
)


@pytest.mark.parametrize("make", REFUSALS)
def test_bad_archive(preloader: Preloader, tmp_path: Path, make: Callable[[Path], Refusal]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    existing = tmp_path / "out" / "x.qcow2"
    existing.write_text("an older disk")
    refusal = make(tmp_path / "in")
    result = preloader("build", refusal.archive, "-o", existing)
    assert re.fullmatch(rf"preloader: {re.escape(str(refusal.archive))}: {refusal.message}\n", result.err)
    assert (result.status, result.out) == (2, "")
    assert existing.read_text() == "an older disk"
    assert list(existing.parent.iterdir()) == [existing]


def test_two_archives_with_one_tag(preloader: Preloader, tmp_path: Path) -> None:
    one, two = (Image((make_layer([file("f", text)]),), ("app:1",)) for text in ("one", "two"))
    first = images.write_docker_archive([one], tmp_path / "one.tar")
    second = images.write_docker_archive([two], tmp_path / "two.tar")
    result = preloader("build", first, second, "-o", tmp_path / "x.qcow2")
    assert result.status == 2
    assert result.err == (
        f"preloader: {second}: app:1 names image {two.image_id[7:19]} here, and {one.image_id[7:19]} in {first}; "
        "tag one of them anew, or put them on two disks\n"
    )
    assert not (tmp_path / "x.qcow2").exists()


# --- outputs that cannot be written ---


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("missing/x.qcow2", "a file in a directory that exists"),
        ("busybox.tar/x.qcow2", "a file in a directory that exists"),
        (".", "a file's name, such as disk.qcow2"),
        ("/dev/null", "a file's name, such as disk.qcow2"),
        ("busybox.tar", "another file than the archive that is read"),
    ],
)
def test_bad_output(preloader: Preloader, busybox: Path, tmp_path: Path, output: str, problem: str) -> None:
    before = busybox.read_bytes()
    result = preloader("build", busybox, "-o", tmp_path / output)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"preloader: output: expected {problem}, found {str(tmp_path / output)!r}\n"
    assert list(tmp_path.iterdir()) == [busybox]
    assert busybox.read_bytes() == before


# --- disks that are none ---


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no ext4 file system; expected a disk made by `preloader build`"),
        (b"This is not a disk.\n", "holds no ext4 file system; expected a disk made by `preloader build`"),
        (bytes(1 << 20), "holds no ext4 file system; expected a disk made by `preloader build`"),
        (b"QFI\xfb" + bytes(1 << 16), "is no sound qcow2 image: .*"),
        (struct.pack(">4sIQ", b"QFI\xfb", 3, 512) + bytes(1 << 16), "keeps its data in another file; flatten it .*"),
    ],
)
def test_inspect_of_what_is_no_disk(preloader: Preloader, tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x").write_bytes(content)
    result = preloader("inspect", tmp_path / "x")
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(rf"preloader: {re.escape(str(tmp_path / 'x'))}: {problem}\n", result.err)


@pytest.mark.parametrize(("name", "problem"), [("missing", "No such file or directory"), (".", "Is a directory")])
def test_inspect_of_what_is_no_file(preloader: Preloader, tmp_path: Path, name: str, problem: str) -> None:
    result = preloader("inspect", tmp_path / name)
    assert result == (2, "", f"preloader: {tmp_path / name}: cannot be read: {problem}\n")


def make_ext4(folder: Path, label: str, *, index: bytes | None) -> Path:
    """A small file system of somebody else's."""
    (folder / "tree").mkdir()
    if index is not None:
        (folder / "tree" / "preload.json").write_bytes(index)
    mke2fs = find_tool("mke2fs", "install e2fsprogs")
    run([mke2fs, "-q", "-F", "-t", "ext4", "-L", label, "-d", folder / "tree", folder / "x.raw", "2M"])
    return folder / "x.raw"


def test_inspect_of_somebody_elses_file_system(preloader: Preloader, tmp_path: Path) -> None:
    raw = make_ext4(tmp_path, "root", index=None)
    expected = f"preloader: {raw}: has no preload.json; expected a disk made by `preloader build`\n"
    assert preloader("inspect", raw) == (2, "", expected)


def test_inspect_of_a_disk_of_the_future(preloader: Preloader, tmp_path: Path) -> None:
    raw = make_ext4(tmp_path, "dpl-0123456789ab", index=b'{"format": 2}')
    expected = f"preloader: {raw}: disk format 2, this version reads format 1: update docker-preloader\n"
    assert preloader("inspect", raw) == (2, "", expected)


def test_inspect_of_a_disk_with_another_label(preloader: Preloader, raw_disk: Path, tmp_path: Path) -> None:
    raw = tmp_path / "x.raw"
    raw.write_bytes(raw_disk.read_bytes())
    run(["tune2fs", "-L", "dpl-000000000000", raw])
    result = preloader("inspect", raw)
    assert result.status == 2
    label = inspect_disk(raw_disk).label
    assert result.err == f"preloader: {raw}: is labelled 'dpl-000000000000', its content says {label}\n"


# --- tools that are missing or too old ---


def stub(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


VERSION = '[ "$1" != -V ] || { echo "mke2fs %s (5-Feb-2023)" >&2; exit; }\n'


@pytest.mark.parametrize("version", ["1.47.0", "1.46.6", "1.4"])
def test_old_e2fsprogs(
    preloader: Preloader, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("PATH", f"{stub(tmp_path / 'bin', 'mke2fs', VERSION % version)}:{os.environ['PATH']}")
    result = preloader("build", busybox, "-o", tmp_path / "x.qcow2")
    message = (
        f"preloader: e2fsprogs {version} is too old, 1.47.1 with libarchive is needed: on Debian 12: enable "
        "bookworm-backports, then `apt install -t bookworm-backports e2fsprogs`; Debian 13 and Ubuntu 25.04 have it\n"
    )
    assert result == (1, "", message)
    assert not (tmp_path / "x.qcow2").exists()


def test_e2fsprogs_without_libarchive(
    preloader: Preloader, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = VERSION % "1.47.2" + "echo 'you need libarchive to be able to process tarballs' >&2; exit 1"
    monkeypatch.setenv("PATH", f"{stub(tmp_path / 'bin', 'mke2fs', script)}:{os.environ['PATH']}")
    result = preloader("build", busybox, "-o", tmp_path / "x.qcow2")
    message = (
        "preloader: libarchive is not installed: mke2fs 1.47.2 needs it to read a tar stream; "
        "`apt install libarchive13` (Debian 12) or `libarchive13t64` (Debian 13, Ubuntu)\n"
    )
    assert result == (1, "", message)


def test_newer_e2fsprogs_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preloader_agent.host.e2fsprogs import check_version  # noqa: PLC0415 - the rest of the module is the command

    for version in ("1.47.1", "1.48", "1.50.0", "2.0-WIP"):
        monkeypatch.setenv("PATH", f"{stub(tmp_path / 'bin', 'mke2fs', VERSION % version)}:{os.environ['PATH']}")
        assert check_version() == version.removesuffix("-WIP")


def test_missing_qemu_img(preloader: Preloader, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a PATH with nothing but what comes before it; a machine without e2fsprogs is told of those first."""
    monkeypatch.setenv("PATH", str(stub(tmp_path / "bin", "mke2fs", VERSION % "1.47.2")))
    result = preloader("build", busybox, "-o", tmp_path / "x.qcow2")
    assert result == (1, "", "preloader: qemu-img is not installed: `apt install qemu-utils`\n")


def test_file_size_limit(busybox: Path, tmp_path: Path) -> None:
    """mke2fs dies of a signal then, without a word."""
    (tmp_path / "out").mkdir()
    argv = [sys.executable, "-c", "from preloader_agent.host.cli import main; main()", "build", str(busybox)]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = tmp_path / "out" / "x.qcow2"
    log = run(["prlimit", "--fsize=2000000", *argv, "-o", output], env=path, ok=(1,), with_stderr=True)
    assert re.fullmatch(
        rf"preloader: {output}: no space left, or a limit reached; up to \d+ MB are needed there .*\n",
        log,
    )
    assert list((tmp_path / "out").iterdir()) == []


# --- interrupted ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_build_leaves_nothing(busybox: Path, tmp_path: Path, number: signal.Signals) -> None:
    """mke2fs tells that it has begun, and reads nothing, so that the build stands in the middle of its stream."""
    os.mkfifo(tmp_path / "begun")
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    output = tmp_path / "out" / "x.qcow2"
    output.write_text("an older disk")
    script = VERSION % "1.47.2" + f'case "$*" in *probe*) exit 0;; esac\necho >{tmp_path}/begun; exec sleep 1000'
    tools = stub(tmp_path / "bin", "mke2fs", script)
    command = "from preloader_agent.host.cli import main; main()"
    environment = [
        f"PATH={tools}:{os.environ['PATH']}",
        f"TMPDIR={tmp_path / 'tmp'}",
        f"PYTHONPATH={':'.join(sys.path)}",
    ]
    with (tmp_path / "log").open("wb") as log:
        process = start(
            ["env", *environment, sys.executable, "-c", command, "build", str(busybox), "-o", str(output)], log=log
        )
        try:
            (tmp_path / "begun").read_text()
            assert len(list((tmp_path / "out").iterdir())) == 2
            process.send_signal(number)
            assert process.wait(BOUND) == 130
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "log").read_text().lstrip("\n") == "preloader: interrupted; nothing was written\n"
    assert output.read_text() == "an older disk"
    assert list((tmp_path / "out").iterdir()) == [output]
    assert list((tmp_path / "tmp").iterdir()) == []
