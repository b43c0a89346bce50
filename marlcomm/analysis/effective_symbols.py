"""Effective symbols: how many symbols of a message its receivers gain by (SMS paper, section 3.1).

The paper compares teams that were trained with messages of different lengths. Here one team is asked: how often does it
succeed where only the first k symbols of its messages are those that were said? The others are resampled, each from
what the same sender put there in other episodes: a symbol that is as common as ever and says nothing of this episode.
Where a channel has an end mark they are dropped instead: the message ends there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.analysis.evaluation import load_team
from marlcomm.envs.base import TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.records import Talk
from marlcomm.policies.rollout import Player
from marlcomm.registry import ConfigError
from marlcomm.runs import Run, anywhere
from marlcomm.wire.alphabet import Alphabet

ENOUGH = 0.95  # of what the symbols are worth together
_WORLDS_AT_ONCE = 1000


@dataclass(frozen=True)
class Curve:
    """Success of a team by how many symbols are heard as they were said.

    Attributes:
        others: what becomes of the other symbols: resampled or dropped.
        episodes: the same ones for each number of symbols.
        success: of the likeliest actions, for 0 to S symbols.
        effective: the fewest symbols that keep `ENOUGH` of the way from none to all; 0 where all are worth nothing.
    """

    others: str
    episodes: int
    success: list[float]
    effective: int


def measure(env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, stream: str = "evaluation") -> Curve:
    """Play the same episodes with the first 0, 1, ... S symbols of every message heard.

    Raises:
        ConfigError: a symbol cannot be taken out of these messages, or there are several in an episode.
    """
    others = _fate_of_others(env, policy)
    player, found = Player(env, policy, seed, stream), list[Tensor]()
    for worlds in torch.split(torch.arange(episodes, device=env.device), _WORLDS_AT_ONCE):
        first = torch.zeros_like(worlds)
        with policy.channel.evaluation():
            said = player.play(worlds, first, greedy=True).talk
            heard = [_first_symbols(said, kept, others, seed) for kept in range(said.symbols.shape[-1] + 1)]
            found.append(
                torch.stack([player.play(worlds, first, greedy=True, heard=talk).info["success"] for talk in heard])
            )
    success = torch.cat(found, dim=1).double().mean(1).tolist()
    return Curve(others, episodes, success, effective_symbols(success))


def effective_symbols(success: list[float]) -> int:
    """The fewest symbols with at least `ENOUGH` of what all are worth, of the success with 0 to S of them."""
    worth = success[-1] - success[0]
    if worth <= 0:
        return 0
    return next(kept for kept, value in enumerate(success) if value - success[0] >= ENOUGH * worth)


def _fate_of_others(env: TeamEnv, policy: TeamPolicy) -> str:
    talks, alphabet = env.spec.horizon * policy.rounds, policy.channel.alphabet()
    if talks != 1:
        raise ConfigError(
            f"effective symbols: got {talks} messages of a sender in an episode of {env.spec.name}, wanted 1: whoever "
            "hears another first message goes on otherwise, and so would what is said next"
        )
    if policy.bottleneck is not None or not policy.channel.carries:
        raise ConfigError("effective symbols: wanted a channel at the sender, that carries something")
    if not alphabet.conditional:
        return "resampled"
    if alphabet == Alphabet.until_end(alphabet.slots[0].size, alphabet.columns):
        return "dropped"
    raise ConfigError(
        "effective symbols: wanted a channel whose symbols mean the same whichever others stand beside them; here the "
        "first ones say what the others are"
    )


def _first_symbols(said: Talk, kept: int, others: str, seed: int) -> Talk:
    """What was said [B, 1, N, S], of which only the first symbols stayed."""
    symbols = said.symbols.clone()
    if others == "dropped":
        symbols[..., kept:] = 0
        return replace(said, symbols=symbols)
    for sender in range(symbols.shape[2]):
        rows = said.spoke[:, 0, sender].nonzero().squeeze(1)
        for column in range(kept, symbols.shape[-1]):
            order = noise.permutation(len(rows), seed, "effective symbols", sender, column).to(rows.device)
            symbols[rows, 0, sender, column] = said.symbols[rows[order], 0, sender, column]
    return replace(said, symbols=symbols)


def measure_run(run: Run, episodes: int | None = None, seed: int | None = None) -> Curve:
    """The curve of a run's last checkpoint; by default of as many episodes, and the seed, of its evaluations."""
    settings = run.experiment()
    env, policy = load_team(settings, run.last_checkpoint())
    episodes = settings.evaluation.episodes if episodes is None else episodes
    return measure(env, policy, settings.seed if seed is None else seed, episodes, settings.evaluation.stream)


def write(curve: Curve, run: Run, file: Path, command: str) -> None:
    """Store a curve as JSON, with what made the team and what measured it."""
    trained = {"training": anywhere(run.origin()["command"]), "checkpoint": run.last_checkpoint().name}
    data = {"command": command, **trained, **asdict(curve)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
