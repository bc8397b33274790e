"""The description of a container that is to run as a service: a TOML file with its image and its options.

The options are those of `docker run`, in its own syntax; Docker checks what is in them. What is checked here is what
would otherwise go wrong where nobody looks: types, names, paths that depend on a working directory, and options that
would take the container away from its service.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from preloader_agent.errors import InvalidValue
from preloader_agent.store.containername import checked_name
from preloader_agent.store.reference import Reference
from preloader_agent.tables import Table, read_table

ALWAYS, MISSING, NEVER = "always", "missing", "never"  # when an image is pulled, in the words of `docker run --pull`
RESTARTS = ("no", "on-success", "on-failure", "on-abnormal", "on-abort", "always")  # systemd.service(5), Restart=
MAX_STOP_TIMEOUT = 3600  # seconds

# What the service itself needs, or would have no container to look after with.
_OWN_OPTIONS = frozenset({"--detach", "-d", "--name", "--pull", "--restart", "--rm", "--stop-timeout"})


class Login(NamedTuple):
    """How to log in to a registry before an image is pulled; an empty `registry` is Docker Hub."""

    username: str
    password_file: str
    registry: str


class Container(NamedTuple):
    """A container that is a service; what is empty is left to the image or to Docker."""

    name: str
    image: Reference
    cmd: tuple[str, ...]
    entrypoint: tuple[str, ...]  # one empty word: the image's own is not used, and nothing instead
    environment: dict[str, str]
    environment_files: tuple[str, ...]
    ports: tuple[str, ...]
    volumes: tuple[str, ...]
    user: str
    workdir: str
    hostname: str
    labels: dict[str, str]
    log_driver: str
    networks: tuple[str, ...]
    added_capabilities: tuple[str, ...]
    dropped_capabilities: tuple[str, ...]
    devices: tuple[str, ...]
    is_privileged: bool
    docker_options: tuple[str, ...]
    run_options: tuple[str, ...]
    depends_on: tuple[str, ...]
    is_started: bool  # with the machine, or with its disk
    login: Login | None
    pull: str
    image_file: str
    image_stream: str
    restart: str
    stop_timeout: int  # seconds

    @property
    def unit(self) -> str:
        """The name of its service."""
        return unit_name(self.name)


def unit_name(name: str) -> str:
    """The name of a container's service."""
    return f"docker-{name}.service"


def parse_container(content: bytes, file: object, name: str, default_pull: str = MISSING) -> Container:
    """The container that a file describes; `file` names it in errors. Raises InvalidFile, InvalidValue for the name.

    `default_pull` is what `pull` is where the file does not say; empty, for who wants to know that.
    """
    checked_name(name)
    table = read_table(content, file)
    capabilities = table.table("capabilities")
    container = Container(
        name=name,
        image=_read_image(table),
        cmd=table.texts("cmd"),
        entrypoint=table.value("entrypoint", _checked_entrypoint),
        environment=_read_variables(table, "environment"),
        environment_files=_read_paths(table, "environment_files"),
        ports=_read_words(table, "ports"),
        volumes=_read_words(table, "volumes"),
        user=table.text("user"),
        workdir=_read_path(table, "workdir"),
        hostname=table.text("hostname"),
        labels=_read_variables(table, "labels"),
        log_driver=table.text("log_driver", "journald"),
        networks=_read_words(table, "networks"),
        added_capabilities=_read_words(capabilities, "add"),
        dropped_capabilities=_read_words(capabilities, "drop"),
        devices=_read_words(table, "devices"),
        is_privileged=table.flag("privileged"),
        docker_options=_read_options(table, "docker_options"),
        run_options=_read_options(table, "run_options"),
        depends_on=_read_dependencies(table, name),
        is_started=table.flag("auto_start", default=True),
        login=_read_login(table),
        pull=table.choice("pull", (ALWAYS, MISSING, NEVER), default_pull),
        image_file=_read_path(table, "image_file"),
        image_stream=_read_path(table, "image_stream"),
        restart=table.choice("restart", RESTARTS, "always"),
        stop_timeout=table.number("stop_timeout", 10, 0, MAX_STOP_TIMEOUT),
    )
    table.refuse_unknown()
    _check_image_source(table, container)
    _check_characters(table, container)
    return container


def _check_image_source(table: Table, container: Container) -> None:
    if container.image_file and container.image_stream:
        raise table.invalid("image_stream", "is there beside image_file; one of the two says where the image is")
    if container.pull == ALWAYS and (container.image_file or container.image_stream):
        raise table.invalid("pull", "is always, and the image is to be loaded; one of the two says where the image is")


def _check_characters(table: Table, container: Container) -> None:
    """No unit can hold a noncharacter of Unicode: systemd takes it for damage, and D-Bus as well."""
    for character in {character for text in _list_texts(container) for character in text}:
        code = ord(character)
        if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
            raise table.invalid("", f"a text has U+{code:04X}, which is no character; systemd takes none such")


def _list_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (*value, *value.values())
    elif isinstance(value, tuple):
        for each in value:
            yield from _list_texts(each)


def _read_image(table: Table) -> Reference:
    if "image" not in table:
        raise table.invalid("image", "is missing; every container has an image, such as name:tag")
    return table.value("image", Reference)


def _checked_entrypoint(value: Any) -> tuple[str, ...]:
    """A text is one word. No word at all is the empty one, with which Docker leaves the image's own out."""
    words = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise InvalidValue("entrypoint", value, "text in quotes or a list of texts")
    return tuple(words) or (() if value is None else ("",))


def _read_words(table: Table, key: str) -> tuple[str, ...]:
    """Values of an option that takes no empty one."""
    words = table.texts(key)
    if not all(words):
        raise table.invalid(key, "has an empty text")
    return words


def _read_variables(table: Table, key: str) -> dict[str, str]:
    """NAME=VALUE to Docker, which takes what is before the first = for the name."""
    variables = table.mapping(key)
    for name in variables:
        if not name or "=" in name:
            raise table.invalid(key, f"has the name {name!r:.60}; a name has at least one character, and no =")
    return variables


def _checked_path(value: object) -> str:
    """A service has no working directory that anybody would think of."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InvalidValue("path", value, "an absolute path")
    return value


def _read_path(table: Table, key: str) -> str:
    return table.value(key, lambda value: "" if value is None else _checked_path(value))


def _read_paths(table: Table, key: str) -> tuple[str, ...]:
    words = table.texts(key)
    return table.value(key, lambda _: tuple(map(_checked_path, words)))


def _read_options(table: Table, key: str) -> tuple[str, ...]:
    words = table.texts(key)
    for word in words:
        if key == "run_options" and word.partition("=")[0] in _OWN_OPTIONS:
            raise table.invalid(key, f"{word.partition('=')[0]} is for the service to say; leave it out")
    return words


def _read_dependencies(table: Table, name: str) -> tuple[str, ...]:
    words = table.texts("depends_on")
    if name in words:
        raise table.invalid("depends_on", f"{name} cannot depend on itself")
    return table.value("depends_on", lambda _: tuple(map(checked_name, words)))


def _read_login(table: Table) -> Login | None:
    login = table.table("login")
    found = Login(login.text("username"), _read_path(login, "password_file"), login.text("registry"))
    if "login" not in table:
        return None
    for key, value in zip(("username", "password_file"), found, strict=False):
        if not value:
            raise login.invalid(key, "is missing; a login has a username and a password_file")
    return found
