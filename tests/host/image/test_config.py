"""Configurations: what an image inherits of its base, as a Dockerfile's would."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preloader_agent.host.image.config import make_config, merge_settings
from preloader_agent.store.digest import DiffID, sha256_digest
from preloader_agent.store.index import Platform

LAYERS = [DiffID(sha256_digest(b"%d" % number)) for number in range(3)]
AMD64 = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("base", "own", "merged"),
    [
        ({"Cmd": ["sh"], "User": "a"}, {}, {"Cmd": ["sh"], "User": "a"}),
        ({"Cmd": ["sh"], "User": "a"}, {"Cmd": ["x"], "User": ""}, {"Cmd": ["x"], "User": ""}),
        ({"Cmd": ["sh"], "Entrypoint": ["a"]}, {"Entrypoint": ["b"]}, {"Entrypoint": ["b"]}),
        ({"Cmd": ["sh"]}, {"Entrypoint": ["b"], "Cmd": ["c"]}, {"Entrypoint": ["b"], "Cmd": ["c"]}),
        ({"Entrypoint": ["a"]}, {"Cmd": ["c"]}, {"Entrypoint": ["a"], "Cmd": ["c"]}),
        ({"Env": ["A=1", "B=2"]}, {"Env": ["C=3", "A=4"]}, {"Env": ["A=4", "B=2", "C=3"]}),
        ({"Env": None}, {"Env": ["A="]}, {"Env": ["A="]}),
        ({"Labels": {"a": "1", "b": "2"}}, {"Labels": {"b": "3"}}, {"Labels": {"a": "1", "b": "3"}}),
        ({"Labels": None}, {"Labels": {}}, {"Labels": {}}),
        ({"Volumes": {"/a": {}}}, {"Volumes": {"/b": {}}}, {"Volumes": {"/a": {}, "/b": {}}}),
        (
            {"ExposedPorts": {"1/tcp": {}}},
            {"ExposedPorts": {"1/udp": {}}},
            {"ExposedPorts": {"1/tcp": {}, "1/udp": {}}},
        ),
        ({"OnBuild": ["RUN x"], "Healthcheck": {"Test": ["x"]}}, {}, {"Healthcheck": {"Test": ["x"]}}),
    ],
)
def test_what_is_inherited(base: dict[str, Any], own: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge_settings(base, own) == merged


def test_a_configuration_without_a_base() -> None:
    config = make_config(b"{}", {"Cmd": ["x"]}, AMD64, LAYERS[:1], 1, "us")
    assert json.loads(config) == {
        "architecture": "amd64",
        "config": {"Cmd": ["x"]},
        "created": "1970-01-01T00:00:01Z",
        "history": [{"created": "1970-01-01T00:00:01Z", "created_by": "us"}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": LAYERS[:1]},
    }


def test_a_base_keeps_its_history_and_what_it_is_for() -> None:
    first = {"created_by": "them"}
    base = {
        "architecture": "arm",
        "variant": "v7",
        "author": "they",
        "container": "0123",
        "docker_version": "20",
        "created": "2020-01-01T00:00:00Z",
        "history": [first],
        "rootfs": {"type": "layers", "diff_ids": LAYERS[:1]},
    }
    config = make_config(json.dumps(base).encode(), {}, Platform("linux", "arm", "v7"), LAYERS, 1700000000, "us")
    found = json.loads(config)
    step = {"created": "2023-11-14T22:13:20Z", "created_by": "us"}
    assert found["history"] == [first, step, step]
    assert (found["variant"], found["author"], found["rootfs"]["diff_ids"]) == ("v7", "they", LAYERS)
    assert not {"container", "docker_version"} & found.keys()


def test_a_base_whose_settings_are_of_a_wrong_type() -> None:
    settings = {"Env": ["A=b"], "Labels": {"a": "b"}}
    for broken in (5, [1], "x", {"A": 1}, None):
        base = {"config": {"Env": broken, "Labels": broken}, "history": broken, "author": "\ud800"}
        found = json.loads(make_config(json.dumps(base).encode(), settings, AMD64, LAYERS[:1], 1, "us"))
        assert found["config"]["Env"] == ["A=b"]
    assert json.loads(make_config(b'{"config": 5}', settings, AMD64, [], 1, "us"))["config"] == settings


def test_settings_alone_make_no_layer() -> None:
    base = {"rootfs": {"diff_ids": LAYERS}, "history": None}
    found = json.loads(make_config(json.dumps(base).encode(), {"User": "a"}, AMD64, LAYERS, 1, "us"))
    assert found["history"] == [{"created": "1970-01-01T00:00:01Z", "created_by": "us", "empty_layer": True}]
