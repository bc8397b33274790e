"""Which files describe containers in a guest, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preloader_agent.guest.definitions import OF_DISKS, OWN, check_files, list_files, read_definitions
from preloader_agent.guest.generator import write_units

PLAIN = 'image = "web:1"\n'


def write(root: Path, path: str, text: str = PLAIN) -> str:
    file = Path(f"{root}{path}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return path


def install(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        write(root, f"{OWN}/{name}.toml", text)


def problems(root: Path, *files: str) -> list[str]:
    return [str(problem) for problem in check_files(files, str(root))]


def units(root: Path) -> dict[str, str]:
    """What the generator writes, a link by its target."""
    folder = root / "generator"
    folder.mkdir()
    write_units(str(folder), str(root))
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def test_where_nothing_is_described_nothing_is_made(tmp_path: Path) -> None:
    assert units(tmp_path) == {}
    assert problems(tmp_path) == []


def test_files_of_the_machine_and_of_disks(tmp_path: Path) -> None:
    install(tmp_path, web=PLAIN, manual=f"{PLAIN}auto_start = false\n")
    write(tmp_path, f"{OF_DISKS}/dpl-1/db.toml")
    write(tmp_path, f"{OWN}/README", "no container")
    write(tmp_path, f"{OWN}/.web.toml.swp", "no container")
    write(tmp_path, f"{OWN}/.hidden.toml", "no container")
    found = units(tmp_path)
    started = "multi-user.target.wants/docker-web.service"
    assert found.keys() == {"docker-web.service", "docker-manual.service", "docker-db.service", started}
    assert found[started] == "../docker-web.service"
    assert "--pull=missing" in found["docker-web.service"]
    assert "--pull=never" in found["docker-db.service"]
    assert f"containers prepare {OF_DISKS}/dpl-1/db.toml" in found["docker-db.service"]


def test_a_file_that_cannot_be_used_keeps_no_other_one_out(tmp_path: Path) -> None:
    install(
        tmp_path,
        good=PLAIN,
        key=f"{PLAIN}prots = []\n",
        a1=f'{PLAIN}depends_on = ["a2"]\n',
        a2=f'\n{PLAIN}depends_on = ["a1"]\n',
        lonely=f'{PLAIN}depends_on = ["nobody"]\n',
        needy=f'{PLAIN}depends_on = ["key"]\n',
    )
    Path(f"{tmp_path}{OWN}/folder.toml").mkdir()
    found = units(tmp_path)
    assert sorted(name for name, text in found.items() if "containers check" in text) == [
        f"docker-{name}.service" for name in ("a1", "a2", "folder", "key", "lonely")
    ]
    assert "multi-user.target.wants/docker-key.service" in found
    assert "docker run" in found["docker-good.service"]
    assert "Requires=docker.service docker-key.service" in found["docker-needy.service"]
    cycle = "none of these can be started before the others"
    assert problems(tmp_path) == [
        f"{OWN}/a1.toml:2: depends_on: is a cycle: a1 -> a2 -> a1; {cycle}",
        f"{OWN}/a2.toml:3: depends_on: is a cycle: a2 -> a1 -> a2; {cycle}",
        f"{OWN}/folder.toml: this file cannot be read: Is a directory",
        f"{OWN}/key.toml:2: prots: there is no such key; did you mean ports?",
        f"{OWN}/lonely.toml:2: depends_on: there is no container nobody",
    ]


def test_of_two_files_for_one_name_the_first_counts(tmp_path: Path) -> None:
    install(tmp_path, web=PLAIN)
    second = write(tmp_path, f"{OF_DISKS}/dpl-1/web.toml")
    found = units(tmp_path)
    assert f"containers prepare {OWN}/web.toml" in found["docker-web.service"]
    assert problems(tmp_path) == [f"{second}: {OWN}/web.toml describes web as well; rename one of them"]


@pytest.mark.parametrize("folder", ["etc/systemd/system", "usr/lib/systemd/system", "run/systemd/transient"])
def test_a_unit_of_the_systems_is_not_replaced(tmp_path: Path, folder: str) -> None:
    install(tmp_path, web=PLAIN, good=PLAIN)
    write(tmp_path, f"/{folder}/docker-web.service")
    assert problems(tmp_path) == [
        f"{OWN}/web.toml: /{folder}/docker-web.service is there already; rename this file, or remove that unit"
    ]
    assert sorted(units(tmp_path)) == ["docker-good.service", "multi-user.target.wants/docker-good.service"]


def test_a_unit_can_be_masked_have_drop_ins_and_be_made_anew(tmp_path: Path) -> None:
    install(tmp_path, web=PLAIN)
    write(tmp_path, "/etc/systemd/system/docker-web.service.d/override.conf")
    write(tmp_path, "/run/systemd/generator/docker-web.service")
    Path(tmp_path, "etc/systemd/system/docker-web.service").symlink_to("/dev/null")
    assert problems(tmp_path) == []
    assert "docker-web.service" in units(tmp_path)


@pytest.mark.parametrize("name", ["preloader", "a b", "x", "ü1"])
def test_a_name_that_no_container_can_have_has_no_unit(tmp_path: Path, name: str) -> None:
    install(tmp_path, **{name: PLAIN})
    assert units(tmp_path) == {}
    (problem,) = problems(tmp_path)
    assert problem.startswith(f"{OWN}/{name}.toml: its name is the container's: container name: expected")


def test_given_files_are_checked_with_what_is_installed(tmp_path: Path) -> None:
    install(tmp_path, db=PLAIN, web=f'{PLAIN}depends_on = ["nobody"]\n')
    new = write(tmp_path, "/new/web.toml", f'{PLAIN}depends_on = ["db"]\n')
    assert problems(tmp_path, new) == []
    assert problems(tmp_path, new, new) == []
    cycle = write(tmp_path, "/new/db.toml", f'{PLAIN}depends_on = ["web"]\n')
    assert len(problems(tmp_path, new, cycle)) == 2
    assert problems(tmp_path, write(tmp_path, "/new/web.txt")) == [
        "/new/web.txt: is not named NAME.toml, which says how the container is called"
    ]
    assert problems(tmp_path, "/new/absent.toml") == [
        "/new/absent.toml: this file cannot be read: No such file or directory"
    ]


def test_files_are_read_in_order(tmp_path: Path) -> None:
    install(tmp_path, b1=PLAIN, a1=PLAIN)
    write(tmp_path, f"{OF_DISKS}/dpl-1/a0.toml")
    files = list_files(str(tmp_path))
    assert files == [f"{OWN}/a1.toml", f"{OWN}/b1.toml", f"{OF_DISKS}/dpl-1/a0.toml"]
    assert [definition.is_of_disk for definition in read_definitions(files, str(tmp_path))] == [False, False, True]
