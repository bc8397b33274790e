"""Platforms: which images run on which."""

from __future__ import annotations

import platform

import pytest

from preloader_agent.host.platforms import find_best, host_platform, list_platforms, normalized
from preloader_agent.host.selection import parse_platform
from preloader_agent.store.index import Platform


def platforms(text: str) -> list[Platform]:
    return [parse_platform(word) for word in text.split()]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i686", "linux/386"),
        ("linux/s390x", "linux/s390x"),
    ],
)
def test_names(found: str, expected: str) -> None:
    assert str(normalized(parse_platform(found))) == expected


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64"), ("armv7l", "linux/arm/v7"), ("riscv64", "linux/riscv64")],
)
def test_host(monkeypatch: pytest.MonkeyPatch, machine: str, expected: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert str(host_platform()) == expected


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ("linux/amd64", "linux/arm64 linux/amd64 linux/386", [1]),
        ("linux/amd64", "windows/amd64 linux/x86_64", [1]),
        ("linux/amd64", "linux/amd64/v3 linux/amd64/v2", []),
        ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", [1]),
        ("linux/amd64", "linux/386 linux/arm64", []),
        ("linux/arm64", "linux/arm/v7 linux/arm64/v8 linux/arm64", [1, 2]),
        ("linux/arm64", "linux/arm64/v9 linux/arm64/v8", [1]),
        ("linux/arm64", "linux/arm/v7", []),
        ("linux/arm", "linux/arm/v8 linux/arm/v6 linux/arm/v7", [2]),
        ("linux/arm/v6", "linux/arm/v5 linux/arm/v6 linux/arm/v7", [1]),
        ("linux/arm/v6", "linux/arm/v5 linux/arm", [0]),
        ("linux/arm/v8", "linux/arm/v5 linux/arm", [1]),
        ("linux/arm/odd", "linux/arm linux/arm/odd", [1]),
        ("linux/s390x", "linux/s390x", [0]),
        ("linux/amd64", "", []),
    ],
)
def test_best(wanted: str, there: str, expected: list[int]) -> None:
    assert find_best(parse_platform(wanted), platforms(there)) == expected


def test_list_has_each_once() -> None:
    assert list_platforms(platforms("linux/s390x linux/arm64/v8 linux/arm64")) == "linux/arm64, linux/s390x"
