"""The example of docs/testing.md, as a user runs it: a pytest of its own, with the plugin and a guest."""

from __future__ import annotations

import sys
from pathlib import Path

from preloader_agent.host.run import run
from tests.host.command import PYTHONPATH
from tests.images import example_images, write_docker_archive

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"
BOUND = 900.0  # seconds: two boots, and six containers


def test_the_example_passes(guest: Path, tmp_path: Path) -> None:
    write_docker_archive(example_images(), tmp_path / "images.tar", "oci")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # and not the settings of our own tests
    options = ["-c", tmp_path / "pytest.ini", "-p", "preloader_agent.host.pytest_plugin", f"--preload-guest={guest}"]
    environment = {"PYTHONPATH": PYTHONPATH, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "XDG_CACHE_HOME": str(tmp_path)}
    pytest: list[str | Path] = ["env", f"--chdir={tmp_path}", sys.executable, "-m", "pytest"]
    said = run([*pytest, *map(str, options), EXAMPLE], env=environment, timeout=BOUND)
    assert "3 passed" in said, said
