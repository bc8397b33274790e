"""Descriptions of containers, and what is said of those that are wrong."""

from __future__ import annotations

import pytest

from preloader_agent.containers.definition import Container, Login, parse_container
from preloader_agent.errors import InvalidFile, InvalidValue
from preloader_agent.store.containername import checked_name

WHOLE = """
image = "docker.io/library/web:1"
cmd = ["serve", "--port=80"]
entrypoint = ["/bin/tini", "--"]
environment_files = ["/etc/web.env"]
ports = ["127.0.0.1:8080:80"]
volumes = ["/srv/web:/data:ro"]
user = "web:web"
workdir = "/data"
hostname = "www"
log_driver = "json-file"
networks = ["none"]
capabilities = { add = ["NET_ADMIN"], drop = ["ALL"] }
devices = ["/dev/fuse"]
privileged = true
docker_options = ["--log-level=debug"]
run_options = ["--init"]
depends_on = ["db"]
auto_start = false
pull = "always"
restart = "on-failure"
stop_timeout = 60

[environment]
PORT = "80"
EMPTY = ""

[labels]
"org.example.name" = "a=b"

[login]
username = "u"
password_file = "/etc/password"
registry = "registry.example"
"""


def parse(text: str) -> Container:
    return parse_container(text.encode(), "web.toml", "web")


def problem(text: str) -> str:
    with pytest.raises(InvalidFile) as raised:
        parse(text)
    return str(raised.value)


def test_every_key_is_read() -> None:
    found = parse(WHOLE)
    assert found == Container(
        name="web",
        image=found.image,
        cmd=("serve", "--port=80"),
        entrypoint=("/bin/tini", "--"),
        environment={"PORT": "80", "EMPTY": ""},
        environment_files=("/etc/web.env",),
        ports=("127.0.0.1:8080:80",),
        volumes=("/srv/web:/data:ro",),
        user="web:web",
        workdir="/data",
        hostname="www",
        labels={"org.example.name": "a=b"},
        log_driver="json-file",
        networks=("none",),
        added_capabilities=("NET_ADMIN",),
        dropped_capabilities=("ALL",),
        devices=("/dev/fuse",),
        is_privileged=True,
        docker_options=("--log-level=debug",),
        run_options=("--init",),
        depends_on=("db",),
        is_started=False,
        login=Login("u", "/etc/password", "registry.example"),
        pull="always",
        image_file="",
        image_stream="",
        restart="on-failure",
        stop_timeout=60,
    )
    assert found.image == "web:1"
    assert found.unit == "docker-web.service"


def test_an_image_can_be_loaded() -> None:
    assert parse('image = "web:1"\nimage_file = "/srv/web.tar"').image_file == "/srv/web.tar"
    assert parse('image = "web:1"\nimage_stream = "/srv/web"\npull = "never"').image_stream == "/srv/web"


def test_only_the_image_has_to_be_said() -> None:
    found = parse('image = "web:1"')
    assert (found.pull, found.restart, found.stop_timeout, found.log_driver) == ("missing", "always", 10, "journald")
    assert found.is_started
    assert found.login is None
    assert parse_container(b'image = "web:1"', "web.toml", "web", default_pull="").pull == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [('"/run"', ("/run",)), ('["/run", "x"]', ("/run", "x")), ('""', ("",)), ("[]", ("",))],
)
def test_an_entrypoint_is_a_text_or_a_list(value: str, words: tuple[str, ...]) -> None:
    assert parse(f'image = "web:1"\nentrypoint = {value}').entrypoint == words
    assert parse('image = "web:1"').entrypoint == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "web.toml: image: is missing; every container has an image, such as name:tag"),
        ('image = "web"', "web.toml:1: image: expected an image reference such as name:tag, found 'web'"),
        ("image = 7", "web.toml:1: image: expected an image reference such as name:tag, found 7"),
        ('image = "w:1"\nprots = []', "web.toml:2: prots: there is no such key; did you mean ports?"),
        ('image = "w:1"\ncmd = "x"', "web.toml:2: cmd: expected a list of texts, found 'x'"),
        ('image = "w:1"\nentrypoint = [1]', "web.toml:2: entrypoint: expected text in quotes or a list of texts"),
        ('image = "w:1"\nentrypoint = "\\u0000"', "web.toml:2: entrypoint: expected text in quotes or a list of texts"),
        ('image = "w:1"\nports = [\n""]', "web.toml:2: ports: has an empty text"),
        ('image = "w:1"\nworkdir = "data"', "web.toml:2: workdir: expected an absolute path, found 'data'"),
        ('image = "w:1"\nenvironment_files = ["a"]', "web.toml:2: environment_files: expected an absolute path"),
        ('image = "w:1"\n[environment]\nA = 1', "web.toml:3: environment.A: expected text in quotes, found 1"),
        ('image = "w:1"\nlabels = ["a=b"]', "web.toml:2: labels: expected a table [labels], found a list"),
        ('image = "w:1"\n[environment]\n"" = ""', "web.toml:2: environment: has the name ''"),
        ('image = "w:1"\n[labels]\n"a=b" = "c"', "web.toml:2: labels: has the name 'a=b'; a name has"),
        ('image = "w:1"\ncapabilities = { ad = [] }', "web.toml:2: capabilities.ad: there is no such key; did you"),
        ('image = "w:1"\nrun_options = ["--rm"]', "web.toml:2: run_options: --rm is for the service to say"),
        ('image = "w:1"\nrun_options = ["--name=x"]', "web.toml:2: run_options: --name is for the service to say"),
        ('image = "w:1"\ndepends_on = ["web"]', "web.toml:2: depends_on: web cannot depend on itself"),
        ('image = "w:1"\ndepends_on = ["a b"]', "web.toml:2: depends_on: expected at least two letters"),
        ('image = "w:1"\n[login]\nusername = "u"', "web.toml: login.password_file: is missing"),
        ('image = "w:1"\nlogin = { password_file = "/p" }', "web.toml: login.username: is missing"),
        ('image = "w:1"\nlogin = 1', "web.toml:2: login: expected a table [login], found 1"),
        ('image = "w:1"\npull = "newer"', "web.toml:2: pull: expected always, missing or never, found 'newer'"),
        ('image = "w:1"\nrestart = "unless-stopped"', "web.toml:2: restart: expected no, on-success,"),
        ('image = "w:1"\nstop_timeout = -1', "web.toml:2: stop_timeout: expected a whole number from 0 to 3600"),
        ('image = "w:1"\nimage_file = "/a"\nimage_stream = "/b"', "web.toml:3: image_stream: is there beside"),
        ('image = "w:1"\ncmd = ["\\uFFFF"]', "web.toml: a text has U+FFFF, which is no character"),
        ('image = "w:1"\n[login]\nusername = "\\U0001FFFE"\npassword_file = "/p"', "web.toml: a text has U+1FFFE,"),
        ('image = "w:1"\n[environment]\n"\\uFDD0" = "/p"', "web.toml: a text has U+FDD0,"),
        ('image = "w:1"\npull = "always"\nimage_stream = "/b"', "web.toml:2: pull: is always, and the image is to be"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_key(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


@pytest.mark.parametrize("name", ["web", "a1", "A.b-c_d", "preloaders", "x" * 100])
def test_names(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", ".a", "-a", "_a", "a b", "a/b", "a\n", "ä1", "x" * 101, "preloader", "preloader-merge", 7, None]
)
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(InvalidValue, match="container name: expected at least two letters"):
        checked_name(name)
