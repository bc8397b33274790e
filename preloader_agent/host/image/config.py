"""The configuration of an image: its base's, with the settings of a recipe over them as a Dockerfile's would be.

Format: https://github.com/opencontainers/image-spec/blob/main/config.md, and moby's builder/dockerfile/dispatchers.go
for what inherits what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from preloader_agent.errors import InvalidValue
from preloader_agent.store.digest import DiffID
from preloader_agent.store.index import Platform
from preloader_agent.tables import Table

# Docker's own names and values.
Settings = Mapping[str, Any]

MAX_EPOCH = 253402300799  # the last second of the year 9999
_TEXTS = ("User", "WorkingDir", "StopSignal")
_LISTS = ("Cmd", "Entrypoint")
_UNITED = ("ExposedPorts", "Labels", "Volumes")
_KEPT = ("author", "os.version", "os.features")  # of what a base says of itself; the rest is about its making
_PORT = re.compile(r"(\d{1,5}(?:-\d{1,5})?)(/tcp|/udp|/sctp)?", re.ASCII)
_SIGNAL = re.compile(r"\d{1,2}|(SIG)?[A-Z0-9]+([+-]\d+)?", re.ASCII)


def read_settings(table: Table) -> Settings:
    """The settings of a recipe; only those that it has. Raises InvalidFile."""
    found: dict[str, Any] = {key: table.text(key) for key in _TEXTS}
    found |= {key: list(table.texts(key)) for key in _LISTS}
    found["Env"] = table.value("Env", _checked_env)
    found["Labels"] = table.mapping("Labels")
    found["ExposedPorts"] = table.value("ExposedPorts", _checked_ports)
    found["Volumes"] = table.value("Volumes", _checked_volumes)
    if found["WorkingDir"] and not found["WorkingDir"].startswith("/"):
        raise table.invalid("WorkingDir", "expected a path from the root on, such as /srv")
    if found["StopSignal"] and not _SIGNAL.fullmatch(found["StopSignal"]):
        raise table.invalid("StopSignal", "expected a signal, such as SIGTERM")
    return {key: value for key, value in found.items() if key in table}


def merge_settings(base: Settings, own: Settings) -> Settings:
    """Settings over those of a base: variables by name, what is a set or a table united, all else replaced.

    An entrypoint of its own takes the base's command away, which was meant for another one.
    """
    merged = {key: value for key, value in base.items() if key != "OnBuild"}
    if "Entrypoint" in own:
        merged.pop("Cmd", None)
    merged |= own
    merged |= {key: {**_object(base.get(key)), **own[key]} for key in _UNITED if key in own}
    if "Env" in own:
        merged["Env"] = _merge_env(_list(base.get("Env")), own["Env"])
    return merged


def make_config(  # noqa: PLR0913, PLR0917 - each is one part of a configuration
    base: bytes, settings: Settings, platform: Platform, diff_ids: Sequence[DiffID], epoch: int, made_by: str
) -> bytes:
    """The configuration of an image, `base` being that of its base, "{}" without one.

    `diff_ids` are those of all layers; those that the base lacks are new, and if there are none the image's settings
    are, as after a Dockerfile without files. `epoch` is the time of its making.
    """
    below = json.loads(base)
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = len((below.get("rootfs") or {}).get("diff_ids") or [])
    step: Mapping[str, object] = {"created": created, "created_by": made_by}
    steps = [step] * (len(diff_ids) - known) or [{**step, "empty_layer": True}]
    config = {
        **{key: below[key] for key in _KEPT if key in below},
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": merge_settings(_object(below.get("config")), settings),
        "created": created,
        "history": [*_list(below.get("history")), *steps],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return json.dumps(config, separators=(",", ":"), sort_keys=True).encode()


def _merge_env(base: Sequence[Any], own: Sequence[str]) -> list[str]:
    """Each variable at the place where it is first."""
    variables = {entry.partition("=")[0]: entry for entry in base if isinstance(entry, str)}
    return list({**variables, **{entry.partition("=")[0]: entry for entry in own}}.values())


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _checked_env(value: Any) -> list[str]:
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(entry, str) and entry.find("=") > 0 for entry in found):
        raise InvalidValue("Env", value, 'a list such as ["NAME=value"]')
    if any("\0" in entry for entry in found):
        raise InvalidValue("Env", value, "variables without a zero byte")
    return found


def _checked_ports(value: Any) -> dict[str, Any]:
    expected = 'a table such as { "80/tcp" = {} }'
    ports = _checked_set(value, expected)
    matches = [_PORT.fullmatch(port) for port in ports]
    if not all(matches):
        raise InvalidValue("ExposedPorts", value, expected)
    return {f"{match[1]}{match[2] or '/tcp'}": {} for match in matches if match}


def _checked_volumes(value: Any) -> dict[str, Any]:
    expected = 'a table such as { "/var/lib/data" = {} }'
    volumes = _checked_set(value, expected)
    if not all(volume.startswith("/") and "\0" not in volume for volume in volumes):
        raise InvalidValue("Volumes", value, expected)
    return volumes


def _checked_set(value: Any, expected: str) -> dict[str, Any]:
    """A set of Docker's: a table whose values are empty tables."""
    found = {} if value is None else value
    if not isinstance(found, dict) or any(item != {} for item in found.values()):
        raise InvalidValue("set", value, expected)
    return found
