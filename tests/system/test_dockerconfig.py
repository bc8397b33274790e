"""Docker's own configuration, in whole guests: what we read of it is what systemd and dockerd make of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.images import app_image, busybox_image
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest

BUSYBOX, APP = busybox_image().image_id, app_image().image_id
DAEMON_JSON, DEFAULTS = "etc/docker/daemon.json", "etc/default/docker"
DROP_IN = "etc/systemd/system/docker.service.d/test.conf"
# What stands below the data root after the agent's pass, and before dockerd writes anything.
BEFORE = '[Service]\nExecStartPre=/bin/sh -c "find /var/lib/docker -mindepth 1 >/run/before"\n'
# The guest's dockerd is 26.1; this one says that it is 29, and keeps images with containerd as 29 does by default.
DOCKER_29 = """#!/bin/sh
[ "$*" != --version ] || exec echo "Docker version 29.0.1, build x"
grep -qs overlay2 /etc/docker/daemon.json || set -- "$@" --config-file=/opt/29/daemon.json
exec /usr/sbin/dockerd "$@"
"""

# A unit's words, as this Python process was given them.
DUMP = """#!/usr/bin/python3
import json, sys
with open(f"/run/words/{sys.argv[1]}", "w") as file:
    json.dump(sys.argv, file)
"""
PYTHON = "PYTHONPATH=/usr/share/docker-preloader python3"
OURS = """
import json, sys
from preloader_agent.guest.dockerconfig import read_command, read_environment
from preloader_agent.guest.unitfiles import read_unit, unit_files
found = {}
for name in sys.argv[1:]:
    unit = read_unit(name)
    words = read_command(unit, read_environment(unit, name=name), name)
    found[name] = [[word.value for word in words], list(unit_files(name))]
print(json.dumps(found))
"""
HEAD = "[Service]\nType=oneshot\n"
ETC, LIB = "etc/systemd/system", "usr/lib/systemd/system"
# Each unit's own file is the first; %n is what the dump is named by.
WORDS: dict[str, dict[str, str]] = {
    "quotes.service": {
        "etc": r"""ExecStart=/dump %n a "b c" 'd e' --x='f g'h "" '' i"j k"l \x41\101\u0042 m\sn \t '\'' "\"" o\ p %% """  # noqa: E501
        "%t\n"
    },
    "relaxed.service": {"etc": r"ExecStart=/dump %n \q '\w'"},
    "variables.service": {
        "etc": """Environment=A=1 "B=two words" 'C="quoted part" x\\\\y'
Environment=D='$A ${A}'
ExecStart=/dump %n $A $B $C ${B} pre${A}post $$A $${A} x$A $D ${D} $NONE ${NONE} - "$B" '$B' ${A""",
    },
    "literal.service": {"etc": "Environment=A=1\nExecStart=:/dump %n $A ${A} $$A %%"},
    "named.service": {"etc": "ExecStart=@/dump dump %n a"},
    "file.service": {
        "etc": "Environment=A=unit B=unit\nEnvironmentFile=-/none\nEnvironmentFile=/variables\n"
        "ExecStart=/dump %n $A $B ${C} ${D} ${E} ${F} ${G} ${H} ${I} ${J} ${K} ${L} ${M}",
    },
    "reset.service": {
        "lib": "Environment=A=1\nExecStart=/dump %n no\n",
        "lib/20-b.conf": "[Service]\nEnvironment=B=lib\n",
        "etc/20-b.conf": "[Service]\nEnvironment=B=etc\n",
        "etc/10-a.conf": "[Service]\nEnvironment=B=first\nEnvironment=C=first\n",
        "lib/30-c.conf": "[Service]\nExecStart=\nExecStart=/dump \\\n# comment\n; too\n  %n $A $B $C \\\n  last\n",
    },
    "empty.service": {
        "etc": "Environment=A=1\nExecStart=/dump %n $A ${A}",
        "etc/a.conf": "[Service]\nEnvironment=\n",
        "lib/b.conf": "[Unit]\nExecStart=/dump wrong section\n",
        "lib/c.txt": "[Service]\nExecStart=\nExecStart=/dump not a drop-in\n",
    },
    "two-part-name.service": {
        "etc": "ExecStart=/dump %n $A $B $C $D",
        "etc:two-.service/b.conf": "[Service]\nEnvironment=A=two\nEnvironment=B=two\n",
        "lib:two-part-.service/a.conf": "[Service]\nEnvironment=A=part\nEnvironment=C=part\n",
        "lib:two-part-name.service/b.conf": "[Service]\nEnvironment=A=name\n",
        "etc:service/0-words.conf": "[Service]\nEnvironment=D=all\n",
        "lib:two-part-.service/0-words.conf": "[Service]\nEnvironment=D=part\n",
    },
}
VARIABLES = """# comment
 ; too
A=file
 C = two words\t
D='a b'  "c d"
E=
F=x\\
y
G="a
b"
H='a\\n'
I="\\$\\q\\""
J=it's
K=a=b # no comment
L=\\a\\\\b
M="x"y"z"
no equals
"""


def files_of(name: str, parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for where, text in parts.items():
        place, _, drop_in = where.partition("/")
        folder, _, other = place.partition(":")
        path = {"etc": ETC, "lib": LIB}[folder]
        yield (f"{path}/{other or name}.d/{drop_in}", text) if drop_in else (f"{path}/{name}", f"{HEAD}{text}\n")


def test_unit_files_are_read_as_systemd_reads_them(tree: Path) -> None:
    files = {path: text for name, parts in WORDS.items() for path, text in files_of(name, parts)}
    with NspawnGuest(tree, files={**files, "dump": DUMP, "variables": VARIABLES}) as guest:
        guest.succeed("chmod 755 /dump; mkdir /run/words")
        names = " ".join(WORDS)
        ours = json.loads(guest.succeed(f"{PYTHON} -c {shlex.quote(OURS)} {names}"))
        for name in WORDS:
            guest.succeed(f"systemctl start {name}")
            assert ours[name][0] == json.loads(guest.succeed(f"cat /run/words/{name}")), name
            known = guest.succeed(f"systemctl show -P FragmentPath -P DropInPaths {name}").split()
            assert ours[name][1] == known, name
        # And the guest's own units, all of them.
        units = guest.succeed("systemctl list-units --all --plain --no-legend --type=service,socket --state=loaded")
        real = [line.split()[0] for line in units.splitlines() if "@" not in line.split()[0]]
        ours = json.loads(guest.succeed(f"{PYTHON} -c {shlex.quote(OURS)} {' '.join(real)}"))
        assert len(real) > 10
        for name in real:
            known = guest.succeed(f"systemctl show -P FragmentPath -P DropInPaths {name}").split()
            assert ours[name][1] == known, name


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("disks")
    return [make_raw_disk(folder / str(number), image) for number, image in enumerate((busybox_image(), app_image()))]


@pytest.fixture(scope="module")
def guest(tree: Path, disks: list[Path]) -> Iterator[NspawnGuest]:
    """One guest for all cases; each starts docker anew, on an empty data root, with a configuration of its own."""
    files = {"etc/systemd/system/docker.service.d/before.conf": BEFORE, "opt/29/dockerd": DOCKER_29}
    files["opt/29/daemon.json"] = '{"features": {"containerd-snapshotter": true}}'
    with NspawnGuest(tree, disks[:1], files=files) as guest:
        guest.succeed("chmod 755 /opt/29/dockerd; ln -s /var/lib/docker/real /srv/docker; useradd remapped")
        guest.succeed("echo remapped:100000:65536 | tee /etc/subuid >/etc/subgid")
        yield guest


def start_docker(guest: NspawnGuest, files: Mapping[str, str]) -> dict[str, Any]:
    """Start docker on an empty data root, with a configuration of its own; what the agent's status says then."""
    units = "docker.socket docker.service docker-preloader.service docker-preloader-merge.service"
    guest.succeed(f"systemctl stop {units}; systemctl reset-failed")
    guest.succeed(f"rm -rf /{DAEMON_JSON} /{DEFAULTS} /{DROP_IN} /var/lib/docker/* /run/before")
    guest.succeed("rm -f /run/docker-preloader/*.json /run/docker-preloader/pending")
    for path, text in files.items():
        guest.succeed(f"mkdir -p $(dirname /{path}); printf %s {shlex.quote(text)} >/{path}")
    guest.succeed("systemctl daemon-reload; systemctl start docker.service docker.socket")
    status: dict[str, Any] = json.loads(guest.succeed("docker-preloader status --json"))
    return status


UNUSABLE = {
    "driver in daemon.json": ({DAEMON_JSON: '{"storage-driver": "vfs"}'}, "/daemon.json: the storage driver is vfs"),
    "driver in DOCKER_OPTS": ({DEFAULTS: 'DOCKER_OPTS="-s vfs"\n'}, "/etc/default/docker: -s vfs: the storage driver"),
    "driver in the environment": (
        {DROP_IN: "[Service]\nEnvironment=DOCKER_DRIVER=vfs\n"},
        "/test.conf: Environment=DOCKER_DRIVER=vfs: the storage driver is vfs",
    ),
    "remap in daemon.json": ({DAEMON_JSON: '{"userns-remap": "remapped"}'}, "/daemon.json: userns-remap is set"),
    "remap in a drop-in": (
        {DROP_IN: "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --userns-remap=remapped\n"},
        "/test.conf: --userns-remap=remapped: userns-remap is set",
    ),
    "snapshotter in daemon.json": (
        {DAEMON_JSON: '{"features": {"containerd-snapshotter": true}}'},
        "/daemon.json: images are kept by containerd",
    ),
    "snapshotter in a drop-in": (
        {DROP_IN: "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --feature containerd-snapshotter\n"},
        "/test.conf: --feature containerd-snapshotter: images are kept by containerd",
    ),
    "a fresh Docker 29": (
        {DROP_IN: "[Service]\nExecStart=\nExecStart=/opt/29/dockerd -H fd://\n"},
        "/var/lib/docker: Docker 29 would keep images with containerd",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_nothing_is_written_where_overlay2_is_not_in_use(guest: NspawnGuest, case: str) -> None:
    files, reason = UNUSABLE[case]
    if "--feature" in "".join(files.values()) and "--feature" not in guest.succeed("dockerd --help"):
        pytest.skip("needs a dockerd with --feature (Docker 28)")
    status = start_docker(guest, files)
    assert reason in status["problems"][0]
    assert "left alone" in status["problems"][0]
    assert reason in guest.succeed("docker-preloader status")
    assert guest.succeed("cat /run/before") == ""
    assert guest.succeed("docker images --quiet") == ""


def test_docker_is_not_restarted_for_disks_that_it_cannot_use(guest: NspawnGuest, disks: list[Path]) -> None:
    status = start_docker(guest, UNUSABLE["a fresh Docker 29"][0])
    assert [disk["state"] for disk in status["disks"]] == ["unused"]
    before = guest.succeed("systemctl show -P MainPID docker.service")
    guest.succeed("systemctl restart docker-preloader.service")  # dockerd runs now
    device = guest.attach(disks[1])
    guest.wait_until_succeeds("[ $(docker-preloader status | grep -c ' unused ') = 2 ]")
    guest.detach(device)
    assert "Docker 29 would keep images" in guest.succeed("docker-preloader status")
    guest.fail("test -e /run/docker-preloader/pending")
    assert guest.succeed("systemctl show -P MainPID docker.service") == before


USABLE = {
    "nothing": {},
    "data-root in a drop-in": {
        DROP_IN: "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --data-root /srv/docker\n"
    },
    "data-root in DOCKER_OPTS": {DEFAULTS: "DOCKER_OPTS='--data-root=/srv/docker'\n"},
    "data-root in daemon.json": {DAEMON_JSON: '{"data-root": "/srv/docker", "userns-remap": ""}'},
    "another daemon.json": {
        DEFAULTS: "DOCKER_OPTS=--config-file=/etc/docker/other.json\n",
        "etc/docker/other.json": '{"data-root": "/srv/docker"}',
        DAEMON_JSON: "{",
    },
    "a Docker 29 that is told to": {
        DROP_IN: "[Service]\nExecStart=\nExecStart=/opt/29/dockerd -H fd://\n",
        DAEMON_JSON: '{"storage-driver": "overlay2"}',
    },
}


@pytest.mark.parametrize("case", USABLE)
def test_images_are_where_docker_looks_for_them(guest: NspawnGuest, case: str) -> None:
    assert start_docker(guest, USABLE[case])["problems"] == []
    root = guest.succeed("docker info --format '{{.DockerRootDir}}'").strip()
    assert root == ("/var/lib/docker/real" if "/srv/docker" in str(USABLE[case]) else "/var/lib/docker")
    assert guest.succeed("docker run --rm --network none busybox:test /bin/busybox echo ok").strip() == "ok"


def test_docker_is_asked_where_it_listens(guest: NspawnGuest, disks: list[Path]) -> None:
    """docker.socket still takes connections at the usual place, and nobody answers there."""
    service = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H unix:///run/other.sock\n"
    start_docker(guest, {DROP_IN: service})
    device = guest.attach(disks[1])
    guest.wait_until_succeeds(f"DOCKER_HOST=unix:///run/other.sock docker image inspect {APP} >/dev/null")
    guest.detach(device)
