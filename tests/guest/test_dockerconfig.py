from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from preloader_agent.errors import StoreError
from preloader_agent.guest.dockerconfig import read_config, read_paths
from preloader_agent.guest.paths import Paths

DROP_IN = "etc/systemd/system/docker.service.d/test.conf"
DEBIAN = """[Service]
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
"""


def write(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def configure(root: Path, *, options: str = "", settings: object = None, service: str = "") -> str:
    """A root with Debian's docker.service, started with some more options and with a daemon.json."""
    write(root, "usr/lib/systemd/system/docker.service", service or f"{DEBIAN.rstrip()} {options}\n")
    write(root, "usr/lib/systemd/system/docker.socket", "[Socket]\nListenStream=%t/docker.sock\n")
    if settings is not None:
        write(root, "etc/docker/daemon.json", json.dumps(settings))
    return str(root)


def paths_of(root: str) -> Paths:
    return read_paths(root=root)


def test_without_any_file_docker_has_its_defaults(tmp_path: Path) -> None:
    assert paths_of(str(tmp_path)) == Paths()
    assert paths_of(configure(tmp_path)) == Paths()
    assert paths_of(configure(tmp_path, settings={})) == Paths()


def test_daemon_json_decides_where_the_store_is(tmp_path: Path) -> None:
    settings = {"data-root": "/srv/docker", "pidfile": "/run/d.pid", "hosts": ["tcp://0.0.0.0:1", "unix:///run/d.sock"]}
    root = configure(tmp_path, settings=settings, service="[Service]\nExecStart=/usr/bin/dockerd\n")
    assert paths_of(root) == Paths("/srv/docker", docker_pidfile="/run/d.pid", docker_socket="/run/d.sock")


@pytest.mark.parametrize(
    "options",
    [
        "--data-root=/srv/d",
        "--data-root /srv/d",
        "--data-root '/srv/d'",
        "'--data-root=/srv/d'",
        r"--data-root=\x2fsrv/d",
        "--graph=/srv/d",
        "-g /srv/d",
        "-g/srv/d",
        "-g=/srv/d",
        "-Dg /srv/d",
        "-D --data-root /else --data-root /srv/d",
        "--label a=b --data-root=/srv/d",
        "--data-root=/srv/d -- --data-root=/else",
        "--data-root ${ROOT}",
        "--data-root=${ROOT}",
        "$OPTIONS",
        "--data-root=/srv/../srv/./d/",
    ],
)
def test_every_spelling_of_an_option_is_read(tmp_path: Path, options: str) -> None:
    environment = 'Environment=ROOT=/srv/d "OPTIONS=--debug --data-root=/srv/d"\n'
    root = configure(tmp_path, service=f"[Service]\n{environment}ExecStart=/usr/bin/dockerd {options}\n")
    assert paths_of(root).docker_root == "/srv/d"


@pytest.mark.parametrize(
    "options",
    [
        "$OTHER",
        "${OTHER}",
        "--label $$ROOT",
        "--data-root=",
        "--data-root",
        "--exec-root /srv/d",
        "-l -g",
        "--data-roots=/x",
    ],
)
def test_what_is_no_such_option_leaves_the_default(tmp_path: Path, options: str) -> None:
    root = configure(tmp_path, service=f"[Service]\nExecStart=/usr/bin/dockerd {options}\n")
    assert paths_of(root).docker_root == "/var/lib/docker"


def test_options_come_from_a_drop_in_and_from_debians_file(tmp_path: Path) -> None:
    root = configure(tmp_path)
    write(
        tmp_path, "etc/default/docker", '# DOCKER_OPTS="--data-root=/no"\nDOCKER_OPTS="--data-root=/srv/a -p /run/p"\n'
    )
    assert paths_of(root) == Paths("/srv/a", docker_pidfile="/run/p")
    write(tmp_path, DROP_IN, "[Service]\nExecStart=\nExecStart=-@/usr/bin/dockerd dockerd -g /srv/b \\\n  -H fd://\n")
    assert paths_of(root) == Paths("/srv/b")
    write(tmp_path, DROP_IN, "[Service]\nExecStart=\nExecStart=:/usr/bin/dockerd $DOCKER_OPTS -g ${HOME}x\n")
    with pytest.raises(StoreError, match=r"test.conf: -g \${HOME}x: data-root is '\${HOME}x', a relative path"):
        paths_of(root)


def test_a_file_of_variables_wins_over_the_unit_and_may_be_absent(tmp_path: Path) -> None:
    service = "[Service]\nEnvironment=D=/srv/unit\nEnvironmentFile=/etc/docker/*.env\n"
    root = configure(tmp_path, service=f"{service}ExecStart=/usr/bin/env A=1 dockerd -g ${{D}}\n")
    assert paths_of(root).docker_root == "/srv/unit"
    write(tmp_path, "etc/docker/a.env", "D=/srv/a\n")
    write(tmp_path, "etc/docker/b.env", "D=/srv/b\n")
    assert paths_of(root).docker_root == "/srv/b"


def test_the_file_of_settings_may_be_another(tmp_path: Path) -> None:
    write(tmp_path, "srv/docker.json", '{"data-root": "/srv/other"}')
    root = configure(tmp_path, options="--config-file=/srv/docker.json", settings={"data-root": "/srv/standard"})
    assert paths_of(root).docker_root == "/srv/other"
    assert paths_of(configure(tmp_path, options="--config-file=")).docker_root == "/var/lib/docker"
    with pytest.raises(StoreError, match="--config-file=/none: that file is not there"):
        paths_of(configure(tmp_path, options="--config-file=/none"))


def test_a_command_that_hides_dockerd_leaves_daemon_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = "[Service]\nExecStart=/bin/sh -c 'exec dockerd --data-root=/srv/d'\n"
    assert paths_of(configure(tmp_path, service=service, settings={"data-root": "/srv/j"})).docker_root == "/srv/j"
    assert "ExecStart= does not run dockerd itself" in capsys.readouterr().err


def test_links_in_the_data_root_are_resolved_as_docker_does(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store")
    assert paths_of(configure(tmp_path, options=f"-g {tmp_path}/link")).docker_root == f"{tmp_path}/store"


@pytest.mark.parametrize(
    ("options", "listening", "socket"),
    [
        ("-H fd://", "/run/other.sock", "/run/other.sock"),
        ("-H fd://docker.socket", "2375\nListenStream=/run/other.sock", "/run/other.sock"),
        ("-H fd://", "%t/x.sock\nListenStream=\nListenStream=/run/y.sock", "/run/y.sock"),
        ("--host tcp://1.2.3.4 -Hunix:///run/z.sock", "/run/other.sock", "/run/z.sock"),
        ("-H unix://", "/run/other.sock", "/run/docker.sock"),
        ("-H tcp://1.2.3.4", "/run/other.sock", "/run/docker.sock"),
        ("-H fd://", "2375", "/run/docker.sock"),
        ("", "/run/other.sock", "/run/docker.sock"),
    ],
)
def test_the_socket_is_the_one_that_docker_serves(tmp_path: Path, options: str, listening: str, socket: str) -> None:
    root = configure(tmp_path, service=f"[Service]\nExecStart=/usr/bin/dockerd {options}\n")
    write(tmp_path, "etc/systemd/system/docker.socket", f"[Socket]\nListenStream={listening}\n")
    assert paths_of(root).docker_socket == socket


@pytest.mark.parametrize(
    ("settings", "options", "reason"),
    [
        ({"userns-remap": "default"}, "", r"daemon\.json: userns-remap is set; .* left alone"),
        ({}, "--userns-remap=me", r"docker\.service: --userns-remap=me: userns-remap is set"),
        ({"storage-driver": "btrfs"}, "", r"daemon\.json: the storage driver is btrfs; .* left alone"),
        ({}, "--storage-driver vfs", r"docker\.service: --storage-driver vfs: the storage driver is vfs"),
        ({}, "-svfs", "-svfs: the storage driver is vfs"),
        ({}, "-s=vfs", "-s=vfs: the storage driver is vfs"),
        (
            {"features": {"containerd-snapshotter": True}},
            "",
            r"daemon\.json: images are kept by containerd .* left alone",
        ),
        ({}, "--feature containerd-snapshotter", "--feature containerd-snapshotter: images are kept by containerd"),
        ({}, "--feature=a --feature=containerd-snapshotter=T", "images are kept by containerd"),
        ({"data-root": "docker"}, "", "data-root is 'docker', a relative path"),
        ({"data-root": "/a"}, "-g /a", r"daemon\.json: data-root is set here and by .*docker\.service: -g /a"),
        ({"features": {}}, "--feature=a", "docker does not start with both"),
        ({"data-root": 1}, "", "data-root is not a string"),
        ({"hosts": []}, "", "hosts is set here and by .*docker.service: -H fd://; docker does not start with both"),
        ({"features": ["containerd-snapshotter"]}, "", "features is not an object"),
        ({"features": {"containerd-snapshotter": "yes"}}, "", "features is not an object"),
        ({}, "--feature=containerd-snapshotter=yes", "neither true nor false"),
        ([], "", "not a JSON object"),
    ],
)
def test_a_store_that_disks_cannot_be_linked_into_is_left_alone(
    tmp_path: Path, settings: object, options: str, reason: str
) -> None:
    with pytest.raises(StoreError, match=reason):
        paths_of(configure(tmp_path, options=options, settings=settings))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"userns-remap": ""}, ""),
        ({}, "--userns-remap="),
        ({}, "--userns-remap=root"),
        ({"userns-remap": "root:root"}, ""),
        ({"storage-driver": "overlay2", "storage-opts": ["overlay2.size=1G"]}, ""),
        ({}, "-s overlay2 --storage-opt overlay2.size=1G"),
        ({"features": {"containerd-snapshotter": False, "buildkit": True}}, ""),
        ({}, "--feature containerd-snapshotter=false"),
        ({"storage-driver": "", "data-root": "", "features": None}, ""),
    ],
)
def test_a_setting_that_changes_nothing_is_none(tmp_path: Path, settings: object, options: str) -> None:
    assert paths_of(configure(tmp_path, options=options, settings=settings)) == Paths()


def test_the_variable_that_chooses_the_driver_wins(tmp_path: Path) -> None:
    root = configure(tmp_path, options="-s overlay2")
    write(tmp_path, DROP_IN, "[Service]\nEnvironment=DOCKER_DRIVER=vfs\n")
    with pytest.raises(StoreError, match=r"test\.conf: Environment=DOCKER_DRIVER=vfs: the storage driver is vfs"):
        paths_of(root)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"\xef\xbb\xbf{}", '{"data-root": "/var/lib/docker"}'.encode("utf-16")]
)
def test_a_file_that_docker_reads_is_read(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "etc/docker/daemon.json", "").write_bytes(content)
    assert paths_of(str(tmp_path)) == Paths()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}{}"])
def test_a_file_that_docker_would_not_read_is_reported(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "etc/docker/daemon.json", "").write_bytes(content)
    with pytest.raises(StoreError, match=r"daemon\.json: not valid JSON .* docker would not start with it"):
        paths_of(str(tmp_path))


def test_reading_it_all_is_not_felt_at_boot(tmp_path: Path) -> None:
    root = configure(tmp_path, settings={"live-restore": True})
    write(tmp_path, "etc/default/docker", "DOCKER_OPTS=-D\n")
    write(tmp_path, DROP_IN, "[Service]\nLimitNOFILE=infinity\n")
    durations = []
    for _ in range(50):
        started = time.perf_counter()
        read_paths(root=root)
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.001


def test_the_program_is_the_one_that_is_started(tmp_path: Path) -> None:
    assert read_config(configure(tmp_path)).program == "/usr/sbin/dockerd"
    assert read_config(str(tmp_path / "none")).program == "dockerd"
