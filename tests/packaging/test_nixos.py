"""The NixOS module and package, as far as Nix alone can tell: no NixOS was asked, and its library is not there.

What comes of the options goes to those who read it: the agent's settings, and `preloader`.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from preloader_agent import __version__
from preloader_agent.guest.settings import Expectation, Settings, read_settings
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run
from tests import images
from tests.packaging.conftest import REPOSITORY

NIXOS = REPOSITORY / "packaging" / "nixos"
DISK = "/disk/images.qcow2"
# What a file of the built package is made of.
UNITS = REPOSITORY / "units"
SUBSTITUTED = {
    "$out/lib/systemd/system/*.service": list(UNITS.glob("*.service")),
    "$out/lib/systemd/system/docker-preloader.service": [UNITS / "docker-preloader.service"],
    "$out/lib/systemd/system-generators/*": list(UNITS.glob("*-generator")),
    "$modules/guest/generator.py": [REPOSITORY / "preloader_agent/guest/generator.py"],
    "$modules/containers/unit.py": [REPOSITORY / "preloader_agent/containers/unit.py"],
}


def python_packages() -> set[str]:
    """What the agent and the host need, named as Nixpkgs does."""
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    needs = [config["options.extras_require"][extra] for extra in ("guest", "host")]
    return {re.split(r"[><=]", line)[0].replace(".", "-") for line in "\n".join(needs).split("\n") if line}


def evaluate(user: Mapping[str, object] | None = None, **arguments: object) -> dict[str, Any]:
    """What comes of a machine whose configuration says `user` of virtualisation.dockerPreloader."""
    arguments |= {"user": user or {}, "packages": [*python_packages(), "setuptools"]}
    given = json.dumps(json.dumps(arguments)).replace("${", "\\${")
    expression = f"import {Path(__file__).with_name('machine.nix')} (builtins.fromJSON {given})"
    # No store is made, neither the machine's own nor another.
    found = run(["nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://", "--expr", expression])
    return dict(json.loads(found))


def settings_of(user: Mapping[str, object], root: Path) -> Settings:
    """What the agent makes of the file."""
    text = evaluate(user)["config"]["environment"]["etc"]["docker-preloader.conf"]["text"]
    (root / "etc").mkdir()
    (root / "etc/docker-preloader.conf").write_text(text)
    settings, problems = read_settings(str(root))
    assert problems == []
    return settings


@pytest.mark.parametrize("name", ["module.nix", "package.nix"])
def test_files_parse(name: str) -> None:
    assert run(["nix-instantiate", "--parse", NIXOS / name]) != ""


def test_there_is_an_option_for_each_setting() -> None:
    options = {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name) for name in evaluate()["options"]}
    assert options > {*Settings._fields, "images", "qcow_size"}


def test_defaults_are_the_agents(tmp_path: Path) -> None:
    assert settings_of({"enable": True}, tmp_path) == Settings()


@pytest.mark.parametrize(
    ("expect", "expected"),
    [
        (3, Expectation(number=3)),
        (["none"], Expectation(number=0)),
        (["dpl-a", "dpl-b"], Expectation(frozenset({"dpl-a", "dpl-b"}))),
    ],
)
def test_what_a_configuration_says_reaches_the_agent(tmp_path: Path, expect: object, expected: Expectation) -> None:
    user = {"enable": True, "labels": ["dpl-*", "old?"], "expect": expect, "timeout": 90}
    user |= {"required": True, "hotplug": "defer", "containersFromDisks": True}
    assert settings_of(user, tmp_path) == Settings(("dpl-*", "old?"), expected, 90.0, True, "defer", True)


def test_a_machine_without_images_is_left_alone() -> None:
    assert evaluate()["config"] == {}


def test_a_machine_with_images() -> None:
    config = evaluate({"images": ["/image"], "disk": "/disk"})["config"]
    (drive,) = config["virtualisation"]["qemu"]["drives"]
    assert (drive["file"], drive["driveExtraOpts"]) == (DISK, {"format": "qcow2", "readonly": "on"})
    units = {f"{name}.service": unit["wantedBy"] for name, unit in config["systemd"]["services"].items()}
    assert units == {path.name: ["docker.service"] for path in (REPOSITORY / "units").glob("*.service")}
    assert config["systemd"]["packages"] == config["services"]["udev"]["packages"] == ["/package"]
    assert [found["assertion"] for found in config["assertions"]] == [True]


def test_a_machine_that_qemu_does_not_run_has_no_drives() -> None:
    config = evaluate({"images": ["/image"], "disk": "/disk"}, hasQemu=False)["config"]
    assert "qemu" not in config["virtualisation"]


def test_a_size_is_warned_of() -> None:
    assert evaluate({"enable": True})["config"]["warnings"] == []
    (warning,) = evaluate({"enable": True, "qcowSize": 1024})["config"]["warnings"]
    assert "qcowSize is not used any more" in warning


def test_the_disk_is_built_from_the_images(tmp_path: Path) -> None:
    archive = images.write_docker_archive([images.busybox_image()], tmp_path / "busy box.tar")
    script = evaluate({"images": [str(archive)]})["disk"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run(["sh", "-euc", script], env={"out": str(tmp_path / "out"), "PATH": path})
    index = inspect_disk(tmp_path / "out" / Path(DISK).name)
    assert [image.image_id for image in index.images] == [images.busybox_image().image_id]


def test_the_package() -> None:
    package = evaluate()["package"]
    assert package["version"] == __version__
    assert set(package["dependencies"]) == python_packages()


def test_what_the_package_replaces_is_there() -> None:
    """Or else building it fails."""
    replaced: dict[str, list[str]] = {}
    for command in evaluate()["package"]["postInstall"].replace("\\\n", "").splitlines():
        name, *words = shlex.split(command)
        if name == "substituteInPlace":
            files = words[: words.index("--replace-fail")]
            replaced |= {file: [*replaced.get(file, []), words[len(files) + 1]] for file in files}
    for file, texts in replaced.items():
        for path in SUBSTITUTED[file]:
            assert [text for text in texts if text not in path.read_text()] == [], path
    assert replaced.keys() == SUBSTITUTED.keys()
