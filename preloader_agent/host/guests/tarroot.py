"""A root tree in an uncompressed tar file, as mmdebstrap writes it.

A change is a copy: the bytes of all members that stay, as they are, with the new members behind them. So whatever a
member has (ACLs, capabilities, sparse parts) is not looked at, and nothing but a complete file has the tar's name.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from preloader_agent.errors import InvalidGuest
from preloader_agent.host.guests.agentfiles import File, Symlink
from preloader_agent.host.guests.plan import Plan
from preloader_agent.host.publishing import replace_file, stage_beside

_EXPECTED = "expected an uncompressed tar file of a guest's root tree"


class TarTree:
    """See RootTree; a context manager."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        self._members: dict[str, tarfile.TarInfo] = {}
        self._names: dict[str, set[str]] = {"": set()}
        try:
            self._tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed with the tree
            for member in self._tar:
                self._add(_path(member.name), member)
            self._check_end()
        except OSError as err:
            raise InvalidGuest(path, f"cannot be read: {err.strerror or err}") from err
        except tarfile.TarError as err:
            raise InvalidGuest(path, f"{err}: {_EXPECTED}") from err

    def __enter__(self) -> TarTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tar.close()

    def has(self, path: str) -> bool:
        """See RootTree."""
        return path in self._members or path in self._names

    def target(self, path: str) -> str | None:
        """See RootTree."""
        member = self._members.get(path)
        return member.linkname if member and member.issym() else None

    def names(self, path: str) -> Collection[str] | None:
        """See RootTree."""
        return self._names.get(path)

    def head(self, path: str, size: int) -> bytes | None:
        """See RootTree."""
        member = self._members.get(path)
        if member is None or not (member.isreg() or member.islnk()):
            return None
        try:
            content = self._tar.extractfile(member)
        except KeyError as err:
            raise InvalidGuest(self.name, f"/{path} is a hard link to what is not there") from err
        return content.read(size) if content else None

    def kept(self, removed: Collection[str]) -> Iterator[tuple[int, int]]:
        """Where the members stand that are not removed: first byte and end of each piece."""
        start = 0
        members = self._tar.getmembers()
        ends = [*(member.offset for member in members[1:]), int(self._tar.offset)]
        for member, end in zip(members, ends, strict=True):
            if _path(member.name) in removed:
                yield start, member.offset
                start = end
            elif member.islnk() and _path(member.linkname) in removed:
                raise InvalidGuest(self.name, f"{member.name} is a hard link to {member.linkname}, which is replaced")
        yield start, ends[-1]

    def _check_end(self) -> None:
        """tarfile takes a damaged header for the end, and what is behind it would be lost."""
        with self.path.open("rb") as file:
            file.seek(self._tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"is damaged at byte {self._tar.offset}")

    def _add(self, path: str, member: tarfile.TarInfo) -> None:
        self._members[path] = member
        if member.isdir():
            self._names.setdefault(path, set())
        while path:  # a member's folders need not be members
            parent, _, name = path.rpartition("/")
            self._names.setdefault(parent, set()).add(name)
            path = parent


def _path(name: str) -> str:
    return posixpath.normpath(f"/{name}").lstrip("/")


def apply_to_tar(tree: TarTree, plan: Plan) -> None:
    """Carry out a plan: write a tar file with the change, and put it in place of the old one."""
    now = int(time.time())
    path = tree.path.resolve()
    with stage_beside(path) as folder:
        finished = folder / "root.tar"
        with path.open("rb") as old, finished.open("wb") as new:
            for start, end in tree.kept(plan.removed):
                _copy(old, new, start, end)
            for name in plan.folders:
                _write_member(new, name, now, mode=0o755, type=tarfile.DIRTYPE)
            for entry in plan.entries:
                if isinstance(entry, Symlink):
                    _write_member(new, entry.path, now, mode=0o777, type=tarfile.SYMTYPE, linkname=entry.target)
                else:
                    _write_file(new, entry, now)
            new.write(bytes(tarfile.RECORDSIZE - new.tell() % tarfile.RECORDSIZE + tarfile.RECORDSIZE))
        replace_file(finished, path)


def _copy(old: BinaryIO, new: BinaryIO, start: int, end: int) -> None:
    """By the kernel, which knows how to do that without our memory."""
    new.flush()
    while start < end:
        count = os.sendfile(new.fileno(), old.fileno(), start, end - start)
        if not count:
            raise InvalidGuest(old.name, "has become shorter while it was read")
        start += count
    new.seek(0, os.SEEK_END)


def _write_file(new: BinaryIO, file: File, mtime: int) -> None:
    _write_member(new, file.path, mtime, mode=file.mode, size=len(file.content))
    new.write(file.content + bytes(-len(file.content) % tarfile.BLOCKSIZE))


def _write_member(new: BinaryIO, path: str, mtime: int, **fields: object) -> None:
    """The header of a member; without an owner it is root's."""
    member = tarfile.TarInfo(f"./{path}")
    member.mtime, member.uname, member.gname = mtime, "root", "root"
    for name, value in fields.items():
        setattr(member, name, value)
    new.write(member.tobuf(tarfile.PAX_FORMAT))
