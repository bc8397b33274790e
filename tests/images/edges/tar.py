"""The tar itself: headers, types, PAX records, and how it ends."""

from __future__ import annotations

from dataclasses import replace

from tests.images.edges.parts import A, D, one
from tests.images.layer import (
    BLOCK,
    Entry,
    Layer,
    Text,
    character_device,
    directory,
    fifo,
    file,
    symlink,
)
from tests.images.raw import END, gnu, layer, member, pax, raw, raw_pax, record


def _signed(entry: Entry) -> bytes:
    """A member with the checksum of an old writer, who added up signed bytes."""
    block = bytearray(gnu(entry)[:BLOCK])
    block[148:156] = b" " * 8
    signed = sum(block) - 256 * sum(byte > 127 for byte in block)
    return raw(replace(entry, name=b"a"), name=entry.name, magic=b"ustar  \0", checksum=b"%06o\0 " % signed)


_COMMENT = {"comment": b"text"}
EXTENDED_HEADERS = one(
    global_header=layer(pax(_COMMENT, b"g"), A),
    global_header_twice=layer(pax(_COMMENT, b"g"), A, pax(_COMMENT, b"g"), file("b")),
    global_header_renames=layer(pax({"path": b"x", "mtime": b"5", "uid": b"7"}, b"g"), A),
    global_header_named_as_file=layer(pax({"path": b"a"}, b"g"), A),
    global_header_before_pax=layer(pax({"path": b"b"}), pax(_COMMENT, b"g"), A),
    global_header_alone=layer(pax(_COMMENT, b"g")),
    global_header_malformed=layer(raw_pax(b"junk", b"g"), A),
    pax_header_twice=layer(pax({"uid": b"7", "path": b"b"}), pax({"gid": b"8"}), A),
    pax_header_empty=layer(raw_pax(b""), A),
    pax_header_at_end=layer(A, pax({"path": b"b"})),
    pax_header_at_end_without_end=layer(A, pax({"path": b"b"}), end=b""),
    pax_unknown_records=layer(pax({"LIBARCHIVE.xattr.user.x": b"eA", "SCHILY.acl.access": b"u::rw-", "x": b"y"}), A),
    pax_duplicate_record=layer(raw_pax(record(b"uid", b"7") + record(b"uid", b"8")), A),
    pax_size=layer(pax({"size": b"5"}), raw(file("a", "12345"), size=b"00000000003\0")),
    pax_size_of_directory=layer(pax({"size": b"5"}), D),
    pax_bad_length=layer(raw_pax(b"99 path=a\n"), A),
    pax_no_newline=layer(raw_pax(b"9 path=ab"), A),
    pax_no_key=layer(raw_pax(b"5 =a\n"), A),
    pax_nul_in_path=layer(pax({"path": b"a\0b"}), A),
    pax_nul_in_user=layer(pax({"uname": b"a\0b"}), A),
    pax_nul_in_key=layer(pax({"SCHILY.xattr.user.\0": b"x"}), A),
    pax_bad_number=layer(pax({"uid": b"seven"}), A),
    pax_bad_time=layer(pax({"mtime": b"1e9"}), A),
    pax_bad_size=layer(pax({"size": b"-1"}), A),
    pax_bad_atime=layer(pax({"atime": b"never"}), A),
    pax_megabyte=layer(pax({"comment": b"x" * ((1 << 20) - 17)}), A),
    pax_over_megabyte=layer(pax({"comment": b"x" * (1 << 20)}), A),
    pax_sun_header=layer(raw_pax(record(b"uid", b"7"), b"X"), A),
)


def _sized(entry: Entry) -> bytes:
    return raw(entry, size=b"00000000010\0")


def _sparse(data: Text, map_: bytes = b"00000002000 00000000005 ") -> bytes:
    """A sparse member of GNU's own form."""
    return raw(file("a", data), type=b"S", magic=b"ustar  \0", sparse=map_, real_size=b"00000004000\0")


def _pax_sparse(version: bytes, **records: bytes) -> bytes:
    """What makes the next member a sparse one in PAX form."""
    major, minor = version.split(b".")
    keys = {"major": major, "minor": minor, "name": b"real", **records}
    return pax({f"GNU.sparse.{key}": value for key, value in keys.items()})


HEADERS = one(
    sparse_gnu=layer(_sparse("12345")),
    sparse_gnu_bad=layer(_sparse("12345", b"junk")),
    sparse_pax_0=layer(_pax_sparse(b"0.1", numblocks=b"1", map=b"1024,5", size=b"2048"), file("a", "12345")),
    sparse_pax_1=layer(
        _pax_sparse(b"1.0", realsize=b"2048"), file("a", b"1\n1024\n5\n".ljust(BLOCK, b"\0") + b"12345")
    ),
    sparse_pax_bad=layer(_pax_sparse(b"0.1", numblocks=b"2", map=b"1"), A),
    sparse_pax_unknown=layer(_pax_sparse(b"2.0"), A),
    sparse_pax_name_only=layer(pax({"GNU.sparse.name": b"real"}), A),
    type_contiguous=layer(replace(A, type=b"7")),
    type_unknown=layer(replace(A, type=b"Z")),
    type_volume=layer(Entry(name=b"label", type=b"V"), A),
    type_dumpdir=layer(Entry(name=b"d/", type=b"D", data=b"Ya\0\0"), A),
    type_old=layer(Entry(name=b"a", type=b"\0", data=b"x")),
    size_of_directory=layer(_sized(D), A),
    size_of_symlink=layer(_sized(symlink("s", "a")), A),
    size_of_device=layer(_sized(character_device("null", 1, 3)), A),
    size_of_fifo=layer(_sized(fifo("p")), A),
    size_of_whiteout_directory=layer(_sized(directory(".wh.d")), A),
    data_of_directory=layer(replace(D, data=b"content\n"), A),
    data_of_symlink=layer(replace(symlink("s", "a"), data=b"content\n"), A),
    header_spaces=layer(
        raw(A, mode=b"   644 \0", uid=b"     7 \0", size=b"         10 ", mtime=b"  5\0\0\0\0\0\0\0\0\0")
    ),
    header_empty_numbers=layer(raw(file("a"), mode=bytes(8), uid=bytes(8), size=bytes(12), mtime=bytes(12))),
    header_not_octal=layer(raw(A, uid=b"0000008\0")),
    header_nul_inside=layer(raw(A, uid=b"7\0junk\0\0")),
    size_negative=layer(raw(A, size=b"\xff" * 12)),
    size_base_256=layer(raw(A, size=b"\x80" + bytes(10) + b"\x08")),
    size_huge=layer(raw(A, size=b"\x80\0\0\0\x7f" + b"\xff" * 7)),
    header_v7=layer(
        raw(A, magic=bytes(8)),
        raw(directory("d"), magic=bytes(8), type=b"\0"),
        raw(file("b"), magic=bytes(8), prefix=b"ignored"),
    ),
    header_star=layer(raw(A, prefix=b"folder".ljust(131, b"\0"), star=b"tar\0")),
    header_gnu_with_prefix=layer(raw(file("f", "x"), magic=b"ustar  \0", prefix=b"folder")),
    header_unknown_magic=layer(raw(A, magic=b"junkjunk", prefix=b"ignored")),
    header_bad_checksum=layer(raw(A, checksum=b"000001\0 ")),
    header_bad_second_checksum=layer(D, raw(A, checksum=b"000001\0 ")),
    header_checksum_not_octal=layer(raw(A, checksum=b"99999999")),
    header_signed_checksum=layer(_signed(file(b"caf\xe9", "x"))),
    name_like_gzip=layer(raw(file("a"), name=b"\x1f\x8b\x08")),
    name_like_bzip2=layer(file("BZh-notes", "x")),
    name_like_zstd=layer(raw(file("a"), name=b"\x28\xb5\x2f\xfd")),
    name_like_xz=layer(raw(file("a"), name=b"\xfd7zXZ\0")),
)

_WHOLE = member(file("a", "content\n"))
ENDS = one(
    end_missing=layer(A, end=b""),
    end_one_block=layer(A, end=bytes(BLOCK)),
    end_one_and_half=layer(A, end=bytes(BLOCK + 100)),
    end_half_block=layer(A, end=bytes(100)),
    end_with_junk=layer(A, end=END + b"junk" * 300),
    end_with_member=layer(A, end=END + member(file("b", "x")) + END),
    end_padded=layer(A, end=bytes(10240 - 1024)),
    end_megabytes=layer(A, end=bytes((3 << 20) + 7)),
    end_zero_between=layer(A, bytes(BLOCK), file("b")),
    end_junk_block=layer(A, end=b"j" * BLOCK),
    end_junk_after_one=layer(A, end=bytes(BLOCK) + b"j" * BLOCK),
    end_half_junk=layer(A, end=b"j" * 100),
    truncated_data=layer(_WHOLE[: BLOCK + 3], end=b""),
    truncated_before_data=layer(_WHOLE[:BLOCK], end=b""),
    truncated_padding=layer(_WHOLE[: BLOCK + 8], end=b""),
    truncated_in_padding=layer(_WHOLE[: BLOCK + 100], end=b""),
    truncated_header=layer(D, _WHOLE[:300], end=b""),
    truncated_pax=layer(pax({"path": b"b"})[: BLOCK + 5], end=b""),
    truncated_pax_padding=layer(pax({"path": b"b"})[: BLOCK + 10], end=b""),
    empty_0=Layer(b""),
    empty_1=Layer(bytes(1)),
    empty_511=Layer(bytes(511)),
    empty_512=Layer(bytes(512)),
    empty_1024=Layer(bytes(1024)),
    empty_10240=Layer(bytes(10240)),
    junk=Layer(b"this is not a tar archive\n" * 100),
)
