"""`run_as_root` in a user namespace: what a script does is the layer, all of it and no more, and it cannot get out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from preloader_agent.errors import CommandFailed, InputError, PreloaderError, ScriptFailed
from preloader_agent.host.image.filesystem import walk
from preloader_agent.host.node import Node
from preloader_agent.host.run import run
from preloader_agent.host.tarstream import BLK, CHR, REG
from preloader_agent.host.waiting import tries
from tests.images.catalogue import edge_image
from tests.images.layer import Entry, Layer, character_device, directory, file, hard_link, make_layer, symlink
from tests.scriptruns import layer_on_busybox, run_script

UID = 54321  # nobody of this host


def test_what_a_script_does_is_the_layer() -> None:
    given = (
        directory("d"),
        file("d/changed", "old"),
        file("d/kept", "kept"),
        directory("gone"),
        file("gone/a", "a"),
        directory("renewed"),
        file("renewed/old", "old"),
        file("first", "one"),
        symlink("link", "d"),
    )
    script = r"""
        echo new >/d/changed
        rm -r /gone
        rm -r /renewed; mkdir -m 0750 /renewed; echo x >/renewed/new
        ln /first /second
        rm /link; mkdir /link
        printf 'a' >"/$(printf 'caf\351')"
        mkfifo -m 0600 /fifo
        ln -s nowhere /dangling
        chown -h 12:34 /dangling
        echo x >/run; chown 1000:1001 /run; chmod 6755 /run
        mkdir -p /dev/not /proc/self/fdinfo
        rm /bin/ls /bin/cat
    """
    changes = run_script(script, *layer_on_busybox(*given)).changes
    whiteouts = {path for path, seen in changes.items() if seen.type == CHR}
    assert whiteouts == {b"gone", b"bin/ls", b"bin/cat"}
    assert b"renewed" in {path for path, seen in changes.items() if seen.is_opaque}
    new = {path: seen for path, seen in changes.items() if path not in whiteouts}
    assert {path: seen.content for path, seen in new.items() if seen.type == REG} == {
        b"d/changed": b"new\n",
        b"renewed/new": b"x\n",
        b"first": b"one",
        b"second": b"one",
        b"caf\xe9": b"a",
        b"run": b"x\n",
    }
    assert new.keys() == {
        *(b"bin", b"d", b"d/changed", b"renewed", b"renewed/new", b"first", b"second", b"link", b"caf\xe9"),
        *(b"fifo", b"dangling", b"run"),
    }
    assert (new[b"run"].mode, new[b"run"].uid, new[b"run"].gid) == (0o6755, 1000, 1001)
    assert (new[b"dangling"].target, new[b"dangling"].uid, new[b"dangling"].gid) == (b"nowhere", 12, 34)
    assert new[b"renewed"].mode == 0o750


def test_an_image_survives_that_a_script_touches_all_of_it() -> None:
    """Everything goes through both tars and overlayfs, and is what it was: names, attributes, capabilities, ACLs."""

    def give_to_known_users(tree: Node) -> None:
        for _, node in walk(tree):
            node.uid, node.gid = node.uid % 65536, node.gid % 65536

    layers = [Layer(layer.content) for layer in edge_image().layers]
    ran = run_script(
        "find / -xdev ! -path /dev ! -path /proc -exec touch -h {} +", *layers, prepare=give_to_known_users
    )
    assert ran.after == ran.before
    devices = {path for path, seen in ran.before.items() if seen.type in (CHR, BLK)}
    assert devices
    assert ran.changes.keys() == ran.before.keys() - devices - {b"dev", b"proc"}


def test_a_script_that_changes_nothing_makes_nothing() -> None:
    assert not run_script("find / -xdev >/dev/null; echo x >/dev/x; cat /etc/passwd; true >/dev/shm/y").changes


def test_a_script_that_fails_says_why() -> None:
    with pytest.raises(ScriptFailed) as caught:
        run_script("echo one; echo two >&2; (exit 7); echo three")
    assert (caught.value.status, caught.value.output) == (7, "one\ntwo")
    assert str(caught.value) == "run_as_root: exit status 7: one\ntwo"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (symlink("bin", "/nowhere"), "the image has no /bin/sh"),
        (symlink("proc", "/"), "/proc of the image is not a directory"),
        (file("dev"), "/dev of the image is not a directory"),
    ],
)
def test_an_image_in_which_nothing_can_run_is_told(entry: Entry, problem: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_script("true", make_layer([entry]))
    assert problem in caught.value.output


def test_owners_that_a_namespace_has_not_are_told() -> None:
    with pytest.raises(InputError, match=r"'far' of the image belongs to 65536:0, and a user namespace has"):
        run_script("true", *layer_on_busybox(replace(file("far"), uid=65536)))


def test_what_cannot_be_made_in_a_namespace_stays() -> None:
    device = character_device("dev/console", 5, 1)
    entries = (directory("dev"), device, hard_link("dev/tty9", device), file("a"))
    ran = run_script("echo new >/a; rm -rf /dev/console", *layer_on_busybox(*entries))
    assert ran.after[b"dev/console"].device == ran.after[b"dev/tty9"].device == (5, 1)
    assert ran.changes.keys() == {b"a"}


# What is said is a way out. $1 is a folder of the host, $2 its disk's numbers, $3 a process and $4 a port there.
ESCAPE = r"""
set +e
say() { echo "escaped: $*"; }
look() {
    cat "$1$2/secret" 2>/dev/null && say "reads by $1"
    echo evil 2>/dev/null >"$1$2/open/written" && say "writes by $1"
}
mkdir -p "/control$1/open"
echo >"/control$1/secret"
look /control "$1"
exec 5</
mkdir /jail
cp /bin/busybox /jail/
for way in "" /../.. /proc/1/root /proc/self/root/.. /proc/1/cwd/.. /dev/.. /proc/self/fd/5/../..; do
    look "$way" "$1"
done
chroot /jail /busybox sh -c "cd ../../../../..; /busybox cat .$1/secret" && say "reads from a jail"
mknod /jail/disk b $2 && say "makes the disk"
mount -t ext4 /jail/disk /mnt && say "mounts the disk"
for file in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /proc/1/oom_score_adj; do
    echo -1000 >$file && say "writes $file"
done
kill -9 $3 && say "kills"
echo | nc -w 2 127.0.0.1 $4 && say "talks to the host"
for file in /proc/[0-9]*/fd/*; do readlink $file; done |
    grep -v -e '^pipe:' -e '^/dev/null$' -e '^/proc/' -e '^/$' && say "has a file of the host"
cut -d' ' -f 3- /proc/self/mountinfo | grep -v -e ' - overlay overlay ' -e ' - proc proc ' \
    -e ' - tmpfs dev ' -e ' - devpts pts ' -e ' /dev/[a-z]* [^ ]* - [a-z]*tmpfs ' && say "has a mount of the host"
echo x 2>/dev/null >/dev/tty && say "has the terminal"
umount -l /dev /proc /
look "" "$1"
exit 9
"""


def test_a_script_cannot_get_out(shared_folder: Path) -> None:
    (shared_folder / "secret").write_text("secret")
    (shared_folder / "open").mkdir()
    (shared_folder / "open").chmod(0o777)
    disk = os.stat(shared_folder).st_dev
    with ExitStack() as stack:
        victim = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
        stack.callback(victim.kill)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        words = (shared_folder, f"'{os.major(disk)} {os.minor(disk)}'", victim.pid, server.getsockname()[1])
        with pytest.raises(ScriptFailed) as caught:
            run_script(f"set -- {' '.join(map(str, words))}\n{ESCAPE}")
        assert victim.poll() is None
    assert caught.value.status == 9
    said = [line for line in caught.value.output.splitlines() if line.startswith("escaped: ")]
    assert said == ["escaped: reads by /control", "escaped: writes by /control"]
    assert not (shared_folder / "open/written").exists()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that everybody reaches and can write to, like /var/tmp, and on the same file system."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


CODE = "import sys; from tests.scriptruns import run_script; print(sorted(run_script(sys.argv[1]).changes))"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing(shared_folder: Path, number: signal.Signals) -> None:
    mark = f"{10**6 + number}.{os.getpid()}"
    words = [sys.executable, "-c", CODE, f"echo x >/file; sleep {mark} & sleep {mark}"]
    environment = {**ENVIRONMENT, "TMPDIR": str(shared_folder)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as child:
        assert any(sleepers(mark) == 2 for _ in tries(30))
        assert list(shared_folder.glob("preloader-*"))
        child.send_signal(number)
    assert child.returncode != 0
    if number == signal.SIGINT:  # who can, waits
        assert not list(shared_folder.glob("preloader-*"))
    assert any(not sleepers(mark) and not list(shared_folder.glob("preloader-*")) for _ in tries(30))


def sleepers(mark: str) -> int:
    """How many processes sleep for that long."""
    words = run(["ps", "-e", "-o", "args="]).splitlines()
    return sum(line == f"sleep {mark}" for line in words)


# $1 is a folder with the user's lines of /etc, $2 one that everybody reaches; then come folders that are closed to the
# user, up to an empty word, and what the user runs. It is seen in a mount namespace only.
AS_USER = """
for name in passwd subuid subgid; do mount --bind "$1/$name" "/etc/$name"; done
export TMPDIR="$2" HOME=/
mount -t tmpfs tmpfs "$1"
shift 2
while [ -n "$1" ]; do
    number=$((number + 1))
    mkdir "$HOLD/$number" "$HOLD/$number/upper" "$HOLD/$number/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$HOLD/$number/upper,workdir=$HOLD/$number/work" overlay "$1"
    chmod o+x "$1"
    shift
done
shift
exec setpriv --reuid=54321 --regid=54321 --clear-groups "$@"
"""


def run_as_user(lines: str, shared: Path, script: str) -> str:
    """Run a script as a user of this host who has some lines in /etc/subuid and /etc/subgid."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("subuid", "subgid"):
            Path(folder, name).write_text(lines)
        Path(folder, "passwd").write_text(f"{Path('/etc/passwd').read_text()}tester:x:{UID}:{UID}::/:/bin/sh\n")
        ways = (Path(path).resolve() for path in (sys.executable, *filter(os.path.exists, sys.path)))
        above = {parent for way in ways for parent in (way, *way.parents) if not parent.stat().st_mode & 1}
        closed = sorted((str(path) for path in above if path.is_dir()), key=len)
        inside = [AS_USER, "sh", folder, str(shared), *closed, "", sys.executable, "-c", CODE, script]
        return run(["unshare", "--mount", "sh", "-ec", *inside], env={**ENVIRONMENT, "HOLD": folder})


def test_a_user_without_rights_has_a_root_too(shared_folder: Path) -> None:
    script = "id -u >/mine; chown 65535:65535 /mine; mkdir -m 0 /closed; touch /closed/x; chown 5 /closed/x"
    said = run_as_user(f"tester:{1 << 20}:65536\n", shared_folder, script)
    assert said == "[b'closed', b'closed/x', b'mine']\n"
    assert not list(shared_folder.iterdir())


def test_a_user_without_subordinate_users_is_told_how_to_get_them(shared_folder: Path) -> None:
    with pytest.raises(CommandFailed, match=r"/etc/subuid gives tester no 65536 users.*usermod --add-subuids"):
        run_as_user("tester:1000000:1000\nroot:2000000:65536\n", shared_folder, "true")


def test_a_host_without_user_namespaces_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "unshare"
    stub.write_text("#!/bin/sh\necho 'unshare: unshare failed: No space left on device' >&2; exit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PreloaderError, match=r"No space left on device: look .* user.max_user_namespaces"):
        run_script("true")


def test_a_full_disk_is_told_and_left_as_it_was(shared_folder: Path) -> None:
    mounting = 'mount -t tmpfs -o size=16M,mode=1777 full "$TMPDIR"; "$@" || ls -A "$TMPDIR" >&2; exit 1'
    script = "cat /dev/zero >/large"
    words = ["unshare", "--mount", "sh", "-c", mounting, "sh", sys.executable, "-c", CODE, script]
    with pytest.raises(CommandFailed) as caught:
        run(words, env={**ENVIRONMENT, "TMPDIR": str(shared_folder)})
    assert "ScriptFailed: run_as_root: exit status 1: cat: " in caught.value.output
    assert caught.value.output.endswith("No space left on device")
