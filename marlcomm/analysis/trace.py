"""Traces: every packet of an evaluation in one file, and the proof that who hears nothing else plays the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcomm.analysis.evaluation import load_team
from marlcomm.config import Experiment
from marlcomm.envs.base import TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.coding import FrozenCode, frozen_code
from marlcomm.policies.records import Talk
from marlcomm.policies.rollout import Player, Rollout, channel_noise, noise_of_talks
from marlcomm.registry import ConfigError
from marlcomm.runs import Run
from marlcomm.wire.bits import Int, Packets, WireError
from marlcomm.wire.packets import read_header, read_packets, write_packets

FILE = "wire.npz"
_FORMAT = 1
_WORLDS_AT_ONCE = 250


@dataclass(frozen=True)
class Trace:
    """What was on the wire, episode by episode.

    Attributes:
        about: seed, number of episodes, hashes of the team's weights and of the packets, and the code's state.
        data: the bytes of all packets, those of an episode in the order of steps and senders.
        sizes: [M], bytes of each packet.
        episodes: [M], whose packet each one is.
        actions: [E] hashes of everybody's actions in each episode.
        returns: [E].
    """

    about: dict[str, Any]
    data: NDArray[np.uint8]
    sizes: Int
    episodes: Int
    actions: NDArray[np.uint64]
    returns: NDArray[np.float64]

    def write(self, file: Path) -> None:
        """Store the trace; the file appears under its name only when it is whole."""
        partial = file.with_suffix(".partial.npz")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(partial, about=np.array(json.dumps({"format": _FORMAT, **self.about})), **arrays)
        partial.rename(file)

    @staticmethod
    def read(file: Path) -> Trace:
        """A stored trace; raises `WireError` for a file that is none."""
        try:
            with np.load(file, allow_pickle=False) as stored:
                about = dict(json.loads(str(stored["about"])))
                arrays = {name: stored[name] for name in _ARRAYS}
        except Exception as error:  # in a damaged archive any part of any reader may fail
            raise WireError(f"{file} is no trace: {error}") from None
        if about.pop("format", None) != _FORMAT:
            raise WireError(f"{file} is a trace of another format, wanted {_FORMAT}")
        about.setdefault("stream", _STREAMS[0])  # older ones know no other
        trace = Trace(about=about, **arrays)
        if not trace._fits_together:
            raise WireError(f"{file} is no trace: its parts do not fit together")
        return trace

    @property
    def _fits_together(self) -> bool:
        messages, episodes = len(self.sizes), self.about.get("episodes")
        shapes = {"data": (self.sizes.sum(),), "sizes": (messages,), "episodes": (messages,)}
        shapes |= {"actions": (episodes,), "returns": (episodes,)}
        kinds = {"data": "u", "sizes": "i", "episodes": "i", "actions": "u", "returns": "f"}
        found = {name: (getattr(self, name).shape, getattr(self, name).dtype.kind) for name in _ARRAYS}
        return (
            self.about.keys() == _ABOUT
            and self.about["stream"] in _STREAMS
            and found == {name: (shapes[name], kinds[name]) for name in _ARRAYS}
        )


_ABOUT = {"seed", "episodes", "stream", "team", "packets", "code"}
_STREAMS = ("evaluation", "tuning")
_ARRAYS = ("data", "sizes", "episodes", "actions", "returns")


def record_run(run: Run, settings: Experiment, *, episodes: int | None = None, seed: int | None = None) -> Path:
    """Play the final evaluation of a run once more, and store every packet beside its summary."""
    env, policy = load_team(settings, run.last_checkpoint())
    seed = settings.seed if seed is None else seed
    wanted = settings.evaluation
    code = frozen_code(env, policy, seed, wanted.code_episodes, learned_prior=wanted.learned_prior)
    trace = record(env, policy, seed, wanted.episodes if episodes is None else episodes, code, wanted.stream)
    trace.write(run.folder / FILE)
    return run.folder / FILE


def prove_run(run: Run, settings: Experiment) -> Trace:
    """Decode the packets stored with a run, and play its evaluation again from them alone (see `prove`)."""
    if not (run.folder / FILE).is_file():
        raise ConfigError(f"run: no packets yet in {run.folder}: marlcomm evaluate {run.folder} --wire stores them")
    trace = Trace.read(run.folder / FILE)
    prove(*load_team(settings, run.last_checkpoint()), trace)
    return trace


def record(
    env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, code: FrozenCode, stream: str = "evaluation"
) -> Trace:
    """Play an evaluation and keep every packet."""
    data, sizes, whose, actions, returns = [], [], [], [], []
    for worlds in torch.arange(episodes).split(_WORLDS_AT_ONCE):
        rollout = _play(Player(env, policy, seed, stream), worlds)
        sent = rollout.sent.cpu().numpy()
        context = code.context(rollout, seed, stream)
        writer = code.of(None if context is None else context[sent])
        world, steps, senders = np.nonzero(sent)
        packets = write_packets(writer, steps, senders, rollout.talk.symbols.cpu().numpy()[sent])
        data.append(np.frombuffer(packets.data, np.uint8))
        sizes.append(packets.sizes)
        whose.append(worlds.numpy()[world])
        actions.append(_hashes(rollout))
        returns.append(_returns(rollout))
    columns = [np.concatenate(parts) for parts in (data, sizes, whose, actions, returns)]
    about = {
        "seed": seed,
        "episodes": episodes,
        "stream": stream,
        "team": _team(policy),
        "packets": _hash(columns[0]),
        "code": code.state(),
    }
    return Trace(about, *columns)


def prove(env: TeamEnv, policy: TeamPolicy, trace: Trace) -> None:
    """Decode every packet, and play again with ears for nothing else.

    Raises:
        WireError: a packet cannot be decoded, the trace is of another team, or what was decoded leads to other words,
            actions or returns than were recorded.
    """
    if trace.about["team"] != _team(policy):
        raise WireError("the trace is of a team with other weights")
    if trace.about["packets"] != _hash(trace.data):
        raise WireError("the packets of the trace are damaged: they have another hash than when they were stored")
    seed, code = int(trace.about["seed"]), FrozenCode.from_state(trace.about["code"], policy.channel)
    player = Player(env, policy, seed, trace.about["stream"])
    starts = np.cumsum(trace.sizes) - trace.sizes
    for worlds in torch.arange(int(trace.about["episodes"])).split(_WORLDS_AT_ONCE):
        own = (trace.episodes >= int(worlds[0])) & (trace.episodes <= int(worlds[-1]))
        ends = (starts + trace.sizes)[own]
        first, last = (int(starts[own][0]), int(ends[-1])) if own.any() else (0, 0)
        packets = Packets(trace.data[first:last].tobytes(), trace.sizes[own], 8 * trace.sizes[own])
        heard = _heard(player, worlds, code, packets, trace.episodes[own] - int(worlds[0]))
        rollout = _play(player, worlds, heard)
        _same("who spoke", rollout.sent.cpu().numpy(), heard.spoke.numpy(), worlds)
        _same("actions", _hashes(rollout), trace.actions[worlds], worlds)
        _same("returns", _returns(rollout), trace.returns[worlds], worlds)


def _play(player: Player, worlds: Tensor, heard: Talk | None = None) -> Rollout:
    with player.policy.channel.evaluation():
        return player.play(worlds, torch.zeros_like(worlds), heard=heard)


def _heard(player: Player, worlds: Tensor, code: FrozenCode, packets: Packets, world: Int) -> Talk:
    """What packets of worlds [M] say: symbols [B, T R, N, S] and who spoke [B, T R, N]."""
    talks, senders = read_header(packets)
    policy, spec = player.policy, player.env.spec
    agents, horizon, rounds = spec.num_agents, spec.horizon, policy.rounds
    if ((talks >= horizon * rounds) | (senders >= agents)).any():
        raise WireError(f"a packet is of a step or an agent that there is not ({horizon} steps, {agents} agents)")
    noise = channel_noise(
        policy.channel, player.seed, player.stream, worlds, torch.zeros_like(worlds), horizon, agents, rounds
    )
    context = code.context_of(noise_of_talks(noise, rounds))
    _, _, symbols = read_packets(code.of(None if context is None else context[world, talks, senders]), packets)
    heard = np.zeros((len(worlds), horizon * rounds, agents, symbols.shape[1]), np.int32)
    spoke = np.zeros(heard.shape[:3], bool)
    heard[world, talks, senders], spoke[world, talks, senders] = symbols, True
    return Talk(torch.from_numpy(heard), torch.from_numpy(spoke))


def _same(what: str, now: NDArray[Any], then: NDArray[Any], worlds: Tensor) -> None:
    differs = (now != then).reshape(len(worlds), -1).any(axis=1)
    if differs.any():
        raise WireError(f"{what} of episode {int(worlds[int(np.argmax(differs))])} are not those that were recorded")


def _hashes(rollout: Rollout) -> NDArray[np.uint64]:
    """A 64-bit hash of the actions that counted, for each episode."""
    idle = ~rollout.acts.view(*rollout.acts.shape, *(1,) * (rollout.actions.dim() - rollout.acts.dim()))
    actions = rollout.actions.masked_fill(idle, -1).cpu().numpy()
    found = [hashlib.blake2b(episode.tobytes(), digest_size=8).digest() for episode in actions]
    return cast(NDArray[np.uint64], np.frombuffer(b"".join(found), np.uint64))


def _returns(rollout: Rollout) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], rollout.rewards.double().sum((1, 2)).cpu().numpy())


def _hash(data: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()


def _team(policy: TeamPolicy) -> str:
    """A hash of all weights and buffers."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(policy.state_dict().items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
