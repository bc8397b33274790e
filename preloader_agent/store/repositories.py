"""repositories.json: which reference names which image. Pure: bytes and values in, values and bytes out.

dockerd refuses to start when the file is not valid JSON, and forgets every tag when it is missing, so nothing here
drops what it does not understand.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from preloader_agent.errors import InvalidValue, StoreError
from preloader_agent.store.digest import ImageID
from preloader_agent.store.reference import Reference


class Repositories(NamedTuple):
    """The file's content; `document` is kept whole, foreign fields included."""

    document: dict[str, Any]

    def find(self, reference: Reference) -> str | None:
        """The image that a reference names, or None."""
        found = self.document["Repositories"].get(reference.name, {}).get(reference)
        return found if isinstance(found, str) else None

    def with_changes(self, *, remove: dict[Reference, ImageID], add: dict[Reference, ImageID]) -> Repositories:
        """A copy without the references of `remove` that still name that very image, and with those of `add`."""
        tree = {name: dict(entries) for name, entries in self.document["Repositories"].items()}
        for reference, image in remove.items():
            entries = tree.get(reference.name, {})
            if entries.get(reference) == image:
                del entries[reference]
                if not entries:
                    del tree[reference.name]
        for reference, image in add.items():
            tree.setdefault(reference.name, {})[str(reference)] = str(image)
        return Repositories({**self.document, "Repositories": tree})

    def references(self) -> list[tuple[Reference, ImageID]]:
        """Every well-formed entry; dockerd skips the others, too."""
        found = []
        for entries in self.document["Repositories"].values():
            for text, image in entries.items():
                try:
                    found.append((Reference(text), ImageID(image)))
                except InvalidValue:
                    continue
        return found

    def encode(self) -> bytes:
        """The file's bytes: one line, sorted keys, as dockerd writes it; half a surrogate pair stays an escape."""
        return json.dumps(self.document, separators=(",", ":"), sort_keys=True).encode()


EMPTY = Repositories({"Repositories": {}})


def parse_repositories(content: bytes, path: str) -> Repositories:
    """Read the file. Raises StoreError when it is not what dockerd would accept."""
    try:
        document = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as err:
        raise StoreError(path, f"not valid JSON ({err}); dockerd would not start with it: repair or remove it") from err
    tree = document.get("Repositories") if isinstance(document, dict) else None
    if tree is None and document == {}:
        return EMPTY
    if not isinstance(tree, dict) or not all(isinstance(entries, dict) for entries in tree.values()):
        raise StoreError(path, 'expected {"Repositories": {name: {reference: image ID}}}; repair or remove it')
    return Repositories(document)


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity, dockerd does not."""
    raise ValueError(f"{constant} is no number")
