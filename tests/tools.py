"""The programs that tests need."""

from __future__ import annotations

import shutil

import pytest

from preloader_agent.host.run import environment


def need_tools(*tools: str) -> None:
    """Skip a test where a program is not installed."""
    for tool in tools:
        if shutil.which(tool, path=environment()["PATH"]) is None:
            pytest.skip(f"needs {tool}: run packaging/install-tools")
