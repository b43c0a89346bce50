"""The proving ground: every channel trained on Communicating Goal, beside the least bits that any naming needs.

What has been trained before is not trained again (see `marlcomm.analysis.trainings`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marlcomm.analysis.lower_curve import lower_hull, points, references
from marlcomm.analysis.trainings import Watch, evaluated, train
from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
from marlcomm.registry import ConfigError
from marlcomm.runs import Run, anywhere

# Labels and what they change in the config. All have the message size of the config.
CHANNELS: dict[str, tuple[str, ...]] = {
    "continuous": ("channel.name=continuous",),
    "float16": ("channel.name=float16",),
    "int8": ("channel.name=int8",),
    "uniform, 2 bits": ("channel.name=uniform", "channel.bits=2"),
    "fsq, 3 x 3": ("channel.name=fsq", "channel.levels=[3,3]"),
    "lfq, 6 bits": ("channel.name=lfq", "channel.bits=6"),  # with 3 and 4 bits, most codes fall together
    "vq, 8": ("channel.name=vq", "channel.codebook_size=8"),
    # A member of two codewords would pull all messages to two points, and the team falls silent.
    "dvq, 8 or 8 x 8": ("channel.name=dvq", "channel.pool=[[1,8],[2,8]]"),
    "rvq, 2 x 4": ("channel.name=rvq", "channel.stages=2", "channel.codebook_size=4"),
    "ddcl": ("channel.name=ddcl", "channel.delta=1.0", "channel.rate_weight=5e-4"),
    "ddcl, knows the dither": (
        "channel.name=ddcl",
        "channel.delta=1.0",
        "channel.rate_weight=5e-4",
        "channel.dither_levels=64",
        "channel.code=dither_conditional",
    ),
    "gumbel, 8": ("channel.name=gumbel", "channel.vocabulary=8"),
    "gr_mck, 8": ("channel.name=gr_mck", "channel.vocabulary=8", "channel.temperature=1.0"),  # that of gumbel
    "daps, 8": ("channel.name=daps", "channel.vocabulary=8"),
    "silent": ("channel.name=silent",),
}
AFTERWARDS = {
    f"continuous, then {bits} bits": ("channel.name=post_training", f"channel.bits={bits}") for bits in (2, 4, 8)
}
_KEPT = ("success", "return", "return_standard_error")
_CODED = ("coded_bits_per_agent_step", "coded_bits_per_episode")


@dataclass(frozen=True)
class Trained:
    """A team's evaluation.

    Attributes:
        label: of the channel, as in `CHANNELS`.
        seed: of training and evaluation.
        normalized_return: 0 is the best silent listener, 1 the oracle, both exactly.
        figures: of the summary, by their names without the group.
        command: what trained it.
    """

    label: str
    seed: int
    normalized_return: float
    figures: dict[str, float]
    command: str
    env_steps: int
    training_seconds: float


def compare(
    config: Path,
    labels: Sequence[str],
    seeds: int,
    root: Path,
    jobs: int,
    watch: Watch = lambda what: None,
) -> list[Trained]:
    """Train what is not trained yet below `root`, and read all evaluations."""
    summaries = train(config, {label: CHANNELS[label] for label in labels}, range(seeds), root, jobs, watch)
    found = [read(file, label, seed) for (label, seed), file in summaries.items()]
    for label, overrides in AFTERWARDS.items() if "continuous" in labels else ():
        runs = [(seed, Run(summaries["continuous", seed].parent)) for seed in range(seeds)]
        found += [read(evaluated(run, overrides), label, seed) for seed, run in runs]
    return found


def read(file: Path, label: str, seed: int) -> Trained:
    """A team's evaluation from its summary, returns counted from the best silent listener to the oracle."""
    summary = json.loads(file.read_text(encoding="utf-8"))
    settings = Run(file.parent).experiment().env.settings
    if not isinstance(settings, CommunicatingGoalSettings):
        raise ConfigError(f"env.name: the proving ground is communicating_goal, {file.parent} is {summary['env']}")
    low, high = references(settings)
    names = [*_KEPT, *_CODED, *(f"{name}_{end}" for name in _CODED for end in ("low", "high"))]
    names += ["prefix_bits_per_message", "joint_entropy_bits_per_message", "paper_bits_per_message"]
    figures = {name: summary[f"evaluation/{name}"] for name in names if f"evaluation/{name}" in summary}
    way = (figures["return"] - low) / (high - low)
    command = anywhere(summary["command"])
    return Trained(label, seed, way, figures, command, summary["env_steps"], summary["training_seconds"])


def curve(settings: CommunicatingGoalSettings) -> list[tuple[float, float]]:
    """The lower curve as pairs of bits per message and normalised return."""
    return [(point.bits_per_message, point.normalized_return) for point in lower_hull(points(settings), "message")]


def write(found: Sequence[Trained], settings: CommunicatingGoalSettings, file: Path, command: str) -> None:
    """Store evaluations and the lower curve as JSON."""
    data: dict[str, Any] = {
        "command": command,
        "settings": settings.model_dump(mode="json"),
        "lower_curve": [{"bits_per_message": bits, "normalized_return": way} for bits, way in curve(settings)],
        "teams": [asdict(team) for team in found],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
