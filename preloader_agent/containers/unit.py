"""The systemd unit of a container: a pure function of its description.

Whatever a value holds, it is one word of one line: `quote_word` is the only way into a command line. Options are given
as --option=value, so that no value is taken for another option, and systemd is told (by the ":" before each command) to
replace no variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from preloader_agent.containers.definition import Container, unit_name

DOCKER = "docker"  # found by systemd on its own search path
LABEL = "docker-preloader.container"  # on each container that a service made, with the container's name
_PAUSE = 5  # seconds before a restart: one that fails is tried for ever, and must leave others the machine
_MARGIN = 30  # seconds that Docker has to end and remove a container, beside those that the container has
# systemd splits a word nowhere else, and replaces nothing in these.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@+=:,./_-")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "%": "%%", "\n": "\\n", "\t": "\\t"}


def make_unit(container: Container, source: str, program: Sequence[str]) -> str:
    """The text of a container's unit; `source` is the file that describes it, `program` runs docker-preloader."""
    docker = (DOCKER, *container.docker_options)
    needed = ["docker.service", *map(unit_name, container.depends_on)]
    own = (*program, "containers")
    sections: dict[str, list[tuple[str, object]]] = {
        "Unit": [
            ("Description", f"Container {container.name} of {container.image}"),
            ("Documentation", "man:docker-preloader-containers(5)"),
            ("SourcePath", _escape_path(source)),
            ("Requires", " ".join(needed)),
            ("After", " ".join(["docker-preloader.service", *needed])),
            # A restart of Docker is one of its containers, and what a container lacks may come with a disk.
            ("StartLimitIntervalSec", 0),
        ],
        "Service": [
            ("Type", "exec"),
            *_login_directory(container),
            ("ExecStartPre", _command([*own, "prepare", source])),
            ("ExecStart", _command([*docker, *_run_words(container)])),
            ("ExecStartPost", _command([*own, "wait", container.name, *container.docker_options])),
            ("ExecStop", _command([*docker, "stop", container.name])),
            ("ExecStopPost", _command([*own, "remove", container.name, *container.docker_options])),
            ("SuccessExitStatus", _success(container)),
            ("Restart", container.restart),
            ("RestartSec", _PAUSE),
            ("TimeoutStartSec", 0),  # it may have to pull or load its image
            ("TimeoutStopSec", container.stop_timeout + _MARGIN),
        ],
    }
    return _write_sections(source, sections)


def make_failing_unit(name: str, source: str, program: Sequence[str]) -> str:
    """The unit of a description that cannot be used: it fails when it is started, with what is wrong."""
    sections: dict[str, list[tuple[str, object]]] = {
        "Unit": [
            ("Description", f"Container {name}, whose description cannot be used"),
            ("Documentation", "man:docker-preloader-containers(5)"),
            ("SourcePath", _escape_path(source)),
        ],
        "Service": [("Type", "oneshot"), ("ExecStart", _command([*program, "containers", "check", source]))],
    }
    return _write_sections(source, sections)


def quote_word(text: str) -> str:
    """A text as one word of a command line that systemd reads (systemd.service(5), systemd.syntax(7))."""
    if text and _PLAIN.issuperset(text):
        return text
    return f'"{"".join(map(_escape_character, text))}"'


def _escape_character(character: str) -> str:
    """What would end a word or a line, or be replaced; and what nobody would see."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


def _escape_path(path: str) -> str:
    return path.replace("%", "%%")


def _command(words: Iterable[str]) -> str:
    return f":{' '.join(map(quote_word, words))}"


def _success(container: Container) -> str:
    """To stop a service is no failure, nor is it for what was preparing it, which gets the signal itself.

    Most programs end with 143 by it, with 130 where the image asks for SIGINT, and those that do not heed it with 137;
    as they do where memory runs out, so that 137 has to be a failure for a service that is started again after failures
    alone.
    """
    return "SIGTERM 130 143 137" if container.restart == "always" else "SIGTERM 130 143"


def _login_directory(container: Container) -> Iterator[tuple[str, object]]:
    """A login is kept where nobody else looks, and goes with the service."""
    if container.login is not None:
        yield "RuntimeDirectory", f"docker-{container.name}"
        yield "RuntimeDirectoryMode", "0700"
        yield "Environment", f"DOCKER_CONFIG=/run/docker-{container.name}"


def _run_words(container: Container) -> Iterator[str]:
    """`docker run` and its arguments."""
    yield from ("run", f"--name={container.name}", f"--pull={container.pull}")
    yield from (f"--log-driver={container.log_driver}", f"--stop-timeout={container.stop_timeout}")
    for option, value in _single_options(container):
        if value:
            yield f"--{option}={value}"
    for option, values in _list_options(container):
        yield from (f"--{option}={value}" for value in values)
    if container.is_privileged:
        yield "--privileged"
    if container.entrypoint:
        yield f"--entrypoint={container.entrypoint[0]}"
    yield from (*container.run_options, container.image, *container.entrypoint[1:], *container.cmd)


def _single_options(container: Container) -> Iterator[tuple[str, str]]:
    yield "user", container.user
    yield "workdir", container.workdir
    yield "hostname", container.hostname


def _list_options(container: Container) -> Iterator[tuple[str, Iterable[str]]]:
    yield "env", _variables(container.environment)
    yield "env-file", container.environment_files
    yield "publish", container.ports
    yield "volume", container.volumes
    yield "label", _variables({**container.labels, LABEL: container.name})
    yield "network", container.networks
    yield "cap-add", container.added_capabilities
    yield "cap-drop", container.dropped_capabilities
    yield "device", container.devices


def _variables(values: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}={value}" for name, value in values.items())


def _write_sections(source: str, sections: Mapping[str, Iterable[tuple[str, object]]]) -> str:
    head = f"# Made by docker-preloader from {source}: change that, or make a drop-in (systemctl edit).\n"
    texts = (
        "".join([f"[{section}]\n", *(f"{key}={value}\n" for key, value in settings)])
        for section, settings in sections.items()
    )
    return head + "\n".join(texts)
