"""The proving ground: every channel trained on Communicating Goal, beside the least bits that any naming needs.

Each run is a ``marlcomm train`` in a process of its own, so a comparison that was stopped goes on with what is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marlcomm.analysis.lower_curve import lower_hull, points, references
from marlcomm.config import experiment
from marlcomm.config import read as config_data
from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

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
_THREADS = ("resources.threads=1", "resources.num_cpus=1")
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
    watch: Callable[[str], None] = lambda what: None,
) -> list[Trained]:
    """Train what is not trained yet below `root`, and read all evaluations."""
    runs = train(config, {label: CHANNELS[label] for label in labels}, seeds, root, jobs, watch)
    found = [read(file, label, seed) for (label, seed), file in runs.items()]
    return found + _afterwards(root, seeds) if "continuous" in labels else found


def train(
    config: Path,
    channels: Mapping[str, Sequence[str]],
    seeds: int,
    root: Path,
    jobs: int,
    watch: Callable[[str], None] = lambda what: None,
) -> dict[tuple[str, int], Path]:
    """Train a config under each channel's overrides, but nothing that has been trained below `root` before.

    Returns the summary of each label and seed. Raises `ConfigError` where a team of that name was trained otherwise.
    """
    wanted = [(label, seed) for label in channels for seed in range(seeds)]
    missing = []
    for label, seed in wanted:
        found = _summaries(root, label, seed)
        if found:
            _check_same(Run(found[-1].parent), config, _overrides(channels[label], label, seed))
        else:
            missing.append((label, seed))

    def one(case: tuple[str, int]) -> None:
        label, seed = case
        watch(f"{label}, seed {seed}")
        _run("train", str(config), *_overrides(channels[label], label, seed), root=root)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, missing):
            pass
    return {(label, seed): _summaries(root, label, seed)[-1] for label, seed in wanted}


def _overrides(changes: Sequence[str], label: str, seed: int) -> list[str]:
    return [*changes, f"seed={seed}", f"name={_name(label, seed)}", *_THREADS]


def _check_same(run: Run, config: Path, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where a run was not trained as it would be now."""
    then, now = run.experiment().as_data(), experiment(config_data(config, overrides)[0]).as_data()
    different = [key for key, value in now.items() if then[key] != value]
    if different:
        keys = [f"{key}.{name}" for key in different if isinstance(now[key], dict) for name in now[key]]
        keys = [key for key in keys if _at(then, key) != _at(now, key)] or different
        raise ConfigError(
            f"{run.folder} was trained with {keys[0]} = {_at(then, keys[0])!r}, wanted {_at(now, keys[0])!r}: "
            "give another --runs, or remove it"
        )


def _at(data: dict[str, Any], key: str) -> Any:
    group, _, name = key.partition(".")
    return data[group].get(name) if name else data[group]


def _afterwards(root: Path, seeds: int) -> list[Trained]:
    """The continuous teams, quantised without training."""
    found = []
    for label, overrides in AFTERWARDS.items():
        for seed in range(seeds):
            run = Run(_summaries(root, "continuous", seed)[-1].parent)
            file = run.summary_file(overrides)
            if not file.is_file():
                _run("evaluate", str(run.folder), *overrides)
            found.append(read(file, label, seed))
    return found


def _run(*arguments: str, root: Path | None = None) -> None:
    runs = [] if root is None else ["--runs", str(root)]
    command = [sys.executable, "-m", "marlcomm.cli", *arguments, *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(command[3:])} failed:\n{done.stderr.strip()[-2000:]}")


def _name(label: str, seed: int) -> str:
    return f"{''.join(c if c.isalnum() else '_' for c in label)}-{seed}"


def _summaries(root: Path, label: str, seed: int) -> list[Path]:
    """The evaluations of a team, oldest first."""
    return sorted((root / _name(label, seed)).glob("*/summary.json"))


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
    command = str(summary["command"]).partition(" --runs ")[0]
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
