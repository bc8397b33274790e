"""References have the grammar and the familiar form of github.com/distribution/reference."""

from __future__ import annotations

import pytest

from preloader_agent.errors import InvalidValue
from preloader_agent.store.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "familiar", "name"),
    [
        ("busybox:1", "busybox:1", "busybox"),
        ("library/busybox:1", "busybox:1", "busybox"),
        ("docker.io/busybox:1", "busybox:1", "busybox"),
        ("docker.io/library/busybox:1", "busybox:1", "busybox"),
        ("index.docker.io/library/busybox:1", "busybox:1", "busybox"),
        ("docker.io/user/app:1", "user/app:1", "user/app"),
        ("index.docker.io/user/app:1", "user/app:1", "user/app"),
        ("docker.io/library/deep/app:1", "library/deep/app:1", "library/deep/app"),
        ("user/app:1.0-rc_2", "user/app:1.0-rc_2", "user/app"),
        ("ghcr.io/o/r:1", "ghcr.io/o/r:1", "ghcr.io/o/r"),
        ("ghcr.io/library/r:1", "ghcr.io/library/r:1", "ghcr.io/library/r"),
        ("localhost/app:1", "localhost/app:1", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app"),
        ("[2001:db8::1]:5000/app:1", "[2001:db8::1]:5000/app:1", "[2001:db8::1]:5000/app"),
        ("REGISTRY.example.com/app:V1", "REGISTRY.example.com/app:V1", "REGISTRY.example.com/app"),
        (f"ghcr.io/o/r@{DIGEST}", f"ghcr.io/o/r@{DIGEST}", "ghcr.io/o/r"),
        (f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}", "busybox"),
        ("a__b/c--d/e.f_g:_", "a__b/c--d/e.f_g:_", "a__b/c--d/e.f_g"),
        ("app:" + "t" * 128, "app:" + "t" * 128, "app"),
    ],
)
def test_familiar_form(text: str, familiar: str, name: str) -> None:
    reference = Reference(text)
    assert reference == familiar
    assert reference.name == name
    assert Reference(reference) == reference


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox:1", "docker.io/library/busybox:1"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("user/app:1", "docker.io/user/app:1"),
        ("library/deep/app:1", "docker.io/library/deep/app:1"),
        ("ghcr.io/o/r:1", "ghcr.io/o/r:1"),
        ("localhost/app:1", "localhost/app:1"),
        ("registry:5000/app:1", "registry:5000/app:1"),
        ("[2001:db8::1]:5000/app:1", "[2001:db8::1]:5000/app:1"),
        ("REGISTRY/app:1", "REGISTRY/app:1"),
    ],
)
def test_full_form(text: str, full: str) -> None:
    assert Reference(text).full == full
    assert Reference(full) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app",
        "app:",
        ":1",
        "App:1",
        "user/App:1",
        "app:-1",
        "app:.1",
        "app:" + "t" * 129,
        "app:1:2",
        "app:1\n",
        "app: 1",
        "/app:1",
        "app/:1",
        "a//b:1",
        "../app:1",
        "a/../b:1",
        "a___b:1",
        "-app:1",
        "app-:1",
        "app:é",
        "äpp:1",
        f"app@{DIGEST[:-1]}",
        f"app@sha512:{'a' * 64}",
        f"app:1@{DIGEST}",
        f"{'a' * 64}:1",
        "a" * 256 + ":1",
        "host:port/app:1",
        "app:1\x1b[31m",
        None,
        5,
        ["app:1"],
    ],
)
def test_no_reference(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^Reference: expected an image reference such as name:tag, found "):
        Reference(text)
