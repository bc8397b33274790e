"""What containers depend on."""

from __future__ import annotations

from itertools import pairwise

import pytest

from preloader_agent.containers.dependencies import find_faults


@pytest.mark.parametrize(
    ("dependencies", "faults"),
    [
        ({"a": []}, {}),
        ({"a": ["b", "c"], "b": ["c"], "c": []}, {}),
        ({"a": ["b"]}, {"a": "there is no container b"}),
        ({"a": ["b"], "b": ["a"], "c": ["a"]}, {"a": "is a cycle: a -> b -> a;", "b": "is a cycle: b -> a -> b;"}),
        ({"a": ["b", "c"], "b": ["d"], "c": ["a"], "d": []}, {"a": "is a cycle: a -> c", "c": "is a cycle: c -> a"}),
    ],
)
def test_faults(dependencies: dict[str, list[str]], faults: dict[str, str]) -> None:
    found = find_faults(dependencies, dependencies)
    assert found.keys() == faults.keys()
    assert all(found[name].startswith(fault) for name, fault in faults.items())


def test_what_is_there_and_cannot_be_used_is_known() -> None:
    assert find_faults({"a": ["b"]}, ["a", "b"]) == {}


def test_a_long_chain_takes_no_stack() -> None:
    names = [f"c{number}" for number in range(300)]
    chain = {name: [needed] for name, needed in pairwise(names)}
    assert find_faults({**chain, names[-1]: []}, names) == {}
