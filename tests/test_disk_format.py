"""docs/disk-format.md says what the code does: its tables, its formulas and its example."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from base64 import b32encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preloader_agent import tables
from preloader_agent.errors import InvalidDisk
from preloader_agent.guest import plainstore
from preloader_agent.host.disk import BuildOptions, build_disk
from preloader_agent.host.diskimage import open_image
from preloader_agent.host.ext4 import groups, layout
from preloader_agent.host.ext4.reader import Ext4
from preloader_agent.host.inspection import inspect_disk
from preloader_agent.host.tarstream import CHR, DIR, REG, SYM
from preloader_agent.store import containername, digest, index, reference
from preloader_agent.store.layout import STORE_DIRECTORIES
from tests.images import Image, make_layer, write_docker_archive
from tests.images.archive import ARCHITECTURE
from tests.images.layer import directory, file, whiteout
from tests.soundness import sealed

PAGE = (Path(__file__).parent.parent / "docs" / "disk-format.md").read_text()

LETTERS = {REG: "-", DIR: "d", SYM: "l", CHR: "c"}
LIMITS = {
    "bytes of `preload.json`": index.MAX_INDEX_BYTES,
    "images": index.MAX_IMAGES,
    "layers of a disk": index.MAX_DISK_LAYERS,
    "layers of an image": digest.MAX_LAYERS,
    "references and repo digests, of all images together": index.MAX_REFERENCES,
    "bytes of an image's configuration": index.MAX_CONFIG_BYTES,
    "bytes of all configurations together": index.MAX_CONFIGS_BYTES,
    "containers": index.MAX_CONTAINERS,
    "bytes of a container's definition": index.MAX_CONTAINER_BYTES,
    "commas and opening brackets of a JSON document": index._MAX_JSON_VALUES,
    "a size": index._MAX_SIZE,
    "characters of a text": 200,
    "characters of a name, without tag or digest": reference._MAX_NAME,
    "characters of a tag": 128,
    "characters of a container's name": containername.MAX_NAME,
}


def example() -> str:
    match = re.search(r"<!-- example -->\n```json\n(.*?)```", PAGE, re.S)
    assert match is not None
    return match[1]


def section(title: str) -> str:
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert match is not None, title
    return match[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the first table of a section, without its heading."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def make_example(folder: Path) -> Path:
    """The disk of the page."""
    base = make_layer([directory("etc"), file("etc/motd", "hello\n"), file("etc/issue", "x\n")])
    top = make_layer([file("etc/motd", "hello again\n"), whiteout("etc/issue")])
    image = Image((base, top), ("example:1",), {"Cmd": ["cat", "/etc/motd"]})
    archive = write_docker_archive([image], folder / "example.tar")
    container = folder / "hello.toml"
    container.write_text('image = "example:1"\n')
    return build_disk([archive], folder / "example.qcow2", BuildOptions(containers=(container,))).path


def show_tree(filesystem: Ext4) -> list[str]:
    """Mode and path of everything, with the content of what is short, and names of 64 digits cut."""
    found = [(path, number) for path, number in _walk(filesystem, layout.ROOT_INODE, "")]
    lines = [f"{_kind(filesystem, number)} {path}{_content(filesystem, path, number)}" for path, number in found]
    return [re.sub("([0-9a-f]{12})[0-9a-f]{52}", r"\1...", line) for line in lines]


def _walk(filesystem: Ext4, number: int, path: str) -> Iterator[tuple[str, int]]:
    for name, below in sorted(filesystem.entries(number).items()):
        is_folder = filesystem.is_folder(below)
        yield path + name.decode() + "/" * is_folder, below
        if is_folder:
            yield from _walk(filesystem, below, f"{path}{name.decode()}/")


def _kind(filesystem: Ext4, number: int) -> str:
    inode = filesystem.inode(number)
    return f"{LETTERS[inode.type]}{inode.mode:04o}"


def _content(filesystem: Ext4, path: str, number: int) -> str:
    inode = filesystem.inode(number)
    if inode.type == SYM:
        return f" -> {filesystem.target(inode).decode()}"
    if inode.type == CHR:
        return " {}/{}".format(*inode.device)
    if inode.type == REG and 0 < inode.size < 80 and not path.endswith(".gz"):
        return f": {b''.join(filesystem.pieces(inode)).decode().strip()}"
    return ""


def parse(document: object) -> index.DiskIndex:
    return index.parse_index(json.dumps(document).encode(), "disk x")


def test_the_example_is_a_disk() -> None:
    found = index.parse_index(example().encode(), "the example")
    assert index.encode_index(found) == example().encode()
    assert f"`{found.label}`" in PAGE
    assert f"`{uuid.UUID(found.content_digest.hex[:32])}`" in PAGE


@pytest.mark.skipif(ARCHITECTURE != "amd64", reason="the example's image is for amd64, and another one has another ID")
def test_the_example_is_what_build_writes(tmp_path: Path) -> None:
    disk = make_example(tmp_path)
    built, shown = inspect_disk(disk), index.parse_index(example().encode(), "the example")
    # What gzip makes of a tar-split depends on zlib's version.
    assert without_tar_splits(built) == without_tar_splits(shown)
    with Ext4(open_image(disk)) as filesystem:
        assert "<!-- tree -->\n```text\n" + "\n".join(show_tree(filesystem)) + "\n```\n" in PAGE


def without_tar_splits(found: index.DiskIndex) -> index.DiskIndex:
    return found._replace(layers=tuple(layer._replace(tar_split=None) for layer in found.layers), created_by="")


def fields(document: Any, prefix: str = "") -> Iterator[str]:
    """The fields of a document in the order of the file, as the page writes them."""
    for key, value in document.items():
        yield prefix + key
        item = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
        if isinstance(item, dict):
            yield from fields(item, f"{prefix}{key}{'[]' * isinstance(value, list)}.")


def test_the_table_has_the_fields_of_the_file() -> None:
    assert [row[0].strip("`") for row in rows("preload.json")] == list(fields(json.loads(example())))


@pytest.mark.parametrize("row", rows("preload.json"), ids=lambda row: row[0])
def test_what_is_required_is_required(row: list[str]) -> None:
    document = json.loads(example())
    *parents, last = row[0].strip("`").split(".")
    holder = document
    for parent in parents:
        holder = holder[parent.removesuffix("[]")]
        holder = holder[0] if isinstance(holder, list) else holder
    del holder[last]
    if row[2] == "no":
        index.parse_index(sealed(json.dumps(document).encode()), "disk x")
    else:
        with pytest.raises(InvalidDisk, match=f"field '{last}' is missing"):
            parse(document)


def test_the_limits_are_those_of_the_code() -> None:
    found = {name: re.findall(r"\d+", value)[0] for name, value in rows("Limits")}
    assert found == {name: str(value) for name, value in LIMITS.items()}


@pytest.mark.parametrize("number", [200, 201])
def test_the_limit_of_a_text(number: int) -> None:
    assert (is_accepted({"created_by": "x" * number})) is (number <= LIMITS["characters of a text"])


@pytest.mark.parametrize("number", [128, 129])
def test_the_limit_of_a_tag(number: int) -> None:
    document = json.loads(example())
    document["images"][0]["references"] = ["example:" + "x" * number]
    content = [[document["images"][0]["id"], document["images"][0]["references"], []]]
    containers = [[container["name"], container["digest"]] for container in document["containers"]]
    text = json.dumps([1, content, containers], separators=(",", ":"))
    accepted = is_accepted({**document, "content_digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest()})
    assert accepted is (number <= LIMITS["characters of a tag"])


def is_accepted(change: dict[str, object]) -> bool:
    try:
        parse({**json.loads(example()), **change})
    except InvalidDisk:
        return False
    return True


def test_a_definition_is_no_longer_than_what_is_read_of_one() -> None:
    assert index.MAX_CONTAINER_BYTES == tables.MAX_BYTES


def test_the_limits_of_plain_disks() -> None:
    text = section("Plain disks")
    assert f"at most {plainstore._MAX_ENTRIES} entries" in text
    assert f"at most {plainstore._MAX_REPOSITORIES_BYTES} bytes" in text


def test_the_formulas_are_those_of_the_code() -> None:
    texts = re.findall('SHA-256\\("([^"]*)" \\+ chain_id\\)', section("CacheID and link"))
    for layer in json.loads(example())["layers"]:
        cache_id, link = (hashlib.sha256((text + layer["chain_id"]).encode()) for text in texts)
        assert cache_id.hexdigest() == layer["cache_id"]
        assert b32encode(link.digest()).decode()[:26] == layer["link"]


def test_the_file_system_is_as_it_says() -> None:
    values = dict(rows("The whole disk"))
    assert values["size of a block"] == f"{layout.BLOCK_SIZE} bytes"
    assert values["size of an inode"] == f"{layout.INODE_SIZE} bytes"
    largest = groups._MAX_GROUPS * layout.BLOCKS_PER_GROUP * layout.BLOCK_SIZE >> 30
    assert values["largest"] == f"{largest} GiB"
    for name, known in (("", layout.COMPAT), ("in", layout.INCOMPAT), ("read-only ", layout.RO_COMPAT)):
        assert re.findall(r"`(\w+)`", values[f"{name}compatible features"]) == list(known)


def test_the_modes_of_directories_are_those_of_the_code() -> None:
    found = {}
    for names, mode, *_ in rows("Files"):
        first, *below = re.findall("`([^`]*)/`", names) or [""]
        found.update({name if name.startswith("image") else f"{first}/{name}": mode for name in below})
        found[first] = mode
    assert [(path, found.get(path)) for path, _ in STORE_DIRECTORIES] == [
        (path, f"{mode:04o}") for path, mode in STORE_DIRECTORIES
    ]


def test_the_table_has_every_file_of_the_example() -> None:
    tree = re.search(r"<!-- tree -->\n```text\n(.*?)```", PAGE, re.S)
    assert tree is not None
    names = re.findall("`([^`]*)`", " ".join(row[0] for row in rows("Files")))
    patterns = [re.sub("<[a-z-]+>", "[0-9a-zA-Z.]+", name.replace("+", "[+]")) for name in names]
    for line in tree[1].splitlines():
        path = re.split(" -> |: | 0/0", line[6:])[0]
        is_known = any(re.fullmatch(pattern, path) for pattern in patterns)
        assert is_known or "/diff/" in path or "/imagedb/" in path, path
