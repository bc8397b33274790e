"""The agent is put into small trees: in a folder and in a tar file, with wheels from a folder of the test's own."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from preloader_agent import __version__
from preloader_agent.errors import CommandFailed, InvalidGuest, InvalidValue, PreloaderError, WheelMissing
from preloader_agent.host.guests.install import Installed, install_into_folder, install_into_image, install_into_tar
from preloader_agent.host.run import run
from tests.host.command import PYTHONPATH, Preloader
from tests.host.guesttrees import (
    S390X,
    SITE,
    dump_filesystem,
    elf_header,
    make_filesystem,
    make_guest,
    make_wheel,
    pack,
    unpack,
    write,
)
from tests.tree import Node, Tree, describe_tree

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = b"usr/lib/docker-preloader"
GENERATOR = b"usr/lib/systemd/system-generators/docker-preloader-generator"
WANTS = b"etc/systemd/system/docker.service.wants"
OURS = sys.version_info.minor


class Install(Protocol):
    """Puts the agent into what was made of a tree, and returns what came of it and the tree that it is now."""

    def __call__(self, root: Path, wheels: Path | None = None) -> tuple[Installed, Path]: ...


def into_folder(root: Path, wheels: Path | None = None) -> tuple[Installed, Path]:
    return install_into_folder(root, wheels), root


def into_tar(root: Path, wheels: Path | None = None) -> tuple[Installed, Path]:
    tar = pack(root)
    installed = install_into_tar(tar, wheels)
    return installed, unpack(tar, root.with_name(f"{root.name}-of-tar"))


def into_image(root: Path, wheels: Path | None = None) -> tuple[Installed, Path]:
    image = make_filesystem(root)
    installed = install_into_image(image, wheels)
    return installed, dump_filesystem(image, root.with_name(f"{root.name}-of-image"))


@pytest.fixture(params=[into_folder, into_tar, into_image])
def install(request: pytest.FixtureRequest) -> Install:
    function: Install = request.param
    return function


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_guest(tmp_path / "root")


@pytest.fixture(autouse=True)
def _without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def added(root: Path, before: Tree) -> Tree:
    """What is in a tree that was not, by path; nothing that was there may have changed but folders' times."""
    after = describe_tree(root)
    for path, node in before.items():
        assert after[path].sha256 == node.sha256, path
        assert after[path].mode == node.mode, path
        assert after[path].target == node.target, path
    return {path: node for path, node in after.items() if path not in before}


def content(tree: Tree) -> dict[bytes, Node]:
    """All but the times."""
    return {path: replace(node, mtime_ns=0) for path, node in tree.items()}


def test_what_is_put_in(root: Path, install: Install) -> None:
    before = describe_tree(root)
    installed, after = install(root)
    assert (installed.python.version, installed.python.machine, installed.carried) == ("3.99", "x86_64", ())
    assert installed.warnings == ()
    new = added(after, before)
    modes = {path: f"{node.type} {node.mode:o}" for path, node in new.items()}
    assert modes[b"usr/bin/docker-preloader"] == modes[GENERATOR] == "file 755"
    assert {mode for path, mode in modes.items() if path.startswith(CODE)} == {"file 644", "directory 755"}
    assert modes[b"usr/lib/udev"] == modes[WANTS] == modes[b"etc/docker-preloader/containers.d"] == "directory 755"
    outside = sorted(path for path, mode in modes.items() if not path.startswith(CODE) and mode.startswith("file"))
    assert outside == [
        b"usr/bin/docker-preloader",
        GENERATOR,
        b"usr/lib/systemd/system-preset/80-docker-preloader.preset",
        b"usr/lib/systemd/system/docker-preloader-merge.service",
        b"usr/lib/systemd/system/docker-preloader.service",
        b"usr/lib/udev/rules.d/70-docker-preloader.rules",
        b"usr/share/bash-completion/completions/docker-preloader",
        b"usr/share/fish/vendor_completions.d/docker-preloader.fish",
        *(
            f"usr/share/man/man5/{page.name}".encode()
            for page in sorted((REPOSITORY / "docs").glob("docker-preloader*.5"))
        ),
        b"usr/share/man/man8/docker-preloader.8",
    ]


def test_code_and_units_are_the_packages_own(root: Path, install: Install) -> None:
    _, after = install(root)
    code = after / "usr/lib/docker-preloader/preloader_agent"
    modules = {str(path.relative_to(code)) for path in code.glob("**/*.py")}
    package = REPOSITORY / "preloader_agent"
    assert modules == {
        str(path.relative_to(package))
        for path in package.glob("**/*.py")
        if "host" not in path.relative_to(package).parts and path != package / "__main__.py"
    }
    for module in modules:
        assert (code / module).read_bytes() == (package / module).read_bytes(), module
    for unit in (REPOSITORY / "units").glob("*.service"):
        assert (after / "usr/lib/systemd/system" / unit.name).read_bytes() == unit.read_bytes()


def test_units_are_enabled(root: Path, install: Install) -> None:
    _, after = install(root)
    links = {path.name: os.readlink(path) for path in (after / os.fsdecode(WANTS)).iterdir()}
    units = ("docker-preloader.service", "docker-preloader-merge.service")
    assert links == {unit: f"/usr/lib/systemd/system/{unit}" for unit in units}


def test_installing_twice_gives_the_same(root: Path, install: Install, tmp_path: Path) -> None:
    _, once = install(root)
    write(once / "etc/docker-preloader/containers.d/web.toml", b"the user's")
    _, twice = install(make_copy(once, tmp_path / "twice"))
    assert content(describe_tree(twice)) == content(describe_tree(once))


def make_copy(root: Path, target: Path) -> Path:
    return unpack(pack(root), target)


def test_nothing_of_an_older_version_stays(root: Path, install: Install, tmp_path: Path) -> None:
    clean = install(make_copy(root, tmp_path / "clean"))[1]
    write(root / "usr/lib/docker-preloader/preloader_agent/guest/gone.py")
    write(root / "usr/lib/docker-preloader/attrs/deep/x.py")
    write(root / "usr/lib/systemd/system/docker-preloader-old.service")
    write(root / "usr/bin/docker-preloader", b"old")
    write(root / "usr/lib/docker-preloader/installed-files", b"usr/lib/systemd/system/docker-preloader-old.service\n")
    assert content(describe_tree(install(root)[1])) == content(describe_tree(clean))


def test_a_guests_links_lead_nowhere_else(root: Path, install: Install, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "usr/lib/udev").symlink_to(f"/../../..{outside}")
    (root / "etc/systemd").symlink_to("/data/systemd")
    (root / "usr/bin/docker-preloader").symlink_to(outside / "file")
    _, after = install(root)
    assert list(outside.iterdir()) == []
    assert (after / f".{outside}/rules.d/70-docker-preloader.rules").is_file()
    assert (after / "data/systemd/system/docker.service.wants/docker-preloader.service").is_symlink()
    assert not (after / "usr/bin/docker-preloader").is_symlink()


def test_a_usr_that_leads_to_a_folder_that_the_host_has(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    moved = root / f".{outside}"
    moved.parent.mkdir(parents=True)
    (root / "usr").rename(moved)
    (root / "usr").symlink_to(outside)
    before = outside.stat().st_mtime_ns
    install_into_folder(root)
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mtime_ns == before
    assert (moved / "bin/docker-preloader").is_file()


def test_a_file_where_the_code_belongs(root: Path, install: Install) -> None:
    write(root / "usr/lib/docker-preloader")
    _, after = install(root)
    assert (after / "usr/lib/docker-preloader/preloader_agent/errors.py").is_file()


def test_what_the_guest_lacks_comes_from_wheels(tmp_path: Path, install: Install) -> None:
    root, wheels = make_guest(tmp_path / "root", lacking="orjson"), tmp_path / "wheels"
    make_wheel(wheels, "orjson", "cp399-cp399-manylinux_2_17_x86_64.manylinux2014_x86_64", native__x="of 3.99")
    make_wheel(wheels, "orjson", "cp398-cp398-manylinux_2_17_x86_64.manylinux2014_x86_64")
    make_wheel(wheels, "orjson", "cp399-cp399-manylinux_2_17_aarch64.manylinux2014_aarch64")
    installed, after = install(root, wheels)
    assert installed.carried == ("orjson",)
    code = after / "usr/lib/docker-preloader"
    assert (code / "native/x").read_text() == "of 3.99"
    assert (code / "orjson.py").is_file()
    assert (code / "orjson-9.dist-info/METADATA").is_file()


def test_what_a_wheel_needs_comes_along(tmp_path: Path) -> None:
    root, wheels = make_guest(tmp_path / "root", lacking="pystemd"), tmp_path / "wheels"
    make_wheel(
        wheels, "pystemd", "cp399-abi3-manylinux2014_x86_64", needs="lxml", **{"pystemd-9.data__purelib__b.py": ""}
    )
    make_wheel(wheels, "lxml", **{"lxml-9.data__scripts__tool": "no module"})
    install_into_folder(root, wheels)
    names = {path.name for path in (root / "usr/lib/docker-preloader").iterdir()}
    assert {"pystemd.py", "b.py", "lxml.py"} < names
    assert not [name for name in names if name.endswith(".data") or name == "tool"]


def test_settings_of_pip_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_guest(tmp_path / "root", lacking="sdnotify")
    make_wheel(tmp_path / "wheels", "sdnotify")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert install_into_folder(root).carried == ("sdnotify",)


def test_no_wheel(tmp_path: Path, install: Install) -> None:
    root = make_guest(tmp_path / "root", lacking="pystemd")
    before = describe_tree(root)
    expected = (
        r"the guest lacks pystemd, and pip has no wheel for Python 3\.99 on x86_64: install python3-pystemd in the "
    )
    with pytest.raises(WheelMissing, match=expected):
        install(root)
    assert describe_tree(root) == before


def test_no_folder_of_wheels(root: Path, install: Install) -> None:
    before = describe_tree(root)
    with pytest.raises(InvalidValue, match="folder of wheels: expected a directory that exists, found 'none'"):
        install(root, Path("none"))
    assert describe_tree(root) == before


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "a.data/purelib/../outside"])
def test_a_wheel_that_would_leave_its_folder(tmp_path: Path, name: str) -> None:
    root = make_guest(tmp_path / "root", lacking="orjson")
    before = describe_tree(root)
    make_wheel(tmp_path / "wheels", "orjson", **{name.replace("/", "__"): "x"})
    with pytest.raises(PreloaderError, match="outside of the folder"):
        install_into_folder(root, tmp_path / "wheels")
    assert describe_tree(root) == before


def test_modules_are_compiled_for_the_hosts_own_version(tmp_path: Path) -> None:
    root = make_guest(tmp_path / "root", minor=OURS)
    assert install_into_folder(root).is_compiled
    code = root / "usr/lib/docker-preloader/preloader_agent"
    compiled = code / f"guest/__pycache__/daemon.cpython-3{OURS}.pyc"
    assert compiled.read_bytes()[4:8] == b"\x01\0\0\0"  # hashed and not checked (PEP 552)
    assert b"/usr/lib/docker-preloader/preloader_agent/guest/daemon.py" in compiled.read_bytes()
    assert len(list(code.glob("**/*.pyc"))) == len(list(code.glob("**/*.py")))


def test_a_guest_without_docker_is_warned_of(root: Path) -> None:
    (root / "usr/bin/dockerd").unlink()
    (warning,) = install_into_folder(root).warnings
    assert "no dockerd" in warning


@pytest.mark.parametrize("kind", ["root", "tar", "image"])
def test_command(tmp_path: Path, preloader: Preloader, kind: str) -> None:
    root = make_guest(tmp_path / "root", lacking="orjson")
    (root / "usr/bin/dockerd").unlink()
    make_wheel(tmp_path / "wheels", "orjson")
    guest = {"root": lambda root: root, "tar": pack, "image": make_filesystem}[kind](root)
    done = preloader("guest", "install", f"--{kind}", guest, "--wheels", tmp_path / "wheels")
    assert done.out == f"{guest}: docker-preloader {__version__} for Python 3.99, with orjson\n"
    assert done.err.startswith(f"preloader: warning: {guest}: it has no dockerd")
    assert done.status == 0


@pytest.mark.parametrize("options", [(), ("--root", ""), ("--root", "x", "--tar", "y")])
def test_command_for_nothing_or_two(
    root: Path, preloader: Preloader, options: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    done = preloader("guest", "install", *options)
    assert done.status == 2
    assert "give one of --root, --tar and --image" in done.err


def test_command_that_fails(root: Path, preloader: Preloader) -> None:
    remove_systemd(root)
    done = preloader("guest", "install", "--root", root)
    assert done.status == 2
    assert done.err.startswith(f"preloader: {root}: has no /usr/lib/systemd/systemd")


def remove_python(root: Path) -> None:
    (root / "usr/bin/python3").unlink()


def make_python_old(root: Path) -> None:
    remove_python(root)
    write(root / "usr/bin/python3.9", elf_header(S390X))
    (root / "usr/bin/python3").symlink_to("python3.9")


def make_python_a_script(root: Path) -> None:
    write(root / "usr/bin/python3.99", b"#!/bin/sh\nexec pypy\n")


def make_python_a_circle(root: Path) -> None:
    remove_python(root)
    (root / "usr/bin/python3").symlink_to("python3")


def remove_systemd(root: Path) -> None:
    (root / "usr/lib/systemd/systemd").unlink()


def remove_udev(root: Path) -> None:
    (root / "usr/bin/udevadm").unlink()


def add_package(root: Path) -> None:
    write(root / "usr/share/docker-preloader/preloader_agent/__init__.py")


def make_command_a_folder(root: Path) -> None:
    write(root / "usr/bin/docker-preloader/file")


def make_code_a_link(root: Path) -> None:
    write(root / "data/kept")
    (root / "usr/lib/docker-preloader").symlink_to("/data")


def make_folder_a_file(root: Path) -> None:
    write(root / "usr/lib/udev")


UNFIT: dict[Callable[[Path], None], str] = {
    remove_python: "has no /usr/bin/python3: install python3",
    make_python_old: r"has Python 3\.9: the agent needs 3\.11 or newer",
    make_python_a_script: "/usr/bin/python3 leads to /usr/bin/python3.99: expected a program",
    make_python_a_circle: "/usr/bin/python3: symlinks that lead to each other",
    remove_systemd: "has no /usr/lib/systemd/systemd",
    remove_udev: "has no udev",
    add_package: "has the Debian package or RPM docker-preloader: remove it",
    make_command_a_folder: "/usr/bin/docker-preloader is a folder: expected a file",
    make_code_a_link: "/usr/lib/docker-preloader is a symlink: expected a folder, or nothing",
    make_folder_a_file: "/usr/lib/udev is no folder",
}


@pytest.mark.parametrize("spoil", UNFIT, ids=lambda spoil: spoil.__name__)
def test_a_tree_that_is_not_fit_stays_as_it_is(root: Path, install: Install, spoil: Callable[[Path], None]) -> None:
    spoil(root)
    before = describe_tree(root)
    with pytest.raises(InvalidGuest, match=UNFIT[spoil]):
        install(root)
    assert describe_tree(root) == before


def test_machine_of_another_byte_order(tmp_path: Path) -> None:
    root = make_guest(tmp_path / "root")
    write(root / "usr/bin/python3.99", elf_header(S390X))
    assert install_into_folder(root).python.machine == "s390x"


def test_modules_of_pip_count_too(tmp_path: Path) -> None:
    root = make_guest(tmp_path / "root", lacking="orjson")
    write(root / "usr/local/lib/python3.99/dist-packages/orjson/__init__.py")
    assert install_into_folder(root).carried == ()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidGuest, match="absent: is no folder"):
        install_into_folder(tmp_path / "absent")


@pytest.mark.parametrize("folder", ["usr/lib", "etc/systemd/system/docker.service.wants"])
def test_a_folder_of_somebody_else(root: Path, folder: str) -> None:
    """Root without its capabilities may write no more than others."""
    install_into_folder(root)
    (root / folder).chmod(0o555)
    before = describe_tree(root)
    program = "import sys, pathlib; from preloader_agent.host.guests.install import install_into_folder as install"
    argv = [sys.executable, "-c", f"{program}; install(pathlib.Path(sys.argv[1]))", str(root)]
    as_others = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    with pytest.raises(CommandFailed, match="cannot be written: Permission denied: run it as who owns the tree"):
        run([*as_others, *argv], env={"PYTHONPATH": PYTHONPATH})
    assert content(describe_tree(root)) == content(before)


INTERRUPTED = """
import pathlib, signal, sys
from preloader_agent.host.guests.install import install_into_folder
left = [signal.SIGTERM]
def interrupt(event, arguments):
    if event == sys.argv[2] and left:
        signal.raise_signal(left.pop())
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
sys.addaudithook(interrupt)
install_into_folder(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("event", ["os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.rename", "os.symlink"])
def test_an_interruption_divides_nothing(tmp_path: Path, event: str) -> None:
    """At the first call of each kind, such as the removal of an older install, and of what was compiled."""
    root = make_guest(tmp_path / "guest", minor=OURS)
    install_into_folder(root)
    before = describe_tree(root)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(temporary)}
    with pytest.raises(CommandFailed, match="KeyboardInterrupt"):
        run([sys.executable, "-c", INTERRUPTED, root, event], env=environment)
    assert content(describe_tree(root)) == content(before)
    assert list(temporary.iterdir()) == []


def write_with_xattrs(root: Path) -> Path:
    """What mmdebstrap's tar files have: pax headers with extended attributes."""
    tar = root.with_suffix(".tar")
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as archive:
        for path in [root, *sorted(root.glob("**/*"))]:
            member = archive.gettarinfo(path, f"./{path.relative_to(root)}")
            member.pax_headers = {"SCHILY.xattr.user.x": path.name}
            archive.addfile(member, io.BytesIO(path.read_bytes()) if member.isreg() else None)
    return tar


def write_sparse_pax(root: Path) -> Path:
    return pack(root, "--sparse", "--format=pax")


def write_sparse_gnu(root: Path) -> Path:
    return pack(root, "--sparse", "--format=gnu")


@pytest.mark.parametrize("write_tar", [write_with_xattrs, write_sparse_pax, write_sparse_gnu])
def test_members_of_a_tar_stay_as_they_are(root: Path, write_tar: Callable[[Path], Path]) -> None:
    write(root / SITE / ("long/" * 60 + "name"), b"x" * 700)
    os.link(root / "etc/os-release", root / "etc/hard-link")
    os.truncate(write(root / "usr/bin/docker-preloader", b"an older one, with holes"), 1 << 20)
    os.truncate(write(root / "zzz-sparse-at-the-end"), 1 << 20)
    tar = write_tar(root)
    old = describe_members(tar)
    old.pop("./usr/bin/docker-preloader")
    tar.chmod(0o640)
    install_into_tar(tar)
    found = describe_members(tar)
    assert {name: found.pop(name) for name in old} == old
    assert {(info["uid"], info["gid"], info["uname"]) for info, *_ in found.values()} == {(0, 0, "root")}
    assert b"import main" in found["./usr/bin/docker-preloader"][2]
    assert stat.S_IMODE(tar.stat().st_mode) == 0o640
    assert [path.name for path in tar.parent.iterdir() if path.name.startswith(".")] == []
    # GNU tar reads it as well, to the last byte of a sparse file.
    assert (unpack(tar, root.with_name("unpacked")) / "zzz-sparse-at-the-end").read_bytes() == bytes(1 << 20)


def describe_members(tar: Path) -> dict[str, tuple[Mapping[str, object], Mapping[str, str], bytes]]:
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        assert len({member.name for member in members}) == len(members)
        return {member.name: (member.get_info(), member.pax_headers, read(archive, member)) for member in members}


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member) if member.isreg() else None
    return content.read() if content else b""


def test_a_hard_link_to_what_is_replaced(root: Path) -> None:
    write(root / "usr/bin/docker-preloader", b"old")
    os.link(root / "usr/bin/docker-preloader", root / "usr/bin/same")
    tar = pack(root)
    before = tar.read_bytes()
    with pytest.raises(InvalidGuest, match="is a hard link to"):
        install_into_tar(tar)
    assert tar.read_bytes() == before


def test_a_name_of_the_tar_that_is_a_symlink(root: Path) -> None:
    tar = pack(root)
    link = root.with_name("link.tar")
    link.symlink_to(tar.name)
    install_into_tar(link)
    assert link.is_symlink()
    assert b"import main" in tar.read_bytes()


def test_a_damaged_header_in_the_middle_of_a_tar(root: Path) -> None:
    tar = pack(root)
    with tarfile.open(tar) as archive:
        last = archive.getmembers()[-1].offset
    with tar.open("r+b") as file:
        file.seek(last + 148)  # the checksum
        file.write(b"7654321\0")
    before = tar.read_bytes()
    with pytest.raises(InvalidGuest, match=f"is damaged at byte {last}"):
        install_into_tar(tar)
    assert tar.read_bytes() == before


@pytest.mark.parametrize("written", [b"", b"no tar file" * 100, b"\x1f\x8b\x08"])
def test_what_is_no_tar(tmp_path: Path, written: bytes) -> None:
    path = write(tmp_path / "root.tar", written)
    with pytest.raises(InvalidGuest, match=re.escape(f"{path}: ") + ".*(tar file|python3)"):
        install_into_tar(path)
    assert path.read_bytes() == written
