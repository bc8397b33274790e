"""QEMU's own syntax for what stands behind an option: DRIVER,KEY=VALUE,..., with a comma in a value doubled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def escaped(value: object) -> str:
    """A value as it stands between two commas."""
    return str(value).replace(",", ",,")


def join_options(values: Mapping[str, object]) -> str:
    """A driver, whose key does not matter, and its properties."""
    driver, *rest = (escaped(value) for value in values.values())
    return ",".join([driver, *(f"{key}={value}" for key, value in zip(list(values)[1:], rest, strict=True))])


def socket_of(name: str, path: Path, *user: str) -> list[str]:
    """A socket that serves one client after another, and the part of the machine behind it."""
    return ["-chardev", f"socket,id={name},path={escaped(path)},server=on,wait=off", *user]
