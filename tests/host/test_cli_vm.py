"""`preloader vm run` as people and machines use it, with a real QEMU and a guest of one sector."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from preloader_agent.errors import InvalidValue
from preloader_agent.host.run import run, start
from preloader_agent.host.vm.accelerator import QEMU
from preloader_agent.host.vm.parsing import parse_credential, parse_forward, parse_shared_folder, parse_size
from preloader_agent.host.vm.qmp import Monitor
from preloader_agent.host.waiting import tries
from tests.host.command import COMMAND, PYTHONPATH, SIGNALS, Preloader
from tests.host.terminal import Terminal
from tests.host.vm.bootsector import LAST_WRITE, SIZE, write_guest

BOUND = 60.0  # seconds for what takes one or two

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_guest(tmp_path / "guest.raw")


def processes_of(folder: Path) -> set[str]:
    """What runs with a file of a folder."""
    words = [path for path in Path("/proc").glob("[0-9]*/environ") if f"TMPDIR={folder}\0".encode() in _read(path)]
    return {_read(path.with_name("comm")).decode().strip() for path in words}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


class Running:
    """A `preloader vm run` with a folder for its temporary files, and what it has said."""

    def __init__(self, folder: Path, *args: str | Path) -> None:
        self.folder = folder
        self._log = folder.with_name(f"{folder.name}.log")
        variables = [f"PYTHONPATH={PYTHONPATH}", f"TMPDIR={folder}"]
        with self._log.open("wb") as log:
            self.process = start(["env", *variables, *COMMAND, "vm", "run", "--memory", "64M", *args], log=log)

    def said(self) -> str:
        return self._log.read_text(errors="replace").replace("\r", "")

    def wait_said(self, text: str) -> None:
        for _ in tries(BOUND, pause=0.05):
            if text in self.said():
                return
            assert self.process.poll() is None, self.said()
        raise AssertionError(f"{text!r} is not in {self.said()!r}")

    def assert_ended(self, status: int) -> None:
        """With that exit status, and nothing left."""
        assert self.process.wait(BOUND) == status, self.said()
        assert_nothing_left(self.folder)


def assert_nothing_left(folder: Path) -> None:
    """Once what ends has ended."""
    for _ in tries(BOUND, pause=0.05):
        if not processes_of(folder):
            break
    assert processes_of(folder) == set()
    assert list(folder.iterdir()) == []


@contextmanager
def running(folder: Path, *args: str | Path) -> Iterator[Running]:
    command = Running(folder, *args)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait()
        command._log.unlink()


# --- what is run ---


def script_of(preloader: Preloader, image: Path, *args: str | Path) -> list[str]:
    result = preloader("vm", "run", image, "--dry-run", *args)
    assert (result.status, result.err) == (0, ""), result
    return result.out.splitlines()


@needs_qemu
def test_a_dry_run_prints_each_option_on_a_line(preloader: Preloader, image: Path, disk: Path, tmp_path: Path) -> None:
    options: list[str | Path] = ["--disk", disk, "--memory", "2G", "--cores", "4", "--forward", "2222:22"]
    options += ["--kernel", image, "--append", "root=/dev/vda quiet", "--console-log", tmp_path / "a,b"]
    options += ["--empty-disk", "8G", "--disk-interface", "virtio-scsi", "--share", f"{tmp_path}:/mnt:ro"]
    options += ["--share-by", "9p", "--credential", "a=b c", "--qemu-arg", "-name", "--qemu-arg", "mine"]
    lines = script_of(preloader, image, *options)
    create = "qemu-img create -q -f qcow2"
    folder = lines[0].removeprefix("mkdir -m 700 ")
    assert lines[1] == f"{create} -F raw -b {image} {folder}/root.qcow2"
    assert lines[2] == f"{create} {folder}/empty0.qcow2 8589934592"
    assert lines[3] == f"{QEMU} \\"
    expected = {
        "-m 2048",
        "-smp 4",
        "-append 'root=/dev/vda quiet'",
        f"-kernel {image}",
        "-netdev user,id=net,hostfwd=tcp:127.0.0.1:2222-:22",
        "-device virtio-scsi-pci,id=scsi",
        "-smbios 'type=11,value=io.systemd.credential:a=b c'",
        "-name mine",
    }
    assert expected <= {line.strip(" \\") for line in lines[4:]}
    assert any(line.startswith("  -chardev stdio,") and "logfile=" in line and "/a,,b" in line for line in lines)
    assert not Path(folder, "root.qcow2").exists()


@needs_qemu
def test_what_a_dry_run_prints_can_be_pasted(
    preloader: Preloader, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    script = "\n".join(script_of(preloader, image, "--memory", "64M"))
    assert "hello\n" in run(["sh", "-e", "-c", script], timeout=BOUND).replace("\r", "")


@needs_qemu
def test_the_console_is_the_standard_output_and_a_log(image: Path, folder: Path, tmp_path: Path) -> None:
    with running(folder, image, "--console-log", tmp_path / "log") as command:
        command.assert_ended(0)
        assert re.match(rf"preloader: --qmp {folder}/dpl-vm-\w+/qmp2 --control {folder}/\S+/control\n", command.said())
        assert "hello\n" in command.said()
    assert b"hello\r\n" in (tmp_path / "log").read_bytes()


@needs_qemu
@pytest.mark.parametrize("kind", ["--snapshot", "--persistent"])
def test_what_the_guest_writes_is_kept_or_not(folder: Path, tmp_path: Path, kind: str) -> None:
    image = write_guest(tmp_path / "guest.raw", writes=True)
    with running(folder, image, kind) as command:
        command.assert_ended(0)
    assert (image.read_bytes()[SIZE - LAST_WRITE :][:16] == bytes(16)) is (kind == "--snapshot")
    assert image.stat().st_size == SIZE


@needs_qemu
def test_the_sockets_are_where_the_user_wants_them(folder: Path, tmp_path: Path) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    chosen = folder.with_name(f"{folder.name}.sockets")
    chosen.mkdir()
    sockets: list[str | Path] = ["--qmp", chosen / "qmp", "--control", chosen / "control"]
    try:
        with running(folder, image, *sockets) as command:
            command.wait_said(f"--qmp {chosen}/qmp --control {chosen}/control")
            (folder / "second").mkdir()
            assert "another program listens on it" in failure(folder / "second", 2, image, *sockets)
            (folder / "second").rmdir()
            with closing(Monitor(chosen / "qmp")) as monitor:
                monitor.execute("quit")
            command.assert_ended(0)
        assert list(chosen.iterdir()) == []
    finally:
        shutil.rmtree(chosen)


# --- the end ---


@needs_qemu
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_machine_and_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    with running(folder, image) as command:
        command.wait_said("hello")
        assert QEMU[:15] in processes_of(folder)
        command.process.send_signal(number)
        command.assert_ended(130)
        assert command.said().endswith("the machine was ended\n")


@needs_qemu
def test_a_guest_that_keeps_what_it_writes_is_asked_to_power_off_first(folder: Path, tmp_path: Path) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="at the button")
    with running(folder, image, "--persistent") as command:
        command.wait_said("hello")
        command.process.terminate()
        command.assert_ended(130)
        assert command.said().endswith("preloader: interrupted; the guest powered off\n")


@needs_qemu
def test_a_killed_command_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """Nobody can clean up then but the kernel, and who waits for it."""
    with running(folder, write_guest(tmp_path / "guest.raw", ending="stay")) as command:
        command.wait_said("hello")
        command.process.kill()
        command.assert_ended(-signal.SIGKILL)


@needs_qemu
def test_a_signal_at_any_moment_of_the_start(folder: Path, tmp_path: Path) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    for milliseconds in range(150, 650, 50):
        with running(folder, image) as command:
            try:
                command.process.wait(milliseconds / 1000)
            except subprocess.TimeoutExpired:
                command.process.terminate()
            status = command.process.wait(BOUND)
            assert status in {130, -signal.SIGTERM}, command.said()  # the latter before Python has begun with us
            assert "Traceback" not in command.said()
            command.assert_ended(status)


@needs_qemu
def test_a_qemu_that_dies_is_told(folder: Path, tmp_path: Path) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    with running(folder, image) as command:
        command.wait_said("hello")
        run(["pkill", "-KILL", "-f", f"{folder}/.*/root.qcow2"])
        command.assert_ended(1)
        assert re.search(r"preloader: QEMU failed: no output, exit status -9\n", command.said())


def guest_on_terminal(folder: Path, tmp_path: Path) -> Terminal:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    command: list[str | Path] = [*COMMAND, "vm", "run", "--memory", "64M", image]
    return Terminal(command, {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(folder)}, BOUND)


@needs_qemu
def test_a_terminal_is_the_guests_and_then_as_it_was(folder: Path, tmp_path: Path) -> None:
    with guest_on_terminal(folder, tmp_path) as terminal:
        terminal.wait_shown("hello")
        assert not terminal.settings()[3] & termios.ISIG, "Ctrl-C is a character for the guest"
        terminal.type("\x03")
        assert terminal.process.poll() is None
        terminal.type("\x01x")
        assert terminal.wait_ended() == 0
        assert terminal.settings() == terminal.before
    assert_nothing_left(folder)


@needs_qemu
def test_a_terminal_is_as_it_was_after_the_worst(folder: Path, tmp_path: Path) -> None:
    with guest_on_terminal(folder, tmp_path) as terminal:
        terminal.wait_shown("hello")
        run(["pkill", "-KILL", "-f", f"{folder}/.*/root.qcow2"])
        assert terminal.wait_ended() == 1
        assert "QEMU failed" in terminal.shown
        assert terminal.settings() == terminal.before


PROGRAM = """
import sys, pathlib
from preloader_agent.host import Vm, VmConfig
with Vm(VmConfig(pathlib.Path(sys.argv[1]), memory_mib=64)) as vm:
    vm.wait_until_succeeds("true", timeout=1000)
"""


@needs_qemu
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_drives_a_machine_leaves_nothing(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends it: Python knows of one of these alone."""
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    variables = [f"PYTHONPATH={PYTHONPATH}", f"TMPDIR={folder}"]
    with (tmp_path / "log").open("wb") as log:
        process = start(["env", *variables, sys.executable, "-c", PROGRAM, image], log=log)
    try:
        for _ in tries(BOUND, pause=0.05):
            if any("hello" in path.read_text(errors="replace") for path in folder.glob("*/console.log")):
                break
        assert QEMU[:15] in processes_of(folder)
        process.send_signal(number)
        process.wait(BOUND)
        assert_nothing_left(folder)
    finally:
        process.kill()
        process.wait()


# --- what goes wrong ---


def failure(folder: Path, status: int, *args: str | Path) -> str:
    with running(folder, *args) as command:
        command.assert_ended(status)
        return command.said()


@needs_qemu
def test_an_image_that_another_machine_writes_to(folder: Path, tmp_path: Path) -> None:
    image = write_guest(tmp_path / "guest.raw", ending="stay")
    second = folder / "second"
    second.mkdir()
    with running(folder, image, "--persistent") as command:
        command.wait_said("hello")
        user = rf"{QEMU[:15]} \(process \d+\)"
        assert re.search(
            rf"preloader: (cannot make \S+|QEMU ended at its start): {image} is in use by {user}, which writes to it; ",
            failure(second, 1, image),
        )
        assert re.search(
            rf"preloader: QEMU ended at its start: {image} is in use by {user}, and cannot be written to meanwhile",
            failure(second, 1, image, "--persistent"),
        )
        second.rmdir()
        command.process.kill()
        command.assert_ended(-signal.SIGKILL)


@needs_qemu
def test_a_port_that_is_in_use(folder: Path, image: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = failure(folder, 1, image, "--forward", f"{port}:22")
    assert f"the host's port tcp:127.0.0.1:{port} is in use, or not allowed; forward another one: " in said


@needs_qemu
def test_an_option_that_qemu_does_not_know(folder: Path, image: Path) -> None:
    assert "preloader: QEMU ended at its start: " in (said := failure(folder, 1, image, "--qemu-arg", "-nonsense"))
    assert "-nonsense: invalid option, exit status 1" in said


def test_qemu_is_missing(folder: Path, image: Path, preloader: Preloader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    result = preloader("vm", "run", image)
    assert (result.status, result.out) == (1, "")
    assert result.err == f"preloader: {QEMU} is not installed: `apt install qemu-system-x86`\n"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--memory", "much"], "size: expected a number such as 512M or 8G, found 'much'"),
        (["--memory", "1"], "memory: expected at least 16 MiB, found 1"),
        (["--empty-disk", "-1"], "size: expected a number such as 512M or 8G, found '-1'"),
        (["--forward", "22"], "forward: expected [tcp:|udp:][HOST-ADDRESS:]HOST-PORT:GUEST-PORT, such as 2222:22"),
        (["--share", "/mnt"], "shared folder: expected SOURCE:TARGET or SOURCE:TARGET:ro, found '/mnt'"),
        (["--credential", "name"], "credential: expected NAME=VALUE, found 'name'"),
        (["--initrd", "/x"], "boot: expected a kernel with that, or neither"),
        (["--no-network", "--forward", "2222:22"], "--no-network has neither forwards nor restrictions"),
    ],
)
def test_what_cannot_be_meant(preloader: Preloader, image: Path, options: list[str], problem: str) -> None:
    result = preloader("vm", "run", image, *options)
    assert (result.status, result.out) == (2, "")
    assert problem in result.err


# --- how parts are written ---


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("1k", 1024), ("1.5G", 1536 << 20), ("8GiB", 8 << 30), ("1T", 1 << 40), ("2MB", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size("3", 1 << 20) == 3 << 20


@pytest.mark.parametrize("text", ["9" * 400, "8388608T", "1048577T"])
def test_a_size_that_nothing_has(text: str) -> None:
    with pytest.raises(InvalidValue, match="size: expected at most 1048576T"):
        parse_size(text)


@pytest.mark.parametrize(
    ("parsed", "expected"),
    [
        (parse_forward("udp:0.0.0.0:53:5353"), (53, 5353, "udp", "0.0.0.0")),
        (parse_forward("2222:22"), (2222, 22, "tcp", "127.0.0.1")),
        (parse_shared_folder("/a:b:/mnt:ro"), (Path("/a:b"), "/mnt", True)),
        (parse_shared_folder("a:/mnt"), (Path("a"), "/mnt", False)),
        (parse_shared_folder("a:/mnt:rw"), (Path("a"), "/mnt", False)),
    ],
)
def test_parts(parsed: Any, expected: tuple[object, ...]) -> None:
    assert tuple(vars(parsed).values()) == expected


def test_credentials_may_have_any_value() -> None:
    assert parse_credential("a.b=c=d e") == ("a.b", "c=d e")
