"""Times, owners, modes, device numbers and extended attributes."""

from __future__ import annotations

from dataclasses import replace

from tests.images.catalogue import CAP_NET_RAW
from tests.images.edges.parts import LABEL, NOTE, SECOND, A, D, one
from tests.images.layer import (
    EPOCH_NS,
    Layer,
    block_device,
    character_device,
    directory,
    fifo,
    file,
    hard_link,
    symlink,
    whiteout,
)
from tests.images.raw import acl, gnu, layer, pax, raw

_BEFORE, _YEAR_1, _YEAR_2300 = -5 * SECOND, -62135596800 * SECOND, 10413792000 * SECOND
_LAST = ((1 << 34) - (1 << 31) - 1) * SECOND  # that ext4 can hold
_AFTER = (1 << 34) * SECOND
_LINK = symlink("s", "a")

TIMES = one(
    mtime_negative=layer(
        A.at(_BEFORE), D.at(_BEFORE), gnu(fifo("p").at(_BEFORE)), file("b").at(-1), file("c").at(-SECOND // 2)
    ),
    mtime_negative_link=layer(A, hard_link("b", A.at(_BEFORE))),
    mtime_negative_symlink=layer(_LINK.at(_BEFORE), symlink("t", "a").at(-SECOND // 2)),
    mtime_after_2038=layer(A.at((1 << 31) * SECOND + 5), D.at((1 << 32) * SECOND + 1), _LINK.at((1 << 33) * SECOND)),
    mtime_after_2262=layer(A.at(_YEAR_2300), gnu(file("b").at(_YEAR_2300)), D.at(_YEAR_2300), _LINK.at(_YEAR_2300)),
    mtime_last_of_ext4=layer(A.at(_LAST), D.at(_LAST + SECOND - 1), _LINK.at(_LAST)),
    mtime_after_ext4=layer(A.at(_AFTER), gnu(file("b").at(_AFTER)), D.at(_AFTER), _LINK.at(_AFTER)),
    mtime_huge=layer(A.at(SECOND << 60), gnu(file("b").at(SECOND << 62)), D.at(SECOND << 60), _LINK.at(SECOND << 60)),
    mtime_of_year_1=layer(A.at(_YEAR_1), _LINK.at(_YEAR_1)),
    mtime_over_64_bits=layer(A.at(SECOND << 64)),
    mtime_over_64_bits_gnu=layer(gnu(A.at(SECOND << 70))),
    mtime_fine=layer(A.at(EPOCH_NS + 1), D.at(EPOCH_NS + 999_999_999), _LINK.at(EPOCH_NS + 1)),
    mtime_too_fine=layer(pax({"mtime": b"1.9999999999"}), A, pax({"mtime": b"2."}), D),
    mtime_without_seconds=layer(pax({"mtime": b".5"}), A),
    mtime_with_sign=layer(pax({"mtime": b"+5"}), A, pax({"mtime": b"-0.5"}), _LINK),
    atime_after_mtime=layer(pax({"atime": b"2000000000", "ctime": b"1"}), A),
)

NUMBERS = one(
    ids_over_21_bits=layer(A.owned(1 << 21, 4_000_000_000), gnu(file("b").owned(1 << 21, 4_000_000_000))),
    ids_last=layer(A.owned(0xFFFFFFFE, 0xFFFFFFFE), directory("d").owned(0xFFFFFFFE, 0xFFFFFFFE)),
    ids_minus_one=layer(A.owned(0xFFFFFFFF, 0xFFFFFFFF), whiteout("w").owned(0xFFFFFFFF, 7)),
    ids_over_32_bits=layer(A.owned((1 << 32) + 5, 1 << 32), gnu(file("b").owned((1 << 33) + 6, 7))),
    ids_negative=layer(gnu(A.owned(-1, -5)), pax({"uid": b"-2"}), file("b")),
    modes=layer(
        file("a", "x", 0o6755), file("b", "x", 0o7777), directory("d", 0o7777), fifo("p", 0o7000), file("e", "", 0)
    ),
    mode_of_symlink=layer(symlink("s", "a"), replace(symlink("t", "a"), mode=0o4000)),
    mode_over_07777=layer(file("a", "x", 0o104750), directory("d", 0o41777), file("b", "x", 0o7654321)),
    mode_base_256=layer(raw(A, mode=b"\x80\0\0\0\0\0\x09\xff"), raw(file("b"), mode=b"\xff" * 8)),
    mode_of_other_type=layer(file("a", "x", 0o040755), directory("d", 0o100644), fifo("p", 0o120644)),
    setuid_owned=layer(file("a", "x", 0o6755).owned(1000, 1000), hard_link("b", file("a", "", 0o6755).owned(5, 5))),
    devices=layer(character_device("null", 1, 3), block_device("loop", 7, 300), character_device("c", 4095, 1048575)),
    device_zero=layer(character_device("c", 0, 0), block_device("b", 0, 0).having(**LABEL)),
    device_too_large=layer(character_device("c", 4097, 1048577), block_device("b", 0o7777777, 0o7777777)),
    device_negative=layer(raw(character_device("c", 0, 0), major=b"\xff" * 8, magic=b"ustar  \0")),
)

_CAPABLE = {"security.capability": CAP_NET_RAW}
_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_NO_ID = 0xFFFFFFFF  # of an ACL's entry without one
_PLAIN_ACL = acl((1, 6, _NO_ID), (4, 4, _NO_ID), (32, 0, _NO_ID))
_USER_ACL = acl((1, 6, _NO_ID), (2, 7, 1000), (4, 4, _NO_ID), (16, 7, _NO_ID), (32, 0, _NO_ID))


def _a(name: str, value: bytes = b"x") -> Layer:
    """A file with one attribute."""
    return layer(A.having(**{name: value}))


XATTRS = one(
    xattr_user=layer(A.having(**NOTE), D.having(**NOTE), directory("t", 0o1777).having(**NOTE)),
    xattr_user_on_symlink=layer(symlink("s", "a").having(**NOTE)),
    xattr_user_on_device=layer(character_device("null", 1, 3).having(**NOTE, **LABEL)),
    xattr_user_on_fifo=layer(fifo("p").having(**NOTE, **LABEL)),
    xattr_trusted=layer(A.having(**LABEL), D.having(**LABEL), symlink("s", "a").having(**LABEL)),
    xattr_trusted_overlay=_a("trusted.overlay.metacopy", b""),
    xattr_redirect=layer(D.having(**{"trusted.overlay.redirect": b"/other", "trusted.overlay.origin": b"x"})),
    xattr_capability=_a("security.capability", CAP_NET_RAW),
    xattr_capability_of_directory=layer(D.having(**_CAPABLE)),
    xattr_capability_of_symlink=layer(symlink("s", "a").having(**_CAPABLE)),
    xattr_capability_of_link=layer(A, hard_link("b", A.having(**_CAPABLE))),
    xattr_capability_owned=layer(A.owned(1000, 1000).having(**_CAPABLE)),
    xattr_capability_lost=layer(A.having(**_CAPABLE), hard_link("b", A.owned(5, 5))),
    xattr_capability_lost_too=layer(A.having(**_CAPABLE), hard_link("b", A)),
    xattr_capability_v3=_a("security.capability", b"\x01\0\0\x03" + CAP_NET_RAW[4:] + b"\xe8\x03\0\0"),
    xattr_capability_bad=_a("security.capability", b"junk"),
    xattr_security=_a("security.edge"),
    xattr_unknown_namespace=_a("edge.note"),
    xattr_no_namespace=_a("note"),
    xattr_system=_a("system.edge"),
    xattr_no_name=_a("user."),
    xattr_nothing=_a(""),
    xattr_name_255=_a("user." + "n" * 250),
    xattr_name_256=_a("user." + "n" * 251),
    xattr_odd_name=layer(A.having(**{'user.a b\n\xff"\\': b"x", "user.caf\udce9": b"\0\xff"})),
    xattr_empty=_a("user.empty", b""),
    xattr_fills_block=layer(A.having(**{"user.a": b"v" * 4040, "user.b": b"w" * 40})),
    xattr_over_block=_a("user.a", b"v" * 4044),
    xattr_over_64k=_a("user.a", b"v" * 65537),
    xattr_many=layer(A.having(**{f"user.{n:03}": b"value" for n in range(100)})),
    xattr_many_too_many=layer(A.having(**{f"user.{n:03}": b"value" * 8 for n in range(100)})),
    xattr_merged=layer(D.having(**NOTE, **{"user.x": b"1"}), directory("/d").having(**{"user.x": b"2"})),
    xattr_of_implied=layer(file("d/f"), directory("d").having(**NOTE)),
)

_INHERITED = directory("d", 0o750).having(**{_DEFAULT: _USER_ACL})

ACLS = one(
    acl_access=layer(file("a", "x", 0o640).having(**{_ACCESS: _USER_ACL})),
    acl_access_other_mode=layer(file("a", "x", 0o755).having(**{_ACCESS: _USER_ACL})),
    acl_access_plain=layer(file("a", "x", 0o755).having(**{_ACCESS: _PLAIN_ACL})),
    acl_access_of_directory=layer(directory("d", 0o700).having(**{_ACCESS: _USER_ACL})),
    acl_access_of_symlink=layer(symlink("s", "a").having(**{_ACCESS: _USER_ACL})),
    acl_access_of_device=layer(character_device("null", 1, 3).having(**{_ACCESS: _USER_ACL})),
    acl_access_bad=_a(_ACCESS, b"junk"),
    acl_access_short=_a(_ACCESS, b"x"),
    acl_access_none=_a(_ACCESS, acl()),
    acl_access_invalid=_a(_ACCESS, acl((1, 6, _NO_ID))),
    acl_access_unsorted=_a(_ACCESS, _USER_ACL[:4] + _USER_ACL[12:20] + _USER_ACL[4:12] + _USER_ACL[20:]),
    acl_default=layer(_INHERITED),
    acl_default_inherited=layer(
        _INHERITED,
        file("d/f", "x", 0o644),
        directory("d/e"),
        symlink("d/s", "f"),
        fifo("d/p"),
        file("d/x/y/f", "x"),
        whiteout("d/w"),
        character_device("d/c", 1, 3),
    ),
    acl_default_after=layer(file("d/f", "x"), _INHERITED),
    acl_default_of_file=_a(_DEFAULT, _USER_ACL),
)
