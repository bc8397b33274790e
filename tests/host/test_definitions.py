"""Definitions of containers go on a disk: what is there then, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.diskimage import open_image
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.verification import verify_disk
from preloader_agent.store.digest import sha256_digest
from preloader_agent.store.index import ContainerRecord
from tests.host.command import Preloader
from tests.host.conftest import convert_to_raw
from tests.images import Image, make_layer, write_docker_archive
from tests.images.layer import file

WEB = 'image = "docker.io/library/web:1"\ncmd = ["serve"]\n'
DATABASE = 'image = "db:1"\n'


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    layer = make_layer([file("hello", "hello")])
    image = Image((layer,), ("web:1", "db:1"), {"Cmd": ["none"]})
    return write_docker_archive([image], tmp_path / "web.tar")


def write(folder: Path, **definitions: str) -> list[Path]:
    files = [folder / f"{name}.toml" for name in definitions]
    for path, text in zip(files, definitions.values(), strict=True):
        path.write_text(text)
    return files


def build(archive: Path, disk: Path, *containers: Path) -> Path:
    return build_disk([archive], disk, BuildOptions(containers=containers)).path


def test_definitions_are_on_the_disk(preloader: Preloader, archive: Path, tmp_path: Path) -> None:
    web, database = write(tmp_path, web=WEB, db=DATABASE)
    disk = tmp_path / "disk.qcow2"
    result = preloader("build", archive, "-o", disk, "--container", web, "--container", database)
    assert result.status == 0, result.err
    assert "1 image, 1 layer, 2 containers" in result.out
    assert [line.split()[0] for line in result.out.splitlines()[-3:]] == ["CONTAINER", "db", "web"]
    expected = tuple(
        ContainerRecord(name, len(text), sha256_digest(text.encode()))
        for name, text in (("db", DATABASE), ("web", WEB))
    )
    assert inspect_disk(disk).containers == expected
    shown = json.loads(preloader("inspect", "--json", disk).out)
    assert [container["name"] for container in shown["containers"]] == ["db", "web"]
    with Ext4(open_image(disk)) as filesystem:
        assert filesystem.read(b"/containers/web.toml", 1000) == WEB.encode()


def test_the_order_of_definitions_does_not_matter(archive: Path, tmp_path: Path) -> None:
    files = write(tmp_path, web=WEB, db=DATABASE)
    one, other = build(archive, tmp_path / "one", *files), build(archive, tmp_path / "other", *reversed(files))
    assert one.read_bytes() == other.read_bytes()


def test_definitions_are_content(archive: Path, tmp_path: Path) -> None:
    """A disk has another label with a definition than without, and with another one."""
    (web,) = write(tmp_path, web=WEB)
    disk = tmp_path / "disk"
    labels = [inspect_disk(build(archive, disk)).label, inspect_disk(build(archive, disk, web)).label]
    write(tmp_path, web=WEB + "privileged = true\n")
    labels.append(inspect_disk(build(archive, disk, web)).label)
    assert len({*labels}) == 3


def test_a_changed_definition_is_found(archive: Path, tmp_path: Path) -> None:
    raw = convert_to_raw(build(archive, tmp_path / "disk.qcow2", *write(tmp_path, web=WEB)))
    assert verify_disk(raw).faults == ()
    content = raw.read_bytes()
    assert content.count(WEB.encode()) == 1
    raw.write_bytes(content.replace(WEB.encode(), WEB.replace("serve", "steal").encode()))
    (fault,) = verify_disk(raw).faults
    assert fault.path == "/containers/web.toml"
    assert "is damaged: its digest is" in fault.problem


def test_an_image_that_is_pulled_need_not_be_there(archive: Path, tmp_path: Path) -> None:
    (web,) = write(tmp_path, web='image = "elsewhere:1"\npull = "missing"\n')
    assert inspect_disk(build(archive, tmp_path / "disk", web)).containers[0].name == "web"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("web.toml", 'cmd = ["x"]\nimage = "elsewhere:1"\n', "web.toml:2: image: elsewhere:1 is not on the disk"),
        ("web.toml", 'imag = "web:1"\n', "web.toml: image: is missing"),
        ("web.toml", 'image = "web:1"\n\nports = 80\n', "web.toml:3: ports: expected a list of texts, found 80"),
        ("web.conf", 'image = "web:1"\n', "web.conf: expected the name NAME.toml"),
        ("w.toml", 'image = "web:1"\n', "container name: expected at least two letters"),
        ("preloader.toml", 'image = "web:1"\n', "and not `preloader`, found 'preloader'"),
        ("web.toml", "#" * 65537, "has 65537 bytes, at most 65536 are read"),
    ],
)
def test_what_is_refused(preloader: Preloader, archive: Path, name: str, text: str, problem: str) -> None:
    file, disk = archive.parent / name, archive.parent / "disk.qcow2"
    file.write_text(text)
    result = preloader("build", archive, "-o", disk, "--container", file)
    assert result.status == 2
    assert problem in result.err
    assert not disk.exists()


def test_a_file_that_is_not_there(preloader: Preloader, archive: Path) -> None:
    result = preloader("build", archive, "-o", archive.parent / "disk.qcow2", "--container", "/nonexistent/web.toml")
    assert result.status == 2
    assert "/nonexistent/web.toml: cannot be read: No such file or directory" in result.err


def test_two_of_one_name_are_refused(preloader: Preloader, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (one,), (other,) = write(tmp_path, web=WEB), write(tmp_path / "other", web=WEB)
    result = preloader("build", archive, "-o", tmp_path / "disk", "--container", one, "--container", other)
    assert result.status == 2
    assert f"expected another name than that of {one}, found '{other}'" in result.err
