"""References: the names and tags of images, in the familiar form that Docker stores and shows.

The grammar and the normalization are those of github.com/distribution/reference (reference.go, normalize.go).
"""

from __future__ import annotations

import re

from preloader_agent.errors import InvalidValue

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers, without the import
if TYPE_CHECKING:
    from typing import Self

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATTERN = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))",
    re.ASCII,
)
_MAX_NAME = 255  # reference.go, RepositoryNameTotalLengthMax


class Reference(str):
    """A name with a tag, or a name with a manifest digest, in familiar form: `x:1`, `u/x:1`, `ghcr.io/o/r@sha256:...`.

    Raises InvalidValue for anything else, a bare name included: nothing here guesses "latest".
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check the text and make it familiar."""
        match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        name = _familiar(match["name"]) if match else ""
        # docker.io/docker.io/x would be read back as x: what is stored must name the same image the next time.
        is_ambiguous = _familiar(name) != name or re.fullmatch("[0-9a-f]{64}", name)
        if match is None or len(match["name"]) > _MAX_NAME or is_ambiguous:
            raise InvalidValue(cls.__name__, text, "an image reference such as name:tag")
        return super().__new__(cls, name + text[len(match["name"]) :])

    @property
    def name(self) -> str:
        """The part without tag or digest: the outer key in repositories.json."""
        return self.partition("@")[0] if "@" in self else self.rpartition(":")[0]

    @property
    def full(self) -> str:
        """The same with its registry, also where that is Docker Hub: what containerd calls the image."""
        first, slash, _ = self.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            return self
        return f"docker.io/{self}" if slash else f"docker.io/library/{self}"


def _familiar(name: str) -> str:
    """`docker.io/library/x` is shown as `x`, `docker.io/u/x` as `u/x`, everything else in full."""
    domain, slash, rest = name.partition("/")
    if slash and domain in ("docker.io", "index.docker.io"):
        return rest.removeprefix("library/") if rest.count("/") == 1 else rest
    if slash and domain == "library" and "/" not in rest:
        return rest
    return name
