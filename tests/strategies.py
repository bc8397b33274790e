"""What Hypothesis generates for the tests of properties: the same examples in each run, and not more than take seconds.

`python -m bench.fuzz` looks further, with coverage to guide it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from preloader_agent.store.digest import CacheID, DiffID, Digest, ImageID, Link, chain_ids, sha256_digest
from preloader_agent.store.index import ContainerRecord, DiskIndex, ImageRecord, LayerRecord, Platform
from preloader_agent.store.reference import Reference

bounded = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

component = st.from_regex(r"\A[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}\Z")
domain = st.sampled_from(["docker.io", "index.docker.io", "ghcr.io", "localhost:5000", "[::1]:80", "R.example"])
tag = st.from_regex(r"\A\w[\w.-]{0,20}\Z", fullmatch=True).filter(str.isascii)
digests = st.binary(max_size=4).map(sha256_digest)


@st.composite
def reference_texts(draw: st.DrawFn) -> str:
    """A text by the grammar of references, in full or familiar form."""
    path = draw(st.lists(component | st.sampled_from(["library", "docker.io"]), min_size=1, max_size=3))
    name = "/".join(draw(st.just([]) | domain.map(lambda found: [found])) + path)
    return f"{name}:{draw(tag)}" if draw(st.booleans()) else f"{name}@{draw(digests)}"


tags = st.sampled_from([Reference(f"{name}:{number}") for name in ("app", "ghcr.io/o/app", "u/x") for number in "12"])
layer_names = st.lists(st.sampled_from("abcdef"), max_size=4).map(tuple)
images = st.lists(st.tuples(layer_names, st.lists(tags, max_size=3)), max_size=4, unique_by=lambda image: image[0])
sizes = st.integers(min_value=0, max_value=(1 << 56) - 1)
printable = st.text(max_size=200).filter(str.isprintable)
platforms = st.builds(Platform, printable, printable, printable)
container_names = st.from_regex(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{1,8}\Z", fullmatch=True)
containers = st.builds(ContainerRecord, container_names, st.integers(0, 65536), digests.map(Digest))


@st.composite
def indexes(draw: st.DrawFn) -> DiskIndex:
    """The index of a disk: up to four images, which share layers, and up to three containers."""
    layers: dict[str, LayerRecord] = {}
    records = []
    for number, (names, references) in enumerate(draw(images)):
        diff_ids = [DiffID(sha256_digest(name.encode())) for name in names]
        chain = tuple(chain_ids(diff_ids))
        for diff_id, link in zip(diff_ids, chain, strict=True):
            split = draw(st.none() | digests)
            layers.setdefault(
                link, LayerRecord(diff_id, link, CacheID.of_chain(link), Link.of_chain(link), draw(sizes), split)
            )
        image = ImageID(sha256_digest(b"%d" % number))
        digest = (Reference(f"app@{draw(digests)}"),) if draw(st.booleans()) else ()
        records.append(ImageRecord(image, tuple(references), digest, draw(platforms), chain, draw(sizes)))
    services = draw(st.lists(containers, max_size=3, unique_by=lambda container: container.name))
    return DiskIndex(tuple(records), tuple(layers.values()), draw(printable), tuple(services))


@st.composite
def replaced(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document with some value in it replaced, removed or given twice."""
    if not isinstance(document, (dict, list)) or not document or draw(st.integers(0, 5)) == 0:
        return draw(json_values)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = draw(st.sampled_from(keys))
    changed: Any = document.copy()
    how = draw(st.integers(0, 3))
    if how == 0:
        del changed[key]
    elif how == 1 and isinstance(changed, list):
        changed.append(changed[key])
    else:
        changed[key] = draw(replaced(document[key]))
    return changed


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes with a few of them changed, cut out, or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(found)))
        found[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(found)
