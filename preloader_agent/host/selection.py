"""Which images go to a disk, and the names that they have there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from preloader_agent.errors import InvalidArchive, InvalidValue
from preloader_agent.host.files import Files
from preloader_agent.host.images import Image
from preloader_agent.store.digest import ALGORITHM, ImageID
from preloader_agent.store.index import Platform
from preloader_agent.store.reference import Reference

_MIN_ID = 4  # hex digits of an image ID that a user must give at least


class NewName(NamedTuple):
    """A name for an image; `old` is one of its names or the start of its image ID, None for the one without a name."""

    new: Reference
    old: str | None

    @property
    def option(self) -> str:
        """The option that a user gave."""
        return f"--name {self.new}" if self.old is None else f"--tag {self.new}={self.old}"


def parse_name(text: str) -> Reference:
    """A reference as people write them, "latest" if there is no tag. Raises InvalidValue."""
    has_tag = ":" in text.rpartition("/")[2] or "@" in text
    return Reference(text if has_tag else f"{text}:latest")


def parse_tag(text: str) -> NewName:
    """What `--tag` takes, NEW=OLD. Raises InvalidValue."""
    new, equals, old = text.partition("=")
    if not equals or not old:
        raise InvalidValue("--tag", text, "NEW=OLD, such as app:1=0123456789ab")
    return NewName(parse_name(new), old)


def parse_platform(text: str) -> Platform:
    """What `--platform` takes, OS/ARCH[/VARIANT]. Raises InvalidValue."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidValue("--platform", text, "OS/ARCH[/VARIANT], such as linux/arm64")
    return Platform(*parts)


def select_images(inputs: Sequence[tuple[Files, Sequence[Image]]], names: Iterable[NewName]) -> list[Image]:
    """The images of all inputs with all their names, by image ID.

    Raises InvalidArchive when an image is in two inputs or a name stands for two images, and InvalidValue for a new
    name of no image.
    """
    images: dict[ImageID, Image] = {}
    sources: dict[ImageID, Files] = {}
    for files, found in inputs:
        for image in found:
            if sources.setdefault(image.image_id, files) is not files:
                where = f"is in {sources[image.image_id].name} and in {files.name}"
                raise InvalidArchive(files.name, f"image {image.name} {where}; give it once")
            images[image.image_id] = _merge(images.get(image.image_id, image), image)
    claims: dict[Reference, tuple[ImageID, str]] = {}
    for image in images.values():
        for reference in image.references:
            _claim(claims, reference, image.image_id, sources[image.image_id].name)
    for name in names:
        image = _find(images.values(), name.old, name.option)
        _claim(claims, name.new, image.image_id, name.option)
        images[image.image_id] = replace(image, references=tuple(sorted({*image.references, name.new})))
    return sorted(images.values(), key=lambda image: image.image_id)


def _merge(known: Image, image: Image) -> Image:
    """One image that its input lists twice."""
    return replace(
        known,
        references=tuple(sorted({*known.references, *image.references})),
        repo_digests=tuple(sorted({*known.repo_digests, *image.repo_digests})),
    )


def _claim(claims: dict[Reference, tuple[ImageID, str]], reference: Reference, image: ImageID, claimant: str) -> None:
    """One reference names one image; two claims would leave it to chance which one a guest gets."""
    other, other_claimant = claims.setdefault(reference, (image, claimant))
    if other != image:
        raise InvalidArchive(
            claimant,
            f"{reference} names image {image.hex[:12]} here, and {other.hex[:12]} in {other_claimant}; "
            "tag one of them anew, or keep them apart",
        )


def choose_image(images: Sequence[Image], wanted: str | None, option: str) -> Image:
    """The image that an option names (one of its names, or the start of its image ID), else the only one.

    Raises InvalidValue.
    """
    if wanted is not None:
        return _find(images, wanted, option)
    if len(images) != 1:
        raise InvalidValue(option, f"{len(images)} images", f"one of: {_names(images)}")
    return images[0]


def _find(images: Iterable[Image], wanted: str | None, option: str) -> Image:
    """The image that an option is for; None stands for the one without a name."""
    found = [image for image in images if _is_named(image, wanted)]
    if len(found) == 1:
        return found[0]
    match = "an image without a name" if wanted is None else wanted
    problem = f"{len(found)} images match {match}" if found else f"no image matches {match}"
    raise InvalidValue(option, problem, f"one of: {_names(images)}")


def _names(images: Iterable[Image]) -> str:
    return ", ".join(sorted(image.name for image in images))


def _is_named(image: Image, old: str | None) -> bool:
    if old is None:
        return not image.references
    digits = old.removeprefix(ALGORITHM)
    if len(digits) >= _MIN_ID and image.image_id.hex.startswith(digits):
        return True
    try:
        return parse_name(old) in image.references
    except InvalidValue:
        return False
