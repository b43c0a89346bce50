"""Writing figures down: TensorBoard events with env steps on the x-axis, and one line of JSON a round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from marlcomm import disk

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricLog:
    """Figures by tag, to TensorBoard and to ``metrics.jsonl`` in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._first: int | None = None
        self._events: SummaryWriter | None = None

    @property
    def _lines(self) -> Path:
        return self._folder / "metrics.jsonl"

    def go_back(self, env_steps: int) -> None:
        """The next `write` forgets every point after these env steps: the run goes on from there, and writes them anew.

        Until then the files stay as they are: whoever only looks at a checkpoint changes nothing.
        """
        self.close()
        self._first = env_steps + 1

    def write(self, figures: Mapping[str, float], env_steps: int, round_: int) -> None:
        """One point on every curve. Raises `DiskError` where the disk refuses."""
        try:
            self._write(figures, env_steps, round_)
        except OSError as error:
            self._events = None  # whoever closes the log must not fail once more
            raise disk.DiskError(f"cannot write figures to {self._folder}: {disk.reason(error)}") from error

    def _write(self, figures: Mapping[str, float], env_steps: int, round_: int) -> None:
        if self._events is None:
            # tensorboard takes a second to import, and only runs need it.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._first)
            if self._first is not None:
                self._cut(self._first)
        for tag, value in figures.items():
            self._events.add_scalar(tag, value, env_steps)
        with self._lines.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"env_steps": env_steps, "round": round_, **figures}) + "\n")

    def _cut(self, first: int) -> None:
        """Keep the lines before these env steps, and no line that was cut short."""
        if not self._lines.is_file():
            return
        lines = self._lines.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["env_steps"] < first]
        disk.write(self._lines, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()
