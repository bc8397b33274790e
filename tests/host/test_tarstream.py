"""Layers are read as Go's archive/tar reads them, and what it refuses is refused with a message."""

from __future__ import annotations

import io
import re

import pytest

from preloader_agent.errors import InvalidArchive
from preloader_agent.host.tarstream import LayerTar
from tests.host.tars import END, header, long_name, padded, pax, raw_pax, read_member, read_members
from tests.images import catalogue, edge_image
from tests.images.layer import Layer


def problem_of(content: bytes) -> str:
    with pytest.raises(InvalidArchive) as raised:
        read_members(content)
    message = str(raised.value)
    assert message.startswith("layer: ")
    assert message.isprintable()
    return message.removeprefix("layer: ")


def bytes_of(layer: Layer) -> bytes:
    assert isinstance(layer.content, bytes)
    return layer.content


def reassembled(layer: Layer) -> bytes:
    tar = LayerTar(io.BytesIO(bytes_of(layer)), "layer")
    found = b""
    for member in tar:
        found += member.raw
        found += b"".join(tar.data())
    found += b"".join(tar.tail())
    return found


@pytest.mark.parametrize("number", range(6))
def test_every_byte_is_passed_on(number: int) -> None:
    layer = edge_image().layers[number]
    assert reassembled(layer) == layer.content


@pytest.mark.parametrize(
    "end", [b"", bytes(512), END, END + bytes(9 * 512), END + b"junk", END + header(b"not-read", 0)]
)
def test_ends_of_all_kinds(end: bytes) -> None:
    """Without zero blocks, with one, two and more, and with whatever a writer puts behind them."""
    layer = Layer(header(b"file", 5) + padded(b"hello") + end)
    assert [(member.name, data) for member, data in read_members(bytes_of(layer))] == [(b"file", b"hello")]
    assert reassembled(layer) == layer.content


def test_empty_stream_is_an_empty_layer() -> None:
    assert read_members(b"") == []
    assert reassembled(Layer(b"")) == b""


def test_pax_records_win_over_the_header() -> None:
    member = read_member(
        pax(
            (b"path", b"pax/\xff"),
            (b"uid", b"3000000"),
            (b"gid", b"4000000000"),
            (b"mtime", b"1700000000.123456789"),
            (b"SCHILY.xattr.user.a", b"\0=\n\xff"),
            (b"SCHILY.xattr.security.capability", catalogue.CAP_NET_RAW),
            (b"comment", b"ignored"),
        )
        + header(b"short", 0)
    )
    assert (member.name, member.uid, member.gid) == (b"pax/\xff", 3_000_000, 4_000_000_000)
    assert member.mtime_ns == 1_700_000_000_123_456_789
    assert member.xattrs == {b"user.a": b"\0=\n\xff", b"security.capability": catalogue.CAP_NET_RAW}


def test_pax_size_is_the_size() -> None:
    """The header's field holds up to 8 GiB only."""
    ((member, data),) = read_members(pax((b"size", b"5")) + header(b"file", 0) + padded(b"hello") + END)
    assert (member.size, data) == (5, b"hello")


def test_pax_link_target() -> None:
    assert read_member(pax((b"linkpath", b"t" * 300)) + header(b"link", 0, b"2", link=b"short")).linkname == b"t" * 300


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1", 10**9),
        (b"1.5", 1_500_000_000),
        (b"1.000000001", 1_000_000_001),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"-0.5", -500_000_000),
        (b"4294967296.25", 4_294_967_296_250_000_000),
        (b"1.", 10**9),
    ],
)
def test_pax_times(text: bytes, nanoseconds: int) -> None:
    assert read_member(pax((b"mtime", text)) + header(b"file")).mtime_ns == nanoseconds


def test_empty_pax_record_takes_nothing_away() -> None:
    """An empty value means that the header's field holds (archive/tar, mergePAX)."""
    member = read_member(pax((b"path", b""), (b"uid", b""), (b"mtime", b"")) + header(b"file", uid=b"0000007\0"))
    assert (member.name, member.uid, member.mtime_ns) == (b"file", 7, 0)


def test_gnu_long_names() -> None:
    member = read_member(
        long_name(b"K", b"/" + b"t" * 200) + long_name(b"L", b"n" * 200) + header(b"n" * 100, 0, b"2", link=b"t" * 100)
    )
    assert (member.name, member.linkname) == (b"n" * 200, b"/" + b"t" * 200)
    assert len(member.raw) == 5 * 512


@pytest.mark.parametrize(
    ("magic", "prefix", "name"),
    [
        (b"ustar\x0000", b"folder", b"folder/name"),
        (b"ustar\x0000", b"folder".ljust(155, b"x"), b"folder".ljust(155, b"x") + b"/name"),
        # GNU has two times there; old Go wrote a prefix nonetheless, and new Go knows it by what is no number.
        (b"ustar  \0", b"folder", b"folder/name"),
        (b"ustar  \0", b"00000000017\x0000000000017\0", b"name"),
        (b"ustar  \0", b"\x80" + bytes(10) + b"\x0f", b"name"),
        (b"ustar  \0", b"caf\xe9", b"name"),
        (b"ustar  \0", b"folder" + bytes(6) + b"00000000017\0" + b"0" * 12, b"folder/name"),
        (b"ustar  \0", b"00000000017\0folder", b"00000000017/name"),
        (b"ustar  \0", bytes(12) + b"folder", b"name"),
        (b"ustar  \0", bytes(24) + b"folder", b"name"),
        (bytes(8), b"folder", b"name"),
        (b"junkjunk", b"folder", b"name"),
    ],
)
def test_prefix_of_a_name(magic: bytes, prefix: bytes, name: bytes) -> None:
    assert read_member(header(b"name", prefix=prefix, magic=magic)).name == name


def test_base_256() -> None:
    member = read_member(
        header(
            b"file",
            b"\x80" + bytes(10) + b"\0",
            uid=b"\x80\0\0\0\x80\0\0\1",
            mtime=b"\xff" * 11 + b"\xfe",
            magic=b"ustar  \0",
        )
    )
    assert (member.size, member.uid, member.mtime_ns) == (0, 2**31 + 1, -2 * 10**9)


def test_old_regular_file_with_a_slash_is_a_directory() -> None:
    assert read_member(header(b"folder/", 0, b"\0")).type == b"5"
    assert read_member(header(b"file", 0, b"\0")).type == b"0"


def test_header_only_types_have_no_data() -> None:
    """Some writers leave a hard link's size in its header; no data follows."""
    found = read_members(header(b"link", 1000, b"1", link=b"file") + header(b"next") + END)
    assert [(member.name, member.size) for member, _ in found] == [(b"link", 0), (b"next", 0)]


def test_global_header_is_a_member_of_its_own() -> None:
    content = pax((b"comment", b"a commit"), kind=b"g") + header(b"file")
    found = [member for member, _ in read_members(content + END)]
    assert [(member.name, member.type, member.size) for member in found] == [
        (b"PaxHeaders/x", b"g", 0),
        (b"file", b"0", 0),
    ]
    assert b"".join(member.raw for member in found) == content


def test_signed_checksum_is_accepted() -> None:
    """Old tars added up signed characters."""
    plain = header(b"caf\xe9")
    signed = sum(byte - 256 if byte > 127 else byte for byte in plain[:148] + plain[156:]) + 8 * 32
    assert read_member(header(b"caf\xe9", checksum=signed)).name == b"caf\xe9"


# --- what is refused ---


@pytest.mark.parametrize("size", [1, 511, 513, 811, 1025, 1535, 1537, 2135])
def test_truncated_within_a_header_or_a_file(size: int) -> None:
    content = header(b"one", 300) + padded(b"x" * 300) + header(b"two", 600) + padded(b"y" * 600)
    expected = "it ends within a (header|file); the archive is truncated"
    assert re.fullmatch(expected, problem_of(content[:size]))


def test_wrong_checksum() -> None:
    damaged = bytearray(header(b"file", 0))
    damaged[0] ^= 1
    assert problem_of(bytes(damaged) + END) == "a tar header has a wrong checksum; the archive is damaged"


def test_text_is_no_tar() -> None:
    assert "wrong checksum" in problem_of(b"This is not a tar file. " * 100)


def test_zero_block_between_headers() -> None:
    content = header(b"one") + bytes(512) + header(b"two") + END
    assert problem_of(content) == "a zero block stands between two headers; the archive is damaged"


@pytest.mark.parametrize(
    "content",
    [
        b"8 path=a\n",
        b"path=a\n",
        b"x path=a\n",
        b"10 path=ab",
        b"6 path\n",
        b"5 =a\n",
        b"-1 a=b\n",
        b"9" * 5000 + b" ",
    ],
)
def test_malformed_pax_header(content: bytes) -> None:
    assert problem_of(raw_pax(content) + header(b"file") + END).startswith("a PAX header is not well formed")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"gid", b"x"),
        (b"size", b"1e3"),
        (b"mtime", b"soon"),
        (b"mtime", b"1.x"),
        (b"mtime", b".5"),
        (b"atime", b"soon"),
        (b"ctime", b"soon"),
        (b"mtime", b"9223372036854775808"),
        (b"uid", b"9223372036854775808"),
        (b"gid", b"-9223372036854775809"),
        (b"uid", b"9" * 5000),
    ],
)
def test_malformed_pax_number(key: bytes, value: bytes) -> None:
    assert problem_of(pax((key, value)) + header(b"file") + END).startswith(f"PAX record {key.decode()!r} is not a ")


@pytest.mark.parametrize("size", [b"0000000008\0\0", b"abcdefghijk\0"])
def test_malformed_size(size: bytes) -> None:
    assert "number" in problem_of(header(b"file", size) + END)


@pytest.mark.parametrize("kind", [b"x", b"L", b"K", b"g"])
def test_large_special_header(kind: bytes) -> None:
    """It would be read into memory as a whole."""
    expected = f"a tar header of type {kind!r} has 1048577 bytes, at most 1048576 are read"
    assert problem_of(header(b"special", (1 << 20) + 1, kind)) == expected


@pytest.mark.parametrize("kind", [b"7", b"D", b"V", b"Z", b"\xff"])
def test_unknown_types_are_read(kind: bytes) -> None:
    """Whether a tree can have them is not the tar's business."""
    ((odd, data), (after, _)) = read_members(header(b"odd", 5, kind) + padded(b"hello") + header(b"after") + END)
    assert (odd.type, data, after.name) == (kind, b"hello", b"after")


@pytest.mark.parametrize(
    "records",
    [
        [(b"major", b"1"), (b"minor", b"0")],
        [(b"major", b"0"), (b"minor", b"1")],
        [(b"major", b"0"), (b"minor", b"0")],
        [(b"map", b"0,5")],
    ],
)
def test_sparse_members_in_pax_form(records: list[tuple[bytes, bytes]]) -> None:
    content = pax(*((b"GNU.sparse." + key, value) for key, value in records)) + header(b"hole")
    assert problem_of(content + END).startswith("'hole' is a sparse member, which docker cannot save again")


def test_sparse_members_in_gnu_form() -> None:
    content = header(b"\x1b[31m\xff", 0, b"S", magic=b"ustar  \0")
    assert problem_of(content + END).startswith(r"'\x1b[31m\udcff' is a sparse member, which docker cannot save again")


@pytest.mark.parametrize(
    "records",
    [
        [(b"name", b"real"), (b"realsize", b"9")],
        [(b"major", b"2"), (b"minor", b"0"), (b"map", b"0,5")],
        [(b"major", b"1")],
        [(b"map", b"")],
    ],
)
def test_sparse_records_that_go_ignores(records: list[tuple[bytes, bytes]]) -> None:
    content = pax(*((b"GNU.sparse." + key, value) for key, value in records)) + header(b"file")
    assert read_member(content).name == b"file"


def test_missing_padding_at_the_end_is_no_damage() -> None:
    """Go takes it for the end of the archive, so dockerd loads it."""
    layer = Layer(header(b"file", 5) + b"hello" + bytes(3))
    assert [(member.name, data) for member, data in read_members(bytes_of(layer))] == [(b"file", b"hello")]
    assert reassembled(layer) == layer.content


def test_gnu_long_name_wins_over_pax() -> None:
    content = pax((b"path", b"pax"), (b"linkpath", b"pax")) + long_name(b"L", b"gnu") + long_name(b"K", b"gnu")
    member = read_member(content + header(b"short", 0, b"2", link=b"short"))
    assert (member.name, member.linkname) == (b"gnu", b"gnu")


@pytest.mark.parametrize("text", [header(b"file", 5) + b"hello", pax((b"path", b"x"))[:-500], pax((b"path", b"x"))])
def test_padding_that_is_missing_is_passed_on_as_it_is(text: bytes) -> None:
    """Behind the data of a file, and behind a PAX header that nothing follows."""
    assert reassembled(Layer(text)) == text


def test_global_headers_are_called_what_they_say() -> None:
    found = read_member(pax((b"path", b"other")) + pax((b"path", b"name"), (b"comment", b"x"), kind=b"g"))
    assert (found.name, found.type, found.size) == (b"name", b"g", 0)
    before = pax((b"path", b"other")) + long_name(b"L", b"other")
    assert read_member(before + pax((b"comment", b"x"), kind=b"g")).name == b"PaxHeaders/x"


def test_padding_of_a_global_header_comes_after_it() -> None:
    """So tar-split has it."""
    content = pax((b"comment", b"x"), kind=b"g") + header(b"file")
    comment, file = (member for member, _ in read_members(content + END))
    assert len(comment.raw) == 512 + len(b"13 comment=x\n")
    assert comment.raw + file.raw == content


def test_malformed_global_header() -> None:
    assert problem_of(raw_pax(b"junk", b"g") + END).startswith("a PAX header is not well formed")


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"uname", b"gname", b"SCHILY.xattr.a\0b"])
def test_zero_bytes_in_names(key: bytes) -> None:
    assert "holds a zero byte" in problem_of(pax((key, b"a\0b")) + header(b"file") + END)


def test_values_of_attributes_may_hold_zero_bytes() -> None:
    assert read_member(pax((b"SCHILY.xattr.user.a", b"\0")) + header(b"file")).xattrs == {b"user.a": b"\0"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"\xff" * 8, -1),
        (b"\x80\0\0\0\xff\xff\xff\xff", 0xFFFFFFFF),
        (b"\xbf" + b"\xff" * 7, (1 << 62) - 1),
        (b"7777777\0", 0o7777777),
        (b" 17 \0\0\0\0", 15),
        (b"17\0junk\0", 15),
        (bytes(8), 0),
    ],
)
def test_numbers_are_what_go_reads(text: bytes, number: int) -> None:
    """What the kernel makes of them is not the tar's business."""
    assert read_member(header(b"file", uid=text)).uid == number


def test_numbers_of_pax_records_may_be_negative() -> None:
    member = read_member(pax((b"uid", b"-1"), (b"gid", b"+9223372036854775807")) + header(b"file"))
    assert (member.uid, member.gid) == (-1, (1 << 63) - 1)


def test_numbers_of_devices() -> None:
    member = read_member(header(b"device", 0, b"3", major=b"0010000\0", minor=b"4000000\0"))
    assert member.device == (0o10000, 0o4000000)
    assert read_member(header(b"file", major=b"0010000\0")).device == (0, 0), "of nothing else"


@pytest.mark.parametrize("text", [b"\x80" + b"\xff" * 11, b"\xff\xff\0" + b"\xff" * 9, b"\x80\0\0\0\x80" + bytes(7)])
def test_numbers_of_more_than_64_bits(text: bytes) -> None:
    for content in (header(b"file", text), header(b"file", mtime=text)):
        assert "where a number is expected; the archive is damaged" in problem_of(content + END)


@pytest.mark.parametrize(
    "content",
    [pax((b"size", b"-5")) + header(b"file"), header(b"file", b"\xff" * 12), header(b"odd", b"\xff" * 12, b"Z")],
)
def test_negative_sizes(content: bytes) -> None:
    assert re.fullmatch(r"a tar header has size -\d, which no file can have; .*", problem_of(content + END))


def test_negative_sizes_of_what_has_no_data() -> None:
    assert read_member(header(b"folder", b"\xff" * 12, b"5")).size == 0


@pytest.mark.parametrize("text", [b"0000_17\0", b"+000017\0", b"-000017\0", b"0o00017\0", b"0x00017\0"])
def test_octal_is_only_digits(text: bytes) -> None:
    assert "where a number is expected" in problem_of(header(b"file", uid=text) + END)
