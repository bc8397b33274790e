"""What must be true of whatever the parsers of disks accept, and of what they say when they refuse."""

from __future__ import annotations

import json

from preloader_agent.errors import InvalidDisk, StoreError
from preloader_agent.store.containername import checked_name
from preloader_agent.store.digest import Digest, chain_ids
from preloader_agent.store.index import ContainerRecord, content_digest, encode_index, parse_index
from preloader_agent.store.reference import Reference
from preloader_agent.store.repositories import parse_repositories


def check_message(error: Exception) -> None:
    """What a disk says can neither flood a journal nor write to a terminal."""
    assert str(error).isprintable()
    assert len(str(error)) < 700


def sealed(content: bytes) -> bytes:
    """An index with the content digest that it asks for, as an attacker would write it, where it has images."""
    try:
        document = json.loads(content)
        images = [(image["id"], image["references"], image["repo_digests"]) for image in document["images"]]
        containers = [ContainerRecord(each["name"], 0, each["digest"]) for each in document.get("containers", ())]
        return json.dumps({**document, "content_digest": content_digest(images, containers)}).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return content


def check_index_is_sound(content: bytes) -> None:
    """Either InvalidDisk, or an index whose parts follow from each other."""
    try:
        index = parse_index(content, "disk")
    except InvalidDisk as err:
        check_message(err)
        return
    layers = index.layers_by_chain()
    assert layers.keys() == {chain for image in index.images for chain in image.chain}
    for image in index.images:
        assert list(image.chain) == chain_ids(layers[chain].diff_id for chain in image.chain)
        assert sum(layers[chain].size for chain in image.chain) < 1 << 63
        assert all(Reference(reference) == reference for reference in (*image.references, *image.repo_digests))
        assert "".join(image.platform).isprintable()
    for container in index.containers:
        assert checked_name(container.name) == container.name
        assert Digest(container.digest) == container.digest
        assert 0 <= container.size <= 65536
    assert len({container.name for container in index.containers}) == len(index.containers) <= 100
    assert index.label == f"dpl-{index.content_digest.hex[:12]}"
    assert parse_index(encode_index(index), "disk") == index


def check_repositories_are_sound(content: bytes) -> None:
    """Either StoreError, or what can be written, and is read back."""
    try:
        found = parse_repositories(content, "file")
    except StoreError as err:
        check_message(err)
        return
    assert parse_repositories(found.encode(), "file") == found
    entries = found.references()
    assert all(Reference(reference) == reference for reference, _ in entries)
