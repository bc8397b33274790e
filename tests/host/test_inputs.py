"""Where images come from: files, folders, pipes and programs, compressed or not, all give the same disk."""

from __future__ import annotations

import io
import os
import random
import select
import signal
import struct
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from preloader_agent.errors import CommandFailed, DigestMismatch, InvalidArchive, PreloaderError, ToolMissing
from preloader_agent.host.disk import build_disk
from preloader_agent.host.run import run, start
from tests import images
from tests.host.conftest import wait_until_it_waits
from tests.images import Image, Layer, SymlinkTo, archive, make_layer, write_docker_archive, write_members
from tests.images.archive import Member, to_json
from tests.images.layer import file
from tests.images.oci import COMPRESSORS

COMMAND = (sys.executable, "-c", "from preloader_agent.host.cli import main; main()")
RANDOM = random.Random(1)
SMALL = Image((make_layer([file("a", "small")]), make_layer([file("b", "layers")])), ("small:1",))
BASE = Image((make_layer([file("random", RANDOM.randbytes(300_000))]),), ("base:1",))
BOTH = [BASE, Image((*BASE.layers, *SMALL.layers), ("app:1", "example/app:1"))]


def preloader(*args: str | Path, stdin: bytes | None = None, ok: Sequence[int] = (0,)) -> str:
    """Run the command, with some bytes in a pipe as its standard input; returns what it prints."""
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return run([*COMMAND, *args], stdin=stdin, env=path, ok=ok, with_stderr=True)


def make_script(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@contextmanager
def fifo_with(path: Path, content: bytes) -> Iterator[Path]:
    """A FIFO that somebody writes some bytes to."""

    def write() -> None:
        with path.open("wb") as pipe:
            pipe.write(content)

    os.mkfifo(path)
    writer = Thread(target=write)
    writer.start()
    yield path
    writer.join()


def pack(members: Sequence[tuple[str, Member]]) -> bytes:
    """A tar file with some members, in this order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, member in members:
            info = tarfile.TarInfo(name)
            if isinstance(member, SymlinkTo):
                info.type, info.linkname = tarfile.SYMTYPE, member.target
                tar.addfile(info)
            else:
                content = content_of(member) if isinstance(member, Layer) else member
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def content_of(layer: Layer) -> bytes:
    with layer.open() as stream:
        return stream.read()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with a layer in common, in the old layout, so that there is a symlink among the layers."""
    return write_docker_archive(BOTH, tmp_path_factory.mktemp("saved") / "x")


@pytest.fixture(scope="module")
def disk(saved: Path) -> bytes:
    """The disk of it."""
    return disk_of(saved, saved.with_name("disk"))


def disk_of(source: Path | str, output: Path) -> bytes:
    build_disk([source], output)
    return output.read_bytes()


# --- the same disk, wherever it comes from -------------------------------------------------------------------------


def test_standard_input(saved: Path, disk: bytes, tmp_path: Path) -> None:
    said = preloader("build", "-", "-o", tmp_path / "x.qcow2", stdin=saved.read_bytes())
    assert said.startswith(f"{tmp_path}/x.qcow2: label dpl-")
    assert (tmp_path / "x.qcow2").read_bytes() == disk


def test_standard_input_that_is_a_file(saved: Path, disk: bytes, tmp_path: Path) -> None:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with saved.open("rb") as stream:
        run([*COMMAND, "build", "-", "-o", tmp_path / "x.qcow2"], stdin=stream, env=path)
    assert (tmp_path / "x.qcow2").read_bytes() == disk


def test_fifo(saved: Path, disk: bytes, tmp_path: Path) -> None:
    with fifo_with(tmp_path / "pipe", saved.read_bytes()) as pipe:
        assert disk_of(pipe, tmp_path / "x") == disk


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name])
def test_compressed(saved: Path, disk: bytes, tmp_path: Path, compression: str) -> None:
    packed = COMPRESSORS[compression](saved.read_bytes())
    (tmp_path / "packed").write_bytes(packed)
    assert disk_of(tmp_path / "packed", tmp_path / "x") == disk
    with fifo_with(tmp_path / "pipe", packed) as pipe:
        assert disk_of(pipe, tmp_path / "x") == disk


def test_compressed_in_pieces(saved: Path, disk: bytes, tmp_path: Path) -> None:
    """As pigz, pzstd and pixz write it: one compressed stream after the other."""
    content = saved.read_bytes()
    half = len(content) // 2
    for compression in ("gzip", "zstd", "xz", "bzip2"):
        compress = COMPRESSORS[compression]
        (tmp_path / "packed").write_bytes(compress(content[:half]) + compress(content[half:]))
        assert disk_of(tmp_path / "packed", tmp_path / f"{compression}.disk") == disk


def test_zstd_with_a_frame_that_is_passed_over(saved: Path, disk: bytes, tmp_path: Path) -> None:
    """pzstd begins with one that holds a size."""
    frame = struct.pack("<II4s", 0x184D2A50, 4, b"size")
    (tmp_path / "packed").write_bytes(frame + COMPRESSORS["zstd"](saved.read_bytes()))
    assert disk_of(tmp_path / "packed", tmp_path / "x") == disk


def test_program(saved: Path, disk: bytes, tmp_path: Path) -> None:
    """What Nix's streamLayeredImage is; it may be a link, and it may say a lot."""
    script = make_script(tmp_path / "stream", f"head --bytes=3000000 /dev/zero | tr '\\0' 'x' >&2\ncat {saved}")
    (tmp_path / "result").symlink_to(script)
    said = preloader("build", tmp_path / "result", "-o", tmp_path / "x.qcow2")
    assert said.startswith("x" * 3_000_000)
    assert (tmp_path / "x.qcow2").read_bytes() == disk


def test_program_that_compresses(saved: Path, disk: bytes, tmp_path: Path) -> None:
    assert disk_of(make_script(tmp_path / "stream", f"gzip --stdout {saved}"), tmp_path / "x") == disk


def test_executable_archive_is_no_program(saved: Path, disk: bytes, tmp_path: Path) -> None:
    """As on file systems without modes, where each file may be executed."""
    (tmp_path / "archive").write_bytes(saved.read_bytes())
    (tmp_path / "archive").chmod(0o777)
    assert disk_of(tmp_path / "archive", tmp_path / "x") == disk


def test_folder(saved: Path, disk: bytes, tmp_path: Path) -> None:
    with tarfile.open(saved) as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    assert disk_of(tmp_path / "folder", tmp_path / "x") == disk


def test_archive_that_was_unpacked_and_packed_again(tmp_path: Path) -> None:
    """tar writes "./" before each name, the second name of a file as a hard link, and folders in any order."""
    saved = write_docker_archive([images.app_image(), images.busybox_image()], tmp_path / "saved.tar", "oci")
    (tmp_path / "tree").mkdir()
    run(["tar", "--directory", tmp_path / "tree", "--extract", "--file", saved])
    manifest = tmp_path / "tree" / "manifest.json"
    base = f"blobs/sha256/{images.busybox_image().diff_ids[0][7:]}"
    os.link(tmp_path / "tree" / base, tmp_path / "tree" / "again")
    manifest.write_text(manifest.read_text().replace(f'"{base}"', '"again"', 1))
    run(["tar", "--directory", tmp_path / "tree", "--create", "--file", tmp_path / "packed.tar", "."])
    expected = disk_of(saved, tmp_path / "saved.qcow2")
    for compression in ("", "gzip"):
        packed = tmp_path / f"packed.tar{compression}"
        packed.write_bytes(COMPRESSORS[compression]((tmp_path / "packed.tar").read_bytes()))
        assert disk_of(packed, tmp_path / "packed.qcow2") == expected


# --- the order of things does not matter ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["old", "oci"])
def test_order_of_members(disk: bytes, tmp_path: Path, layout: archive.Layout) -> None:
    """In a stream, layers may come before and after what names them, a symlink before its target."""
    members = list((archive.old_members(BOTH) if layout == "old" else archive.oci_members(BOTH)).items())
    for number in range(4):
        RANDOM.shuffle(members)
        with fifo_with(tmp_path / f"pipe{number}", pack(members)) as pipe:
            assert disk_of(pipe, tmp_path / "x") == disk


def test_order_of_images_and_arguments(tmp_path: Path) -> None:
    """`docker save a b` and `docker save b a`, one archive or two, files or streams."""
    a, b = (Image((*SMALL.layers, make_layer([file(name, name)])), (f"{name}:1",)) for name in "ab")
    ab, ba, only_a, only_b = (
        write_docker_archive(saved, tmp_path / f"{number}.tar")
        for number, saved in enumerate([[a, b], [b, a], [a], [b]])
    )
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(COMPRESSORS["gzip"](only_b.read_bytes()))
    disks = set()
    for number, inputs in enumerate(
        ([ab], [ba], [only_a, only_b], [only_b, only_a], [only_a, packed], [packed, only_a])
    ):
        build_disk(inputs, tmp_path / f"{number}.qcow2")
        disks.add((tmp_path / f"{number}.qcow2").read_bytes())
    assert len(disks) == 1


# --- compressed layers, and what is no layer -----------------------------------------------------------------------


def packed_layers(image: Image, ways: Sequence[str]) -> dict[str, Member]:
    """An archive as other tools write it: each layer compressed in its own way."""
    names = [f"layer{number}" for number, _ in enumerate(image.layers)]
    layers = [COMPRESSORS[way](content_of(layer)) for way, layer in zip(ways, image.layers, strict=True)]
    manifest = [{"Config": "config.json", "RepoTags": list(image.references), "Layers": names}]
    documents = {"config.json": image.config_bytes, "manifest.json": to_json(manifest)}
    return {**documents, **dict(zip(names, layers, strict=True))}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("ways", [["", "gzip", "zstd"], ["zstd", "", "xz"], ["bzip2", "gzip", ""]])
def test_each_layer_is_compressed_in_its_own_way(tmp_path: Path, ways: list[str], *, is_stream: bool) -> None:
    app = images.app_image()
    expected = disk_of(write_docker_archive([app], tmp_path / "saved.tar"), tmp_path / "saved")
    packed = write_members(packed_layers(app, ways), tmp_path / "packed.tar")
    if is_stream:
        packed.write_bytes(COMPRESSORS["gzip"](packed.read_bytes()))
    assert disk_of(packed, tmp_path / "x") == expected


@pytest.mark.parametrize("is_stream", [False, True])
def test_files_that_no_image_needs(tmp_path: Path, *, is_stream: bool) -> None:
    """Layers, documents, anything: a stream is past them before it is known that nobody needs them."""
    members = archive.old_members([SMALL])
    expected = disk_of(write_members(members, tmp_path / "saved.tar"), tmp_path / "saved")
    more: dict[str, Member] = {
        "0/layer.tar": images.busybox_image().layers[0],
        "0/layer.tar.gz": COMPRESSORS["gzip"](content_of(images.busybox_image().layers[0])),
        "damaged.tar.gz": COMPRESSORS["gzip"](RANDOM.randbytes(5_000_000))[:4_000_000],
        "empty": b"",
        "junk": RANDOM.randbytes(3_000_000),
        "large.json": b"{" + b" " * (17 << 20) + b"}",
        "README": b"Read me.\n",
        "zeros": bytes(2_000_000),
    }
    packed = write_members({**more, **members}, tmp_path / "more.tar")
    if is_stream:
        packed.write_bytes(COMPRESSORS["zstd"](packed.read_bytes()))
    assert disk_of(packed, tmp_path / "x") == expected


def test_program_that_is_slow_in_the_middle_of_junk(tmp_path: Path) -> None:
    """What is no layer is given up at its first block, but what comes behind it is read in its place."""
    expected = disk_of(write_docker_archive([SMALL], tmp_path / "saved.tar"), tmp_path / "saved")
    (tmp_path / "junk").write_bytes(
        pack([("0-junk", RANDOM.randbytes(4 << 20)), *archive.old_members([SMALL]).items()])
    )
    slow = make_script(
        tmp_path / "slow",
        f"head --bytes=1500000 {tmp_path}/junk; sleep 1.5; tail --bytes=+1500001 {tmp_path}/junk",
    )
    assert disk_of(slow, tmp_path / "x") == expected


def test_stream_is_not_spooled(tmp_path: Path) -> None:
    """When all of the archive is through, nothing but the content of its layers is on the disk's file system."""
    size = 12 << 20
    layers = [make_layer([file(f"random{number}", RANDOM.randbytes(size))]) for number in range(2)]
    saved = write_docker_archive([Image(tuple(layers), ("large:1",))], tmp_path / "saved.tar")
    (tmp_path / "out").mkdir()
    script = f"cat {saved}; du --summarize --block-size=1 {tmp_path}/out >{tmp_path}/used"
    build_disk([make_script(tmp_path / "stream", script)], tmp_path / "out" / "x.qcow2")
    used = int((tmp_path / "used").read_text().split()[0])
    assert size < used < 2 * size * 1.05


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """The name of a disk; whatever happens, a failure leaves nothing in its folder."""
    (tmp_path / "out").mkdir()
    yield tmp_path / "out" / "x.qcow2"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "script", ["head --bytes=100000 {}; exit 3", "cat {}; exit 3", "exit 3", "cat {} junk; exit 3"]
)
def test_program_that_fails(saved: Path, tmp_path: Path, output: Path, script: str) -> None:
    program = make_script(tmp_path / "stream", f"echo some reason >&2; {script.format(saved)}")
    said = preloader("build", program, "-o", output, ok=(1,))
    assert said.splitlines()[0] == "some reason"
    assert said.splitlines()[-1] == f"preloader: {program}: exit status 3: see what it said above"


def test_program_that_is_killed(saved: Path, tmp_path: Path, output: Path) -> None:
    program = make_script(tmp_path / "stream", f"head --bytes=100000 {saved}; kill -KILL $$")
    with pytest.raises(CommandFailed) as failed:
        build_disk([program], output)
    assert failed.value.status == -signal.SIGKILL


def test_program_that_writes_no_archive(tmp_path: Path, output: Path) -> None:
    """It ends by itself, or never; its status is no reason."""
    for script in ("echo hello", "exec yes", "true"):
        with pytest.raises(
            InvalidArchive, match=r"stream: not a sound tar file .*; expected what `docker save` writes"
        ):
            build_disk([make_script(tmp_path / "stream", script)], output)


def test_program_that_is_not_executable(tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_script(tmp_path / "stream", "true")
    program.chmod(0o644)
    # Root may read what nobody may execute, and access(2) of root knows that, too.
    with pytest.raises(
        InvalidArchive, match=r"is a program without permission to execute it; chmod \+x it, or expected"
    ):
        build_disk([program], output)
    program.chmod(0o755)
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(CommandFailed, match="stream: exit status 126: cannot be executed: No such file"):
        build_disk([program], output)
    monkeypatch.chdir(tmp_path)
    program.write_bytes(Path("/bin/true").read_bytes())
    with pytest.raises(InvalidArchive, match="stream: not a sound tar file"):
        build_disk(["stream"], output)


def test_standard_input_is_a_terminal(output: Path) -> None:
    """Where nobody redirected it; nothing waits for keys."""
    terminal, inside = os.openpty()
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with open(terminal, "rb"), open(inside, "rb") as stdin:
        said = run([*COMMAND, "build", "-", "-o", output], stdin=stdin, env=path, ok=(2,), with_stderr=True)
    assert said.startswith("preloader: standard input: is a terminal; expected what `docker save` writes")


def test_standard_input_is_empty(output: Path) -> None:
    said = preloader("build", "-", "-o", output, ok=(2,))
    assert said.startswith("preloader: standard input: not a sound tar file (")


def test_the_same_stream_twice(saved: Path, output: Path) -> None:
    said = preloader("build", "-", "-", "-o", output, stdin=saved.read_bytes(), ok=(2,))
    assert said.startswith("preloader: standard input: not a sound tar file (")


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_truncated(tmp_path: Path, output: Path, compression: str) -> None:
    saved = write_docker_archive([SMALL], tmp_path / "saved.tar")
    packed = COMPRESSORS[compression](saved.read_bytes())
    end = len(packed) if compression else len(packed) - tarfile.RECORDSIZE
    for size in (*range(1, 20), *(end * part // 40 for part in range(1, 40))):
        (tmp_path / "cut").write_bytes(packed[:size])
        with pytest.raises(
            InvalidArchive, match=r"cut: (not a sound|its compressed|has neither|\S+ is missing|layer )"
        ):
            build_disk([tmp_path / "cut"], output)


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_damaged(tmp_path: Path, compression: str) -> None:
    """A flipped bit is of no matter, or an error for people."""
    chance = random.Random(compression)
    saved = write_docker_archive([SMALL], tmp_path / "saved.tar")
    expected = disk_of(saved, tmp_path / "saved")
    packed = COMPRESSORS[compression](saved.read_bytes())
    outcomes = set()
    for number in range(60):
        damaged = bytearray(packed)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        (tmp_path / f"damaged{number}").write_bytes(damaged)
        outcomes.add(try_to_build(tmp_path / f"damaged{number}", tmp_path / "x", expected))
    assert "refused" in outcomes


def try_to_build(source: Path, output: Path, expected: bytes) -> str:
    try:
        disk = disk_of(source, output)
    except (InvalidArchive, DigestMismatch) as err:
        assert str(err).startswith(str(source))  # noqa: PT017 - it may as well not be raised
        return "refused"
    output.unlink()
    return "the same" if disk == expected else "renamed"


def test_odd_sparse_map(tmp_path: Path, output: Path) -> None:
    """What Python's reader fails over in a way of its own."""
    with tarfile.open(tmp_path / "odd", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        tar.addfile(info)
    (tmp_path / "odd.gz").write_bytes(COMPRESSORS["gzip"]((tmp_path / "odd").read_bytes()))
    for name in ("odd", "odd.gz"):
        with pytest.raises(InvalidArchive, match=f"{name}: not a sound tar file"):
            build_disk([tmp_path / name], output)


def test_what_is_not_there(tmp_path: Path, output: Path) -> None:
    with pytest.raises(InvalidArchive, match="nothing: cannot be read: No such file or directory"):
        build_disk([tmp_path / "nothing"], output)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidArchive, match=r"folder: has neither manifest.json nor index.json; expected what"):
        build_disk([tmp_path / "folder"], output)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidArchive, match="file: not a sound tar file"):
        build_disk([tmp_path / "file"], output)
    with pytest.raises(InvalidArchive, match="/dev/null: "):
        build_disk(["/dev/null"], output)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../outside", "a/../../outside", "x\0y", "x" * 5000, "loop", "folder"]
)
def test_folder_gives_only_its_own_files(tmp_path: Path, output: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(SMALL.config_bytes)
    folder = tmp_path / "input"
    (folder / "folder").mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    (folder / "manifest.json").write_bytes(to_json([{"Config": name, "RepoTags": [], "Layers": []}]))
    with pytest.raises(InvalidArchive, match=r"is missing, though an image|cannot be read: |expected a path in the"):
        build_disk([folder], output)


def test_folder_of_symlinks(tmp_path: Path) -> None:
    """As build tools make them, instead of copies."""
    write_members(archive.old_members([SMALL]), tmp_path / "saved.tar")
    with tarfile.open(tmp_path / "saved.tar") as tar:
        tar.extractall(tmp_path / "real", filter="data")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert disk_of(tmp_path / "links", tmp_path / "x") == disk_of(tmp_path / "saved.tar", tmp_path / "y")


@pytest.mark.parametrize("argument", ["docker://app:1", "docker-daemon:app:1"])
def test_without_skopeo(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argument: str) -> None:
    qemu_img = make_script(tmp_path / "qemu-img", "true")
    monkeypatch.setenv("PATH", str(qemu_img.parent))
    with pytest.raises(ToolMissing, match="skopeo is not installed: `apt install skopeo`"):
        build_disk([argument], output)


@pytest.mark.parametrize("argument", ["docker://app:1", "docker-daemon:app:1"])
def test_interrupted_while_skopeo_works(output: Path, tmp_path: Path, argument: str) -> None:
    """It ends as well: its end of the pipe is closed, and what it fetched is removed."""
    os.mkfifo(tmp_path / "alive")
    (tmp_path / "bin").mkdir()
    make_script(tmp_path / "bin" / "skopeo", f"exec 3>{tmp_path}/alive; echo begun >&3; exec sleep 1000")
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    settings = [f"{name}={value}" for name, value in environment.items()]
    with (tmp_path / "log").open("wb") as log:
        process = start(["env", *settings, *COMMAND, "build", argument, "-o", output], log=log)
        with (tmp_path / "alive").open() as alive:
            assert alive.readline() == "begun\n"
            wait_until_it_waits(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 130
            assert select.select([alive], [], [], 20)[0], "skopeo still runs"
            assert alive.read() == ""
    assert (tmp_path / "log").read_text().lstrip("\n") == "preloader: interrupted; nothing was written\n"


@pytest.mark.parametrize("argument", ["docker://", "docker://UPPER", "docker://app@sha256:12", "docker-daemon:a b"])
def test_names_that_no_registry_has(output: Path, argument: str) -> None:
    with pytest.raises(PreloaderError, match="Reference: expected an image reference such as name:tag"):
        build_disk([argument], output)
