"""tar-split.json.gz holds, byte for byte, what dockerd would have written."""

from __future__ import annotations

import base64
import gzip
import io
import json

import pytest

from preloader_agent.host.tarsplit import TarSplit, crc64_of
from preloader_agent.host.tarstream import LayerTar
from tests.host.tars import END, header, padded
from tests.images import edge_image


def test_crc_is_go_iso() -> None:
    """The value that dockerd recorded for a file with this content."""
    assert base64.b64encode(crc64_of(b"top3").to_bytes(8, "big")) == b"QG6sKFAAAAA="
    assert crc64_of(b"p3", crc64_of(b"to")) == crc64_of(b"top3")
    assert crc64_of(b"") == 0


def test_entries_are_written_as_go_writes_them() -> None:
    with TarSplit() as split:
        split.add_segment(b"abc")
        split.add_file(b"bin/", 0, None)
        split.add_file(b"bin/top", 4, crc64_of(b"top3"))
        split.add_file(b"buk/\xff", 0, None)
        split.add_file('é <&>\u2028\u2029\t"\\'.encode(), 0, None)
        split.add_file(b"", 0, None)
        content = split.finish()
    assert gzip.decompress(content).splitlines() == [
        b'{"type":2,"payload":"YWJj","position":0}',
        b'{"type":1,"name":"bin/","payload":null,"position":1}',
        b'{"type":1,"name":"bin/top","size":4,"payload":"QG6sKFAAAAA=","position":2}',
        b'{"type":1,"name_raw":"YnVrL/8=","payload":null,"position":3}',
        '{"type":1,"name":"é \\u003c\\u0026\\u003e\\u2028\\u2029\\t\\"\\\\","payload":null,"position":4}'.encode(),
        b'{"type":1,"payload":null,"position":5}',
    ]


def test_many_entries_stay_in_order() -> None:
    """They are compressed in batches, by a thread."""
    with TarSplit() as split:
        for number in range(10_000):
            split.add_file(b"%d" % number, 0, None)
        content = split.finish()
    entries = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert [(entry["name"], entry["position"]) for entry in entries] == [(f"{n}", n) for n in range(10_000)]


def test_same_entries_give_the_same_bytes() -> None:
    def content() -> bytes:
        with TarSplit() as split:
            split.add_segment(bytes(100_000))
            return split.finish()

    assert content() == content()
    assert content()[:10] == bytes.fromhex("1f8b0800000000000003"), "no time and no name in the header"


def record(content: bytes) -> bytes:
    """What a layer's tar-split is, in the order in which a disk is written."""
    tar = LayerTar(io.BytesIO(content), "layer")
    with TarSplit() as split:
        for member in tar:
            split.add_segment(member.raw)
            crc = 0
            for chunk in tar.data():
                crc = crc64_of(chunk, crc)
            split.add_file(member.name, member.size, crc if member.size else None)
        for chunk in tar.tail():
            split.add_segment(chunk)
        return split.finish()


def reassemble(tar_split: bytes, files: dict[bytes, bytes]) -> bytes:
    """What `docker save` does with it: segments as they are, each file's data behind its entry."""
    found = b""
    for position, line in enumerate(gzip.decompress(tar_split).splitlines()):
        entry = json.loads(line)
        assert entry["position"] == position
        if entry["type"] == 2:
            found += base64.b64decode(entry["payload"])
        elif entry.get("size"):
            name = entry["name"].encode() if "name" in entry else base64.b64decode(entry["name_raw"])
            assert base64.b64decode(entry["payload"]) == crc64_of(files[name]).to_bytes(8, "big")
            assert len(files[name]) == entry["size"]
            found += files[name]
    return found


@pytest.mark.parametrize("number", range(6))
def test_layers_can_be_put_together_again(number: int) -> None:
    content = edge_image().layers[number].content
    assert isinstance(content, bytes)
    tar = LayerTar(io.BytesIO(content), "layer")
    files = {member.name: b"".join(tar.data()) for member in tar}
    assert reassemble(record(content), files) == content


@pytest.mark.parametrize("end", [b"", bytes(512), END, END + b"junk" * 1000])
def test_ends_of_all_kinds_are_kept(end: bytes) -> None:
    content = header(b"file", 5) + padded(b"hello") + end
    assert reassemble(record(content), {b"file": b"hello"}) == content
