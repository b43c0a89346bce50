"""Evaluation: whole episodes from a random stream of their own, every message really encoded and decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcomm.envs.base import Script, TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.coding import CodedEpisodes, FrozenCode
from marlcomm.policies.diagnostics import Diagnostics
from marlcomm.policies.metering import TalkCounts, TalkMeter
from marlcomm.policies.rollout import EpisodeClock, Player, Rollout
from marlcomm.wire.alphabet import Symbols
from marlcomm.wire.bits import Int, Packets, WireError
from marlcomm.wire.packets import HEADER_BYTES, MessageCode, read_packets, write_packets

_WORLDS_AT_ONCE = 1000
_NUMBERS_AT_ONCE = 2**24  # of the widest column of a rollout
_BITS_AT_ONCE = 2**22  # the coders spend several bytes on each bit
_FLOAT_BITS = 32
_BITS_A_SYMBOL = 32  # hardly any code writes more


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

    def with_errors(self) -> dict[str, float]:
        """Means, and the standard errors of success and return (zero where one episode tells nothing)."""
        figures = self.means()
        for name in ("success", "return"):
            values = torch.cat(self.columns[name])
            spread = float(values.std()) if len(values) > 1 else 0.0
            figures[f"{name}_standard_error"] = spread / len(values) ** 0.5
        return figures


def evaluate(
    env: TeamEnv,
    policy: TeamPolicy,
    seed: int,
    episodes: int,
    *,
    stream: str = "evaluation",
    greedy: bool = False,
    code: FrozenCode | None = None,
) -> dict[str, float]:
    """Play one episode of each of `episodes` worlds and count what is said.

    Every message is encoded to bytes and decoded again. Returns figures by the names of the glossary, with
    ``wire_bytes_per_message`` and ``wire_bytes_per_episode`` from the packets' true length. The packets are written by
    the default prefix code, or by a frozen one, whose payload then gives the ``coded_bits_`` figures; ``stream_bits_``
    and entropies stand beside them.

    Raises:
        WireError: a decoded message differs from the sent one.
    """
    meter, player = TalkMeter(policy), Player(env, policy, seed, stream)
    counts, statistics, wire_bytes, paper_bits = TalkCounts(), Episodes(), 0, list[NDArray[np.float64]]()
    coded = CodedEpisodes(meter.link)
    diagnostics = None if code is None or code.links is None else Diagnostics(meter.link, code.links)
    packed = FrozenCode(meter.link.code, policy.channel) if code is None else code
    columns = max(one.alphabet.columns for one in (meter.link, meter.bottleneck) if one is not None)
    widest = max(env.spec.observation_size, columns, policy.channel.noise_size)
    for worlds in chunks(env, episodes, env.spec.horizon * policy.rounds * widest):
        with policy.channel.evaluation():
            rollout = player.play(worlds, torch.zeros_like(worlds), greedy=greedy)
        statistics.add(rollout.rewards, rollout.lengths, rollout.info)
        counts = counts + meter.count(rollout)
        sent = rollout.sent.cpu().numpy()
        packets = _transmit(packed, rollout, sent, packed.context(rollout, seed, stream))
        wire_bytes += int(packets.sizes.sum())
        coded.add(packets.bits, sent, rollout.acts.cpu().numpy())
        if diagnostics is not None:
            diagnostics.add(rollout, sent, seed, stream)
        published = policy.channel.paper_bits(rollout.talk.symbols.cpu().numpy()[sent])
        if published is not None:
            paper_bits.append(published)
    figures = statistics.with_errors() | meter.report(counts)
    if code is not None:
        figures |= coded.report(seed)
        if figures["coded_bits_per_agent_step"]:
            uncoded = _FLOAT_BITS * policy.settings.message_width * policy.rounds
            figures["compression_ratio"] = uncoded / figures["coded_bits_per_agent_step"]
    if diagnostics is not None:
        figures |= diagnostics.report()
    figures["wire_bytes_per_episode"] = wire_bytes / episodes
    if counts.sent.messages:
        figures["wire_bytes_per_message"] = wire_bytes / counts.sent.messages
        if paper_bits:
            figures["paper_bits_per_message"] = float(np.concatenate(paper_bits).mean())
    return figures


def evaluate_shuffled(
    env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, *, stream: str = "evaluation"
) -> dict[str, float]:
    """The same worlds, sampled actions, and messages that come from another episode: what talk is worth without sense.

    Whoever is as good as with its own messages has not learned to listen.
    """
    player, statistics = Player(env, policy, seed, stream), Episodes()
    for worlds in chunks(env, episodes, env.spec.horizon * policy.rounds * env.spec.observation_size):
        with policy.channel.evaluation():
            rollout = player.play(worlds, torch.zeros_like(worlds), shuffled=True)
        statistics.add(rollout.rewards, rollout.lengths, rollout.info)
    return statistics.with_errors()


def evaluate_script(
    env: TeamEnv, script: Script, seed: int, episodes: int, *, stream: str = "evaluation"
) -> dict[str, float]:
    """The same worlds and figures for a script, which reads the world's true state and gives actions [B, N, ...]."""
    statistics = Episodes()
    for worlds in chunks(env, episodes, env.spec.observation_size):
        rewards, clock = play_script(env, script, seed, worlds, stream)
        statistics.add(rewards, clock.lengths, clock.info)
    return statistics.with_errors()


def play_script(env: TeamEnv, script: Script, seed: int, worlds: Tensor, stream: str) -> tuple[Tensor, EpisodeClock]:
    """The first episode of worlds [B]: its rewards [B, T, N], and its lengths and statistics at the end."""
    clock = EpisodeClock(env.reset(seed, worlds, torch.zeros_like(worlds), stream))
    rewards = [clock.count(env.step(script(env))) for _ in range(env.spec.horizon)]
    return torch.stack(rewards, dim=1), clock


def chunks(env: TeamEnv, episodes: int, numbers_per_agent: int) -> tuple[Tensor, ...]:
    """The worlds of an evaluation, few enough at a time for the memory."""
    worlds = min(max(_NUMBERS_AT_ONCE // (env.spec.num_agents * numbers_per_agent), 1), _WORLDS_AT_ONCE)
    parts = -(-episodes // min(worlds, env.worlds_at_once or worlds))
    # Of nearly the same size, so that none is too small for messages to be shuffled.
    return torch.tensor_split(torch.arange(episodes, device=env.device), parts)


@dataclass(frozen=True)
class Sent:
    """What went over the wire: bytes of the packets and bits of their payload, for each message [M]."""

    sizes: Int
    bits: Int


def _transmit(code: FrozenCode, rollout: Rollout, sent: NDArray[np.bool_], context: Int | None) -> Sent:
    """Send every message through bytes; raises `WireError` unless all come back equal."""
    _, steps, senders = np.nonzero(sent)
    symbols = rollout.talk.symbols.cpu().numpy()[sent]
    context = None if context is None else context[sent]
    sizes, bits = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in _parts(len(symbols), _BITS_AT_ONCE // (_BITS_A_SYMBOL * max(symbols.shape[1], 1))):
        here = code.of(None if context is None else context[part])
        packets = _transmit_some(here, steps[part], senders[part], symbols[part])
        sizes.append(packets.sizes)
        bits.append(packets.bits - 8 * HEADER_BYTES)
    return Sent(np.concatenate(sizes), np.concatenate(bits))


def _parts(messages: int, size: int) -> list[slice]:
    return [slice(start, start + max(size, 1)) for start in range(0, messages, max(size, 1))]


def _transmit_some(code: MessageCode, steps: Int, senders: Int, symbols: Symbols) -> Packets:
    packets = write_packets(code, steps, senders, symbols)
    read_steps, read_senders, decoded = read_packets(code, packets)
    same = (decoded == symbols).all(axis=-1) & (read_steps == steps) & (read_senders == senders)
    if not same.all():
        raise WireError(f"{int((~same).sum())} of {len(same)} messages were not decoded to what was sent")
    return packets
