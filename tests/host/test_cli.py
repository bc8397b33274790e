"""The `preloader` command as people and machines use it: what it prints, how it exits, and what it leaves behind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from preloader_agent import __version__
from preloader_agent.host.disk import build_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import find_tool, run, start
from tests import images
from tests.host.command import COMMAND, PYTHONPATH, SIGNALS, Preloader
from tests.host.conftest import convert_to_raw, wait_until_it_waits
from tests.images import Image, Layer, Layout, SymlinkTo, make_layer, old_members, write_members
from tests.images.layer import Entry, file, whiteout
from tests.images.oci import COMPRESSORS, OciLayout, on

BOUND = 20.0  # seconds for what takes a fraction of one


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
    assert "INPUT..." in result.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["build", "-o", "x"], "Missing argument 'INPUT...'"),
        (["build", "x.tar"], "Missing option '-o'"),
        (["build", "--compress", "gzip", "x.tar", "-o", "x"], "'gzip' is not 'zstd'"),
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


# --- what a user can choose ---


def references(output: Path) -> dict[str, tuple[str, ...]]:
    """The names of each image of a disk, by the first digits of its ID."""
    return {image.image_id.hex[:12]: image.references for image in inspect_disk(output).images}


def test_new_names(preloader: Preloader, tmp_path: Path) -> None:
    named, unnamed = images.busybox_image(), images.untagged_image()
    archive = images.write_docker_archive([named, unnamed], tmp_path / "x.tar")
    by_name, by_id, none = ("--tag", "b=busybox:test"), ("--tag", f"u:1={unnamed.image_id[7:19]}"), ("--name", "n")
    result = preloader("build", archive, "-o", tmp_path / "x.qcow2", *by_name, *by_id, *none)
    assert (result.status, result.err) == (0, "")
    expected = {named.image_id[7:19]: ("b:latest", "busybox:test"), unnamed.image_id[7:19]: ("n:latest", "u:1")}
    assert references(tmp_path / "x.qcow2") == expected


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (["--tag", "new"], "--tag: expected NEW=OLD, such as app:1=0123456789ab, found 'new'"),
        (["--tag", "B:1=busybox:test"], "Reference: expected an image reference such as name:tag, found 'B:1'"),
        (
            ["--tag", "new=other:1"],
            "--tag new:latest=other:1: expected one of: busybox:test, found 'no image matches .*'",
        ),
        (
            ["--name", "new"],
            "--name new:latest: expected one of: busybox:test, found 'no image matches an image with.*'",
        ),
        (["--platform", "arm64"], "--platform: expected OS/ARCH.*, such as linux/arm64, found 'arm64'"),
    ],
)
def test_names_and_platforms_that_are_none(
    preloader: Preloader, busybox: Path, tmp_path: Path, option: list[str], problem: str
) -> None:
    result = preloader("build", busybox, "-o", tmp_path / "x.qcow2", *option)
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(f"preloader: {problem}\n", result.err)
    assert list(tmp_path.iterdir()) == [busybox]


def test_platform_of_an_index(preloader: Preloader, tmp_path: Path) -> None:
    layout, busybox = OciLayout(), images.busybox_image()
    manifests = [on(name, layout.image(busybox, platform=name)) for name in ("linux/amd64", "linux/arm64")]
    archive = layout.add(layout.index(manifests), name="busybox:two").write_tar(tmp_path / "x.tar")
    for platform in ("linux/amd64", "linux/arm64"):
        output = tmp_path / platform.replace("/", "-")
        assert preloader("build", archive, "-o", output, "--platform", platform).status == 0
        (image,) = inspect_disk(output).images
        assert str(image.platform) == platform


def test_compressed_disk(preloader: Preloader, busybox: Path, tmp_path: Path) -> None:
    plain, compressed = tmp_path / "plain.qcow2", tmp_path / "zstd.qcow2"
    first = preloader("build", busybox, "-o", plain)
    second = preloader("build", busybox, "-o", compressed, "--compress", "zstd")
    assert (second.status, second.err) == (0, "")
    assert second.out.splitlines()[1:] == first.out.splitlines()[1:]
    assert compressed.stat().st_size < plain.stat().st_size * 0.7


def test_a_disk_that_is_there_already(preloader: Preloader, busybox: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.qcow2"
    first = preloader("build", busybox, "-o", output)
    inode = output.stat().st_ino
    note = f"preloader: {output} holds these images already, nothing was written (--force does)\n"
    assert preloader("build", busybox, "-o", output) == (0, first.out, note)
    again = preloader("build", "--json", busybox, "-o", output)
    assert (again.status, again.err) == (0, note)
    assert json.loads(again.out)["label"] == inspect_disk(output).label
    assert output.stat().st_ino == inode
    assert preloader("build", "--force", busybox, "-o", output) == first
    assert output.stat().st_ino != inode


# --- archives that are none, or damaged ---


EXPECTED = "expected what `docker save` writes, or an OCI image layout"


class Refusal(NamedTuple):
    """The archive to build from, and what must be said of it after its name."""

    archive: Path
    message: str


@cache
def app() -> Image:
    """Three layers, of which the first is most of the archive."""
    entries = (file("app/noise", random.Random(0).randbytes(300_000)), file("app/greeting", "hello\n"), file("app/end"))
    return Image(tuple(make_layer([entry]) for entry in entries), ("app:1",), {"Cmd": ["/app/start"]})


def app_members() -> dict[str, bytes | Layer | SymlinkTo]:
    return old_members([app()])


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
    return f"{app().image_id[7:]}.json"


def archive_of(folder: Path, **changes: bytes | Layer | SymlinkTo | None) -> Path:
    """An archive of the app image with some members replaced, or left out."""
    members = {name: member for name, member in {**app_members(), **changes}.items() if member is not None}
    return write_members(members, folder / "app.tar")


def nonexistent(folder: Path) -> Refusal:
    return Refusal(folder / "app.tar", "cannot be read: No such file or directory")


def folder_itself(folder: Path) -> Refusal:
    return Refusal(folder, f"has neither manifest.json nor index.json; {EXPECTED}")


def text(folder: Path) -> Refusal:
    (folder / "app.tar").write_text("FROM scratch\n" * 100)
    return Refusal(folder / "app.tar", rf"not a sound tar file \(.*\); {EXPECTED}")


def empty_file(folder: Path) -> Refusal:
    (folder / "app.tar").touch()
    return Refusal(folder / "app.tar", rf"not a sound tar file \(empty file\); {EXPECTED}")


def tar_of_something_else(folder: Path) -> Refusal:
    found = write_members({"etc/passwd": b"root:x:0:0::/:/bin/sh\n"}, folder / "app.tar")
    return Refusal(found, rf"has neither manifest\.json nor index\.json; {EXPECTED}")


def damaged_stream(compress: Callable[[bytes], bytes]) -> Callable[[Path], Refusal]:
    """Half of its bytes are others; what notices it first depends on the format."""

    def make(folder: Path) -> Refusal:
        content = bytearray(compress(archive_of(folder).read_bytes()))
        content[100:-100:2] = bytes(len(content[100:-100:2]))
        (folder / "app.tar").write_bytes(content)
        return Refusal(
            folder / "app.tar", r"(its compressed stream is damaged: .*; get it again|not a sound tar file .*)"
        )

    return make


def truncated(fraction: float) -> Callable[[Path], Refusal]:
    """Where the cut is, decides what notices it first."""

    def make(folder: Path) -> Refusal:
        path = archive_of(folder)
        os.truncate(path, int(path.stat().st_size * fraction) // 512 * 512 + 100)
        return Refusal(path, r"(.*missing.*|not a sound tar file.*|.*truncated.*)")

    return make


def truncated_stream(folder: Path) -> Refusal:
    path = archive_of(folder)
    path.write_bytes(COMPRESSORS["gzip"](path.read_bytes())[:-100])
    return Refusal(path, r"(layer \S+: )?its compressed stream is damaged: .*; get it again")


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
    return Refusal(path, rf"image {app().image_id[7:19]} has 3 layers, its manifest names 2")


def missing_layer(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(archive_of(folder, **{name: None}), rf"{name} is missing, though an image needs it; .*")


def missing_config(folder: Path) -> Refusal:
    return Refusal(archive_of(folder, **{config_name(): None}), rf"{config_name()} is missing, .*")


def layer_links_to_itself(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(archive_of(folder, **{name: SymlinkTo("layer.tar")}), rf"{name} is missing, .*")


def layer_links_out_of_the_archive(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(archive_of(folder, **{name: SymlinkTo("../../../etc/passwd")}), rf"{name} is missing, .*")


def changed_config(folder: Path) -> Refusal:
    config = app().config_bytes.replace(b"/app/start", b"/app/evil!")
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
    expected = rf"layer {name}: expected {app().diff_ids[1]}, found {other.diff_id}; .*"
    return Refusal(archive_of(folder, **{name: other}), expected)


def layer_is_no_tar(folder: Path) -> Refusal:
    name = layer_names()[1]
    return Refusal(
        archive_of(folder, **{name: b"This is not a tar file. " * 100}),
        rf"layer {name}: a tar header has a wrong checksum; the archive is damaged",
    )


def damaged_gzip_layer(folder: Path) -> Refusal:
    name = layer_names()[1]
    path = archive_of(folder, **{name: b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(range(256))})
    return Refusal(path, rf"layer {name}: its compressed stream is damaged: .*; get it again")


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
    return Refusal(path, r"layer \S+: 'a' has 5000 bytes of xattrs; ext4 holds about 4000")


REFUSALS = (
    nonexistent,
    folder_itself,
    text,
    empty_file,
    tar_of_something_else,
    damaged_stream(COMPRESSORS["gzip"]),
    damaged_stream(COMPRESSORS["zstd"]),
    damaged_stream(COMPRESSORS["xz"]),
    damaged_stream(COMPRESSORS["bzip2"]),
    truncated_stream,
    truncated(0.01),
    truncated(0.5),
    truncated(0.95),
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
        "tag one of them anew, or keep them apart\n"
    )
    assert not (tmp_path / "x.qcow2").exists()


# --- outputs that cannot be written ---


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("missing/x.qcow2", "a file in a directory that exists"),
        ("busybox.tar/x.qcow2", "a file in a directory that exists"),
        ("/dev/null", "a file's name, such as disk.qcow2, or a directory"),
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


# --- disks that are verified ---


def test_verify_of_a_sound_disk(preloader: Preloader, disk: Path) -> None:
    result = preloader("verify", disk)
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(rf"{disk}: 5 images, 10 layers, \d+ files, [\d.]+ MB checked: sound\n", result.out)
    found = json.loads(preloader("verify", "--json", disk).out)
    assert (found["disk"], found["is_sound"], found["faults"], found["notes"]) == (str(disk), True, [], [])
    assert (found["images"], found["layers"]) == (5, 10)
    assert found["bytes"] > found["files"] > 10


def test_verify_of_a_damaged_disk(preloader: Preloader, raw_disk: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "x"
    damaged.write_bytes(raw_disk.read_bytes().replace(b"hello from app", b"hallo from app"))
    result = preloader("verify", damaged)
    assert (result.status, result.err) == (1, "")
    fault, verdict = result.out.splitlines()
    assert re.fullmatch("/overlay2/[0-9a-f]{64}/diff/app/greeting: its content is damaged: .*", fault)
    assert verdict.endswith(" checked: 1 fault, build the disk again")
    as_json = preloader("verify", "--json", damaged)
    found = json.loads(as_json.out)
    assert (as_json.status, found["is_sound"]) == (1, False)
    assert [f"{item['path']}: {item['problem']}" for item in found["faults"]] == [fault]


def test_verify_of_what_docker_cannot_save(preloader: Preloader, tmp_path: Path) -> None:
    layer = make_layer([Entry(name=b"d/.wh.x", data=b"data of a whiteout")])
    preloader("build", images.write_docker_archive([Image((layer,))], tmp_path / "x.tar"), "-o", tmp_path / "x.qcow2")
    result = preloader("verify", tmp_path / "x.qcow2")
    assert (result.status, result.err) == (0, "")
    note, verdict = result.out.splitlines()
    assert re.fullmatch("note: /overlay2/[0-9a-f]{64}/diff/d/.wh.x: .* docker cannot save the layer.*", note)
    assert verdict.endswith(": sound")


def test_verify_of_what_is_no_disk(preloader: Preloader, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))
    problem = "holds no ext4 file system; expected a disk made by `preloader build`"
    assert preloader("verify", tmp_path / "x") == (2, "", f"preloader: {tmp_path}/x: {problem}\n")


# --- a tool that is missing, no room ---


def stub(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder


def test_missing_qemu_img(preloader: Preloader, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = preloader("build", busybox, "-o", tmp_path / "x.qcow2")
    assert result == (1, "", "preloader: qemu-img is not installed: `apt install qemu-utils`\n")
    assert list(tmp_path.iterdir()) == [busybox]


def test_qemu_img_that_fails(
    preloader: Preloader, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = stub(tmp_path / "bin", "qemu-img", "echo 'qemu-img: out of sorts' >&2; exit 3")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tmp_path / "out").mkdir()
    result = preloader("build", busybox, "-o", tmp_path / "out" / "x.qcow2")
    assert (result.status, result.out) == (1, "")
    assert re.fullmatch(r"preloader: qemu-img convert .*: exit status 3: qemu-img: out of sorts\n", result.err)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stage", ["content", "disk"])
def test_file_size_limit(busybox: Path, tmp_path: Path, stage: str) -> None:
    """Where content is written, it is an error; qemu-img dies of a signal, without a word."""
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "x.qcow2"
    limit = 100_000 if stage == "content" else size_of_raw_disk(busybox, tmp_path)
    argv: list[str | Path] = ["prlimit", f"--fsize={limit}", *COMMAND, "build", busybox, "-o", output]
    log = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(1,), with_stderr=True)
    assert log == (
        f"preloader: {output}: no space left, or a limit reached; up to three times its size is needed there while it "
        "is made: free some, or write it elsewhere\n"
    )
    assert list((tmp_path / "out").iterdir()) == []


def size_of_raw_disk(archive: Path, folder: Path) -> int:
    build_disk([archive], folder / "x.qcow2")
    return convert_to_raw(folder / "x.qcow2").stat().st_size


# --- interrupted ---


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A disk that is there already, in a folder of its own."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "x.qcow2"
    path.write_text("an older disk")
    return path


@contextmanager
def building(
    source: Path, output: Path, *, path: Path | None = None, stdin: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A build in a process of its own, with another folder on its PATH and another standard input."""
    folder = output.parent.parent
    (folder / "tmp").mkdir()
    environment = [
        f"PATH={':'.join(map(str, filter(None, [path, os.environ['PATH']])))}",
        f"TMPDIR={folder / 'tmp'}",
        f"PYTHONPATH={PYTHONPATH}",
    ]
    redirected = ["sh", "-c", f'exec "$@" <{stdin or os.devnull}', "sh", *COMMAND]
    with (folder / "log").open("wb") as log:
        process = start(["env", *environment, *redirected, "build", source, "-o", output], log=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_interrupted(process: subprocess.Popen[bytes], output: Path) -> None:
    folder = output.parent.parent
    assert process.wait(BOUND) == 130
    assert list(output.parent.iterdir()) == [output]
    assert (folder / "log").read_text().lstrip("\n") == "preloader: interrupted; nothing was written\n"
    assert output.read_text() == "an older disk"
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_before_the_first_byte(output: Path, tmp_path: Path, number: signal.Signals) -> None:
    os.mkfifo(tmp_path / "input")
    with building(tmp_path / "input", output) as process, (tmp_path / "input").open("wb", buffering=0):
        assert len(list(output.parent.iterdir())) == 2
        process.send_signal(number)
        assert_interrupted(process, output)


@pytest.mark.parametrize("source", ["pipe", "compressed pipe", "standard input", "program"])
def test_interrupted_while_a_layer_does_not_come(busybox: Path, output: Path, tmp_path: Path, source: str) -> None:
    """A thread waits for it, and cannot be woken."""
    content = busybox.read_bytes()
    if source == "compressed pipe":
        content = COMPRESSORS["gzip"](content)
    os.mkfifo(tmp_path / "pipe")
    program = stub(tmp_path / "bin", "program", f"cat {tmp_path}/pipe") / "program"
    argument = {"standard input": Path("-"), "program": program}.get(source, tmp_path / "pipe")
    stdin = tmp_path / "pipe" if source == "standard input" else None
    with building(argument, output, stdin=stdin) as process, (tmp_path / "pipe").open("wb", buffering=0) as pipe:
        pipe.write(content[: len(content) // 2])  # returns when all but what a pipe holds is read
        assert len(list(output.parent.iterdir())) == 2
        process.send_signal(signal.SIGTERM)
        assert_interrupted(process, output)


@contextmanager
def converting(source: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A build that waits for qemu-img."""
    folder = output.parent.parent
    os.mkfifo(folder / "begun")
    tools = stub(folder / "bin", "qemu-img", f"echo >{folder}/begun; exec sleep 1000")
    with building(source, output, path=tools) as process:
        (folder / "begun").read_text()
        assert len(list(output.parent.iterdir())) == 2
        wait_until_it_waits(process)
        yield process


def test_interrupted_while_the_disk_is_written(busybox: Path, output: Path) -> None:
    with converting(busybox, output) as process:
        process.send_signal(signal.SIGINT)
        assert_interrupted(process, output)


def test_interrupted_again_and_again(busybox: Path, output: Path) -> None:
    """What removes the unfinished disk is not interrupted."""
    with converting(busybox, output) as process:
        while len(list(output.parent.iterdir())) == 2:
            for number in SIGNALS:
                process.send_signal(number)
        assert_interrupted(process, output)


def test_paths_that_cannot_even_be_looked_at(preloader: Preloader, busybox: Path, tmp_path: Path) -> None:
    long = "x" * 300
    expected = (2, "", f"preloader: {long}: cannot be read: File name too long\n")
    assert preloader("build", long, "-o", tmp_path / "x.qcow2") == expected
    expected = (1, "", f"preloader: {tmp_path / long}: File name too long\n")
    assert preloader("build", busybox, "-o", tmp_path / long) == expected


def test_full_standard_output(raw_disk: Path) -> None:
    inspecting: list[str | Path] = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND, "inspect", raw_disk]
    log = run(inspecting, env={"PYTHONPATH": PYTHONPATH}, ok=(1,), with_stderr=True)
    assert log == "preloader: standard output: No space left on device\n"
