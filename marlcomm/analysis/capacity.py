"""On what does a team spend its bits, where each message chooses them? (DVQ paper, sections 5.4 and 5.5.)

The paper compares tasks: a team's mean capacity with how well it does there, and with its mean quantisation error. Here
messages of one team are compared with each other. How hard an episode is, a script says that plays the same one and
knows everything: the team's own success would mix what it met with what it said. How hard a vector is to quantise, all
quantisers of the pool say together: the error of the chosen one is small because it was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from marlcomm.analysis.evaluation import load_team
from marlcomm.channels.dvq import DVQChannel
from marlcomm.channels.settings import DVQSettings
from marlcomm.envs.base import TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.evaluation import chunks, play_script
from marlcomm.policies.records import each_talk
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import overhear
from marlcomm.registry import ConfigError, Settings
from marlcomm.runs import Run, anywhere

MEASURES = {
    "ceiling_return": "return of the ceiling in the same episode",
    "own_return": "return of the team in the episode",
    "distortion": "squared error per element, mean over the pool's quantisers",
    "step": "step of the episode",
}
_MOST_VALUES = 40  # that are drawn one by one; of more, tenths
_RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """Every message of an evaluation.

    Attributes:
        bits: [M], what its choice costs: those of the selector and of the chosen quantiser's symbols.
        member: [M], the choice, a place in the pool.
        episode: [M], which one it was said in.
        measures: [M] of each of `MEASURES`; without a script that is its ceiling, a world has no ``ceiling_return``.
    """

    bits: Floats
    member: NDArray[np.int64]
    episode: NDArray[np.int64]
    measures: dict[str, Floats]


@dataclass(frozen=True)
class Relation:
    """What the bits of messages have to do with something else.

    Attributes:
        spearman: rank correlation over messages; None where all cost the same, or all are alike in the other.
        low, high: its 95 % interval by bootstrap over whole episodes, of one team: others may do otherwise. None of one
            episode.
        curve: pairs of the other thing and mean bits, for each value, or of tenths of messages where there are many.
    """

    spearman: float | None
    low: float | None
    high: float | None
    curve: list[tuple[float, float]]

    def __str__(self) -> str:
        if self.spearman is None:
            return "-"
        return f"{self.spearman:+.2f}" + ("" if self.low is None else f" [{self.low:+.2f}, {self.high:+.2f}]")


@dataclass(frozen=True)
class Team:
    """What one trained team chooses.

    Attributes:
        run: its name.
        seed: of training and evaluation.
        bits: per message.
        shares: of messages that chose each member of the pool, in its order.
        relations: by the names of `MEASURES`.
        command: what trained it.
        checkpoint: its last one.
    """

    run: str
    seed: int
    bits: float
    shares: dict[str, float]
    relations: dict[str, Relation]
    command: str
    checkpoint: str


def measure_run(run: Run, episodes: int, seed: int | None = None) -> Team:
    """What the team of a run's last checkpoint chooses; by default on the worlds of its evaluations.

    Raises:
        ConfigError: its messages choose no capacity, or it says nothing.
    """
    settings = run.experiment()
    env, policy = load_team(settings, run.last_checkpoint())
    channel, stream = _choosing(policy), settings.evaluation.stream
    said = listen(env, policy, settings.seed if seed is None else seed, episodes, stream)
    env.close()
    names = [f"{g} x {size}" for g, size in channel.settings.pool] + ["continuous"] * channel.settings.continuous
    counts = np.bincount(said.member, minlength=len(names))
    return Team(
        run=settings.name,
        seed=settings.seed if seed is None else seed,
        bits=float(said.bits.mean()),
        shares=dict(zip(names, (counts / counts.sum()).tolist(), strict=True)),
        relations={name: relation(values, said.bits, said.episode) for name, values in said.measures.items()},
        command=anywhere(run.origin()["command"]),
        checkpoint=run.last_checkpoint().name,
    )


def check(settings: Settings, who: str = "capacity") -> None:
    """Raise `ConfigError` where messages choose no quantiser under a channel's settings; `who` is told of."""
    if not isinstance(settings, DVQSettings):
        raise ConfigError(f"{who}: wanted a team whose messages choose theirs, trained with channel.name=dvq")
    if settings.selector != "learned":
        raise ConfigError(f"{who}: got channel.selector={settings.selector}, wanted 'learned': here no message chooses")


def _choosing(policy: TeamPolicy) -> DVQChannel:
    """The channel of a policy, wherever it stands, if its messages choose among quantisers."""
    check(policy.quantiser.settings)
    return cast(DVQChannel, policy.quantiser)


def listen(env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, stream: str = "evaluation") -> Said:
    """Play the worlds of an evaluation, and the ceiling in the same ones, and keep what each message chose."""
    with policy.channel.evaluation():
        parts = list(_listen(env, policy, seed, episodes, stream))
    if not any(len(part.bits) for part in parts):
        raise ConfigError(f"capacity: wanted a team that talks; in {episodes:,} episodes nobody said anything")
    return Said(
        bits=np.concatenate([part.bits for part in parts]),
        member=np.concatenate([part.member for part in parts]),
        episode=np.concatenate([part.episode for part in parts]),
        measures={name: np.concatenate([part.measures[name] for part in parts]) for name in parts[0].measures},
    )


def _listen(env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, stream: str) -> Iterator[Said]:
    player, channel = Player(env, policy, seed, stream), _choosing(policy)
    answers = len(channel.books) * channel.message_size  # of all quantisers to a message
    for worlds in chunks(env, episodes, env.spec.horizon * policy.rounds * max(env.spec.observation_size, answers)):
        rollout, vectors = overhear(player, worlds)
        talk = rollout.talk.quantised
        sent = talk.spoke & each_talk(rollout.acts, talk.spoke)
        symbols = talk.symbols[sent].cpu().numpy()
        episode, talks, _ = (places.cpu().numpy() for places in sent.nonzero(as_tuple=True))
        measures = {
            "own_return": _returns(rollout.rewards)[episode],
            "distortion": channel.distortions(vectors[sent]).mean(-1).double().cpu().numpy(),
            "step": (talks // policy.rounds).astype(np.float64),
        }
        if env.spec.ceiling is not None:
            rewards, _ = play_script(env, env.scripts()[env.spec.ceiling], seed, worlds, stream)
            measures = {"ceiling_return": _returns(rewards)[episode]} | measures
        bits = channel.alphabet().nominal_bits(symbols)
        yield Said(bits, symbols[:, 0].astype(np.int64), worlds.cpu().numpy()[episode], measures)


def _returns(rewards: Tensor) -> Floats:
    """Of rewards [B, T, N] the returns [B]."""
    returns: Floats = rewards.sum((1, 2)).double().cpu().numpy()
    return returns


def relation(values: Floats, bits: Floats, episode: NDArray[np.int64]) -> Relation:
    """What bits [M] of messages have to do with values [M]; only whole episodes [M] are drawn anew."""
    ranks = np.stack([stats.rankdata(values), stats.rankdata(bits)])
    ranks -= ranks.mean(1, keepdims=True)
    x, y = ranks
    curve = _curve(values, bits)
    if not (x.any() and y.any()):
        return Relation(None, None, None, curve)
    place = np.unique(episode, return_inverse=True)[1]
    # Sums over each episode are all that a correlation over resampled episodes needs.
    sums = np.stack([np.bincount(place, weights=w) for w in (np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1)
    if len(sums) == 1:
        return Relation(float(_correlation(sums[0])), None, None, curve)
    times = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_RESAMPLES)
    low, high = np.nanpercentile(_correlation(times.astype(np.float64) @ sums), [2.5, 97.5])
    return Relation(float(_correlation(sums.sum(0))), float(low), float(high), curve)


def _correlation(sums: Floats) -> Floats:
    """Pearson's, of sums [..., 6] of 1, x, y, x x, y y, x y; NaN where one of the two does not vary."""
    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (xy - x * y / count) / np.sqrt((xx - x * x / count) * (yy - y * y / count))
    return found


def _curve(values: Floats, bits: Floats) -> list[tuple[float, float]]:
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) <= _MOST_VALUES:
        groups = [place == number for number in range(len(distinct))]
    else:
        groups = np.array_split(np.argsort(values, kind="stable"), 10)
    return [(float(values[group].mean()), float(bits[group].mean())) for group in groups]


def write(teams: Sequence[Team], file: Path, command: str, episodes: int) -> None:
    """Store what was found as JSON."""
    data = {"command": command, "episodes": episodes, "teams": [asdict(team) for team in teams]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
