"""Evaluation: whole episodes from a random stream of their own, every message really encoded and decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from marlcomm.envs.base import Script, TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.rollout import Player, Rollout
from marlcomm.policies.team import make_meter
from marlcomm.wire.bits import WireError
from marlcomm.wire.codes import Code
from marlcomm.wire.meter import BandwidthMeter, BitCounts
from marlcomm.wire.packets import read_packets, write_packets

_CHUNK = 1000


@dataclass
class Episodes:
    """Statistics of episodes, one number each: name -> list of vectors."""

    columns: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, rewards: Tensor, lengths: Tensor, info: dict[str, Tensor]) -> None:
        """Add episodes: rewards [B, T, N] of all slots, lengths [B], statistics [B] at the end."""
        for name, values in {"return": rewards.sum((1, 2)), "length": lengths, **info}.items():
            self.columns.setdefault(name, []).append(values.to(torch.float64))

    def means(self) -> dict[str, float]:
        return {name: float(torch.cat(values).mean()) for name, values in self.columns.items()}

    def standard_error(self, name: str) -> float:
        values = torch.cat(self.columns[name])
        return float(values.std() / len(values) ** 0.5)


def evaluate(
    env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, *, stream: str = "evaluation", greedy: bool = False
) -> dict[str, float]:
    """Play one episode of each of `episodes` worlds and count what is said.

    Every message is encoded to bytes and decoded again. Returns figures by the names of the glossary, with
    ``wire_bytes_per_message`` and ``wire_bytes_per_episode`` from the packets' true length.

    Raises:
        WireError: a decoded message differs from the sent one.
    """
    meter, player = make_meter(policy), Player(env, policy, seed, stream)
    counts, statistics, wire_bytes = BitCounts(), Episodes(), 0
    for worlds in torch.arange(episodes).split(_CHUNK):
        rollout = player.play(worlds, torch.zeros_like(worlds), greedy=greedy)
        statistics.add(rollout.rewards, rollout.lengths, rollout.info)
        counts = counts + count(meter, rollout)
        wire_bytes += _transmit(meter.code, rollout)
    figures = statistics.means() | meter.report(counts)
    figures["success_standard_error"] = statistics.standard_error("success")
    figures["return_standard_error"] = statistics.standard_error("return")
    figures["wire_bytes_per_episode"] = wire_bytes / episodes
    if counts.messages:
        figures["wire_bytes_per_message"] = wire_bytes / counts.messages
    return figures


def evaluate_script(
    env: TeamEnv, script: Script, seed: int, episodes: int, *, stream: str = "evaluation"
) -> dict[str, float]:
    """The same worlds and figures for a script, which reads the world's true state and gives actions [B, N]."""
    statistics = Episodes()
    for worlds in torch.arange(episodes).split(_CHUNK):
        env.reset(seed, worlds, torch.zeros_like(worlds), stream)
        rewards, running = [], torch.ones(len(worlds), dtype=torch.bool)
        lengths = torch.zeros(len(worlds), dtype=torch.int64)
        for _ in range(env.spec.horizon):
            now = env.step(script(env))
            rewards.append(now.rewards)
            lengths += running
            running = running & ~(now.terminated | now.truncated)
        statistics.add(torch.stack(rewards, dim=1), lengths, now.info)
    figures = statistics.means()
    figures["success_standard_error"] = statistics.standard_error("success")
    figures["return_standard_error"] = statistics.standard_error("return")
    return figures


def count(meter: BandwidthMeter, rollout: Rollout) -> BitCounts:
    """The meter's counts of a rollout."""
    return meter.count(
        rollout.talk.symbols.cpu().numpy(),
        rollout.talk.spoke.cpu().numpy(),
        rollout.acts.cpu().numpy(),
        env_steps=rollout.env_steps,
        episodes=len(rollout.worlds),
    )


def _transmit(code: Code, rollout: Rollout) -> int:
    """Send every message through bytes; returns how many bytes, and raises `WireError` unless all come back equal."""
    sent = (rollout.talk.spoke & rollout.acts).cpu().numpy()
    _, steps, senders = np.nonzero(sent)
    symbols = rollout.talk.symbols.cpu().numpy()[sent]
    packets = write_packets(code, steps, senders, symbols)
    read_steps, read_senders, decoded = read_packets(code, packets)
    same = (decoded == symbols).all(axis=-1) & (read_steps == steps) & (read_senders == senders)
    if not same.all():
        raise WireError(f"{int((~same).sum())} of {len(same)} messages were not decoded to what was sent")
    return int(packets.sizes.sum())
