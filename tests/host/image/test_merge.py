"""Archives become one archive: all images, each layer once, the same bytes whatever they are read from."""

from __future__ import annotations

import os
import signal
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from preloader_agent.host.disk import build_disk
from preloader_agent.host.image.merge import merge_archives
from preloader_agent.host.image.sources import ReadOptions
from preloader_agent.host.run import run, start
from tests import images
from tests.host.command import COMMAND, PYTHONPATH, Preloader
from tests.host.conftest import wait_until_it_waits
from tests.images import Image, make_layer, write_docker_archive, write_members
from tests.images.archive import old_members
from tests.images.layer import file
from tests.images.oci import COMPRESSORS, OciLayout

BOUND = 20.0  # seconds for what takes a fraction of one
OLDER = "an older archive"


@pytest.fixture
def merged(preloader: Preloader, app_archive: Path, edge_archive: Path, tmp_path: Path) -> Path:
    """Both archives in one."""
    result = preloader("image", "merge", app_archive, edge_archive, "-o", tmp_path / "merged.tar")
    assert result.status == 0, result.err
    return tmp_path / "merged.tar"


def test_a_disk_of_it_is_the_disk_of_all(merged: Path, app_archive: Path, edge_archive: Path, tmp_path: Path) -> None:
    build_disk([merged], tmp_path / "x.qcow2")
    build_disk([app_archive, edge_archive], tmp_path / "y.qcow2")
    assert (tmp_path / "x.qcow2").read_bytes() == (tmp_path / "y.qcow2").read_bytes()


def test_what_is_printed(preloader: Preloader, app_archive: Path, edge_archive: Path, tmp_path: Path) -> None:
    result = preloader("image", "merge", edge_archive, app_archive, "-o", tmp_path / "x.tar")
    assert result.err == ""
    first, *table = result.out.splitlines()
    assert first == f"{tmp_path}/x.tar: 3 images, 8 layers"
    assert table == preloader("image", "list", tmp_path / "x.tar").out.splitlines()


def oci_folder(path: Path, compression: str) -> Path:
    layout = OciLayout()
    for image in (images.app_image(), images.edge_image(), images.untagged_image()):
        descriptor = layout.image(image, compression)
        for reference in image.references or ("",):
            layout.add(descriptor, **({"name": reference} if reference else {}))
    return layout.write_folder(path)


def test_the_same_images_are_the_same_bytes(
    preloader: Preloader, merged: Path, app_archive: Path, edge_archive: Path, tmp_path: Path
) -> None:
    """Whatever they are read from, in whichever order, under any umask and in any folder, at another time."""
    expected = merged.read_bytes()
    other = tmp_path / "other folder"
    other.mkdir()
    (other / "app.tar.zst").write_bytes(COMPRESSORS["zstd"](app_archive.read_bytes()))
    inputs: Sequence[Sequence[Path]] = [
        [edge_archive, other / "app.tar.zst"],
        [merged],
        [oci_folder(other / "layout", "gzip")],
    ]
    for given in inputs:
        umask = os.umask(0o077)
        try:
            assert preloader("image", "merge", *given, "-o", other / "x.tar").status == 0
        finally:
            os.umask(umask)
        assert (other / "x.tar").read_bytes() == expected
    assert stat.S_IMODE((other / "x.tar").stat().st_mode) == 0o600
    assert stat.S_IMODE(merged.stat().st_mode) == 0o666 & ~umask


def test_layers_stand_once_and_are_not_compressed(merged: Path) -> None:
    with tarfile.open(merged) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    layers = {layer for image in (images.app_image(), images.edge_image()) for layer in image.diff_ids}
    assert {f"blobs/sha256/{layer.removeprefix('sha256:')}" for layer in layers} < set(names)


def test_a_stream(app_archive: Path, edge_archive: Path, merged: Path, tmp_path: Path) -> None:
    """From standard input to standard output, with nothing else on either."""
    argv = ["sh", "-c", 'edge=$1 app=$2 out=$3; shift 3; exec "$@" "$edge" - -o - <"$app" >"$out"', "sh"]
    command = [*COMMAND, "image", "merge"]
    said = run(
        [*argv, edge_archive, app_archive, tmp_path / "x.tar", *command],
        env={"PYTHONPATH": PYTHONPATH, "TMPDIR": str(tmp_path)},
        with_stderr=True,
    )
    assert said == ""
    assert (tmp_path / "x.tar").read_bytes() == merged.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"merged.tar", "x.tar"}


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An archive that is there already, in a folder of its own."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "x.tar"
    path.write_text(OLDER)
    return path


def assert_untouched(output: Path) -> None:
    assert [(path, path.read_text()) for path in output.parent.iterdir()] == [(output, OLDER)]


def test_an_image_that_is_in_two(preloader: Preloader, app_archive: Path, output: Path, tmp_path: Path) -> None:
    again = write_docker_archive([images.app_image()], tmp_path / "again.tar", "oci")
    result = preloader("image", "merge", app_archive, again, "-o", output)
    where = f"is in {app_archive} and in {again}; give it once"
    assert result == (2, "", f"preloader: {again}: image app:1 {where}\n")
    assert_untouched(output)


def test_a_name_of_two_images(preloader: Preloader, app_archive: Path, output: Path, tmp_path: Path) -> None:
    other = Image((make_layer([file("other", "x")]),), ("app:1",))
    given = write_docker_archive([other], tmp_path / "other.tar")
    result = preloader("image", "merge", app_archive, given, "-o", output)
    assert (result.status, result.out) == (2, "")
    assert "app:1 names image" in result.err
    assert_untouched(output)


def damaged(path: Path, way: str) -> Path:
    """An archive in which something is not as it should be."""
    image = Image((make_layer([file("a", "x" * 20_000)]),), ("small:1",))
    if way == "digest":
        other = Image((make_layer([file("a", "y" * 20_000)]),), ("small:1",))
        (name,) = (name for name in old_members([image]) if name.endswith("/layer.tar"))
        return write_members({**old_members([image]), name: other.layers[0]}, path)
    if way == "no layer":
        (name,) = (name for name in old_members([image]) if name.endswith("/layer.tar"))
        return write_members({**old_members([image]), name: b"x" * 2000}, path)
    content = write_docker_archive([image], path).read_bytes()
    path.write_bytes({"truncated": content[:12_000], "empty": b"", "no tar": b"This is no archive.\n" * 100}[way])
    return path


@pytest.mark.parametrize("command", ["merge", "export"])
@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("truncated", "not a sound tar file (unexpected end of data)"),
        ("empty", "not a sound tar file (empty file)"),
        ("no tar", "not a sound tar file"),
        ("digest", "the content was damaged or changed"),
        ("no layer", "a tar header has a wrong checksum; the archive is damaged"),
    ],
)
def test_bad_archives(
    preloader: Preloader, output: Path, tmp_path: Path, command: str, *, way: str, problem: str
) -> None:
    archive = damaged(tmp_path / "bad.tar", way)
    result = preloader("image", command, archive, "-o", output)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"preloader: {archive}: ")
    assert problem in result.err
    assert_untouched(output)


def test_missing_archive(preloader: Preloader, output: Path, tmp_path: Path) -> None:
    result = preloader("image", "merge", tmp_path / "none.tar", "-o", output)
    assert result == (2, "", f"preloader: {tmp_path}/none.tar: cannot be read: No such file or directory\n")
    assert_untouched(output)


@pytest.mark.parametrize("command", ["merge", "export"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("app.tar", "another file than the archive that is read"),
        ("symlink", "another file than the archive that is read"),
        (".", "a file's name, such as image.tar"),
        ("fifo", "a file's name, such as image.tar"),
        ("none/x.tar", "a file in a directory that exists"),
        ("app.tar/x.tar", "a file in a directory that exists"),
    ],
)
def test_bad_outputs(
    preloader: Preloader, app_archive: Path, tmp_path: Path, command: str, *, name: str, problem: str
) -> None:
    archive = tmp_path / "app.tar"
    archive.write_bytes(app_archive.read_bytes())
    (tmp_path / "symlink").symlink_to(archive)
    os.mkfifo(tmp_path / "fifo")
    result = preloader("image", command, archive, "-o", tmp_path / name)
    assert result == (2, "", f"preloader: output: expected {problem}, found {str(tmp_path / name)!r}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"app.tar", "symlink", "fifo"}
    assert archive.read_bytes() == app_archive.read_bytes()


@pytest.mark.parametrize(("command", "what"), [("merge", "layers"), ("merge", "result"), ("export", "content")])
def test_no_room(app_archive: Path, output: Path, tmp_path: Path, command: str, what: str) -> None:
    """Neither for what is read nor for what is written; an archive is a little larger than its only large layer."""
    merge_archives([str(app_archive)], str(tmp_path / "whole.tar"), ReadOptions())
    limit = (tmp_path / "whole.tar").stat().st_size - 1 if what == "result" else 100_000
    argv: list[str | Path] = ["prlimit", f"--fsize={limit}", *COMMAND, "image", command, app_archive, "-o", output]
    said = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(1,), with_stderr=True)
    assert said == (
        f"preloader: {output}: no space left, or a limit reached; up to three times its size is needed there while it "
        "is made: free some, or write it elsewhere\n"
    )
    assert_untouched(output)


@pytest.mark.parametrize("command", ["merge", "export"])
@pytest.mark.parametrize(
    ("target", "problem"), [("/dev/full", "No space left on device"), ("| true", "Broken pipe")], ids=["full", "closed"]
)
def test_standard_output_that_takes_nothing(
    app_archive: Path, tmp_path: Path, command: str, target: str, problem: str
) -> None:
    if target == "/dev/full":
        script = '"$@" >/dev/full'
    else:  # which is closed before the command starts
        script = '{ read -r _; "$@"; } <fifo | { exec <&-; echo >fifo; }'
        os.mkfifo(tmp_path / "fifo")
    quiet = f"cd {tmp_path} && {script}; true"
    argv: list[str | Path] = ["sh", "-c", quiet, "sh", *COMMAND, "image", command, app_archive, "-o", "-"]
    said = run(argv, env={"PYTHONPATH": PYTHONPATH, "TMPDIR": str(tmp_path)}, with_stderr=True)
    assert said == f"preloader: standard output: {problem}\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"fifo"}


def test_standard_output_that_is_a_terminal(app_archive: Path, tmp_path: Path) -> None:
    """Whose owner does not want an archive on it."""
    words = " ".join(f"'{word}'" for word in [*COMMAND, "image", "merge", app_archive, "-o", "-"])
    argv: list[str | Path] = ["script", "-qec", f"{words} 2>'{tmp_path}/log'", "/dev/null"]
    assert run(argv, env={"PYTHONPATH": PYTHONPATH, "TMPDIR": str(tmp_path)}, ok=(2,)) == ""
    problem = "expected a file, or a pipe to another program, found 'a terminal'"
    assert (tmp_path / "log").read_text() == f"preloader: output: {problem}\n"


def test_standard_output_that_is_closed(app_archive: Path) -> None:
    """Its number would be that of the next file that is opened."""
    argv: list[str | Path] = ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "image", "merge", app_archive, "-o", "-"]
    said = run(argv, env={"PYTHONPATH": PYTHONPATH}, ok=(2,), with_stderr=True)
    problem = "expected a file, or a pipe to another program, found 'no standard output'"
    assert said == f"preloader: output: {problem}\n"


@pytest.mark.parametrize(
    ("target", "problem"), [("file", "nothing was written"), ("-", "what is on standard output is not complete")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(output: Path, tmp_path: Path, number: signal.Signals, *, target: str, problem: str) -> None:
    os.mkfifo(tmp_path / "input")
    (tmp_path / "tmp").mkdir()
    place = {"file": output.parent, "-": tmp_path / "tmp"}[target]
    before = len(list(place.iterdir()))
    words: list[str | Path] = ["image", "merge", tmp_path / "input", "-o", output if target == "file" else "-"]
    script = ["sh", "-c", 'exec "$@" >/dev/null', "sh"]
    own = [f"PYTHONPATH={PYTHONPATH}", f"TMPDIR={tmp_path}/tmp"]
    argv: list[str | Path] = ["env", *own, *script, *COMMAND, *words]
    with (tmp_path / "log").open("wb") as log:
        process = start(argv, log=log)
    try:
        with (tmp_path / "input").open("wb", buffering=0):
            wait_until_it_waits(process)
            assert len(list(place.iterdir())) == before + 1
            process.send_signal(number)
            assert process.wait(BOUND) == 130
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "log").read_text().lstrip("\n") == f"preloader: interrupted; {problem}\n"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert_untouched(output)
