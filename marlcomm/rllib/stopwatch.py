"""Where the time of a round goes."""

from __future__ import annotations

import time


class Stopwatch:
    """Wall time since the start, cut into named laps, and the processor time that this process used meanwhile.

    Attributes:
        laps: name -> seconds.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()
        self._processor = time.process_time()

    def lap(self, name: str) -> None:
        """End a lap, and begin the next."""
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return sum(self.laps.values())

    @property
    def core_seconds(self) -> float:
        """Processor time of all threads of this process since the start."""
        return time.process_time() - self._processor
