"""Names, the content of files and symlinks, and many of each."""

from __future__ import annotations

from tests.images.edges.parts import LABEL, SECOND, A, Edges, one
from tests.images.layer import (
    EPOCH_NS,
    Entry,
    directory,
    file,
    make_layer,
    symlink,
    whiteout,
)
from tests.images.raw import gnu, layer, long_text, pax, raw, record


def _deep(length: int) -> bytes:
    """A path of so many bytes, in parts of at most 200."""
    parts = b"/".join([b"d" * 199] * (length // 200 + 1))[:length]
    return parts[:-1] + b"f" if parts.endswith(b"/") else parts


NAMES = one(
    not_utf8=layer(file(b"caf\xe9\xff", "x"), directory(b"d\xfe"), symlink(b"d\xfe/s", b"\x80")),
    not_utf8_gnu=layer(gnu(file(b"caf\xe9\xff", "x")), gnu(file(b"\xff" * 150, "x"))),
    not_utf8_split=layer(raw(file("f", "x"), name=b"caf\xe9", prefix=b"d\xff")),
    name_255=layer(file("n" * 255), directory("d" * 255), file("d" * 255 + "/" + "n" * 255)),
    name_255_gnu=layer(gnu(file("n" * 255)), gnu(directory("d" * 255))),
    name_256=layer(file("n" * 256)),
    name_256_implied=layer(file("n" * 256 + "/f")),
    name_256_ignored=layer(Entry(name=b"n" * 256, type=b"g", data=record(b"comment", b"x"))),
    name_split=layer(directory("p" * 120), file("p" * 120 + "/" + "n" * 90, "x")),
    path_2000=layer(file(_deep(2000), "x")),
    path_3800=layer(file(_deep(3800), "x")),
    path_4090=layer(file(_deep(4090), "x")),  # too long for the path in which dockerd's data root stands before it
    path_4095=layer(file(_deep(4095), "x")),
    path_in_pax_and_gnu=layer(pax({"path": b"of-pax"}), long_text(b"L", b"of-gnu"), A),
    path_twice_in_gnu=layer(long_text(b"L", b"first"), long_text(b"L", b"second"), A),
    path_empty_in_gnu=layer(long_text(b"L", b""), A),
    path_empty_in_pax=layer(pax({"path": b"", "linkpath": b"", "size": b"", "mtime": b"", "uid": b""}), A),
    path_with_nul_in_gnu=layer(long_text(b"L", b"cut\0here"), A),
    dot_entries=layer(directory("./").owned(7, 8), directory("./d"), file("./d/f", "x"), file("./a")),
    odd_slashes=layer(file("x//y///f", "x"), file("x/./g", "x"), file("x/z/../h", "x"), file("//b")),
    implied_parents=layer(file("x/y/z/f", "x")),
    implied_then_named=layer(file("x/y/f", "x"), directory("x", 0o700).at(5 * SECOND).owned(1, 2)),
    implied_in_setgid=layer(directory("d", 0o2775).owned(0, 50), file("d/e/f", "x"), whiteout("d/g"), directory("d/h")),
    parent_of_root=layer(file("../a", "x"), file("/../b", "x"), file("c/../../e", "x"), file("../../g/h", "x")),
    dot_dot=layer(directory("..", 0o700).owned(7, 8)),
    dot_dot_file=layer(A, file("..", "x")),
    absolute=layer(directory("/d"), file("/d/f", "x"), file("/e/f", "x")),
    slash=layer(directory("/", 0o700).owned(7, 8).at(5 * SECOND).having(**LABEL), A),
    dot=layer(Entry(name=b".", type=b"5", mode=0o700, uid=7), A),
    dot_file=layer(file("."), A),
    dot_file_with_data=layer(file(".", "x"), A),
    empty_name=layer(file(""), A),
    empty_name_with_data=layer(file("", "x"), A),
    empty_name_with_prefix=layer(raw(file(""), prefix=b"p"), raw(directory("d"), name=bytes(2), prefix=b"q")),
    empty_name_twice=layer(file("", "x"), file(".", "x")),
    unknown_type_at_root=layer(Entry(name=b"./", type=b"D", data=b"YA\0"), A),
    root_as_whiteout=layer(symlink("./", "nowhere"), A),
    directory_without_slash=layer(Entry(name=b"d", type=b"5", mode=0o755), file("d/f")),
    file_with_slash=layer(file("a/", "x")),
    old_file_with_slash=layer(Entry(name=b"a/", type=b"\0", mode=0o755), Entry(name=b"b", type=b"\0", data=b"x")),
    old_file_with_slash_and_data=layer(Entry(name=b"a/", type=b"\0", data=b"content\n", mode=0o755), file("b")),
    symlink_with_slash=layer(Entry(name=b"s/", type=b"2", target=b"nowhere")),
    odd_characters=layer(*(file(f"{n:x}" + chr(n), "x") for n in range(1, 128) if chr(n) not in "/")),
    escaped_in_json=layer(file('<&>\u2028\u2029"\\\x7f\x08\x0c\n\r\t', "x"), file("\ufffd\U0010ffff", "x")),
    many_names=layer(*(file(f"{n:04}-{'n' * 90}") for n in range(3000))),
    deep_directories=layer(*(directory("/".join(["d"] * (n + 1))) for n in range(300))),
)

_SIZES = (0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193)
CONTENT = one(
    sizes=layer(*(file(f"size-{size}", bytes(n % 251 + 1 for n in range(size))) for size in _SIZES)),
    zeros=layer(*(file(f"zeros-{size}", bytes(size)) for size in (*_SIZES, 1 << 20, (1 << 20) + 1))),
    holes=layer(
        file("middle", bytes(65536) + b"x" + bytes(131072)),
        file("last", bytes(8192) + b"x"),
        file("first", b"x" + bytes(8192)),
        # As many extents as an inode of ext4 holds, as many as a block of them, and one more.
        *(file(f"alternating-{n}", (b"x" * 4096 + bytes(4096)) * n) for n in (4, 5, 340, 341)),
    ),
    symlink_targets=layer(*(symlink(f"s{n}", "t" * n) for n in (1, 59, 60, 61, 100, 101, 1023, 1024, 1025, 4095))),
    symlink_targets_gnu=layer(*(gnu(symlink(f"s{n}", "t" * n)) for n in (60, 100, 101, 1024, 4095))),
    symlink_target_4096=layer(symlink("s", "t" * 4096)),
    symlink_target_empty=layer(symlink("s", "")),
    symlink_targets_odd=layer(
        symlink("s", "/"), symlink("t", ".."), symlink("u", "a//b/"), symlink("v", b"\xff"), symlink("w", "../../../x")
    ),
    symlink_target_with_nul=layer(long_text(b"K", b"cut\0here"), symlink("s", "other")),
    symlink_owned=layer(symlink("s", "a").owned(7, 8).at(EPOCH_NS + 5)),
)


_EMPTY, _TOP = make_layer([]), layer(A)

DEPTH: Edges = {
    "layers_125": (*[_EMPTY] * 124, _TOP),
    "layers_126": (*[_EMPTY] * 125, _TOP),
    "layer_twice": (_TOP, _EMPTY, _TOP),
}
