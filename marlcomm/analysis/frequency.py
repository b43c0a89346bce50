"""Does a speaker that pays for bits give frequent goals the shorter messages? DDCL's analysis on Communicating Goal.

The paper correlates how often a goal is drawn with the bits of its messages, r = -0.989, and counts bits by a formula
that no code has. Here bits are those of a code that is fixed beforehand, Elias-gamma: one fitted on the team's messages
would give frequent ones short words whatever the speaker does. Teams that pay nothing for the rate stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from marlcomm import noise
from marlcomm.analysis import proving_ground
from marlcomm.analysis.evaluation import load_team
from marlcomm.analysis.trainings import Watch, train
from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamEnv
from marlcomm.envs.communicating_goal.settings import Cell, CommunicatingGoalSettings
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import overhear
from marlcomm.runs import Run
from marlcomm.wire import Code, EliasGammaCode
from marlcomm.wire.alphabet import Symbols
from marlcomm.wire.bits import Int
from marlcomm.wire.entropy import estimable, histogram, message_ids, plug_in_entropy
from marlcomm.wire.published import paper_bits

PUBLISHED_PEARSON = -0.989
MEASURES = ("surrogate_bits", "paper_bits", "code_bits")
# Pressure grows while the team learns: at a weight of 2e-3 from the first step on, some goals never got a message of
# their own.
# Messages of 16 numbers leave a rare goal room to be long: with 4, whatever it is called is about as short as can be.
_RECIPE = ("policy.message_size=16", "channel.name=ddcl", "channel.delta=1.0", "channel.rate_warmup=400000")
_WORLDS_AT_ONCE = 1000
_DITHERS = 256
_STREAM = "evaluation"


@dataclass(frozen=True)
class Said:
    """Every message of an evaluation.

    Attributes:
        goals: [M], the number of the goal it was said about.
        signals: [M, D], what the speaker gave to the channel.
        symbols: [M, S], what was on the wire.
        surrogate_bits: [M], the channel's rate loss.
    """

    goals: Int
    signals: Tensor
    symbols: Symbols
    surrogate_bits: NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """What is said of one goal; bits are means over its messages, entropies in bits per message.

    Attributes:
        cell: where it is.
        chance: that it is drawn for an episode, exactly.
        messages: how many were about it, one at each step of its episodes.
        share: of all messages; a goal that takes longer to reach is said more often than it is drawn.
        surrogate_bits: of the rate loss, on the speaker's vectors.
        paper_bits: of the paper's formula, on the symbols; no code has these lengths.
        code_bits: of Elias-gamma, on the symbols.
        entropy: plug-in H(m | goal), what the dither alone adds; None where it is not estimable.
        entropy_given_dither: plug-in H(m | goal, eps), zero where the speaker's vector depends on the goal alone.
    """

    cell: Cell
    chance: float
    messages: int
    share: float
    surrogate_bits: float
    paper_bits: float
    code_bits: float
    entropy: float | None
    entropy_given_dither: float


@dataclass(frozen=True)
class Team:
    """A trained team's goals, and what its messages have to do with how often they come.

    Attributes:
        rate_weight: that it was trained with.
        seed: of training and evaluation.
        success, normalized_return: of the run's evaluation.
        spearman, pearson: of chance and bits over goals, for each way to count bits; None where bits do not differ.
        goal_entropy: of goals over messages: each goal counts as often as it is said.
        entropy: plug-in H(m) per message; None where it is not estimable.
        entropy_given_dither: H(m | eps) per message, never above `goal_entropy` where the speaker's vector depends on
            the goal alone.
        command: what trained it.
    """

    rate_weight: float
    seed: int
    success: float
    normalized_return: float
    spearman: dict[str, float | None]
    pearson: dict[str, float | None]
    goal_entropy: float
    entropy: float | None
    entropy_given_dither: float
    goals: list[Goal]
    command: str

    @property
    def code_bits(self) -> float:
        """Elias-gamma bits per message, over all of them."""
        return sum(goal.share * goal.code_bits for goal in self.goals)


def compare(
    config: Path,
    rate_weight: float,
    seeds: int,
    root: Path,
    jobs: int,
    episodes: int,
    watch: Watch = lambda what: None,
) -> list[Team]:
    """Train what is not trained yet below `root`, with the rate weight and without, and listen to every team."""
    labels = {f"ddcl, rate weight {weight:g}": weight for weight in (rate_weight, 0.0)}
    channels = {label: (*_RECIPE, f"channel.rate_weight={weight:g}") for label, weight in labels.items()}
    found = []
    for (label, seed), file in train(config, channels, range(seeds), root, jobs, watch).items():
        watch(f"listening to {label}, seed {seed}")
        trained = proving_ground.read(file, label, seed)
        found.append(_team(Run(file.parent), trained, labels[label], episodes))
    return found


def _team(run: Run, trained: proving_ground.Trained, rate_weight: float, episodes: int) -> Team:
    settings = run.experiment()
    world = settings.env.settings
    assert isinstance(world, CommunicatingGoalSettings)
    env, policy = load_team(settings, run.last_checkpoint())
    said = listen(env, policy, settings.seed, episodes)
    draws = noise.uniform(torch.tensor(noise.stream_number("dithers")), _DITHERS, policy.channel.noise_size)
    goals = by_goal(said, world, policy.channel, draws)
    return Team(
        rate_weight=rate_weight,
        seed=trained.seed,
        success=trained.figures["success"],
        normalized_return=trained.normalized_return,
        spearman={name: correlation(goals, name, stats.spearmanr) for name in MEASURES},
        pearson={name: correlation(goals, name, stats.pearsonr) for name in MEASURES},
        goal_entropy=plug_in_entropy(np.unique(said.goals, return_counts=True)[1]),
        entropy=_entropy(said.symbols),
        entropy_given_dither=entropy_given_dither(policy.channel, said.signals, draws),
        goals=goals,
        command=trained.command,
    )


def listen(env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int) -> Said:
    """Play the worlds of an evaluation and keep what is said, with the goal that it is about."""
    with policy.channel.evaluation():
        parts = list(_listen(env, policy, seed, episodes))
    goals, signals, symbols, surrogate = zip(*parts, strict=True)
    return Said(
        np.concatenate(goals),
        torch.cat(signals),
        np.concatenate(symbols),
        np.concatenate(surrogate),
    )


def _listen(
    env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int
) -> Iterator[tuple[Int, Tensor, Symbols, NDArray[np.float64]]]:
    player = Player(env, policy, seed, _STREAM)
    for worlds in torch.arange(episodes).split(_WORLDS_AT_ONCE):
        rollout, signals = overhear(player, worlds)
        sent = rollout.talk.spoke & rollout.acts
        goals = rollout.info["goal"].long()[:, None, None].expand_as(sent)[sent]
        symbols = rollout.talk.symbols[sent]
        surrogate = policy.channel.losses(signals[sent], symbols)["rate"]
        yield goals.numpy(), signals[sent], symbols.numpy(), surrogate.double().numpy()


def by_goal(said: Said, world: CommunicatingGoalSettings, channel: Channel, draws: Tensor) -> list[Goal]:
    """The goals that something was said about, in the world's order; H(m | goal, eps) over dithers draws [R, K]."""
    code = Code(channel.alphabet(), EliasGammaCode)
    found = []
    for goal, (cell, chance) in enumerate(zip(world.goals, world.chances, strict=True)):
        own = said.goals == goal
        if not own.any():
            continue
        symbols = said.symbols[own]
        found.append(
            Goal(
                cell=cell,
                chance=chance,
                messages=int(own.sum()),
                share=float(own.mean()),
                surrogate_bits=float(said.surrogate_bits[own].mean()),
                paper_bits=float(paper_bits(symbols).mean()),
                code_bits=float(code.lengths(symbols).mean()),
                entropy=_entropy(symbols),
                entropy_given_dither=entropy_given_dither(channel, said.signals[torch.as_tensor(own)], draws),
            )
        )
    return found


def _entropy(symbols: Symbols) -> float | None:
    counts = histogram(symbols)
    return plug_in_entropy(counts.values()) if estimable(counts) else None


def entropy_given_dither(channel: Channel, signals: Tensor, draws: Tensor) -> float:
    """Plug-in H(m | eps) in bits per message: signals [M, D] under each of the draws [R, K], averaged over these.

    Every dither meets all M signals. A message being a function of signal and dither, no dither makes it exceed the
    plug-in entropy of the signals.
    """
    distinct, counts = torch.unique(signals, dim=0, return_counts=True)
    found = []
    for draw in draws:
        ids = message_ids(channel.encode(distinct, draw.expand(len(distinct), -1)).numpy())
        names = np.unique(ids, return_inverse=True)[1]
        found.append(plug_in_entropy(np.bincount(names, weights=counts.numpy())))
    return float(np.mean(found))


def correlation(goals: Sequence[Goal], measure: str, of: Callable[..., Any]) -> float | None:
    """A correlation of chance and bits over goals; None where there are too few, or all cost the same."""
    bits = [getattr(goal, measure) for goal in goals]
    if len(bits) < 3 or len(set(bits)) == 1:
        return None
    return float(of([goal.chance for goal in goals], bits).statistic)


def write(teams: Sequence[Team], file: Path, command: str, episodes: int) -> None:
    """Store what was found as JSON."""
    data = {
        "command": command,
        "episodes": episodes,
        "published_pearson": PUBLISHED_PEARSON,
        "teams": [asdict(team) for team in teams],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
