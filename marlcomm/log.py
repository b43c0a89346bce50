"""Writing figures down: TensorBoard events with env steps on the x-axis, and one line of JSON a round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


class MetricLog:
    """Figures by tag, to TensorBoard and to ``metrics.jsonl`` in one folder."""

    def __init__(self, folder: Path) -> None:
        # tensorboard takes a second to import, and only runs need it.
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        kept = _last_env_steps(folder / "metrics.jsonl")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=None if kept is None else kept + 1)
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def write(self, figures: Mapping[str, float], env_steps: int, round_: int) -> None:
        """One point on every curve."""
        for tag, value in figures.items():
            self._events.add_scalar(tag, value, env_steps)
        self._lines.write(json.dumps({"env_steps": env_steps, "round": round_, **figures}) + "\n")
        self._lines.flush()

    def close(self) -> None:
        self._events.close()
        self._lines.close()


def _last_env_steps(file: Path) -> int | None:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return int(json.loads(lines[-1])["env_steps"]) if lines else None


def cut_after(file: Path, env_steps: int) -> None:
    """Drop the lines of a ``metrics.jsonl`` that lie beyond a checkpoint, to be written again."""
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["env_steps"] <= env_steps]
        file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
