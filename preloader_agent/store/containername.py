"""The names of containers that are services: what Docker takes, and what can stand in a path and in a unit's name.

Apart from the rest of a container's definition because a disk's index has such names, and is read while docker waits.
"""

from __future__ import annotations

import re

from preloader_agent.errors import InvalidValue

MAX_NAME = 100  # characters; a unit's name has at most 255, and stands in paths

# moby's daemon/names/names.go: at least two characters.
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)


def checked_name(text: object) -> str:
    """A name that Docker takes for a container, and whose service is none of ours. Raises InvalidValue."""
    is_name = isinstance(text, str) and len(text) <= MAX_NAME and _NAME.fullmatch(text)
    if not is_name or re.match("preloader(-|$)", str(text)):
        expected = "at least two letters, digits and _.- beginning with a letter or digit"
        raise InvalidValue("container name", text, f"{expected}, at most {MAX_NAME}, and not `preloader`")
    return str(text)
