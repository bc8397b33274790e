"""The layers of some images: each once, and staged."""

from __future__ import annotations

from collections.abc import Sequence

from preloader_agent.errors import DigestMismatch
from preloader_agent.host.images import Image, LayerSource
from preloader_agent.host.progress import Meter
from preloader_agent.host.staging import StagedLayer, Stager
from preloader_agent.store.digest import DiffID


def unique_layers(images: Sequence[Image]) -> list[LayerSource]:
    """Every layer of some images once, each after its parent."""
    return list({layer.chain_id: layer for image in images for layer in image.layers}.values())


def stage_layers(layers: Sequence[LayerSource], stager: Stager, meter: Meter) -> list[StagedLayer]:
    """The content of each layer; what layers have in common is read once. Raises InvalidArchive and DigestMismatch."""
    sources = {layer.diff_id: layer for layer in layers}
    meter.total = sum(layer.files.size(layer.file) for layer in sources.values())
    staged: dict[DiffID, StagedLayer] = {}
    for diff_id, layer in sources.items():
        staged[diff_id] = layer.files.stage(layer.file, stager)
        if staged[diff_id].diff_id != diff_id:
            raise DigestMismatch(layer.name, diff_id, staged[diff_id].diff_id)
    return [staged[layer.diff_id] for layer in layers]
