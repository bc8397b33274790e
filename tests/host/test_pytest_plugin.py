"""The pytest plugin, in a pytest of its own: its options, the disks that it makes, and what a failed test shows."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from preloader_agent.host.diskcache import cache_disk
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.run import run, start
from preloader_agent.host.vm.accelerator import QEMU
from tests import images
from tests.host.command import PYTHONPATH, SIGNALS
from tests.host.vm.bootsector import write_guest

pytest_plugins = ["pytester"]

PLUGIN = "preloader_agent.host.pytest_plugin"

BOUND = 60.0  # seconds
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")

RunTests = Callable[..., pytest.RunResult]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the plugin keeps its disks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "docker-preloader" / "disks"


@pytest.fixture
def run_tests(pytester: pytest.Pytester, cache: Path, monkeypatch: pytest.MonkeyPatch) -> RunTests:
    """Writes a module of tests and runs it, with no other plugin."""
    assert not cache.exists()
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def call(tests: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=tests)
        return pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *args)

    return call


@pytest.fixture
def archive(pytester: pytest.Pytester) -> Path:
    """An archive in the folder that the tests run in."""
    return images.write_docker_archive([images.busybox_image()], pytester.path / "images.tar")


USE_DISK = """
def test_disk(preload_disk):
    disk = preload_disk("images.tar"{options})
    open("found", "a").write(f"{{disk}}\\n")
"""


def found_disks(pytester: pytest.Pytester) -> list[Path]:
    return [Path(line) for line in (pytester.path / "found").read_text().splitlines()]


# --- how it is loaded ---


def test_every_pytest_of_the_environment_finds_it() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    assert config["options.entry_points"]["pytest11"].split() == ["preloader", "=", PLUGIN]


def test_those_who_do_not_need_it_import_nothing_for_it() -> None:
    program = (
        f"import pytest, sys; before = set(sys.modules); import {PLUGIN}; print(*sorted({{*sys.modules}} - before))"
    )
    loaded = run([sys.executable, "-c", program], env={"PYTHONPATH": PYTHONPATH}).split()
    assert loaded == ["preloader_agent", "preloader_agent.errors", "preloader_agent.host", PLUGIN]


# --- disks ---


def test_a_disk_is_named_by_its_label_and_built_once(
    run_tests: RunTests, pytester: pytest.Pytester, archive: Path, cache: Path
) -> None:
    run_tests(USE_DISK.format(options="")).assert_outcomes(passed=1)
    first = found_disks(pytester)[0]
    inode = first.stat().st_ino
    images.write_docker_archive([images.busybox_image()], archive, "oci")  # the same image in another form
    run_tests(USE_DISK.format(options="")).assert_outcomes(passed=1)
    assert found_disks(pytester) == [first, first]
    assert first.stat().st_ino == inode
    assert first.is_relative_to(cache)
    assert first.name == f"{inspect_disk(first).label}.qcow2"
    assert [image.references for image in inspect_disk(first).images] == [images.busybox_image().references]


def test_other_images_and_other_options_are_other_disks(
    run_tests: RunTests, pytester: pytest.Pytester, archive: Path
) -> None:
    for options in ("", ', tags=["other:1=busybox:test"]', ', compression="zstd"'):
        run_tests(USE_DISK.format(options=options)).assert_outcomes(passed=1)
    images.write_docker_archive([images.app_image()], archive)
    run_tests(USE_DISK.format(options="")).assert_outcomes(passed=1)
    plain, tagged, compressed, app = found_disks(pytester)
    assert len({plain, tagged, compressed, app}) == 4
    assert inspect_disk(tagged).images[0].references == ("busybox:test", "other:1")
    assert inspect_disk(compressed) == inspect_disk(plain)
    assert compressed.stat().st_size < plain.stat().st_size


def test_those_who_ask_at_the_same_time_get_the_same_disk(archive: Path, cache: Path, tmp_path: Path) -> None:
    program = f"from {cache_disk.__module__} import *; print((d := cache_disk(['{archive}'])), d.stat().st_ino)"
    environment = ["env", f"PYTHONPATH={PYTHONPATH}"]
    with (tmp_path / "log").open("wb") as log:
        processes = [start([*environment, sys.executable, "-c", program], log=log) for _ in range(4)]
    assert [process.wait(BOUND) for process in processes] == [0, 0, 0, 0]
    [disk] = cache.glob("*/*.qcow2")
    assert (tmp_path / "log").read_text().splitlines() == 4 * [f"{disk} {disk.stat().st_ino}"]


@pytest.mark.usefixtures("archive")
def test_what_nobody_needs_any_more_is_dropped(run_tests: RunTests, pytester: pytest.Pytester, cache: Path) -> None:
    old = cache / "0.0.1"
    (old / ".disk.abcdef").mkdir(parents=True)
    (old / "dpl-0123456789ab.qcow2").touch()
    for path in (old / ".disk.abcdef", old / "dpl-0123456789ab.qcow2"):
        run(["touch", "--date=15 days ago", path])
    (cache / "0.0.2").mkdir()
    (cache / "0.0.2" / "dpl-0123456789ab.qcow2").touch()
    run_tests(USE_DISK.format(options="")).assert_outcomes(passed=1)
    assert not old.exists()
    assert sorted(cache.glob("*/*.qcow2")) == sorted(
        [cache / "0.0.2" / "dpl-0123456789ab.qcow2", *found_disks(pytester)]
    )


def test_a_bad_archive_fails_the_test_in_a_few_lines(run_tests: RunTests) -> None:
    result = run_tests(USE_DISK.format(options=""), "--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "test_it.py:2: in test_disk",
            "E   preloader_agent.errors.InvalidArchive: images.tar: cannot be read: No such file or directory",
        ],
    )
    result.stdout.no_fnmatch_line("*/host/*")
    assert "/host/files.py" in run_tests(USE_DISK.format(options=""), "--full-trace").stdout.str()


def test_no_archive_at_all(run_tests: RunTests) -> None:
    result = run_tests("def test_disk(preload_disk):\n    preload_disk()")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E * inputs: expected at least one archive or image, found 'none'"])


@pytest.mark.usefixtures("archive")
def test_a_cache_that_cannot_be_written(run_tests: RunTests, cache: Path) -> None:
    cache.parent.parent.write_text("not a folder")
    result = run_tests(USE_DISK.format(options=""))
    result.stdout.fnmatch_lines(
        ["E * preloader_agent.errors.PreloaderError: */cache/*: cannot be written: Not a directory"]
    )


# --- guests ---


USE_VM = """
def test_vm(preload_vm):
    with preload_vm({arguments}):
        pass
"""


def test_without_a_guest_it_says_how_to_get_one(run_tests: RunTests) -> None:
    result = run_tests(USE_VM.format(arguments=""))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no guest to run: *--preload-guest PATH*preloader guest build*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("where", ["argument", "ini file"])
def test_a_guest_that_is_not_there_fails_the_tests_that_need_it(
    run_tests: RunTests, pytester: pytest.Pytester, where: str
) -> None:
    if where == "ini file":
        pytester.makeini("[pytest]\npreload_guest = none.qcow2")
    result = run_tests(USE_VM.format(arguments="guest='none.qcow2'" if where == "argument" else ""))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no guest at *none.qcow2; `preloader guest build *"])
    run_tests("def test_other(): pass").assert_outcomes(passed=1)


def test_a_wrong_option_is_refused_at_once(run_tests: RunTests) -> None:
    result = run_tests("def test_other(): pass", "--preload-guest=none.qcow2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --preload-guest */none.qcow2: there is no such file or folder"])


# --- machines, whose guest is a boot sector that says hello and stays ---


USE_HELLO = """
from preloader_agent.host.waiting import tries

def wait_for_hello(vm):
    assert any("hello" in vm.console() for _ in tries(20, pause=0.05)), vm.console()
"""


@pytest.fixture
def hello(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Such a guest; when the test is over, no machine and no file of one may be there."""
    guest = write_guest(folder / "hello.raw", ending="stay")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where Python has remembered it
    yield guest
    assert list(folder.iterdir()) == [guest]
    assert processes_of(folder) == []


def processes_of(folder: Path) -> list[bytes]:
    lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
    return [line for line in lines if f"{folder}/".encode() in line]


@needs_qemu
def test_a_disk_may_be_a_name(run_tests: RunTests, hello: Path) -> None:
    use = f"    with preload_vm({str(hello)!r}, boot_timeout=None) as vm:\n        assert vm.files"
    run_tests(f"def test_vm(preload_vm):\n{use}", f"--preload-guest={hello}").assert_outcomes(passed=1)


@needs_qemu
def test_a_machine_that_does_not_boot_says_what_its_console_said(run_tests: RunTests, hello: Path) -> None:
    result = run_tests(USE_VM.format(arguments="boot_timeout=2"), f"--preload-guest={hello}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *VmError: guest agent: no answer after 2 s*",
            "E *--- the console's last lines ---",
            "E *hello",
        ]
    )
    # In the error alone, and not below it again. (Where CI is set, pytest repeats the whole error in its summary.)
    result.stdout.no_fnmatch_line("*console of*")
    result.stdout.no_fnmatch_line("*/host/*")


@needs_qemu
def test_a_failed_test_shows_the_consoles_of_its_machines(run_tests: RunTests, hello: Path) -> None:
    tests = """
def test_first(preload_vm):
    with preload_vm(boot_timeout=None) as vm:
        wait_for_hello(vm)

def test_within(preload_vm):
    with preload_vm(boot_timeout=None) as vm:
        wait_for_hello(vm)
        assert "found" == "expected"

def test_without():
    assert "found" == "expected"
"""
    result = run_tests(USE_HELLO + tests, f"--preload-guest={hello}")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*_ test_within _*", "*- console of machine 2 (no disks) -*", "*hello", "*_ test_without _*"]
    )
    assert result.stdout.str().count("console of") == 1
    result.stdout.no_fnmatch_line("*Captured log*")


@needs_qemu
def test_a_machine_that_is_forgotten_ends_with_the_session(
    run_tests: RunTests, pytester: pytest.Pytester, hello: Path
) -> None:
    pytester.makeini(f"[pytest]\npreload_guest = {hello}")
    tests = """
forgotten = []

def test_vm(preload_vm):
    forgotten.append(preload_vm(boot_timeout=None))
    wait_for_hello(forgotten[0].__enter__())
"""
    run_tests(USE_HELLO + tests).assert_outcomes(passed=1)


@needs_qemu
@pytest.mark.parametrize("number", SIGNALS)
def test_nothing_is_left_after_an_interruption(
    pytester: pytest.Pytester, hello: Path, tmp_path: Path, number: signal.Signals
) -> None:
    tests = """
import pytest

@pytest.fixture(scope="session")
def vm(preload_vm):
    with preload_vm(boot_timeout=None) as vm:
        yield vm

def test_vm(vm):
    wait_for_hello(vm)
    open("begun", "w").close()
    vm.wait_booted()
"""
    os.mkfifo(pytester.path / "begun")
    pytester.makepyfile(test_it=USE_HELLO + tests)
    options = ["-p", PLUGIN, f"--preload-guest={hello}"]
    argv = ["env", f"PYTHONPATH={PYTHONPATH}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", sys.executable, "-m", "pytest"]
    with (tmp_path / "log").open("wb") as log:
        process = start([*argv, *options], log=log)
    try:
        (pytester.path / "begun").read_bytes()
        process.send_signal(number)
        assert process.wait(BOUND) == pytest.ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
