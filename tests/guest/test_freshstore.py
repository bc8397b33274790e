"""Whose empty store may be filled; a script stands for Docker 29, of which there is none here to run."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from preloader_agent.errors import StoreUnused
from preloader_agent.guest.dockerconfig import read_paths
from preloader_agent.guest.freshstore import GO_SECTION, OLD_PACKAGE, check_fresh_store
from preloader_agent.guest.paths import Paths
from preloader_agent.host.run import environment

DOCKER_29 = "[ \"$*\" = --version ] && echo 'Docker version 29.0.1, build x'"


def write_program(root: Path, script: str) -> str:
    program = root / "dockerd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def configure(root: Path, program: str, settings: object = None) -> Paths:
    """An empty data root, of a docker.service that runs `program`."""
    units, etc = root / "etc/systemd/system", root / "etc/docker"
    for folder in (units, etc, root / "store"):
        folder.mkdir(parents=True, exist_ok=True)
    (units / "docker.service").write_text(f"[Service]\nExecStart={program} --data-root {root}/store\n")
    (etc / "daemon.json").write_text(json.dumps(settings))
    return read_paths(root=str(root))


def test_a_fresh_docker_29_is_not_turned_to_overlay2(tmp_path: Path) -> None:
    paths = configure(tmp_path, write_program(tmp_path, DOCKER_29))
    reason = 'Docker 29 would keep images with containerd, .* put "storage-driver": "overlay2" into'
    with pytest.raises(StoreUnused, match=reason):
        check_fresh_store(paths, str(tmp_path))
    (tmp_path / "store" / "overlay2").mkdir()
    with pytest.raises(StoreUnused, match=reason):
        check_fresh_store(paths, str(tmp_path))


def test_a_docker_29_that_uses_overlay2_goes_on(tmp_path: Path) -> None:
    paths = configure(tmp_path, write_program(tmp_path, DOCKER_29))
    (tmp_path / "store" / "overlay2" / "l").mkdir(parents=True)
    check_fresh_store(paths, str(tmp_path))


@pytest.mark.parametrize("settings", [{"storage-driver": "overlay2"}, {"features": {"containerd-snapshotter": False}}])
def test_a_docker_29_that_is_told_to_use_overlay2_does(tmp_path: Path, settings: object) -> None:
    check_fresh_store(configure(tmp_path, write_program(tmp_path, DOCKER_29), settings), str(tmp_path))


def test_a_data_root_that_was_named_by_hand_is_on_purpose(tmp_path: Path) -> None:
    paths = configure(tmp_path, write_program(tmp_path, DOCKER_29))
    check_fresh_store(paths._replace(docker_root=f"{tmp_path}/else"), str(tmp_path))


def test_a_store_of_another_driver_is_left_alone(tmp_path: Path) -> None:
    paths = configure(tmp_path, "/nonexistent/dockerd")
    (tmp_path / "store" / "vfs" / "dir").mkdir(parents=True)
    (tmp_path / "store" / "btrfs").mkdir()
    check_fresh_store(paths, str(tmp_path))
    (tmp_path / "store" / "btrfs" / "subvolumes").mkdir()
    with pytest.raises(StoreUnused, match="store/btrfs: docker uses the storage driver btrfs here"):
        check_fresh_store(paths, str(tmp_path))


@pytest.mark.parametrize("script", ["exit 1", "echo Docker version x", "echo 'Docker version 28.5.2, build y'"])
def test_an_older_dockerd_and_one_that_cannot_tell_keep_nobody_out(tmp_path: Path, script: str) -> None:
    check_fresh_store(configure(tmp_path, write_program(tmp_path, script)), str(tmp_path))


def test_a_dockerd_that_is_not_there_keeps_nobody_out(tmp_path: Path) -> None:
    check_fresh_store(configure(tmp_path, "/nonexistent/dockerd"), str(tmp_path))


def old_program(program: Path) -> bytes:
    """A program that Go has built from dockerd's package before 29, and that fails when it is run."""
    texts = b"\0" + GO_SECTION
    content = b"\xff Go buildinf:" + bytes(17) + b"\x08go1.24.4" + bytes(17) + OLD_PACKAGE
    sections = [bytes(64), struct.pack("<I20x2Q24x", 1, 64, len(content))]
    sections.append(struct.pack("<I20x2Q24x", 0, 64 + len(content), len(texts)))
    header = struct.pack("<6s34xQ10x3H", b"\x7fELF\x02\x01", 64 + len(content) + len(texts), 64, len(sections), 2)
    program.write_bytes(header + content + texts + b"".join(sections))
    return program.read_bytes()


def test_an_older_dockerd_is_known_by_its_package_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_PRELOADER_DEBUG", "1")  # says when a program was run, and failed
    program = tmp_path / "dockerd"
    old_program(program)
    paths = configure(tmp_path, str(program))
    check_fresh_store(paths, str(tmp_path))
    assert capsys.readouterr().err == ""
    program.write_bytes(program.read_bytes().replace(b"github.com/docker/docker", b"github.com/moby/moby/v2/"))
    check_fresh_store(paths, str(tmp_path))
    assert "--version" in capsys.readouterr().err


def test_a_program_that_is_cut_short_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_PRELOADER_DEBUG", "1")
    program = tmp_path / "dockerd"
    whole = old_program(program)
    paths = configure(tmp_path, str(program))
    for length in range(0, len(whole) - 24, 30):  # the last bytes are of fields that nobody needs
        program.write_bytes(whole[:length])
        check_fresh_store(paths, str(tmp_path))
        assert "--version" in capsys.readouterr().err


def test_the_dockerd_of_this_machine_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerd = shutil.which("dockerd", path=environment()["PATH"])
    if dockerd is None:
        pytest.skip("needs dockerd: install docker.io")
    monkeypatch.setenv("DOCKER_PRELOADER_DEBUG", "1")  # says when a version is not understood
    program = tmp_path / "dockerd"  # not executable: what is said of it is read in it
    shutil.copyfile(dockerd, program)
    check_fresh_store(configure(tmp_path, str(program)), str(tmp_path))  # Debian 12 has 20.10
    check_fresh_store(configure(tmp_path, dockerd), str(tmp_path))
    assert capsys.readouterr().err == ""
