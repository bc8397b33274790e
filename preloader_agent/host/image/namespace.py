"""A user namespace in which an image is unpacked, and a script is root.

Its 65536 users are the caller's subordinate ones (/etc/subuid), and neither the caller nor root of the host is among
them, so what gets out of it owns nothing out here. One process, the keeper, holds it together: when that ends, or we
do, however that comes, the kernel ends every process in there, and then the keeper removes their files.

An image's device nodes are left out, since nobody in there could make one, and so are xattrs that only real root sets.
"""

from __future__ import annotations

import io
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

from preloader_agent.errors import InputError, PreloaderError
from preloader_agent.host.diskimage import large_files_folder
from preloader_agent.host.image.filesystem import children_of, walk
from preloader_agent.host.image.shellparts import named_part, part_words
from preloader_agent.host.image.tarwriter import Read, tar_chunks
from preloader_agent.host.interruptions import put_off
from preloader_agent.host.node import Node
from preloader_agent.host.run import feed, find_tool, run, start_attended, stream_output
from preloader_agent.host.tarstream import BLK, CHR, DIR, show_name

_USERS = 65536
# For root, who has none of its own: the last of those that systemd leaves to containers, and gives away last
# (https://systemd.io/UIDS-GIDS).
_ROOTS_FIRST_USER = 1879048192 - _USERS
_SUBORDINATE = re.compile(r"^([^:\n]+):(\d+):(\d+)$", re.MULTILINE)
_MAPPERS = {"uid": "newuidmap", "gid": "newgidmap"}


@dataclass(frozen=True)
class Namespace:
    """The words that enter it, in front of a command, and the folder of its files. See overlay.Place."""

    enter: tuple[str, ...]
    folder: str

    def run(self, script: str) -> str:
        """See Place."""
        with named_part("run-in-overlay"):
            return run([*self.enter, *part_words("run-in-overlay", self.folder)], stdin=script.encode())

    @contextmanager
    def packed_changes(self) -> Iterator[BinaryIO]:
        """See Place."""
        words = [*self.enter, *part_words("pack-changes", self.folder)]
        with named_part("pack-changes"), stream_output(words) as stream:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream)))


@contextmanager
def open_namespace(tree: Node, read: Read) -> Iterator[Namespace]:
    """A user namespace with an image's file system, for a block.

    Raises InputError for an image that has owners beyond its users, ToolMissing and CommandFailed for util-linux and
    tar, and PreloaderError where the host allows no user namespace.
    """
    chunks = tar_chunks(_without_devices(tree), read)
    _check_owners(tree)
    with _keep_namespace() as namespace:
        with named_part("unpack-image"):
            feed([*namespace.enter, *part_words("unpack-image", namespace.folder)], chunks)
        yield namespace


def _check_owners(tree: Node) -> None:
    for path, node in walk(tree):
        if max(node.uid, node.gid) >= _USERS:
            raise InputError(
                f"{show_name(path)} of the image belongs to {node.uid}:{node.gid}, and a user namespace has the users"
                f" and groups 0 to {_USERS - 1}: run the script in a machine"
            )


def _without_devices(tree: Node) -> Node:
    """The same tree with directories of its own."""
    copy = replace(tree, children={})
    left = [(tree, copy)]
    while left:
        old, new = left.pop()
        for name, node in children_of(old).items():
            if node.type == DIR:
                children_of(new)[name] = made = replace(node, children={})
                left.append((node, made))
            elif node.type not in (CHR, BLK):
                children_of(new)[name] = node
    return copy


@contextmanager
def _keep_namespace() -> Iterator[Namespace]:
    parent = str(large_files_folder() or tempfile.gettempdir())
    with ExitStack() as stack:
        log = stack.enter_context(open(os.memfd_create("stderr"), "w+b"))
        # The first program of a user namespace has no rights in it, since it is started before there are any users.
        holder = stack.enter_context(_attend(["unshare", "--user", "cat"], log))
        _await_echo(holder, log)
        _map_users(holder.pid)
        keeping = [*_entering(holder.pid), *part_words("keep-namespace", parent)]
        keeper = stack.enter_context(_attend(keeping, log))
        folder = _read_line(keeper, log)
        _await_echo(keeper, log)
        enter = [*_entering(keeper.pid), f"--pid=/proc/{keeper.pid}/ns/pid_for_children"]
        yield Namespace(tuple(enter), folder)


@contextmanager
def _attend(argv: Sequence[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends, in its own time, when its input does; it is waited for."""
    program = start_attended(argv, log=log)
    try:
        yield program
    finally:
        with put_off():  # Popen's own waits for a quarter of a second when it is Ctrl-C that ends the block
            for pipe in (program.stdin, program.stdout):
                assert pipe is not None
                pipe.close()
            program.wait()


def _entering(pid: int) -> list[str]:
    return ["nsenter", f"--user=/proc/{pid}/ns/user", "--setuid=0", "--setgid=0"]


def _await_echo(program: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Wait until cat runs in a program: it answers."""
    assert program.stdin is not None
    with suppress(BrokenPipeError):
        program.stdin.write(b"\n")
    _read_line(program, log)


def _read_line(program: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line.endswith(b"\n"):
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
        raise PreloaderError(
            f"no user namespace to run a script in: {said or 'no output'}: look whether the host allows them (sysctl"
            " user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
            " and whether everybody can write to TMPDIR, or run the script in a machine"
        )
    return os.fsdecode(line[:-1])


def _map_users(pid: int) -> None:
    """Give the namespace of a process its users and groups: never those of real root."""
    for kind, mapper in _MAPPERS.items():
        if os.geteuid() == 0:
            _write_map(Path(f"/proc/{pid}/{kind}_map"))
        else:
            program = find_tool(mapper, "`apt install uidmap`")
            run([program, str(pid), "0", str(_find_first_user(Path(f"/etc/sub{kind}"))), str(_USERS)])


def _write_map(path: Path) -> None:
    try:
        path.write_text(f"0 {_ROOTS_FIRST_USER} {_USERS}")
    except OSError as err:
        raise PreloaderError(f"{path}: cannot be written: {err.strerror}: run the script in a machine") from err


def _find_first_user(path: Path) -> int:
    """Where the caller's subordinate users start. Format: subuid(5). Raises PreloaderError when they are too few."""
    names = [str(os.getuid())]
    with suppress(KeyError):
        names.insert(0, pwd.getpwuid(os.getuid()).pw_name)
    text = path.read_text() if path.exists() else ""
    for owner, first, count in _SUBORDINATE.findall(text):
        if owner in names and int(count) >= _USERS:
            return int(first)
    raise PreloaderError(
        f"{path} gives {names[0]} no {_USERS} users in a row, who are needed for a user namespace: as root, `usermod"
        f" --add-subuids 100000-165535 --add-subgids 100000-165535 {names[0]}` does, if nobody else has those"
    )
