"""The README does what it shows."""

from __future__ import annotations

import pytest

from tests.tour import show_tour
from tests.vm.conftest import check_tools


def test_the_tour_prints_what_the_readme_shows(tmp_path_factory: pytest.TempPathFactory) -> None:
    check_tools()
    show_tour(tmp_path_factory.mktemp("t"))  # a short name, because the monitor's socket is there
