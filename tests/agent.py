"""The guest's agent on a data root of the test's own, with disks on loop devices: no systemd, no udev."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from preloader_agent.host.run import find_tool, run
from tests.guest.disks import snapshot

REPOSITORY = Path(__file__).parent.parent
COMMAND = (sys.executable, "-c", "from preloader_agent.guest.cli import main; main()")


class Agent:
    """A context manager that leaves no mount and no loop device behind. `pid_file` is the dockerd's, if one runs."""

    def __init__(self, folder: Path, data_root: Path, pid_file: Path | None = None) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.data_root = data_root
        self.pid_file = pid_file or folder / "no-dockerd.pid"
        self._devices: dict[str, str] = {}  # label -> loop device
        self._loops = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for label in self.mounted():
            run(["umount", "--lazy", self.run_dir / "disks" / label])
        self._loops.close()

    def sync(self, *devices: str, under: Sequence[str | Path] = ()) -> str:
        """One pass, with these devices mounted first; returns what it prints, raises CommandFailed.

        `under` is a command that runs the agent's: strace, for example.
        """
        return self._pass(*(f"--device={device}" for device in devices), under=under)

    def release_all(self, *devices: str) -> str:
        """One pass that lets go of every disk; it takes no devices."""
        return self._pass("--release-all", *(f"--device={device}" for device in devices))

    def status(self) -> dict[str, Any]:
        """What `docker-preloader status --json` says."""
        found = json.loads(self._command("status", "--json"))
        assert isinstance(found, dict)
        return found

    def attach(self, disk: Path) -> str:
        """Plug in a disk and make a pass; returns its label."""
        device = self.loop(disk)
        before = self.mounted()
        self.sync(device)
        (label,) = self.mounted() - before
        self._devices[label] = device
        return label

    def unmount(self, label: str) -> None:
        """Take a mount away, as a reboot does."""
        run(["umount", self.run_dir / "disks" / label])

    def detach(self, label: str) -> None:
        """Pull a disk out: nobody tells the agent."""
        run(["umount", "--lazy", self.run_dir / "disks" / label])
        run(["losetup", "--detach", self._devices.pop(label)])

    def loop(self, disk: Path) -> str:
        """A read-only loop device of a disk; gone with the agent at the latest."""
        raw = self.folder / f"{disk.name}-{len(list(self.folder.glob('*.raw')))}.raw"
        run(["qemu-img", "convert", "-O", "raw", disk, raw])
        device = run([find_tool("losetup", "install mount"), "--read-only", "--find", "--show", raw]).strip()
        # --detach of a device that is detached already fails, which is fine here.
        self._loops.callback(run, ["losetup", "--detach", device], ok=(0, 1))
        return device

    def mounted(self) -> set[str]:
        """The labels of the disks that are mounted."""
        disks = self.run_dir / "disks"
        return {path.name for path in disks.iterdir() if path.is_mount()} if disks.is_dir() else set()

    def reboot(self) -> None:
        """Forget what a reboot forgets; disks stay plugged in, and are mounted again by the next pass."""
        devices = dict(self._devices)
        for label in devices:
            run(["umount", "--lazy", self.run_dir / "disks" / label])
        run(["rm", "--recursive", "--force", "--one-file-system", self.run_dir])
        self.sync(*devices.values())

    def _pass(self, *options: str, under: Sequence[str | Path] = ()) -> str:
        where = [f"--docker-root={self.data_root}", f"--docker-pidfile={self.pid_file}"]
        return self._command("sync", *where, *options, under=under)

    def _command(self, command: str, *options: str, under: Sequence[str | Path] = ()) -> str:
        argv = [*under, *COMMAND, command, f"--run-dir={self.run_dir}", *options]
        path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
        return run(argv, env={"PYTHONPATH": path})


def list_store(data_root: Path) -> dict[str, str]:
    """Each path of the store, but for the layers' trees, with what identifies it and tells whether it was touched."""
    found = {}
    for path in sorted([*data_root.glob("image/**/*"), *data_root.glob("overlay2/*"), *data_root.glob("overlay2/*/*")]):
        status = path.lstat()
        kind = (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes().hex() if path.is_file() else "directory"
        )
        found[str(path.relative_to(data_root))] = f"{status.st_ino} {status.st_mode:o} {status.st_mtime_ns} {kind}"
    return found


def read_store(data_root: Path) -> dict[str, object]:
    """All that is in the store: modes, contents and targets of links."""
    folders = [data_root / "image", data_root / "overlay2"]
    return {f"{folder.name}/{path}": entry for folder in folders for path, entry in snapshot(folder).items()}
