"""Waiting for a guest to use the disks that were attached, which its agent says on the control channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from preloader_agent.errors import AgentRefused, AgentSilent, VmError
from preloader_agent.host.vm.control import PING_RETRY, PING_TIMEOUT, ControlChannel, printable
from preloader_agent.host.waiting import tries

ADOPTION_TIMEOUT = 180.0  # docker is restarted, and a guest may still have to boot
_LOOK = 0.5  # seconds between two looks
# What a guest's agent can say of a disk (preloader_agent/guest/report.py).
ADOPTED, PENDING, REFUSED, UNUSED = "adopted", "pending", "refused", "unused"
_WAITING = {
    "restart": "docker has not been restarted yet (hotplug=restart)",
    "idle": "its images come at docker's next start, which the agent asks for once no container runs (hotplug=idle)",
    "defer": "its images come when somebody restarts docker (hotplug=defer)",
}


def wait_adopted(control: Path, labels: Collection[str], timeout: float = ADOPTION_TIMEOUT) -> None:
    """Wait until docker in the guest has the images of the disks with these labels; there is at least one.

    Raises AgentRefused with the reason when the agent does not use one of them, AgentSilent when it cannot be asked,
    and VmError, which says what is missing, when `timeout` seconds have passed.
    """
    problem: VmError = VmError("not asked")
    for left in tries(timeout, pause=_LOOK):
        try:
            with closing(ControlChannel(control, min(max(left, PING_RETRY), PING_TIMEOUT))) as channel:
                status = channel.status()
        except AgentSilent as err:
            if not isinstance(err.__cause__, TimeoutError):
                raise
            problem = err  # the guest may be booting
            continue
        states = disk_states(status)
        for label in labels:
            _check_used(label, states.get(label, ""), status)
        missing = [label for label in labels if states.get(label) != ADOPTED]
        if not missing and not status.get("restarting"):
            return
        first = next(iter(missing), next(iter(labels)))
        problem = VmError(f"{first}: after {timeout:g} s, {_explain(states.get(first, ''), status)}")
    raise problem


def disk_states(status: Mapping[str, Any]) -> dict[str, str]:
    """What the agent says of each disk that it knows, by label; of two with one label, of the one that it uses."""
    states: dict[str, str] = {}
    for disk in _dicts(status.get("disks")):
        label, state = printable(disk.get("label")), printable(disk.get("state"))
        if states.get(label, REFUSED) == REFUSED:
            states[label] = state
    return states


def image_counts(status: Mapping[str, Any]) -> dict[str, int]:
    """How many images docker has from each disk, by label."""
    labels = [printable(image.get("disk")) for image in _dicts(status.get("images")) if not image.get("lost")]
    return {label: labels.count(label) for label in labels}


def _dicts(value: object) -> list[dict[str, Any]]:
    """What a guest says may be anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _check_used(label: str, state: str, status: Mapping[str, Any]) -> None:
    if state == REFUSED:
        reasons = (disk.get("reason") for disk in _dicts(status.get("disks")) if disk.get("label") == label)
        raise AgentRefused(f"{label}: the guest refuses it: {printable(next(reasons, '') or 'it does not say why')}")
    if state == UNUSED:
        raise AgentRefused(f"{label}: the guest does not use any disk: {_problems(status)}")


def _explain(state: str, status: Mapping[str, Any]) -> str:
    settings = status.get("settings")
    known = settings if isinstance(settings, dict) else {}
    if status.get("restarting"):
        return "docker is still being restarted"
    if state == PENDING:
        return _WAITING.get(str(known.get("hotplug")), "docker has not been started since")
    if state:
        return f"the guest's agent says that it is {state}"
    labels = known.get("labels")
    patterns = f", and uses {printable(' '.join(map(str, labels)))}" if isinstance(labels, list) else ""
    return f"the guest's agent has seen no such disk{patterns}"


def _problems(status: Mapping[str, Any]) -> str:
    problems = status.get("problems")
    return printable("; ".join(map(str, problems))) if isinstance(problems, list) and problems else "it says no reason"
