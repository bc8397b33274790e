"""Which containers of disks get a service, and that what a plan was not carried out to its end is gone on with."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from preloader_agent.guest.paths import Paths
from preloader_agent.guest.servicefiles import (
    Key,
    read_installed,
    read_unfinished,
    remove_container,
    write_container,
    write_unfinished,
)
from preloader_agent.guest.serviceplan import ServicePlan, plan_services
from preloader_agent.store.digest import Digest, sha256_digest
from preloader_agent.store.index import ContainerRecord
from tests.strategies import bounded

ONE, TWO = "dpl-000000000001", "dpl-000000000002"
WEB, DB, OTHER = Key(ONE, "web"), Key(ONE, "db"), Key(TWO, "web")


def record(name: str, definition: str = "x") -> ContainerRecord:
    return ContainerRecord(name, len(definition), sha256_digest(definition.encode()))


def installed(*keys: Key, definition: str = "x") -> dict[Key, Digest]:
    return dict.fromkeys(keys, sha256_digest(definition.encode()))


def test_what_has_come_gets_a_service() -> None:
    plan = plan_services({ONE: [record("web"), record("db")]}, {}, [], {})
    assert plan == ServicePlan((), (DB, WEB), (), {}, frozenset({DB, WEB}))
    assert not plan_services({ONE: [record("web"), record("db")]}, installed(DB, WEB), [], {}).is_needed


def test_what_has_gone_loses_its_service() -> None:
    plan = plan_services({ONE: [record("db")]}, installed(DB, WEB), [], {})
    assert plan == ServicePlan((WEB,), (), (), {}, frozenset({WEB}))


def test_another_definition_of_the_same_name_is_another_service() -> None:
    plan = plan_services({ONE: [record("web", "y")]}, installed(WEB), [], {})
    assert (plan.leaving, plan.coming) == ((WEB,), (WEB,))


def test_a_name_stays_with_who_has_it() -> None:
    wanted = {ONE: [record("web")], TWO: [record("web")]}
    assert plan_services(wanted, {}, [], {}).refused == {OTHER: f"{ONE} has brought a container of that name"}
    plan = plan_services(wanted, installed(OTHER), [], {})
    assert plan.refused == {WEB: f"{TWO} has brought a container of that name"}
    assert not plan.is_needed


def test_a_name_that_becomes_free_is_given_on() -> None:
    plan = plan_services({TWO: [record("web")]}, installed(WEB), [], {})
    assert (plan.leaving, plan.coming) == ((WEB,), (OTHER,))


def test_an_objection_gives_the_name_on() -> None:
    wanted = {ONE: [record("web")], TWO: [record("web")]}
    plan = plan_services(wanted, installed(WEB), [], {WEB: "no"})
    assert (plan.leaving, plan.coming, plan.refused) == ((WEB,), (OTHER,), {WEB: "no"})


def test_what_was_not_finished_is_finished() -> None:
    wanted = {ONE: [record("web")]}
    assert plan_services(wanted, installed(WEB), [WEB], {}).resumed == (WEB,)
    # Written by now, but systemd may not know; stopped by now, but still there; removed, but systemd may not know.
    assert plan_services(wanted, {}, [WEB], {}).coming == (WEB,)
    assert plan_services({}, installed(WEB), [WEB], {}).leaving == (WEB,)
    plan = plan_services({}, {}, [WEB], {})
    assert (plan.leaving, plan.coming, plan.resumed) == ((), (), ())
    assert plan.is_needed


keys = st.builds(Key, st.sampled_from([ONE, TWO, "dpl-3"]), st.sampled_from(["web", "db", "cache"]))
wishes = st.dictionaries(keys, st.sampled_from("xy"))


@bounded
@given(wishes, wishes, st.sets(keys), st.dictionaries(keys, st.just("no"), max_size=2))
def test_whatever_is_there_one_plan_leads_to_what_is_wanted(
    asked: dict[Key, str], there: dict[Key, str], unfinished: set[Key], objections: dict[Key, str]
) -> None:
    wanted: dict[str, list[ContainerRecord]] = {}
    for key, text in asked.items():
        wanted.setdefault(key.label, []).append(record(key.name, text))
    before = {key: record(key.name, text).digest for key, text in there.items()}
    plan = plan_services(wanted, before, unfinished, objections)
    after = {key: digest for key, digest in before.items() if key not in plan.leaving}
    after |= {key: record(key.name, asked[key]).digest for key in plan.coming}
    names = [key.name for key in after]
    assert len(names) == len({*names}), "a name is that of one service"
    assert after.keys() | plan.refused.keys() == asked.keys()
    assert not plan_services(wanted, after, [], objections).is_needed
    assert {*plan.leaving, *plan.coming, *plan.resumed, *unfinished} == plan.touched


def test_files_are_the_state(tmp_path: Path) -> None:
    paths = Paths(run_dir=str(tmp_path))
    assert read_installed(paths) == {}
    for key in (WEB, DB, OTHER):
        write_container(paths, key, b"x")
    (tmp_path / "containers.d" / ONE / "web.toml.bak").write_bytes(b"")
    assert read_installed(paths) == installed(WEB, DB, OTHER)
    assert (tmp_path / "containers.d" / ONE / "web.toml").read_bytes() == b"x"
    for key in (DB, OTHER):
        remove_container(paths, key)
    assert read_installed(paths) == installed(WEB)
    assert not (tmp_path / "containers.d" / TWO).exists()


def test_the_note_of_what_is_not_finished(tmp_path: Path) -> None:
    paths = Paths(run_dir=str(tmp_path))
    assert read_unfinished(paths) == []
    write_unfinished(paths, frozenset({WEB, DB}))
    assert read_unfinished(paths) == [DB, WEB]
    for damage in (b"[[1]]", b"{", b"null", b"\xff"):
        Path(paths.unfinished).write_bytes(damage)
        assert read_unfinished(paths) == []
    write_unfinished(paths, ())
    assert not Path(paths.unfinished).exists()
