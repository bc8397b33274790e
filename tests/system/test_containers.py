"""Containers as services, with a real systemd and a real docker: what is described is what runs, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.containers.definition import parse_container
from preloader_agent.errors import CommandFailed
from preloader_agent.guest.definitions import OWN
from preloader_agent.guest.programs import run
from preloader_agent.guest.servicesteps import prepare_container
from preloader_agent.store.reference import Reference
from tests.images import app_image, busybox_image
from tests.images.oci import OciLayout
from tests.registry import Registry
from tests.system.conftest import NewDockerd
from tests.system.disks import make_raw_disk
from tests.system.nspawn import NspawnGuest
from tests.system.views import show

# Words that systemd, docker or a shell would make something else of.
NASTY = [
    "", " ", "a b", '"', "'", "\\", "\\\\", "trailing\\", "\\x41\\n", "%n", "%%", "100%", "$HOME", "${HOME}", "$$", "$",
    ";", "\\;", "a;b", "a\nb", "a\r\nb", "\t", "# no comment", "\x01\x7f\x1b", "ü €", "\U0001f600",
    "\x85\u2028\u00a0\u200b", "\ue000\U000f0000", "-x", "--rm", "--", "@x", "!x", "+x", ":x",
    "x\n[Service]\nExecStart=/bin/false", "`id`", "$(id)", "*", "~", "{}", "x" * 5000,
]  # fmt: skip
SLEEP = ["/bin/busybox", "sleep", "1000"]
QUIET = 'networks = ["none"]\nrun_options = ["--init"]\n'  # an init ends at once when it is told to
PLAIN = f'image = "busybox:test"\ncmd = {json.dumps(SLEEP)}\n{QUIET}'
WEB = """
image = "busybox:test"
entrypoint = ["/bin/busybox", "httpd", "-f"]
cmd = ["-p", "80", "-h", "/data"]
environment_files = ["/etc/web.env"]
ports = ["127.0.0.1:8080:80"]
volumes = ["/srv/web:/data:ro", "/anonymous"]
user = "65534:65534"
workdir = "/tmp"
hostname = "www"
labels = { "org.example.purpose" = "test" }
capabilities = { add = ["NET_ADMIN"], drop = ["ALL"] }
devices = ["/dev/null:/dev/mine:rw"]
docker_options = ["--log-level=error"]
run_options = ["--init", "--shm-size=1m"]
depends_on = ["db.1"]
environment = { GREETING = "hello" }
"""
BAD = {
    "unknown": (f"{PLAIN}prots = []\n", "unknown.toml:5: prots: there is no such key; did you mean ports?"),
    "wrong": (f"{PLAIN}user = 7\n", "wrong.toml:5: user: expected text in quotes, found 7"),
    "cycle1": (
        f'{PLAIN}depends_on = ["cycle2"]\n',
        "cycle1.toml:5: depends_on: is a cycle: cycle1 -> cycle2 -> cycle1",
    ),
    "cycle2": (
        f'{PLAIN}depends_on = ["cycle1"]\n',
        "cycle2.toml:5: depends_on: is a cycle: cycle2 -> cycle1 -> cycle2",
    ),
    "lonely": (f'{PLAIN}depends_on = ["nobody"]\n', "lonely.toml:5: depends_on: there is no container nobody"),
    "nowhere": (
        'image = "nowhere:1"\npull = "never"\n',
        "docker has no image nowhere:1, and pull is never: attach the",
    ),
}
PASSWORD = "s3cret"
BCRYPT = "$2b$04$Vgn5f3k3IV3eAgXJ1ILmPuprgXZawe8laMcleqqUT13kqC1n4hU9C"  # of that password


def text(value: str) -> str:
    """A text as TOML has it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def nasty() -> str:
    """A container whose every value is a trap."""
    variables = ", ".join(f"N{number} = {text(word)}" for number, word in enumerate(NASTY))
    script = text("exec /bin/busybox sleep 1000")
    return (
        f'image = "busybox:test"\nentrypoint = ["/bin/busybox", "sh", "-c", {script}, "sh"]\n{QUIET}'
        f"cmd = [{', '.join(map(text, NASTY))}]\nenvironment = {{ {variables} }}\n"
    )


@pytest.fixture(scope="module")
def guest(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnGuest]:
    """One guest for all tests here, booted with a disk of images and with descriptions, good ones and bad ones."""
    disk = make_raw_disk(tmp_path_factory.mktemp("disk") / "disk", busybox_image(), app_image())
    texts = {"db.1": PLAIN, "web": WEB, "nasty": nasty(), "manual": f"{PLAIN}auto_start = false\n", "taken": PLAIN}
    texts |= {name: content for name, (content, _) in BAD.items()}
    files = {
        **{f"{OWN}/{name}.toml": content for name, content in texts.items()},
        "etc/web.env": "FROM_FILE=yes\n",
        "srv/web/index.html": "served\n",
        "usr/lib/systemd/system/docker-taken.service": "[Service]\nExecStart=sleep 1000\n",
    }
    with NspawnGuest(tree, [disk], files=files, credentials={"docker-preloader.expect": "count:1"}) as guest:
        yield guest


def inspect(guest: NspawnGuest, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(guest.succeed(f"docker container inspect {name}"))
    return found[0]


def describe(guest: NspawnGuest, name: str, content: str, command: str = "start") -> str:
    """Describe a container in the running guest, start its service or do something else with it; what is printed."""
    guest.succeed(f"cat >{OWN}/{name}.toml <<'EOF'\n{content}\nEOF\nsystemctl daemon-reload")
    return guest.execute(f"systemctl {command} docker-{name}")[1]


def said_by(guest: NspawnGuest, name: str) -> str:
    guest.succeed("journalctl --sync")
    return guest.succeed(f"journalctl --boot --output=cat --unit docker-{name}")


def test_services_run_after_the_boot_in_their_order(guest: NspawnGuest) -> None:
    for name in ("db.1", "web", "nasty"):
        guest.wait_for_unit(f"docker-{name}.service")
    assert inspect(guest, "db.1")["State"]["StartedAt"] < inspect(guest, "web")["Created"]
    assert show(guest, "docker-manual", "ActiveState") == "inactive"
    guest.fail("docker container inspect manual")
    assert "served" in guest.succeed(
        "python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080').read())\""
    )


def test_what_is_described_is_what_docker_runs(guest: NspawnGuest) -> None:
    found = inspect(guest, "web")
    config, host = found["Config"], found["HostConfig"]
    assert config["Image"] == "busybox:test"
    assert config["Entrypoint"] + config["Cmd"] == ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/data"]
    assert {"GREETING=hello", "FROM_FILE=yes"} <= set(config["Env"])
    assert (config["User"], config["WorkingDir"], config["Hostname"]) == ("65534:65534", "/tmp", "www")
    assert config["Labels"] == {"org.example.purpose": "test", "docker-preloader.container": "web"}
    assert config["StopTimeout"] == 10
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    assert host["Binds"] == ["/srv/web:/data:ro"]
    assert (host["CapAdd"], host["CapDrop"]) == (["CAP_NET_ADMIN"], ["ALL"]) or host["CapAdd"] == ["NET_ADMIN"]
    assert [device["PathInContainer"] for device in host["Devices"]] == ["/dev/mine"]
    assert (host["Init"], host["ShmSize"], host["Privileged"]) == (True, 1 << 20, False)
    assert host["LogConfig"]["Type"] == "journald"
    assert host["RestartPolicy"]["Name"] == "no"


def test_values_reach_systemd_and_docker_as_they_are(guest: NspawnGuest) -> None:
    main = show(guest, "docker-nasty", "MainPID")
    words = json.loads(
        guest.succeed(f"jq --raw-input --slurp --compact-output 'split(\"\\u0000\")' /proc/{main}/cmdline")
    )
    assert words[-len(NASTY) - 1 : -1] == NASTY
    config = inspect(guest, "nasty")["Config"]
    assert config["Cmd"][-len(NASTY) :] == NASTY
    variables = dict(variable.split("=", 1) for variable in config["Env"])
    assert [variables[f"N{number}"] for number in range(len(NASTY))] == NASTY


def test_show_prints_the_unit_that_the_generator_made(guest: NspawnGuest) -> None:
    for name in ("web", "nasty"):
        shown = guest.succeed(f"docker-preloader containers show {name}")
        assert shown == guest.succeed(f"cat /run/systemd/generator/docker-{name}.service")
    assert "did you mean ports?" in guest.fail("docker-preloader containers show unknown")
    assert "no file describes a container absent" in guest.fail("docker-preloader containers show absent")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_has_a_clear_message_and_its_service_does_not_run(guest: NspawnGuest, name: str) -> None:
    assert BAD[name][1] in said_by(guest, name)
    assert show(guest, f"docker-{name}", "ActiveState") in ("failed", "activating")
    guest.fail(f"docker container inspect {name}")


def test_check_says_all_that_is_wrong(guest: NspawnGuest) -> None:
    said = guest.fail("docker-preloader containers check")
    assert [line for name, (_, line) in BAD.items() if line not in said] == [
        "docker has no image nowhere:1, and pull is never: attach the"
    ]
    assert "taken.toml: /usr/lib/systemd/system/docker-taken.service is there already" in said
    assert len(said.splitlines()) == len(BAD)
    assert guest.succeed(f"cd {OWN} && docker-preloader containers check web.toml nasty.toml") == ""
    guest.fail(f"docker-preloader containers check {OWN}/unknown.toml")


def test_a_unit_of_the_systems_stays(guest: NspawnGuest) -> None:
    assert show(guest, "docker-taken", "FragmentPath") == "/usr/lib/systemd/system/docker-taken.service"
    assert not show(guest, "docker-taken", "SourcePath")


def test_an_image_that_comes_later_starts_its_service(guest: NspawnGuest) -> None:
    guest.succeed("docker tag busybox:test nowhere:1")
    guest.wait_until_succeeds("docker container inspect nowhere")
    guest.succeed("systemctl stop docker-nowhere && docker rmi nowhere:1")


def test_a_container_that_is_killed_is_started_again(guest: NspawnGuest) -> None:
    before = inspect(guest, "db.1")["Id"]
    guest.succeed("docker kill db.1")
    guest.wait_until_succeeds(f"docker container inspect --format {{{{.Id}}}} db.1 | grep -v {before}")
    guest.wait_for_unit("docker-db.1.service")


def test_docker_comes_back_with_its_services(guest: NspawnGuest) -> None:
    before = inspect(guest, "db.1")["Id"]
    guest.succeed("systemctl restart docker")
    guest.wait_until_succeeds(f"docker container inspect --format {{{{.Id}}}} db.1 | grep -v {before}")
    guest.succeed("systemctl kill --kill-whom=main --signal=KILL docker")
    guest.wait_until_succeeds("systemctl show --property=NRestarts --value docker | grep 1")
    for unit in ("docker", "docker-db.1", "docker-web"):
        guest.wait_until_succeeds(f"systemctl is-active {unit}")


def test_a_service_that_is_stopped_leaves_nothing(guest: NspawnGuest) -> None:
    guest.succeed("systemctl stop docker-web")
    assert show(guest, "docker-web", "ActiveState") == "inactive"
    guest.fail("docker container inspect web")
    assert guest.succeed("docker volume ls --quiet") == ""
    assert show(guest, "docker-db.1", "ActiveState") == "active"
    guest.succeed("systemctl stop docker-db.1 && systemctl start docker-web")
    assert show(guest, "docker-db.1", "ActiveState") == "active"


def test_what_a_power_cut_leaves_is_replaced_and_what_is_not_ours_stays(guest: NspawnGuest) -> None:
    made = "docker create --name manual --network none"
    left = guest.succeed(f"{made} --label docker-preloader.container=manual busybox:test").strip()
    guest.succeed("systemctl start docker-manual")
    assert inspect(guest, "manual")["Id"] != left
    guest.succeed("systemctl stop docker-manual")
    other = guest.succeed(f"{made} busybox:test").strip()
    guest.fail("systemctl start docker-manual")
    assert f'The container name "/manual" is already in use by container "{other}"' in said_by(guest, "manual")
    guest.succeed("systemctl stop docker-manual")
    assert inspect(guest, "manual")["Id"] == other
    guest.succeed("docker rm manual")


def test_a_changed_file_counts_after_a_reload_and_a_drop_in_as_well(guest: NspawnGuest) -> None:
    describe(guest, "manual", f'{PLAIN}auto_start = false\nhostname = "first"\n')
    assert inspect(guest, "manual")["Config"]["Hostname"] == "first"
    drop_in = "/run/systemd/system/docker-manual.service.d/nice.conf"
    guest.succeed(f"install -D /dev/stdin {drop_in} <<'EOF'\n[Service]\nNice=7\nEOF")
    describe(guest, "manual", f'{PLAIN}auto_start = false\nhostname = "second"\n', "restart")
    assert inspect(guest, "manual")["Config"]["Hostname"] == "second"
    assert show(guest, "docker-manual", "Nice") == "7"
    guest.succeed(f"systemctl stop docker-manual; rm {drop_in}")


def test_an_image_is_loaded_from_a_file_or_a_program(guest: NspawnGuest) -> None:
    guest.succeed(
        "mkdir -p /srv/images && cd /srv/images && docker tag busybox:test filed:1 && docker save filed:1 -o filed.tar"
        " && docker tag busybox:test streamed:1 && docker save streamed:1 -o streamed.tar"
        " && docker rmi filed:1 streamed:1"
        " && printf '#!/bin/sh\\ncat /srv/images/streamed.tar\\n' >stream && printf '#!/bin/sh\\nexit 3\\n' >broken"
        " && chmod +x stream broken"
    )
    loaded = PLAIN.replace("busybox:test", "filed:1")
    assert describe(guest, "filed", f'{loaded}image_file = "/srv/images/filed.tar"\npull = "never"\n') == ""
    streamed = PLAIN.replace("busybox:test", "streamed:1")
    assert describe(guest, "streamed", f'{streamed}image_stream = "/srv/images/stream"\n') == ""
    for name in ("filed", "streamed"):
        assert inspect(guest, name)["Config"]["Image"] == f"{name}:1"
    describe(guest, "other", f'{PLAIN.replace("busybox:test", "other:1")}image_file = "/srv/images/filed.tar"\n')
    assert "/srv/images/filed.tar does not hold the image other:1; docker: Loaded image: filed:1" in said_by(
        guest, "other"
    )
    describe(guest, "broken", f'{PLAIN.replace("busybox:test", "b:1")}image_stream = "/srv/images/broken"\n')
    assert "/srv/images/broken: exit status 3" in said_by(guest, "broken")
    guest.succeed(
        f"systemctl stop docker-filed docker-streamed docker-other docker-broken; cd {OWN}; rm other.toml broken.toml"
    )


def test_one_that_ends_well_is_done_and_one_that_fails_holds_up_what_needs_it(guest: NspawnGuest) -> None:
    once = 'image = "busybox:test"\nrestart = "no"\nnetworks = ["none"]\n'
    describe(guest, "once", f'{once}cmd = ["/bin/busybox", "echo", "done"]\n')
    assert show(guest, "docker-once", "Result") == "success"
    assert "done" in said_by(guest, "once")
    describe(guest, "after", f'{PLAIN}depends_on = ["once"]\n')
    assert show(guest, "docker-after", "ActiveState") == "active"
    describe(guest, "once", f'{once}cmd = ["/no/such/program"]\n', "stop")
    assert "A dependency job for docker-after.service failed" in guest.fail("systemctl start docker-after")
    assert show(guest, "docker-once", "ActiveState") == "failed"
    describe(guest, "mute", f'{once}cmd = ["/no/such/program"]\n')
    assert 'exec: "/no/such/program": stat /no/such/program: no such file or directory' in said_by(guest, "mute")


def test_where_nothing_is_described_no_interpreter_is_started(guest: NspawnGuest) -> None:
    """The last test here."""
    generator = "sh -x /usr/lib/systemd/system-generators/docker-preloader-generator /run/nothing 2>&1"
    assert "/usr/bin/python3" in guest.execute(generator)[1]
    guest.succeed(f"rm {OWN}/*.toml && systemctl daemon-reload")
    assert "/usr/bin/python3" not in guest.succeed(generator)
    assert guest.succeed("find /run/systemd/generator -name 'docker-*'") == ""


def test_a_registry_with_a_password(
    new_dockerd: NewDockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The login is used for what has to be pulled alone, and stands in a folder of the service's."""
    layout = OciLayout()
    with Registry(tmp_path / "registry", users=f"reader:{BCRYPT}\n") as registry:
        manifest = layout.image(busybox_image())
        image = registry.push(layout, manifest, "private:1", f"reader:{PASSWORD}")
        dockerd = new_dockerd()
        config, password = tmp_path / "config", tmp_path / "password"
        monkeypatch.setenv("DOCKER_CONFIG", str(config))
        content = f'image = "{image}"\ndocker_options = ["--host={dockerd.host}"]\n'
        login = f'[login]\nusername = "reader"\npassword_file = "{password}"\nregistry = "{registry.host}"\n'
        container = parse_container(f"{content}{login}".encode(), "web.toml", "web")
        password.write_text("wrong\n")
        with pytest.raises(CommandFailed, match=r"docker .*login .*--password-stdin .*(unauthorized|401)"):
            prepare_container(container)
        password.write_text(f"{PASSWORD}\n")
        prepare_container(container)
        assert registry.host in (config / "config.json").read_text()
        run(["docker", *container.docker_options, "pull", image])
        (config / "config.json").unlink()
        prepare_container(container)
        prepare_container(container._replace(image=Reference(f"{registry.host}/private@{manifest['digest']}")))
        assert not (config / "config.json").exists()
        prepare_container(container._replace(pull="always"))
        assert registry.host in (config / "config.json").read_text()
        assert PASSWORD not in "".join(capfd.readouterr())
