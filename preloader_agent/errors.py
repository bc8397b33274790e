"""Every error that the product raises on purpose.

    PreloaderError
    |-- InputError             what the user gave is wrong: exit code 2
    |   |-- InvalidArchive     an image archive that cannot be turned into layers
    |   |-- InvalidDisk        a disk, or the index on it, that is not what it claims to be
    |   |-- InvalidGuest       a root tree, or a disk image of one, that the agent cannot be put into
    |   |-- InvalidFile        a TOML file that a person wrote
    |   |-- InvalidValue       a digest, link or reference that is not well formed
    |   `-- DigestMismatch     content whose SHA-256 is not the one that names it
    |-- ToolError              another program failed: exit code 1
    |   |-- ToolMissing        it is not installed
    |   |-- WheelMissing       pip has none of a Python package for a guest
    |   |-- CommandFailed      it ran and reported a failure
    |   `-- ScriptFailed       it is a script of the user's
    |-- ReleaseExpired         the packages of a Debian mirror are older than they may be
    |-- NoSpace                there is no room for what is written
    |-- MountError             mount(2) or umount(2) failed
    |-- DisksMissing           disks that are required did not come: exit code 3
    |-- ContainerError         a container that is a service cannot be started
    |-- StoreError             Docker's store, or what stands in it, cannot be used
    |   |-- StoreFull          there is no room left in it
    |   `-- StoreUnused        docker does not keep its images in it, and is not to be made to
    `-- VmError                a virtual machine did not do what it was asked within its bound
        |-- AgentSilent        the agent in it cannot be asked
        `-- AgentRefused       the agent in it said no

Library code raises these; only the command lines print them and exit. The text says what failed, on which path or
id, what was expected and found, and what to do. This module is on the guest's boot path: it imports nothing.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_INVALID = 2
EXIT_MISSING = 3
EXIT_INTERRUPTED = 130


class PreloaderError(Exception):
    """The root of every error that is raised on purpose; `str()` of it is a message for a person."""

    exit_code = EXIT_FAILED


class InputError(PreloaderError):
    """What the user gave is wrong."""

    exit_code = EXIT_INVALID


class InvalidArchive(InputError):
    """An image archive that cannot be turned into layers."""

    def __init__(self, archive: object, problem: str) -> None:
        super().__init__(archive, problem)
        self.archive = str(archive)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.archive}: {self.problem}"


class InvalidDisk(InputError):
    """A disk, or the index on it, that is not what it claims to be."""

    def __init__(self, disk: object, problem: str) -> None:
        super().__init__(disk, problem)
        self.disk = str(disk)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.disk}: {self.problem}"


class InvalidGuest(InputError):
    """A root tree, or a disk image of one, that the agent cannot be put into."""

    def __init__(self, guest: object, problem: str) -> None:
        super().__init__(guest, problem)
        self.guest = str(guest)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.guest}: {self.problem}"


class InvalidFile(InputError):
    """A TOML file that a person wrote; `line` counts from 1, 0 where what is wrong stands nowhere."""

    def __init__(self, file: object, line: int, key: str, problem: str) -> None:
        super().__init__(file, line, key, problem)
        self.file = str(file)
        self.line = line
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.problem}" if self.key else f"{where}: {self.problem}"


class InvalidValue(InputError):
    """A digest, link or reference that is not well formed."""

    def __init__(self, kind: str, found: object, expected: str) -> None:
        super().__init__(kind, found, expected)
        self.kind = kind
        self.found = found
        self.expected = expected

    def __str__(self) -> str:
        # The repr of a list that a disk has nested deep enough would be an error of its own.
        found = f"a {type(self.found).__name__}" if isinstance(self.found, (list, dict)) else repr(self.found)
        return f"{self.kind}: expected {self.expected}, found {found:.120}"


class DigestMismatch(InputError):
    """Content whose SHA-256 is not the one that names it."""

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(what, expected, found)
        self.what = what
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found}; the content was damaged or changed"


class ToolError(PreloaderError):
    """Another program failed."""


class ToolMissing(ToolError):
    """A program is not installed."""

    def __init__(self, tool: str, hint: str) -> None:
        super().__init__(tool, hint)
        self.tool = tool
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.tool} is not installed: {self.hint}"


class WheelMissing(ToolError):
    """pip has no wheel of a Python package that a guest lacks."""

    def __init__(self, package: str, python: str, reason: str) -> None:
        super().__init__(package, python, reason)
        self.package = package
        self.python = python
        self.reason = reason

    def __str__(self) -> str:
        remedy = f"install python3-{self.package} in the guest first, or give a folder with a wheel (--wheels)"
        return (
            f"the guest lacks {self.package}, and pip has no wheel for {self.python}: {remedy}\n{self.reason}".strip()
        )


class CommandFailed(ToolError):
    """A program ran and reported a failure."""

    def __init__(self, argv: list[str], status: int, output: str) -> None:
        super().__init__(argv, status, output)
        self.argv = argv
        self.status = status
        self.output = output.strip()

    def __str__(self) -> str:
        how = f"exit status {self.status}" if self.status >= 0 else f"signal {-self.status}"
        return f"{' '.join(self.argv)}: {how}: {self.output or 'no output'}"


class ScriptFailed(ToolError):
    """A script of the user's, which has a name, reported a failure."""

    def __init__(self, name: str, status: int, output: str) -> None:
        super().__init__(name, status, output)
        self.name = name
        self.status = status
        self.output = output.strip()

    def __str__(self) -> str:
        return f"{self.name}: exit status {self.status}: {self.output or 'no output'}"


class ReleaseExpired(PreloaderError):
    """The packages of a Debian mirror are older than they may be; `lines` are apt's own."""

    def __init__(self, suite: str, lines: list[str]) -> None:
        super().__init__(suite, lines)
        self.suite = suite
        self.lines = lines

    def __str__(self) -> str:
        advice = "use a mirror that is kept up to date, or accept these packages with --no-check-valid-until"
        return f"{self.suite}: the mirror's package lists are out of date: {advice}\n" + "\n".join(self.lines)


class NoSpace(PreloaderError):
    """There is no room for what is written."""

    def __init__(self, output: object) -> None:
        super().__init__(output)
        self.output = str(output)

    def __str__(self) -> str:
        needed = "up to three times its size is needed there while it is made"
        return f"{self.output}: no space left, or a limit reached; {needed}: free some, or write it elsewhere"


class MountError(PreloaderError):
    """mount(2) or umount(2) failed."""

    def __init__(self, action: str, target: str, errno: int, reason: str) -> None:
        super().__init__(action, target, errno, reason)
        self.action = action
        self.target = target
        self.errno = errno
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot {self.action} {self.target}: {self.reason}"


class ContainerError(PreloaderError):
    """A container that is a service cannot be started."""

    def __init__(self, container: object, problem: str) -> None:
        super().__init__(container, problem)
        self.container = str(container)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.container}: {self.problem}"


class StoreError(PreloaderError):
    """Docker's store, or what stands in it, cannot be used."""

    def __init__(self, path: object, problem: str) -> None:
        super().__init__(path, problem)
        self.path = str(path)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class StoreFull(StoreError):
    """There is no room left in Docker's store: no blocks, no inodes, or no quota."""


class StoreUnused(StoreError):
    """Docker does not keep its images in overlay2's store, and nothing of ours may make it do so."""


class DisksMissing(PreloaderError):
    """Disks that the guest's settings require were not attached in time."""

    exit_code = EXIT_MISSING

    def __init__(self, labels: list[str], seconds: float) -> None:
        super().__init__(labels, seconds)
        self.labels = labels
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{', '.join(self.labels)}: required, and not attached within {self.seconds:g} s"


class VmError(PreloaderError):
    """A virtual machine did not do what it was asked within its bound."""

    def __init__(self, problem: str, console: str = "") -> None:
        super().__init__(problem, console)
        self.problem = problem
        self.console = console

    def __str__(self) -> str:
        return f"{self.problem}\n--- the console's last lines ---\n{self.console}" if self.console else self.problem


class AgentSilent(VmError):
    """The agent in a virtual machine cannot be asked: no socket, or no answer."""


class AgentRefused(VmError):
    """The agent in a virtual machine said no; `containers` use what it was asked to let go of."""

    def __init__(self, problem: str, containers: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.containers = containers
