"""One episode of every world under a policy: what trainers learn from and evaluations count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.faults import check_numbers, told_where
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.distributions import CATEGORICAL
from marlcomm.policies.records import (
    Decision,
    Instead,
    Moment,
    Overheard,
    Shuffled,
    Talk,
    each_talk,
    joined,
    stack_talks,
)


@dataclass(frozen=True)
class Rollout:
    """Episodes of B worlds, padded to T steps.

    Attributes:
        worlds, episodes: [B] int64, whose episodes these are.
        observations: [B, T, N, O].
        alive, spawned: [B, T + 1, N] bool, before each action and after the last.
        acts: [B, T, N] bool, whose actions count: alive, in a world that has not ended.
        gates: [B, T, N] bool, who may speak at each step; None where nobody chooses.
        gate_choices: [B, T, N] bool, the choice for the next step; None where none is drawn.
        actions: [B, T, N] int64, or [B, T, N, A] float32, as drawn (see `ActionDistribution.to_world`).
        log_probs: [B, T, N], of actions (and gate choices) when they were taken.
        values: [B, T + 1, N].
        rewards: [B, T, N], of the slots' occupants after each action; zero after the world's end.
        terminated: [B, T] bool.
        lengths: [B] int64, steps until each world ended.
        talk: what was said, [B, T R, N, ...]: the R rounds of talk at a step follow each other.
        info: episode statistics at the end, name -> [B].
        seconds: wall time spent, by part.
        last: what the policy is given after the last action, [B, N, ...].
        last_talk: what it says then, [B, R, N, ...], which nobody acts on.
        labels: [B, T, N] int64, the right actions (see `TeamStep`); None where the world is not labelled.
    """

    worlds: Tensor
    episodes: Tensor
    observations: Tensor
    alive: Tensor
    spawned: Tensor
    acts: Tensor
    gates: Tensor | None
    gate_choices: Tensor | None
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    terminated: Tensor
    lengths: Tensor
    talk: Talk
    info: dict[str, Tensor]
    seconds: dict[str, float]
    last: Moment
    last_talk: Talk
    labels: Tensor | None = None

    @property
    def env_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def sent(self) -> Tensor:
        """Which messages were on the wire, [B, T R, N] bool."""
        return self.talk.spoke & each_talk(self.acts, self.talk.spoke)


def channel_noise(
    channel: Channel,
    seed: int,
    stream: str,
    worlds: Tensor,
    episodes: Tensor,
    steps: int,
    agents: int,
    rounds: int = 1,
) -> Tensor | None:
    """The channel's uniform draws [B, T, N, R K] for whole episodes; sampler, learner and receiver all call this."""
    if not channel.noise_size:
        return None
    keys = noise.world_keys(seed, f"{stream}/channel", worlds, episodes)
    return noise.uniform(keys, steps, agents, rounds * channel.noise_size)


def noise_of_talks(draws: Tensor | None, rounds: int) -> Tensor | None:
    """The draws [B, T, N, R K] of steps as those of the talks that follow each other, [B, T R, N, K]."""
    return None if draws is None else draws.unflatten(-1, (rounds, -1)).movedim(-2, 2).flatten(1, 2)


def log_probs(decision: Decision, actions: Tensor, gate_choices: Tensor | None) -> Tensor:
    """Log-probabilities [...] of what agents did: action, and gate choice where there is a gate."""
    total = decision.distribution.log_probs(decision.logits, actions)
    if decision.gate_logits is not None and gate_choices is not None:
        total = total + CATEGORICAL.log_probs(decision.gate_logits, gate_choices.long())
    return total


def entropies(decision: Decision) -> Tensor:
    """Entropies [...] in nats of what agents may do, gate included."""
    total = decision.distribution.entropies(decision.logits)
    return total if decision.gate_logits is None else total + CATEGORICAL.entropies(decision.gate_logits)


def entropy_ranges(decision: Decision) -> tuple[Tensor, Tensor]:
    """The lowest and highest entropies [...] in nats that agents could have there, gate included."""
    lowest, highest = decision.distribution.entropy_range(decision.logits)
    if decision.gate_logits is None:
        return lowest, highest
    shut, open_ = CATEGORICAL.entropy_range(decision.gate_logits)
    return lowest + shut, highest + open_


class EpisodeClock:
    """Which worlds still run, and what counts of the others: nothing after their end.

    Attributes:
        running: [B] bool.
        lengths: [B] int64, steps so far.
        info: episode statistics, frozen where a world ended, name -> [B].
    """

    def __init__(self, start: TeamStep) -> None:
        self.running = torch.ones_like(start.terminated)
        self.lengths = torch.zeros(len(self.running), dtype=torch.int64, device=self.running.device)
        self.info = start.info

    def count(self, now: TeamStep) -> Tensor:
        """Take note of a step; returns its rewards [B, N], zero in worlds that had ended before."""
        self.lengths += self.running
        self.info = {name: torch.where(self.running, value, self.info[name]) for name, value in now.info.items()}
        rewards = now.rewards * self.running.unsqueeze(-1)
        self.running = self.running & ~(now.terminated | now.truncated)
        return rewards


class Actor:
    """What of playing needs no world: the keyed draws of episodes, and what agents choose by them.

    Sampled actions are `explored` by an amount on top of what the policy draws, where that is not zero (see
    `ActionDistribution.explored`).
    """

    def __init__(
        self, spec: TeamSpec, policy: TeamPolicy, seed: int, stream: str = "train", exploration: float = 0.0
    ) -> None:
        self.spec, self.policy, self.seed, self.stream, self.exploration = spec, policy, seed, stream, exploration

    def draws(self, worlds: Tensor, episodes: Tensor) -> Draws:
        """All draws of episodes [B] of worlds [B]."""
        steps, agents = self.spec.horizon, self.spec.num_agents
        keys = noise.world_keys(self.seed, f"{self.stream}/actions", worlds, episodes)
        return Draws(
            actions=noise.uniform(keys, steps, agents, self._noise_size + self.policy.has_gate),
            exploration=self._exploration(worlds, episodes, steps, agents),
            channel=channel_noise(
                self.policy.channel, self.seed, self.stream, worlds, episodes, steps + 1, agents, self.policy.rounds
            ),
        )

    def choose(self, decision: Decision, draws: Draws, time: int, greedy: bool) -> tuple[Tensor, Tensor | None]:
        """Actions [B, N] or [B, N, A] at a step, sampled or the likeliest, and the gate choices [B, N], if any."""
        gate_logits, distribution = decision.gate_logits, decision.distribution
        if greedy:
            choices = None if gate_logits is None else CATEGORICAL.greedy(gate_logits).bool()
            return distribution.greedy(decision.logits), choices
        uniforms, for_gates = draws.actions[:, time].split([self._noise_size, int(self.policy.has_gate)], dim=-1)
        actions = distribution.sample(decision.logits, uniforms)
        if draws.exploration is not None:
            actions = distribution.explored(actions, decision.logits, draws.exploration[:, time], self.exploration)
        return actions, None if gate_logits is None else CATEGORICAL.sample(gate_logits, for_gates).bool()

    def still_open(self, gates: Tensor, alive: Tensor, spawned: Tensor) -> Tensor:
        """Which gates [B, N] of the last choices are still those of the agents now there."""
        return gates & alive if self.spec.keeps_memory else gates & alive & ~spawned

    @property
    def _noise_size(self) -> int:
        return self.policy.distribution.noise_size(self.spec.num_actions)

    def _exploration(self, worlds: Tensor, episodes: Tensor, steps: int, agents: int) -> Tensor | None:
        if not self.exploration:
            return None
        keys = noise.world_keys(self.seed, f"{self.stream}/exploration", worlds, episodes)
        return noise.uniform(keys, steps, agents, self.policy.distribution.code_size(self.spec.num_actions))


class Player(Actor):
    """Plays policies in a world: sampled actions with keyed draws, or the likeliest ones."""

    def __init__(
        self, env: TeamEnv, policy: TeamPolicy, seed: int, stream: str = "train", exploration: float = 0.0
    ) -> None:
        super().__init__(env.spec, policy, seed, stream, exploration)
        self.env = env

    def turns(self, worlds: Tensor) -> tuple[Tensor, ...]:
        """Worlds [B] in as many parts as the environment needs to play them."""
        parts: tuple[Tensor, ...] = torch.split(worlds, self.env.worlds_at_once or max(len(worlds), 1))
        return parts

    @torch.no_grad()
    def play(
        self,
        worlds: Tensor,
        episodes: Tensor,
        greedy: bool = False,
        heard: Talk | None = None,
        shuffled: bool = False,
    ) -> Rollout:
        """One episode of every world; what agents say is replaced by what is `heard`, [B, T, N, ...], if given.

        With `shuffled`, everybody hears what is said in another one of the worlds that are played at the same time.
        """
        rollouts, start = [], 0
        for some in self.turns(worlds):
            part = slice(start, start + len(some))
            words = None if heard is None else Talk(heard.symbols[part], heard.spoke[part])
            rollouts.append(self._play(some, episodes[part], greedy, words, shuffled))
            start += len(some)
        return join_rollouts(rollouts)

    def _play(self, worlds: Tensor, episodes: Tensor, greedy: bool, heard: Talk | None, shuffled: bool) -> Rollout:
        tape, draws = _Tape(), self.draws(worlds, episodes)
        places = self._places(worlds, episodes) if shuffled else None
        memory = self.policy.begin(len(worlds))
        with tape.seconds_of("world"):
            now = self._next(None, worlds, episodes, time=0)
        episode = EpisodeClock(now)
        gates = torch.zeros_like(now.alive) if self.policy.gated else None
        for time in range(self.spec.horizon):
            with tape.seconds_of("policy"):
                moment = self._moment(now, gates, draws, time)
                instead: Instead | list[Overheard] | None = None if heard is None else self._words(heard, time)
                if places is not None:
                    instead = Shuffled(places, episode.running)
                decision, memory = self.policy.step(moment, memory, instead)
                actions, choices = self.choose(decision, draws, time, greedy)
                tape.add(observations=now.observations, alive=now.alive, spawned=now.spawned, labels=now.labels)
                tape.add(acts=now.alive & episode.running.unsqueeze(-1), values=decision.values)
                tape.add(actions=actions, log_probs=log_probs(decision, actions, choices))
                tape.add(gates=moment.gates, gate_choices=choices)
                tape.talks.append(decision.talk)
                gates = None if gates is None else choices
            with tape.seconds_of("world"):
                now = self._next(decision.distribution.to_world(actions), worlds, episodes, time + 1)
            tape.add(rewards=episode.count(now), terminated=now.terminated)
        with tape.seconds_of("policy"):
            last = self._moment(now, gates, draws, self.spec.horizon)
            decision, _ = self.policy.step(last, memory)
            tape.add(alive=now.alive, spawned=now.spawned, values=decision.values)
            columns: dict[str, Any] = {"gates": None, "gate_choices": None} | tape.columns()
        return Rollout(
            worlds=worlds,
            episodes=episodes,
            lengths=episode.lengths,
            talk=stack_talks(tape.talks),
            info=episode.info,
            seconds=tape.seconds,
            last=last,
            last_talk=stack_talks([decision.talk]),
            **columns,
        )

    def _next(self, orders: Tensor | None, worlds: Tensor, episodes: Tensor, time: int) -> TeamStep:
        """The world after orders, or its beginning where there are none, with numbers that can be learned from."""
        env = self.env
        with told_where(self.spec.name, worlds, episodes, time):
            now = env.reset(self.seed, worlds, episodes, self.stream) if orders is None else env.step(orders)
        check_numbers(self.spec.name, now, worlds, episodes, time)
        return now

    def _moment(self, now: TeamStep, gates: Tensor | None, draws: Draws, time: int) -> Moment:
        """What the policy is given at a step; `gates` [B, N] are the choices of the step before."""
        return Moment(
            now.observations,
            now.alive,
            now.spawned,
            None if gates is None else self.still_open(gates, now.alive, now.spawned),
            None if draws.channel is None else draws.channel[:, time],
        )

    def _words(self, heard: Talk, time: int) -> list[Overheard]:
        """What is heard in each round of a step instead of what would be said."""
        talks = range(time * self.policy.rounds, (time + 1) * self.policy.rounds)
        return [Overheard(heard.symbols[:, talk], heard.spoke[:, talk]) for talk in talks]

    def _places(self, worlds: Tensor, episodes: Tensor) -> Tensor:
        """Draws [B, N] that say from which world each sender's messages come, where they are shuffled."""
        keys = noise.world_keys(self.seed, f"{self.stream}/shuffle", worlds, episodes)
        return noise.uniform(keys, self.spec.num_agents)


def join_rollouts(rollouts: Sequence[Rollout]) -> Rollout:
    """The rollouts of some worlds after others, as one."""
    if len(rollouts) == 1:
        return rollouts[0]
    columns = {
        name: joined([getattr(r, name) for r in rollouts], torch.cat) for name in vars(rollouts[0]) if name != "seconds"
    }
    spent = [rollout.seconds for rollout in rollouts]
    return Rollout(**columns, seconds={name: sum(seconds[name] for seconds in spent) for name in spent[0]})


@dataclass(frozen=True)
class Draws:
    """Uniform draws of whole episodes: of actions and then of gates [B, T, N, K'], channel [B, T + 1, N, R K].

    Where there is exploration, its draws are [B, T, N, W].
    """

    actions: Tensor
    exploration: Tensor | None
    channel: Tensor | None


class _Tape:
    """What steps leave behind: columns that grow by one [B, ...] at a time, talks, and the wall time of each part."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.seconds = {"world": 0.0, "policy": 0.0}
        self._columns: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor | None) -> None:
        for name, value in values.items():
            if value is not None:
                self._columns.setdefault(name, []).append(value)

    def columns(self) -> dict[str, Tensor]:
        """Each column that there is, [B, T, ...]."""
        return {name: torch.stack(values, dim=1) for name, values in self._columns.items()}

    @contextmanager
    def seconds_of(self, part: str) -> Iterator[None]:
        clock = perf_counter()
        yield
        self.seconds[part] += perf_counter() - clock
