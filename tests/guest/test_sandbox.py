from __future__ import annotations

from pathlib import Path

import pytest

from preloader_agent.guest.sandbox import explain_namespace, find_namespace_directives

UNIT = "docker-preloader.service"


def write(root: Path, name: str, *lines: str) -> str:
    path = root / "etc/systemd/system" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["[Service]", *lines, ""]))
    return str(path)


def test_the_setting_and_its_file_are_named(tmp_path: Path) -> None:
    write(tmp_path, UNIT, "NoNewPrivileges=yes")
    path = write(tmp_path, f"{UNIT}.d/sandbox.conf", "PrivateTmp=yes", "RestrictNamespaces=yes")
    assert find_namespace_directives(UNIT, str(tmp_path)) == [f"{path}: PrivateTmp=yes"]
    explained = explain_namespace(UNIT, str(tmp_path))
    assert explained == f"dockerd cannot see it: {path}: PrivateTmp=yes makes a mount namespace; remove it"


def test_a_drop_in_of_every_service_is_found(tmp_path: Path) -> None:
    write(tmp_path, UNIT)
    path = write(tmp_path, "service.d/harden.conf", "ProtectSystem=strict", "ReadOnlyPaths=/a", "ReadOnlyPaths=/b")
    found = find_namespace_directives(UNIT, str(tmp_path))
    assert found == [
        f"{path}: {setting}" for setting in ("ProtectSystem=strict", "ReadOnlyPaths=/a", "ReadOnlyPaths=/b")
    ]
    assert explain_namespace(UNIT, str(tmp_path)).endswith("ReadOnlyPaths=/b make a mount namespace; remove them")


@pytest.mark.parametrize(
    "setting",
    ["PrivateTmp=no", "PrivateTmp=", "ProtectHome=FALSE", "ProtectSystem=0", "ProtectSystem=off", "ProcSubset=all",
     "ProtectProc=default", "ReadOnlyPaths=", "LockPersonality=yes"],
)  # fmt: skip
def test_what_is_off_is_not_blamed(tmp_path: Path, setting: str) -> None:
    write(tmp_path, UNIT, setting)
    assert find_namespace_directives(UNIT, str(tmp_path)) == []


def test_the_last_word_counts(tmp_path: Path) -> None:
    write(tmp_path, UNIT, "PrivateTmp=yes", "ReadOnlyPaths=/a", "ProtectHome=no")
    path = write(tmp_path, f"{UNIT}.d/late.conf", "PrivateTmp=no", "ReadOnlyPaths=", "ProtectHome=tmpfs")
    assert find_namespace_directives(UNIT, str(tmp_path)) == [f"{path}: ProtectHome=tmpfs"]


def test_a_setting_of_another_section_does_nothing(tmp_path: Path) -> None:
    write(tmp_path, UNIT, "[Unit]", "PrivateTmp=yes")
    assert find_namespace_directives(UNIT, str(tmp_path)) == []
    assert "no setting in the files of docker-preloader.service does that" in explain_namespace(UNIT, str(tmp_path))
