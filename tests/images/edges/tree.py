"""What members do to the tree: whiteouts, links, names that come again, names below a symlink."""

from __future__ import annotations

from dataclasses import replace

from tests.images.edges.parts import LABEL, NOTE, SECOND, A, D, one
from tests.images.layer import (
    Entry,
    character_device,
    directory,
    fifo,
    file,
    hard_link,
    opaque,
    symlink,
    to_bytes,
    whiteout,
)
from tests.images.raw import gnu, layer, raw

WHITEOUTS = one(
    whiteout_alone=layer(whiteout("gone")),
    whiteout_owned=layer(whiteout("gone").owned(7, 8).having(**NOTE)),
    whiteout_before_file=layer(whiteout("a"), A),
    whiteout_after_file=layer(A, whiteout("a")),
    whiteout_before_directory=layer(whiteout("d"), D, file("d/f")),
    whiteout_after_directory=layer(D, whiteout("d")),
    whiteout_after_implied=layer(file("d/f"), whiteout("d")),
    whiteout_before_hard_link=layer(A, whiteout("b"), hard_link("b", A)),
    whiteout_below_whiteout=layer(whiteout("d"), whiteout("d/f")),
    whiteout_below_file=layer(A, whiteout("a/f")),
    whiteout_twice=layer(whiteout("a"), file("/.wh.a", mode=0)),
    whiteout_in_implied=layer(whiteout("x/y/z")),
    file_below_whiteout=layer(whiteout("d"), file("d/f")),
    whiteout_as_directory=layer(directory(".wh.d"), directory("e")),
    whiteout_as_directory_with_file=layer(directory(".wh.d"), file(".wh.d/f")),
    whiteout_as_symlink=layer(symlink(".wh.a", "nowhere")),
    whiteout_as_hard_link=layer(Entry(name=b".wh.a", type=b"1", target=b"nowhere")),
    whiteout_as_device=layer(character_device(".wh.a", 1, 3)),
    whiteout_as_unknown=layer(Entry(name=b".wh.a", type=b"Z")),
    whiteout_with_data=layer(file(".wh.a", "content\n")),
    whiteout_of_name_255=layer(whiteout("n" * 255)),
    whiteout_of_name_256=layer(whiteout("n" * 256)),
    wh_of_nothing=layer(file(".wh.")),
    wh_of_nothing_below=layer(D, file("d/.wh.")),
    wh_dot=layer(file(".wh..")),
    wh_dot_below=layer(D, file("d/.wh..")),
    wh_dot_dot=layer(file(".wh...")),
    wh_dot_dot_below=layer(D, file("d/.wh...")),
    wh_three_dots=layer(file(".wh....")),
    wh_aufs=layer(file(".wh..wh.aufs"), directory(".wh..wh.plnk"), directory(".wh..wh.orph")),
    wh_plnk_below=layer(directory(".wh..wh.plnk"), file(".wh..wh.plnk/x", "x")),
    wh_plnk_implied=layer(file(".wh..wh.plnk/x", "x")),
    wh_of_wh=layer(file(".wh..wh.x")),
    wh_over_whiteout_of_it=layer(file(".wh..wh.x"), file(".wh.x")),  # the second removes what the first made
) | {
    "whiteout_of_lower_directory": (layer(D, file("d/f")), layer(whiteout("d"))),
    "whiteout_and_anew": (layer(D, file("d/f")), layer(whiteout("d"), D, file("d/g"))),
}

OPAQUE = one(
    opaque_root=layer(file(".wh..wh..opq"), A),
    opaque_root_dot=layer(file("./.wh..wh..opq"), A),
    opaque_before_directory=layer(opaque("d"), D.at(5 * SECOND), file("d/f")),
    opaque_after_entries=layer(D, file("d/f"), opaque("d")),
    opaque_implied=layer(opaque("x/y").owned(7, 8)),
    opaque_twice=layer(D, opaque("d"), opaque("/d")),
    opaque_as_directory=layer(D, directory("d/.wh..wh..opq")),
    opaque_as_unknown=layer(D, Entry(name=b"d/.wh..wh..opq", type=b"Z")),
    opaque_with_data=layer(D, file("d/.wh..wh..opq", "content\n")),
    opaque_file_below=layer(file("d/.wh..wh..opq/f")),
    opaque_of_file=layer(A, opaque("a")),
    opaque_of_whiteout=layer(whiteout("a"), opaque("a")),
    opaque_through_symlink=layer(D, symlink("s", "d"), opaque("s")),
    opaque_replaced=layer(D, opaque("d"), file("/d")),
    opaque_as_xattr=layer(D.having(**{"trusted.overlay.opaque": b"y"})),
    opaque_as_xattr_not=layer(D.having(**{"trusted.overlay.opaque": b"n"}), opaque("d")),
    opaque_as_user_xattr=layer(D.having(**{"user.overlay.opaque": b"y"})),
) | {"opaque_over_lower": (layer(D, file("d/f")), layer(D, opaque("d"), file("d/g")))}

_OTHER = Entry(name=b"b", type=b"1", target=b"a", mode=0o6751, uid=3, gid=4, mtime_ns=5 * SECOND, xattrs=NOTE)
_LINK = symlink("s", "a")


def _to(target: str | bytes, name: str = "b") -> Entry:
    return Entry(name=to_bytes(name), type=b"1", target=to_bytes(target))


HARD_LINKS = one(
    link_before_target=layer(_to("a"), A),
    link_with_other_metadata=layer(A.owned(1, 2).having(**LABEL), _OTHER),
    link_to_symlink=layer(A, _LINK, replace(_OTHER, target=b"s")),
    link_to_dangling_symlink=layer(symlink("s", "nowhere"), _to("s").at(5 * SECOND)),
    link_to_directory=layer(D, _to("d")),
    link_to_nothing=layer(_to("nowhere")),
    link_to_empty_name=layer(_to("")),
    link_to_itself=layer(_to("b")),
    link_through_symlink=layer(D, file("d/f", "x"), symlink("s", "d"), _to("s/f")),
    link_through_absolute_symlink=layer(D, file("d/f", "x"), symlink("s", "/d"), _to("s/f")),
    link_through_dangling_symlink=layer(symlink("s", "nowhere"), _to("s/f")),
    link_below_file=layer(A, _to("a/f")),
    link_spelled_otherwise=layer(A, _to("/a"), _to("./a", "c"), _to("../a", "e"), _to("x/../a", "f")),
    link_to_device=layer(character_device("null", 1, 3), _to("null")),
    link_to_fifo=layer(fifo("pipe"), replace(_OTHER, target=b"pipe")),
    link_to_whiteout=layer(whiteout("a"), replace(_OTHER, mode=0o640)),
    link_dotted=layer(replace(A, mode=0o6755), replace(_OTHER, target=b"x/../a", mode=0o640)),
    link_over_its_target=layer(A, _to("a", "/a")),
    link_over_other_file=layer(A, file("b", "other"), _to("a", "/b")),
    link_outlives_its_target=layer(A, _to("a"), directory("/a")),
    link_to_replaced=layer(A, file("/a", "new"), _to("a")),
    link_with_trailing_slash=layer(A, _to("a", "b/")),
    link_with_size=layer(A, raw(_to("a"), size=b"00000000010\0")),
    link_with_data=layer(A, replace(_to("a"), data=b"content\n")),
    link_with_long_target=layer(file("t" * 200, "x"), _to("t" * 200)),
    link_with_long_gnu_target=layer(gnu(file("t" * 200, "x")), gnu(_to("t" * 200))),
    hundred_links=layer(A, *(_to("a", f"link-{n}") for n in range(100))),
) | {"link_to_lower_layer": (layer(A), layer(_to("a")))}

_FILLED = (D.at(5 * SECOND), file("d/f", "x"))
# A second spelling of a name replaces what the first one made; the same spelling is a duplicate.
REPLACED = one(
    duplicate_name=layer(A, file("a", "again")),
    duplicate_dot_name=layer(A, file("./a", "again")),
    duplicate_dotted_name=layer(A, file("x/../a", "again")),
    duplicate_directory=layer(D, Entry(name=b"d", type=b"5", mode=0o700)),
    duplicate_whiteout=layer(whiteout("a"), whiteout("a")),
    file_over_file=layer(A.having(**NOTE), file("/a", "again", 0o600)),
    file_over_hard_link=layer(A, hard_link("b", A), file("/b", "again")),
    directory_over_file=layer(A, directory("/a").at(5 * SECOND), file("a/f")),
    directory_over_directory=layer(
        D.having(**NOTE).owned(1, 2), file("d/f"), directory("/d", 0o1700).at(5 * SECOND).having(**LABEL)
    ),
    file_over_empty_directory=layer(D.at(5 * SECOND), file("/d", "file")),
    file_over_filled_directory=layer(*_FILLED, file("/d", "file")),
    file_over_nested_directory=layer(D, directory("d/e"), file("/d", "file")),
    file_over_implied_directory=layer(file("x/y/f"), file("/x", "file")),
    symlink_over_directory=layer(A, *_FILLED, symlink("/d", "a")),
    symlink_over_directory_dangling=layer(*_FILLED, symlink("/d", "nowhere")),
    fifo_over_directory=layer(*_FILLED, fifo("/d")),
    link_over_directory=layer(A, *_FILLED, hard_link("/d", A)),
    directory_over_symlink=layer(A, symlink("s", "a"), directory("/s"), file("s/f")),
    directory_over_symlink_to_directory=layer(D, symlink("s", "d"), directory("/s"), file("s/f")),
    directory_anew=layer(*_FILLED, file("/d", "file"), directory("../d", 0o700)),
    file_over_symlink=layer(A, symlink("s", "a"), file("/s", "file")),
    device_over_file=layer(A, character_device("/a", 1, 3)),
    file_over_root=layer(A, file("/", "file")),
) | {
    "directory_over_lower_file": (layer(A), layer(directory("a"), file("a/f"))),
    "file_over_lower_directory": (layer(*_FILLED), layer(file("d", "file"))),
    "symlink_over_lower_directory": (layer(*_FILLED), layer(symlink("d", "nowhere"))),
}

_TO_D = (directory("edge-d"), symlink("s", "edge-d"))
# Entries below a symlink. Nothing on the machine must have these names, for `docker save` looks there.
THROUGH_SYMLINKS = one(
    through_relative=layer(*_TO_D, file("s/f", "x")),
    through_absolute=layer(directory("edge-d"), symlink("s", "/edge-d"), file("s/f", "x")),
    through_absolute_empty=layer(directory("edge-d"), symlink("s", "/edge-d"), file("s/f")),
    through_parent=layer(directory("edge-d"), symlink("s", "../../edge-d"), file("s/f", "x")),
    through_dangling=layer(symlink("s", "edge-nowhere"), file("s/f", "x")),
    through_dangling_deep=layer(symlink("s", "edge-nowhere"), file("s/x/f", "x")),
    through_lower_only=layer(symlink("s", "edge-d"), file("s/f", "x")),
    through_file=layer(A, symlink("s", "a"), file("s/f", "x")),
    through_file_deep=layer(A, symlink("s", "a"), file("s/x/f", "x")),
    through_chain=layer(directory("edge-d"), symlink("t", "edge-d"), symlink("s", "t"), file("s/f", "x")),
    through_loop=layer(symlink("s", "t"), symlink("t", "s"), file("s/f", "x")),
    through_itself=layer(symlink("s", "."), file("s/f", "x"), file("s/s/g", "x")),
    through_implied=layer(*_TO_D, file("s/x/y/f", "x")),
    through_directory=layer(*_TO_D, directory("s/x", 0o700).at(5 * SECOND), symlink("s/y", "x")),
    through_hard_link=layer(*_TO_D, A, hard_link("s/f", A)),
    through_whiteout=layer(*_TO_D, whiteout("s/f")),
    through_whiteout_of_file=layer(*_TO_D, file("edge-d/f", "x"), whiteout("s/f")),
    through_over_file=layer(*_TO_D, file("edge-d/f", "old"), file("s/f", "new")),
    through_over_directory=layer(*_TO_D, directory("edge-d/f"), file("s/f", "new")),
    through_then_replaced=layer(*_TO_D, file("s/f", "x"), file("/s", "now a file")),
    through_directory_then_replaced=layer(*_TO_D, directory("s/x"), file("/s", "now a file")),
    through_symlink_made_later=layer(file("s/f", "x"), symlink("/s", "edge-d")),
    under_file=layer(A, file("a/f", "x")),
    under_file_deep=layer(A, file("a/x/f", "x")),
    under_fifo=layer(fifo("p"), file("p/f", "x")),
) | {
    "through_lower": (layer(*_TO_D), layer(file("s/f", "x"))),
    "through_lower_target": (layer(directory("edge-d")), layer(symlink("s", "edge-d"), file("s/f", "x"))),
}
