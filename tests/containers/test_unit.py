"""The unit of a container: whatever a value holds, it is one word of one line."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preloader_agent.containers.definition import Container, Login, parse_container
from preloader_agent.containers.unit import make_failing_unit, make_unit, quote_word
from preloader_agent.guest.dockerconfig import read_command
from preloader_agent.guest.unitfiles import Assignment, expand_specifiers, read_unit, split_words
from preloader_agent.host.run import environment, run
from tests.strategies import bounded

SOURCE = "/etc/docker-preloader/containers.d/web.toml"
PROGRAM = ("/usr/bin/python3", "-I", "/usr/bin/docker-preloader")
UNIT = "docker-web.service"
WEB = parse_container(b'image = "web:1"', SOURCE, "web")
values = st.text(max_size=30) | st.text(alphabet="a \\\"'%$;{}=-\n\r\t#\u2028\x85", max_size=12)
words = st.lists(values, max_size=5).map(tuple)


def read(text: str) -> list[Assignment]:
    """The settings of a unit, as systemd reads a file."""
    with tempfile.TemporaryDirectory() as root:
        path = Path(root, "etc/systemd/system", UNIT)
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return read_unit(UNIT, root)


def settings(container: Container, source: str = SOURCE) -> dict[str, str]:
    return {each.key: each.value for each in read(make_unit(container, source, PROGRAM))}


def command(container: Container) -> list[str]:
    """The words that docker is run with."""
    return [word.value for word in read_command(read(make_unit(container, SOURCE, PROGRAM)), {}, UNIT)]


@bounded
@given(words)
def test_words_come_back_as_they_are(texts: tuple[str, ...]) -> None:
    line = " ".join(map(quote_word, texts))
    assert tuple(expand_specifiers(word, UNIT) for word in split_words(line)) == texts
    assert len(line.splitlines()) <= 1


@bounded
@given(words, words, values, values, values)
def test_no_value_becomes_a_word_or_a_setting_of_its_own(
    cmd: tuple[str, ...], options: tuple[str, ...], variable: str, user: str, source: str
) -> None:
    container = WEB._replace(cmd=cmd, docker_options=options, environment={"A": variable}, labels={variable: user})
    found = command(container._replace(user=user or "u"))
    assert found[: len(options) + 3] == ["docker", *options, "run", "--name=web"]
    assert f"--env=A={variable}" in found
    assert f"--label={variable}={user}" in found
    assert f"--user={user or 'u'}" in found
    assert found[len(found) - len(cmd) - 1 :] == ["web:1", *cmd]
    path = "/" + source.replace("\n", "").replace("\r", "")  # of a file that is there
    assert settings(container).keys() == settings(WEB).keys()
    assert split_words(settings(container)["ExecStartPre"])[-1] == SOURCE
    assert quote_word(path) in make_failing_unit("web", path, PROGRAM)


def test_a_plain_container() -> None:
    found = settings(WEB)
    assert command(WEB) == [
        *("docker", "run", "--name=web", "--pull=missing", "--log-driver=journald", "--stop-timeout=10"),
        *("--label=docker-preloader.container=web", "web:1"),
    ]
    assert found["Requires"] == "docker.service"
    assert found["After"] == "docker-preloader.service docker.service"
    assert found["SourcePath"] == SOURCE
    assert found["Restart"] == "always"
    assert found["TimeoutStopSec"] == "40"
    assert found["ExecStartPre"] == f":{' '.join(PROGRAM)} containers prepare {SOURCE}"
    assert found["ExecStop"] == ":docker stop web"
    assert not found.keys() & {"RuntimeDirectory", "Environment"}


def test_everything_that_can_be_said() -> None:
    container = WEB._replace(
        cmd=("serve", "--rm"),
        entrypoint=("/bin/tini", "--"),
        environment={"A": "1", "B": ""},
        environment_files=("/e",),
        ports=("80:80", "81:81"),
        volumes=("/a:/b",),
        user="u:g",
        workdir="/w",
        hostname="h",
        labels={"l": "m"},
        log_driver="local",
        networks=("n", "o"),
        added_capabilities=("NET_ADMIN",),
        dropped_capabilities=("ALL",),
        devices=("/dev/fuse",),
        is_privileged=True,
        docker_options=("--debug",),
        run_options=("--init", "--shm-size=1g"),
        depends_on=("db", "mq"),
        login=Login("u", "/p", "r"),
        pull="always",
        restart="no",
        stop_timeout=60,
    )
    assert command(container) == [
        *("docker", "--debug", "run", "--name=web", "--pull=always", "--log-driver=local", "--stop-timeout=60"),
        *("--user=u:g", "--workdir=/w", "--hostname=h", "--env=A=1", "--env=B=", "--env-file=/e"),
        *("--publish=80:80", "--publish=81:81", "--volume=/a:/b", "--label=l=m"),
        *("--label=docker-preloader.container=web", "--network=n", "--network=o", "--cap-add=NET_ADMIN"),
        *("--cap-drop=ALL", "--device=/dev/fuse", "--privileged", "--entrypoint=/bin/tini"),
        *("--init", "--shm-size=1g", "web:1", "--", "serve", "--rm"),
    ]
    found = settings(container)
    assert found["Requires"] == "docker.service docker-db.service docker-mq.service"
    assert found["After"] == f"docker-preloader.service {found['Requires']}"
    assert found["Restart"] == "no"
    assert found["Environment"] == f"DOCKER_CONFIG=/run/{found['RuntimeDirectory']}"
    assert found["ExecStop"] == ":docker --debug stop web"
    assert found["ExecStopPost"].endswith("containers remove web --debug")


@pytest.mark.parametrize(("entrypoint", "option"), [((), False), (("",), True)])
def test_an_entrypoint_can_be_taken_away(entrypoint: tuple[str, ...], option: bool) -> None:
    assert ("--entrypoint=" in command(WEB._replace(entrypoint=entrypoint))) is option


@pytest.mark.skipif(shutil.which("systemd-analyze", path=environment()["PATH"]) is None, reason="needs systemd-analyze")
def test_units_are_clean(tmp_path: Path) -> None:
    login = Login("u", "/p", "r")
    texts = {
        UNIT: make_unit(WEB._replace(cmd=("a b", '"%$;\\\n'), login=login, depends_on=("db",)), SOURCE, PROGRAM),
        "docker-db.service": make_failing_unit("db", SOURCE, PROGRAM),
        "docker.service": "[Service]\nExecStart=/bin/true\n",
    }
    for name, text in texts.items():
        # Neither program is everywhere where tests run; verify wants them to be there.
        Path(tmp_path, name).write_text(text.replace(PROGRAM[0], "/bin/sh").replace("=:docker ", "=:sh "))
    env = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "SYSTEMD_LOG_LEVEL": "warning"}
    said = run(["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())], env=env, with_stderr=True)
    assert said == ""


def test_a_unit_that_fails() -> None:
    found = {each.key: each.value for each in read(make_failing_unit("web", SOURCE, PROGRAM))}
    assert found["ExecStart"] == f":{' '.join(PROGRAM)} containers check {SOURCE}"
    assert found["Type"] == "oneshot"
    assert not found.keys() & {"Requires", "After", "Restart"}
    assert os.path.basename(found["SourcePath"]) == "web.toml"
