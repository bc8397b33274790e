"""What QEMU says when it cannot go on, for people: which file or port, who has it, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_LOCK = re.compile(
    r'Failed to get (?P<shared>shared )?"[^"]+" lock\s+Is another process using the image \[(?P<path>.*)\]'
)
_FORWARD = re.compile(r"Could not set up host forwarding rule '(?P<rule>[^']*)'")
_NO_ROOM = ("nospace", "no space: the host's disk is full; make room, and start the machine again")
_STUCK = {
    "io-error": "QEMU has stopped the guest: a write to {file} failed, {reason}",
    "internal-error": "QEMU has stopped the guest: KVM cannot run what it does",
    "guest-panicked": "the guest's kernel has panicked",
}


def explain(said: str) -> str:
    """QEMU's words, behind what they mean where people would have to guess."""
    if lock := _LOCK.search(said):
        return f"{describe_lock(lock['path'], is_reader=bool(lock['shared']))}: {said}"
    if forward := _FORWARD.search(said):
        rule = forward["rule"].rpartition("-")[0]
        return f"the host's port {rule} is in use, or not allowed; forward another one: {said}"
    return said


def describe_lock(path: str, *, is_reader: bool) -> str:
    """Why a disk is locked, whether who wanted it wanted to read it only, or to write to it."""
    users = ", ".join(find_users(Path(path))) or "another program"
    if is_reader:
        return f"{path} is in use by {users}, which writes to it; end that first, or take a copy"
    return f"{path} is in use by {users}, and cannot be written to meanwhile; end that first, or run a snapshot of it"


def find_users(path: Path) -> Iterator[str]:
    """The processes that have a file open, as far as we may see them."""
    with suppress(OSError):
        wanted = os.stat(path)
        for process in Path("/proc").glob("[0-9]*"):
            if _has_open(process, wanted):
                yield f"{(process / 'comm').read_text().strip()} (process {process.name})"


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):  # it has ended, or is another user's
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(os.stat(descriptor), wanted):
                    return True
    return False


def explain_stop(status: Any, blocks: Any) -> str:
    """Why a guest does not run, from the answers to query-status and query-block; empty if it does, or was paused."""
    text = _STUCK.get(status["status"], "")
    failed = [block for block in blocks if block.get("io-status", "ok") != "ok"]
    file = ", ".join(block["inserted"]["file"] for block in failed if "inserted" in block)
    is_full = any(block["io-status"] == _NO_ROOM[0] for block in failed)
    return text.format(file=file or "a disk", reason=_NO_ROOM[1] if is_full else "see the host's kernel log")
