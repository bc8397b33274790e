"""Telling of progress: a stage that is under way, and how many of how many bytes of it are done."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage, the bytes that are done, and all of them.
Progress = Callable[[str, int, int], None]

_TELL_BYTES = 1 << 20


class Meter:
    """Counts the bytes of a stage; a compressed layer has more than its file.

    It tells of each megabyte, because small files are many and a terminal is slow.
    """

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress = progress
        self._stage = stage
        self._done = self._told = 0
        self.total = 0  # 0 while nobody knows

    def advance(self, count: int) -> None:
        """So many bytes more are done."""
        self._done += count
        if self._done - self._told < _TELL_BYTES:
            return
        self._told = self._done
        self._progress(self._stage, min(self._done, self.total or self._done), self.total)
