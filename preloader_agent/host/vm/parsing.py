"""How a person writes the parts of a machine: sizes, forwarded ports, shared folders and credentials."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast, get_args

from preloader_agent.errors import InvalidValue
from preloader_agent.host.vm.config import Forward, Protocol, SharedFolder

MIB = 1 << 20
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_FORWARD = re.compile(r"(?:(tcp|udp):)?(?:(\d+\.\d+\.\d+\.\d+):)?(\d+):(\d+)")
_MAX_SIZE = 1 << 60  # bytes; beyond what any file system of a host has
_UNITS = {"K": 1 << 10, "M": MIB, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str, plain: int = 1) -> int:
    """A size in bytes: a number of `plain` units, or with K, M, G or T (powers of 1024). Raises InvalidValue."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidValue("size", text, "a number such as 512M or 8G")
    size = float(found[1]) * (_UNITS[found[2].upper()] if found[2] else plain)
    if size > _MAX_SIZE:
        raise InvalidValue("size", text, f"at most {_MAX_SIZE >> 40}T")
    return int(size)


def parse_forward(text: str) -> Forward:
    """A forwarded port: [tcp:|udp:][HOST-ADDRESS:]HOST-PORT:GUEST-PORT. Raises InvalidValue."""
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise InvalidValue("forward", text, "[tcp:|udp:][HOST-ADDRESS:]HOST-PORT:GUEST-PORT, such as 2222:22")
    protocol, address, host_port, guest_port = found.groups()
    return Forward(
        int(host_port),
        int(guest_port),
        cast(Protocol, protocol or get_args(Protocol)[0]),
        address or Forward.host_address,
    )


def parse_shared_folder(text: str) -> SharedFolder:
    """A shared folder: SOURCE:TARGET or SOURCE:TARGET:ro. Raises InvalidValue."""
    rest, is_read_only = (text.removesuffix(":ro"), True) if text.endswith(":ro") else (text.removesuffix(":rw"), False)
    source, colon, target = rest.rpartition(":")
    if not colon or not source:
        raise InvalidValue("shared folder", text, "SOURCE:TARGET or SOURCE:TARGET:ro")
    return SharedFolder(Path(source), target, is_read_only)


def parse_credential(text: str) -> tuple[str, str]:
    """A credential: NAME=VALUE. Raises InvalidValue."""
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise InvalidValue("credential", text, "NAME=VALUE")
    return name, value
