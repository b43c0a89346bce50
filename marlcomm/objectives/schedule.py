"""Numbers that change over training, as piecewise linear functions of the env steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear between points (env steps, value), constant before the first and after the last."""

    points: tuple[tuple[float, float], ...]

    @staticmethod
    def of(value: float | Sequence[Sequence[float]]) -> Schedule:
        """A constant, or a list of [env steps, value] in rising order."""
        if isinstance(value, (int, float)):
            return Schedule(((0.0, float(value)),))
        return Schedule(tuple((float(step), float(number)) for step, number in value))

    def at(self, env_steps: float) -> float:
        start, value = self.points[0]
        for step, number in self.points:
            if env_steps <= step:
                share = 1.0 if step == start else (env_steps - start) / (step - start)
                return value + min(max(share, 0.0), 1.0) * (number - value) if env_steps > start else value
            start, value = step, number
        return value
