"""A whole Debian 13 guest in systemd-nspawn: its systemd, udev and dockerd at native speed, on loop devices.

A boot takes about two seconds, so tests of the units, of udev and of docker's restarts can be many. Commands are run
through the namespaces of the guest's PID 1, and a test reads like one of a virtual machine (preloader_agent.host.vm has
the same verbs). The tree is never written: an overlay on a tmpfs takes everything, and is gone with the guest.

What this place is not: there is no `.device` unit, no virtio device, and the kernel is the host's.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from preloader_agent.errors import VmError
from preloader_agent.host.run import run, start
from preloader_agent.host.waiting import tries
from tests.system.loop import Loop

if TYPE_CHECKING:
    from subprocess import Popen

BOOT_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0
PAUSE = 0.05
GRACE = 10.0  # for a command in the guest that has to be killed there
JOURNAL_LINES = 60
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root")

# udevd runs only where /sys is writable; runc makes a session keyring, which systemd-nspawn's seccomp filter forbids.
SETTINGS = ("SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes", "SYSTEMD_SECCOMP=0")

# The first two would change the host; nobody logs in.
MASKED = ("systemd-sysctl", "systemd-modules-load", "console-getty", "systemd-user-sessions")
WORDS = " ".join(["systemd.show_status=0", *(f"systemd.mask={unit}.service" for unit in MASKED)])

# In a mount namespace of its own, so that all of this is gone with the guest. /run: the host needs no systemd, and
# nspawn's locks stay here. cgroup2: the host may have version 1. The cgroup: the guest's slices would be made in the
# host's root otherwise. /var/lib/docker: dockerd's overlays cannot stand on an overlay. 133: with --keep-unit,
# systemd-nspawn leaves a reboot to whoever started it.
SETUP = f"""
tree=$1 folder=$2 name=$3
shift 3
mount -t tmpfs -o mode=755 lab "$folder/lab"
cd "$folder/lab"
mkdir upper work root docker
cp -a "$folder/seed/." upper/
mount -t overlay -o "lowerdir=$tree,upperdir=$PWD/upper,workdir=$PWD/work" overlay root
mkdir -p root/var/lib/docker
mount --bind docker root/var/lib/docker
mount -t tmpfs -o mode=755 run /run
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$name"
echo 0 >"/sys/fs/cgroup/$name/cgroup.procs"
status=133
while [ $status = 133 ]; do
    status=0
    systemd-nspawn --directory=root --machine=guest --boot --register=no --keep-unit --quiet --console=pipe \\
        --capability=all --private-network --bind=/dev/loop-control "$@" {WORDS} || status=$?
done
exit $status
"""

# Nobody may be left in it; the directories go from the leaves up.
REMOVE_CGROUP = """
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ ! -d "/sys/fs/cgroup/$1" ] || find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""

# The shipped units may read virtio and SCSI disks only.
LOOP_DROP_IN = "[Service]\nDeviceAllow=block-loop r\n"


def unpack_tree(guest: Path) -> Path:
    """The tree of a guest of tests.cachedguests; unpacked once, beside its root.tar, and gone with it."""
    tree = guest / "tree"
    with (guest / "tree.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.is_dir():
            with tempfile.TemporaryDirectory(prefix="tree-", dir=guest) as folder:
                new = Path(folder, "tree")
                new.mkdir()
                run(["tar", "--extract", "--numeric-owner", "--file", guest / "root.tar", "--directory", new])
                new.rename(tree)
    return tree


class NspawnGuest:
    """A guest that is thrown away; a context manager. Booted when the block begins, killed when it ends.

    `disks` are raw files, attached before the boot; `files` (path in the guest -> text) are laid over the tree;
    `credentials` are what the host tells the guest.
    """

    def __init__(
        self,
        tree: Path,
        disks: Sequence[Path] = (),
        *,
        files: Mapping[str, str] | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self._tree = tree
        self._disks = disks
        self._credentials = credentials or {}
        drop_ins = [f"etc/systemd/system/docker-preloader{part}.service.d/loop.conf" for part in ("", "-merge")]
        self._files = {**dict.fromkeys(drop_ins, LOOP_DROP_IN), **(files or {})}
        self._loops: dict[str, Loop] = {}
        self._stack = ExitStack()
        self._leader = 0
        self._nspawn: Popen[bytes]
        self._folder: Path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpl-nspawn-")))
            stack.callback(self._close_loops)
            self._boot(stack)
            self.wait_for_unit("multi-user.target", BOOT_TIMEOUT)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def execute(self, command: str, timeout: float = COMMAND_TIMEOUT) -> tuple[int, str]:
        """Run a shell command in the guest; its exit status (124 after `timeout`), and its output and errors."""
        script = f"timeout --kill-after=5 {timeout:.0f} sh -c {shlex.quote(command)} 2>&1; printf '\\n%s' $?"
        inside = ("nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        argv = [*inside, "--root", "--wd", "env", "--ignore-environment", *ENVIRONMENT, "sh", "-c", script]
        output, _, status = run(argv, timeout=timeout + GRACE).rpartition("\n")
        return int(status), output

    def succeed(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command that must succeed, and return its output."""
        status, output = self.execute(command, timeout)
        if status != 0:
            raise self._problem(f"`{command}` failed with status {status}: {output.strip()}")
        return output

    def fail(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command that must fail, and return its output."""
        status, output = self.execute(command, timeout)
        if status == 0:
            raise self._problem(f"`{command}` succeeded, but should have failed: {output.strip()}")
        return output

    def wait_for_unit(self, unit: str, timeout: float = COMMAND_TIMEOUT) -> None:
        """Wait until a unit is active; a unit that has failed is not waited for."""
        state = "unknown"
        for _ in tries(timeout, PAUSE):
            state = self.execute(f"systemctl show --property=ActiveState --value -- {unit}")[1].strip()
            if state == "active":
                return
            if state == "failed":
                break
        raise self._problem(f"{unit} is {state}, not active within {timeout:g} s")

    def wait_until_succeeds(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a shell command again and again until it succeeds, and return its output."""
        output = ""
        for left in tries(timeout, PAUSE):
            status, output = self.execute(command, max(left, 1.0))
            if status == 0:
                return output
        raise self._problem(f"`{command}` did not succeed within {timeout:g} s: {output.strip()}")

    def attach(self, disk: Path) -> str:
        """Hot-plug a raw file, read-only; the device's path in the guest. udev sees a new device that gets a medium."""
        return self.attach_together([disk])[0]

    def attach_together(self, disks: Sequence[Path]) -> list[str]:
        """Hot-plug several raw files within some milliseconds."""
        loops = [Loop() for _ in disks]
        self._loops.update({str(loop.node): loop for loop in loops})
        # systemd-nspawn's /dev is a tmpfs; the node must be there before udev reads the label.
        self.succeed(
            "\n".join(
                f"[ -b {loop.node} ] || mknod -m 600 {loop.node} b {os.major(loop.device)} {loop.number}"
                for loop in loops
            )
        )
        for loop, disk in zip(loops, disks, strict=True):
            loop.open(disk)
        return [str(loop.node) for loop in loops]

    def detach(self, device: str) -> None:
        """Pull a disk that was hot-plugged, without asking.

        The kernel keeps a loop device that is mounted, so the guest is told of the removal first, as it would be of a
        virtio disk's, and has to let go of it: VmError if it does not.
        """
        self.succeed(f"udevadm trigger --action=remove --settle {device}")
        self._loops.pop(device).close()
        self.succeed(f"rm -f {device}")

    def reboot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Reboot in an orderly way and wait until the guest is up again; what it has written stays."""
        before = self._leader
        self.execute("systemctl reboot")
        for _ in tries(timeout, PAUSE):
            if not Path("/proc", str(before)).exists():
                break
        self._leader = self._find_leader(timeout)
        self.wait_for_unit("multi-user.target", timeout)

    def journal(self, unit: str = "", lines: int = JOURNAL_LINES) -> str:
        """The last lines of the journal, or of what it has of a unit or a pattern."""
        which = f"--unit={shlex.quote(unit)}" if unit else ""
        return self.execute(f"journalctl --boot --no-pager --output=short-monotonic --lines={lines} {which}")[1]

    def _boot(self, stack: ExitStack) -> None:
        name = self._folder.name
        (self._folder / "lab").mkdir()
        for path, text in self._files.items():
            target = self._folder / "seed" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        options = [f"--set-credential={key}:{value}" for key, value in self._credentials.items()]
        for disk in self._disks:
            loop = Loop()
            self._loops[str(loop.node)] = loop
            loop.open(disk)
            options.append(f"--bind={loop.node}")
        # In a PID namespace outside the guest's own, which ends with us, whatever ends us, and takes everything along:
        # the guest would survive a killed systemd-nspawn.
        outside = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
        argv = ["setpriv", "--pdeathsig=KILL", *outside, "env", *SETTINGS]
        stack.callback(run, ["unshare", "--mount", "sh", "-euc", REMOVE_CGROUP, "sh", name], timeout=COMMAND_TIMEOUT)
        with self._log.open("wb") as log:
            self._nspawn = start([*argv, "sh", "-euc", SETUP, "sh", self._tree, self._folder, name, *options], log=log)
        stack.callback(self._kill)
        self._leader = self._find_leader(BOOT_TIMEOUT)

    @property
    def _log(self) -> Path:
        return self._folder / "nspawn.log"

    def _find_leader(self, timeout: float) -> int:
        for _ in tries(timeout, PAUSE):
            leaders = [pid for pid in self._processes() if _is_init(pid)]
            if leaders:
                return leaders[0]
            if self._nspawn.poll() is not None:
                break
        raise VmError(f"the guest did not start within {timeout:g} s", self._log.read_text(errors="replace"))

    def _processes(self) -> list[int]:
        """What runs in the guest's cgroup; a process that is being killed holds its mounts a little longer."""
        found = []
        for cgroup in Path("/proc").glob("[0-9]*/cgroup"):
            with suppress(OSError):  # it ended while we looked
                if f"/{self._folder.name}/" in cgroup.read_text():
                    found.append(int(cgroup.parent.name))
        return found

    def _kill(self) -> None:
        """End the guest at once; nothing of it is kept, so nothing is stopped first."""
        self._nspawn.kill()
        self._nspawn.wait()
        for _ in tries(COMMAND_TIMEOUT, PAUSE):
            if not self._processes():
                return

    def _close_loops(self) -> None:
        for loop in self._loops.values():
            loop.close()
        self._loops.clear()

    def _problem(self, problem: str) -> VmError:
        return VmError(problem, self.journal("docker*"))  # containerd says too much


def _is_init(pid: int) -> bool:
    """Whether it is systemd as PID 1; it runs systemd-nspawn's own code first."""
    with suppress(OSError):  # it ended while we looked
        status = Path(f"/proc/{pid}/status").read_text()
        is_first = any(line.split()[-1] == "1" for line in status.splitlines() if line.startswith("NSpid:"))
        return is_first and os.readlink(f"/proc/{pid}/exe").endswith("/systemd/systemd")
    return False
