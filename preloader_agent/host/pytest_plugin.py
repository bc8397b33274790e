"""The pytest plugin: disks and virtual machines for anybody's tests, as the fixtures `preload_disk` and `preload_vm`.

Every pytest of an environment that has docker-preloader loads this module, whether its tests need it or not. So it
imports nothing that pytest has not imported already; what the fixtures need is imported when they are used.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from preloader_agent.errors import PreloaderError

if TYPE_CHECKING:
    from preloader_agent.host.vm.config import VmConfig
    from preloader_agent.host.vm.driver import Vm

BOOT_TIMEOUT = 300.0  # seconds; as in vm.driver
CONSOLE_LINES = 30
PACKAGE = Path(__file__).parent.parent
NO_GUEST = (
    "no guest to run: say which with --preload-guest PATH, `preload_guest = PATH` in pytest's configuration, or "
    "preload_vm(guest=PATH); `preloader guest build --suite trixie -o guest.qcow2` makes one"
)


class PreloadDisk(Protocol):
    """What `preload_disk` is."""

    def __call__(
        self,
        *inputs: str | Path,
        platform: str | None = None,
        tags: Iterable[str] = (),
        name: str | None = None,
        compression: str | None = None,
        is_tls_verified: bool = True,
    ) -> Path:
        """The path of a disk with the images of some inputs, as `preloader build` takes them."""


class PreloadVm(Protocol):
    """What `preload_vm` is."""

    def __call__(
        self,
        *disks: str | Path,
        guest: str | Path | None = None,
        boot_timeout: float | None = BOOT_TIMEOUT,
        **config: Any,
    ) -> AbstractContextManager[Vm]:
        """A machine with some disks, for as long as a `with` block lasts."""


@dataclass
class _Machines:
    """The machines of a session by their titles, and what those said on their consoles that the current test ended."""

    started: int = 0
    running: dict[str, Vm] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)

    def consoles(self) -> dict[str, str]:
        return self.ended | {title: vm.console() for title, vm in self.running.items()}


_MACHINES = pytest.StashKey[_Machines]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add where the guest is."""
    text = "the guest of preload_vm: what `preloader guest build` made"
    group = parser.getgroup("preloader", "virtual machines with preloaded container images")
    group.addoption("--preload-guest", metavar="PATH", help=text)
    parser.addini("preload_guest", f"{text}, relative to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a wrong option at once, not in the first test that needs it."""
    config.stash[_MACHINES] = _Machines()
    guest = _guest_option(config)
    if guest is not None and not guest.exists():
        raise pytest.UsageError(f"--preload-guest {guest}: there is no such file or folder")


@pytest.fixture(scope="session")
def _preload_signals() -> Iterator[None]:
    """A request to end is like Ctrl-C: machines are ended and unfinished disks removed on the way out."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGTERM, signal.SIGHUP] if is_main else []
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _interrupt)
    yield
    for number in ours:
        signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, lambda *_: None)  # one is enough: a second would interrupt the way out
    raise KeyboardInterrupt(signal.Signals(number).name)


@pytest.fixture(scope="session")
def preload_disk(_preload_signals: None) -> PreloadDisk:
    """Turn container images into a disk: preload_disk(*inputs, **options) -> path.

    The inputs are those of `preloader build`: archives of docker save, OCI layouts, docker://NAME, docker-daemon:NAME.
    The options are platform="OS/ARCH", tags=["NEW=OLD"], name="NAME", compression="zstd" and is_tls_verified=False. A
    disk of the same images from an earlier time is used again. Its file, which is named by its label, is read-only.
    """
    from preloader_agent.host.disk import BuildOptions  # noqa: PLC0415
    from preloader_agent.host.diskcache import cache_disk  # noqa: PLC0415

    def find_disk(*inputs: str | Path, **options: Any) -> Path:
        return cache_disk(inputs, BuildOptions.of(**options))

    return find_disk


@pytest.fixture(scope="session")
def preload_vm(pytestconfig: pytest.Config, _preload_signals: None) -> Iterator[PreloadVm]:
    """Run a virtual machine: `with preload_vm(*disks, guest=None, boot_timeout=300, **config) as vm: ...`

    Within the block it has booted and has the images of the disks; `vm.succeed(command)` and what else a
    preloader_agent.host.Vm can do drives it. `config` are fields of preloader_agent.host.VmConfig, such as
    memory_mib=2048. With boot_timeout=None, nothing waits for its boot. It ends with the block, or with the session.
    """
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs, it raises too
    machines = pytestconfig.stash[_MACHINES]

    def run_machine(
        *disks: str | Path, guest: str | Path | None = None, boot_timeout: float | None = BOOT_TIMEOUT, **config: Any
    ) -> AbstractContextManager[Vm]:
        path = _find_guest(pytestconfig, guest)
        return _running(machines, _configure(path, tuple(map(Path, disks)), config), boot_timeout)

    yield run_machine
    for vm in machines.running.values():
        vm.close()
    machines.running.clear()


@contextmanager
def _running(machines: _Machines, config: VmConfig, boot_timeout: float | None) -> Iterator[Vm]:
    from preloader_agent.host.vm.driver import Vm  # noqa: PLC0415

    machines.started += 1
    title = f"machine {machines.started} ({', '.join(disk.name for disk in config.disks) or 'no disks'})"
    with Vm(config) as vm:
        machines.running[title] = vm
        try:
            if boot_timeout is not None:
                vm.wait_booted(boot_timeout)
            yield vm
        finally:
            machines.ended[title] = vm.console()
            machines.running.pop(title, None)


def _guest_option(config: pytest.Config) -> Path | None:
    given = config.getoption("preload_guest")
    return config.invocation_params.dir / Path(given).expanduser() if given else None


def _find_guest(config: pytest.Config, given: str | Path | None) -> Path:
    """The guest that is named most specifically; fails the test when there is none."""
    setting = config.getini("preload_guest")
    base = config.inipath.parent if config.inipath else config.rootpath
    guest = Path(given) if given else _guest_option(config) or (base / Path(setting).expanduser() if setting else None)
    if guest is None:
        pytest.fail(NO_GUEST, pytrace=False)
    if not guest.exists():
        pytest.fail(f"no guest at {guest}; `preloader guest build --suite trixie -o {guest}` makes one", pytrace=False)
    return guest


def _configure(guest: Path, disks: tuple[Path, ...], config: dict[str, Any]) -> VmConfig:
    from preloader_agent.host.vm.config import VmConfig  # noqa: PLC0415

    base = VmConfig.of_guest(guest) if guest.is_dir() else VmConfig(root_disk=guest)
    return replace(base, disks=disks, **config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the machines that ended with an earlier test."""
    item.config.stash[_MACHINES].ended.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the machines of a failed test said last; of our own errors, show the test's lines and not ours."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        _shorten_traceback(call.excinfo)
    report = yield
    if report.failed:
        shown = str(getattr(call.excinfo, "value", ""))
        for title, console in item.config.stash[_MACHINES].consoles().items():
            last = "\n".join(console.splitlines()[-CONSOLE_LINES:])
            if last and last not in shown:
                report.sections.append((f"console of {title}", last))
    return report


def _shorten_traceback(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Leave our own lines out of what is shown of our own errors: their texts say all.

    pytest goes back to the real traceback, whatever it has filtered out of its own, so that is what is changed.
    """
    err: BaseException | None = excinfo.value
    if isinstance(err, PreloaderError):
        while err is not None:
            err.__traceback__ = _lines_above_ours(err.__traceback__)
            err = err.__cause__ or err.__context__
        if excinfo.value.__traceback__ is not None:
            excinfo.traceback = type(excinfo.traceback)(excinfo.value.__traceback__)


def _lines_above_ours(traceback: TracebackType | None) -> TracebackType | None:
    entries = []
    while traceback is not None and not Path(traceback.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        if traceback.tb_frame.f_code.co_filename != contextlib.__file__:
            entries.append(traceback)
        traceback = traceback.tb_next
    above = None
    for entry in reversed(entries):
        above = TracebackType(above, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return above
