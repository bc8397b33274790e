"""How dockerd is configured, read from the files that configure it: what its unit's ExecStart= says, and daemon.json.

It is read before dockerd runs, so nobody can be asked. Where the store is not one that disks can be linked into, the
error says which file or option is the reason. Facts are those of moby 20.10 to 29.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from preloader_agent.errors import StoreError
from preloader_agent.guest import log
from preloader_agent.guest.paths import Paths
from preloader_agent.guest.unitfiles import (
    Assignment,
    expand_specifiers,
    list_values,
    read_environment_file,
    read_unit,
    split_words,
)

UNIT, SOCKET_UNIT = "docker.service", "docker.socket"
CONFIG = "/etc/docker/daemon.json"

# The options that matter here, by every name: the key that daemon.json has for each.
_OPTIONS = {
    "--data-root": "data-root", "--graph": "data-root", "-g": "data-root", "--storage-driver": "storage-driver",
    "-s": "storage-driver", "--userns-remap": "userns-remap", "--pidfile": "pidfile", "-p": "pidfile",
    "--host": "hosts", "-H": "hosts", "--feature": "features", "--config-file": "config-file",
}  # fmt: skip
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_SNAPSHOTTER = "containerd-snapshotter"


class Setting(NamedTuple):
    """A value, and the file and the words in it that say so."""

    value: str
    origin: str


class DockerConfig(NamedTuple):
    """What matters of dockerd's configuration; an empty value is docker's own default."""

    program: str
    data_root: Setting
    pidfile: Setting
    storage_driver: Setting
    userns_remap: Setting
    containerd_snapshotter: bool | None  # None: not said, so it depends on docker's version
    snapshotter_origin: str
    socket: str


def read_paths(run_dir: str = Paths().run_dir, root: str = "") -> Paths:
    """Where docker keeps its store. Raises StoreError when docker's store is not one that disks can be linked into.

    `root` is where the files that configure docker are looked for.
    """
    config = read_config(root)
    _check_usable(config)
    defaults = Paths()
    return Paths(
        os.path.realpath(config.data_root.value or defaults.docker_root),
        run_dir,
        config.pidfile.value or defaults.docker_pidfile,
        docker_socket=config.socket or defaults.docker_socket,
    )


def read_config(root: str = "") -> DockerConfig:
    """Dockerd's configuration. Raises StoreError when it is one that dockerd would not start with."""
    unit = read_unit(UNIT, root)
    environment = read_environment(unit, root)
    program, options = _split_program(read_command(unit, environment))
    path = options["config-file"][-1] if "config-file" in options else None
    settings = {} if path is not None and not path.value else _read_file(path, root)
    origin = path.value if path is not None else CONFIG
    for key in ("data-root", "storage-driver", "userns-remap", "features", "pidfile", "hosts"):
        if key in options and key in settings:
            both = f"{key} is set here and by {options[key][-1].origin}; docker does not start with both: remove one"
            raise StoreError(origin, both)

    def find(key: str) -> Setting:
        return options[key][-1] if key in options else _text_of(settings, key, origin)

    driver = environment.get("DOCKER_DRIVER") or find("storage-driver")
    data_root = find("data-root")
    if not data_root.value and "graph" in settings:  # up to Docker 20.10
        data_root = _text_of(settings, "graph", origin)
    is_containerd, snapshotter_origin = _read_snapshotter(options.get("features", []), settings, origin)
    return DockerConfig(
        program,
        data_root,
        find("pidfile"),
        driver,
        find("userns-remap"),
        is_containerd,
        snapshotter_origin,
        _find_socket([host.value for host in options.get("hosts", ())] or _texts_of(settings, "hosts", origin), root),
    )


def _check_usable(config: DockerConfig) -> None:
    alone = "docker's store is left alone, because disks"
    remap, driver, data_root = config.userns_remap, config.storage_driver, config.data_root
    # dockerd maps root to itself by not mapping at all.
    if remap.value.partition(":")[0] not in ("", "root", "0"):
        raise StoreError(remap.origin, f"userns-remap is set; {alone} cannot be used with it: remove it to use them")
    if driver.value not in ("", "overlay2"):
        raise StoreError(
            driver.origin, f"the storage driver is {driver.value}; {alone} need overlay2: set that to use them"
        )
    if config.containerd_snapshotter:
        raise StoreError(
            config.snapshotter_origin,
            f"images are kept by containerd ({_SNAPSHOTTER}); {alone} need overlay2: set it to false to use them",
        )
    if data_root.value and not data_root.value.startswith("/"):
        raise StoreError(data_root.origin, f"data-root is {data_root.value!r}, a relative path: write an absolute one")


def read_environment(unit: list[Assignment], root: str = "", name: str = UNIT) -> dict[str, Setting]:
    """The variables of the unit; those of its files win (systemd.exec(5))."""
    environment = {}
    for assignment in list_values(unit, "Service", "Environment"):
        for word in split_words(expand_specifiers(assignment.value, name)):
            variable, _, value = word.partition("=")
            environment[variable] = Setting(value, f"{assignment.path}: Environment={word}")
    for assignment in list_values(unit, "Service", "EnvironmentFile"):
        for path in _expand_pattern(root + expand_specifiers(assignment.value, name).removeprefix("-")):
            try:
                variables = read_environment_file(path)
            except OSError as err:  # with a "-" it may be absent, without one docker does not start
                log.debug("not reading %s: %s", path, err)
                continue
            environment.update({key: Setting(value, f"{path}: {key}") for key, value in variables.items()})
    return environment


def _expand_pattern(path: str) -> list[str]:
    if not any(character in path for character in "*?["):
        return [path]
    from glob import glob

    return sorted(glob(path))


def read_command(unit: list[Assignment], environment: Mapping[str, Setting], name: str = UNIT) -> list[Setting]:
    """The words of ExecStart= as the process gets them, the program first; none where nothing is started."""
    commands = list_values(unit, "Service", "ExecStart")
    if not commands:
        return []
    path, _, _, command = commands[-1]
    prefixes = command[: len(command) - len(command.lstrip("@-:+!|"))]
    words = [expand_specifiers(word, name) for word in split_words(command[len(prefixes) :])]
    if "@" in prefixes:  # the second word is only what the process calls itself
        del words[1:2]
    if ":" in prefixes:  # variables are not replaced
        return [Setting(word, f"{path}: {word}") for word in words]
    return [part for word in words for part in _expand_word(word, environment, path)]


def _split_program(words: list[Setting]) -> tuple[str, dict[str, list[Setting]]]:
    """Dockerd's path, and the options that matter with each of their values."""
    for number, word in enumerate(words):  # env(1) and the like may stand before it
        if os.path.basename(word.value) == "dockerd":
            return word.value, _read_options(words[number + 1 :])
    if words:
        path = words[0].origin.partition(": ")[0]
        log.info("%s: ExecStart= does not run dockerd itself; only daemon.json says how it is configured", path)
    return "dockerd", {}


def _expand_word(word: str, environment: Mapping[str, Setting], path: str) -> Iterator[Setting]:
    """$NAME as a word is any number of words; ${NAME} is replaced anywhere; $$ is a dollar (systemd.service(5))."""
    if word.startswith("$") and word[1:2] not in ("$", "{", ""):
        variable = environment.get(word[1:])
        if variable is not None:
            for part in split_words(variable.value, is_unescaping=False):
                yield Setting(part, f"{variable.origin.partition(': ')[0]}: {part}")
        return
    expanded, rest = "", word
    while rest:
        before, dollar, rest = rest.partition("$")
        expanded += before
        name, brace, after = rest[1:].partition("}") if rest.startswith("{") else ("", "", "")
        if rest.startswith("$"):
            expanded, rest = f"{expanded}$", rest[1:]
        elif brace:
            variable = environment.get(name)
            expanded += variable.value if variable is not None else ""
            rest = after
        else:
            expanded += dollar
    yield Setting(expanded, f"{path}: {expanded}")


def _read_options(words: list[Setting]) -> dict[str, list[Setting]]:
    """The options that matter, as pflag reads them: --x=y, --x y, -xy, -x=y, -x y."""
    found: dict[str, list[Setting]] = {}
    remaining = iter(words)
    for word in remaining:
        text = word.value
        if text == "--":
            break
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            has_value = bool(equals)
        else:
            letters = text[1:].lstrip("D") if text.startswith("-") else ""  # -D takes no value and may stand before
            name, value = f"-{letters[:1]}", letters[1:].removeprefix("=")
            has_value = len(letters) > 1
        if name in _OPTIONS:
            following = None if has_value else next(remaining, None)
            origin = word.origin if following is None else f"{word.origin} {following.value}"
            if has_value or following is not None:  # else docker does not start
                found.setdefault(_OPTIONS[name], []).append(Setting(following.value if following else value, origin))
    return found


def _read_file(path: Setting | None, root: str) -> dict[str, Any]:
    """What daemon.json says. Raises StoreError when dockerd would not start with it."""
    name = CONFIG if path is None else path.value
    try:
        with open(root + name, "rb") as file:
            content = file.read()
        settings: object = json.loads(content) if content.strip() else {}
    except FileNotFoundError as err:
        if path is None:
            return {}
        raise StoreError(path.origin, "that file is not there; docker would not start without it") from err
    except ValueError as err:
        raise StoreError(name, f"not valid JSON ({err}); docker would not start with it") from err
    except OSError as err:
        raise StoreError(name, f"cannot be read ({err.strerror}); docker would not start without it") from err
    if settings is not None and not isinstance(settings, dict):
        raise StoreError(name, "not a JSON object; docker would not start with it")
    return settings or {}


def _text_of(settings: Mapping[str, Any], key: str, path: str) -> Setting:
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise StoreError(path, f"{key} is not a string; docker would not start with it")
    return Setting(value or "", path)


def _texts_of(settings: Mapping[str, Any], key: str, path: str) -> list[str]:
    value = settings.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise StoreError(path, f"{key} is not a list of strings; docker would not start with it")
    return value


def _read_snapshotter(options: Iterable[Setting], settings: Mapping[str, Any], path: str) -> tuple[bool | None, str]:
    """Whether containerd is told to keep the images, and where that is said."""
    origin = path
    features = settings.get("features") or {}
    if not isinstance(features, dict) or not all(isinstance(value, bool) for value in features.values()):
        raise StoreError(path, "features is not an object of true and false; docker would not start with it")
    is_containerd = features.get(_SNAPSHOTTER)
    for option in options:
        name, equals, value = option.value.partition("=")
        if name == _SNAPSHOTTER:
            if equals and value not in (*_TRUE, *_FALSE):
                raise StoreError(option.origin, f"{value!r} is neither true nor false; docker would not start")
            is_containerd, origin = not equals or value in _TRUE, option.origin
    return is_containerd, origin


def _find_socket(hosts: list[str], root: str) -> str:
    """The unix socket that dockerd serves; empty for its default, or when it serves none."""
    for host in hosts:
        scheme, separator, address = host.strip().partition("://")
        if separator and scheme == "unix":
            return address
        if scheme == "fd":
            listening = list_values(read_unit(SOCKET_UNIT, root), "Socket", "ListenStream")
            for assignment in listening:
                stream = expand_specifiers(assignment.value, SOCKET_UNIT)
                if stream.startswith("/"):
                    return stream
    return ""
