"""The images that tests use: small, runnable, and between them everything that a layer can hold.

Their programs come from Debian's busybox-static, so they run without anything else in them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from preloader_agent.host.run import find_tool, run
from tests.images.archive import Image
from tests.images.layer import (
    EPOCH_NS,
    Entry,
    Layer,
    block_device,
    character_device,
    directory,
    fifo,
    file,
    hard_link,
    make_layer,
    opaque,
    symlink,
    whiteout,
)

HALF_SECOND = EPOCH_NS + 500_000_000
NANOSECONDS = EPOCH_NS + 123_456_789
LONG_NAME = "long-" + "n" * 240 + ".name"  # 250 bytes; a name may have 255
LONG_FOLDER = "/".join(["deep", *(f"{n}-" + "d" * 60 for n in range(5))])  # no cut fits the 155 + 100 bytes of ustar
SPLIT_FOLDER = "split/" + "s" * 100  # fits them
NOT_UTF8 = b"edge/caf\xe9-\xff.txt"
CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")  # VFS_CAP_REVISION_2, effective, little endian
BINARY_VALUE = bytes(range(256))
EMPTY_LAYER = make_layer([])  # what WORKDIR and the like leave behind; equal in any image


@cache
def busybox_layer() -> Layer:
    """The base layer: busybox, its applets as symlinks, and the few files that programs look for."""
    busybox = find_tool("busybox", "install busybox-static")
    applets = [name for name in run([busybox, "--list"]).split() if name != "busybox"]
    folders = [directory(name) for name in ("bin", "dev", "etc", "proc", "root", "sys", "var")]
    return make_layer(
        [
            *folders,
            directory("tmp", 0o1777),
            file("bin/busybox", Path(busybox).read_bytes(), 0o755),
            *(symlink(f"bin/{name}", "/bin/busybox") for name in sorted(applets)),
            file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
            file("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ]
    )


@cache
def busybox_image() -> Image:
    return Image((busybox_layer(),), ("busybox:test",), {"Cmd": ["sh"]})


@cache
def app_image() -> Image:
    """Two small layers on busybox's, with three names: plain, of a user, and of a registry with a port."""
    greeting = make_layer([directory("app"), file("app/greeting", "hello from app\n"), file("app/removed", "x")])
    start = make_layer(
        [directory("app"), file("app/start", "#!/bin/sh\ncat /app/greeting\n", 0o755), whiteout("app/removed")]
    )
    config = {
        "Cmd": ["/app/start"],
        "Env": ["PATH=/bin", "GREETING=grüß <dich> & \u2028"],
        "Labels": {"org.example.purpose": "test", "org.example.empty": ""},
        "User": "65534:65534",
        "WorkingDir": "/app",
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGINT",
    }
    names = ("app:1", "example/app:1.0", "registry.example.com:5000/team/app:latest")
    return Image((busybox_layer(), greeting, start), names, config)


@cache
def untagged_image() -> Image:
    """An image without a name, which is found by its ID only."""
    return Image((busybox_layer(), make_layer([file("untagged", "no name\n")])), (), {"Cmd": ["cat", "/untagged"]})


@cache
def edge_image() -> Image:
    """What goes wrong first: each kind of entry, marker, name, number and attribute, in PAX and GNU form."""
    layers = (
        busybox_layer(),
        make_layer([*_kinds(), *_names(), *_attributes(), *_to_be_hidden()]),
        EMPTY_LAYER,
        make_layer(_changes()),
        make_layer([*_gnu_names()], form="gnu"),
        EMPTY_LAYER,  # the same DiffID again, another ChainID
    )
    return Image(layers, ("edge:test",), {"Cmd": ["sh", "-c", "ls -la /edge"], "Labels": {"edge": "1"}})


@cache
def implied_parents_image() -> Image:
    """Folders that no entry names: dockerd makes them 0755 root:root, with the time of the load."""
    layer = make_layer([file("implied/parents/file", "x"), file("etc/of-a-lower-layer", "x")])
    return Image((busybox_layer(), layer), ("implied:test",), {"Cmd": ["cat", "/implied/parents/file"]})


def _kinds() -> list[Entry]:
    first = file("edge/hard-a", "one inode\n", 0o640).owned(7, 8)
    return [
        directory("edge").at(HALF_SECOND),
        first,
        hard_link("edge/hard-b", first),
        directory("edge/sub"),
        hard_link("edge/sub/hard-c", first),
        file("edge/empty"),
        file("edge/holes", b"\0" * 65536 + b"middle" + b"\0" * 131072),
        file("edge/megabyte", bytes(range(256)) * 4100),
        directory("edge/sticky", 0o3777),
        file("edge/no-mode", "x", 0),
        file("edge/type-in-mode", "x", 0o104750),  # layers that dockerd itself wrote have S_IFREG and the like in it
        directory("edge/type-in-mode-folder", 0o40711),
        symlink("edge/absolute", "/etc/passwd"),
        symlink("edge/dangling", "../nowhere/at/all").at(HALF_SECOND).owned(1, 2),
        symlink("edge/long-target", "/".join(["t" * 50] * 20)),
        symlink("edge/fast-target", "f" * 59),
        symlink("edge/slow-target", "s" * 60),
        character_device("edge/null", 1, 3).owned(0, 5),
        block_device("edge/loop300", 7, 300),
        fifo("edge/fifo", 0o620).at(NANOSECONDS),
    ]


def _names() -> list[Entry]:
    parts = LONG_FOLDER.split("/")
    return [
        file("edge/grüße-日本語-\U0001f433", "utf-8\n"),
        symlink("edge/to-grüße", "grüße-日本語-\U0001f433"),
        file(NOT_UTF8, "latin-1\n"),
        symlink(b"edge/to-\xfe", NOT_UTF8),
        file("edge/" + LONG_NAME, "long\n"),
        *(directory("/".join(parts[: n + 1])) for n in range(len(parts))),
        file(f"{LONG_FOLDER}/{LONG_NAME}", "deep\n"),
        symlink("edge/to-deep", f"/{LONG_FOLDER}/{LONG_NAME}"),
        directory("split"),
        directory(SPLIT_FOLDER),
        file(f"{SPLIT_FOLDER}/{'f' * 90}", "split\n"),
        file("edge/with space, \"quotes\", 'more', \\back & <tag>", "x"),
        file("edge/new\nline\tand tab", "x"),
        file("edge/ leading and trailing ", "x"),
        file("edge/-dash"),
        file("edge/%percent$dollar`tick`"),
    ]


def _attributes() -> list[Entry]:
    return [
        file("edge/setuid", "#!/bin/sh\n", 0o4755),
        file("edge/setgid", "#!/bin/sh\n", 0o2755).owned(0, 12),
        file("edge/ping", "#!/bin/sh\n", 0o755).having(**{"security.capability": CAP_NET_RAW}),
        file("edge/noted", "x").having(**{"user.note": b"caf\xc3\xa9", "user.binary": BINARY_VALUE}),
        file("edge/labelled", "x").having(**{"trusted.label": b"text"}),
        directory("edge/noted-folder").having(**{"user.note": b"folder"}),
        file("edge/large-attribute", "x").having(**{"user.large": b"v" * 1500}),
        file("edge/large-ids", "x").owned(3_000_000, 4_000_000_000),
        file("edge/half-second", "x").at(HALF_SECOND),
        file("edge/nanoseconds", "x").at(NANOSECONDS),
        directory("edge/nanoseconds-folder").at(NANOSECONDS),
        file("edge/after-2038", "x").at((2**31 + 5) * 10**9),
        file("edge/epoch", "x").at(0),
    ]


def _to_be_hidden() -> list[Entry]:
    return [
        directory("gone"),
        file("gone/file", "hidden with its folder\n"),
        directory("kept"),
        file("kept/removed", "hidden\n"),
        file("kept/stays", "still here\n"),
        symlink("kept/link", "stays"),
        directory("emptied"),
        file("emptied/old", "hidden by the opaque marker\n"),
        directory("emptied/old-folder"),
        file("emptied/old-folder/deep", "hidden as well\n"),
        file("replaced-by-folder", "a file\n"),
        directory("replaced-by-file"),
        file("replaced-by-file/inner", "x"),
        directory("back"),
        file("back/old", "x"),
    ]


def _changes() -> list[Entry]:
    return [
        whiteout("gone"),
        directory("kept").owned(9, 9),
        whiteout("kept/removed"),
        whiteout("kept/link"),
        whiteout("kept/never-was-there"),
        directory("emptied").at(HALF_SECOND),
        opaque("emptied"),
        file("emptied/new", "the only one\n"),
        directory("replaced-by-folder"),
        file("replaced-by-folder/inner", "x"),
        file("replaced-by-file", "now a file\n"),
        directory("edge"),
        whiteout("edge/hard-b"),
        directory("bin"),
        whiteout("bin/zcip"),
        whiteout("root"),
        file("edge/sub-folder-later", "x"),
        whiteout(b"edge/to-\xfe"),
        file("edge/half-second", "changed\n").at(NANOSECONDS),
        directory("opaque-from-the-start"),
        opaque("opaque-from-the-start"),
    ]


def _gnu_names() -> list[Entry]:
    first = file("gnu/first", "gnu\n").owned(2**31, 2**31 + 1)
    return [
        directory("gnu"),
        first,
        file("gnu/" + LONG_NAME, "long\n"),
        hard_link("gnu/again", first),
        file(b"gnu/\xe9\xff", "raw\n"),
        file("gnu/日本語", "utf-8\n"),
        symlink("gnu/long-target", "/" + LONG_NAME),
        whiteout("back"),
    ]
