"""Containers that disks bring, for the tests of whole guests: their definitions, and an image that needs no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from preloader_agent.host.run import find_tool
from tests.images import Image, make_layer
from tests.images.layer import directory, file


def waiting_container(image: str, *lines: str, status: int = 0) -> str:
    """The definition of a container that does nothing until it is told to end, by one signal or the other."""
    script = f"trap 'exit {status}' INT TERM; while true; do /bin/busybox sleep 0.1; done"
    cmd = json.dumps(["/bin/busybox", "sh", "-c", script])
    return "\n".join([f'image = "{image}"', f"cmd = {cmd}", 'networks = ["none"]', 'user = "0"', *lines, ""])


def clock_image() -> Image:
    """An image that shares no layer with others: nothing of it stands on another disk."""
    busybox = file("bin/busybox", Path(find_tool("busybox", "install busybox-static")).read_bytes(), 0o755)
    return Image((make_layer([*map(directory, ("bin", "dev", "etc", "proc", "sys")), busybox]),), ("clock:1",), {})


def write_definitions(folder: Path, containers: Mapping[str, str]) -> tuple[Path, ...]:
    """Files NAME.toml in a new folder, which is made if there are any."""
    if containers:
        folder.mkdir()
    files = {folder / f"{name}.toml": text for name, text in containers.items()}
    for path, text in files.items():
        path.write_text(text)
    return tuple(files)
