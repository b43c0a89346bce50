"""One episode of every world under a policy: what trainers learn from and evaluations count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

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
        env, spec = self.env, self.spec
        draws = self.draws(worlds, episodes)
        places = self._places(worlds, episodes) if shuffled else None
        seconds = {"world": 0.0, "policy": 0.0}
        memory = self.policy.begin(len(worlds))
        record: dict[str, list[Tensor]] = {}
        talks: list[Talk] = []

        clock = perf_counter()
        with told_where(spec.name, worlds, episodes, time=0):
            now = env.reset(self.seed, worlds, episodes, self.stream)
        check_numbers(spec.name, now, worlds, episodes, time=0)
        episode = EpisodeClock(now)
        gates = torch.zeros_like(now.alive) if self.policy.gated else None
        seconds["world"] += perf_counter() - clock
        for time in range(spec.horizon):
            clock = perf_counter()
            if gates is not None:
                gates = self.still_open(gates, now.alive, now.spawned)
            moment = Moment(
                now.observations,
                now.alive,
                now.spawned,
                gates,
                None if draws.channel is None else draws.channel[:, time],
            )
            instead: Instead | list[Overheard] | None = None if heard is None else self._words(heard, time)
            if places is not None:
                instead = Shuffled(places, episode.running)
            decision, memory = self.policy.step(moment, memory, instead)
            actions, choices = self.choose(decision, draws, time, greedy)
            talks.append(decision.talk)
            _append(record, observations=now.observations, alive=now.alive, spawned=now.spawned)
            _append(record, actions=actions, log_probs=log_probs(decision, actions, choices), values=decision.values)
            _append(record, acts=now.alive & episode.running.unsqueeze(-1))
            if now.labels is not None:
                _append(record, labels=now.labels)
            if choices is not None:
                _append(record, gate_choices=choices)
            if gates is not None and choices is not None:
                _append(record, gates=gates)
                gates = choices
            seconds["policy"] += perf_counter() - clock
            clock = perf_counter()
            orders = decision.distribution.to_world(actions)
            with told_where(spec.name, worlds, episodes, time + 1):
                now = env.step(orders)
            check_numbers(spec.name, now, worlds, episodes, time + 1)
            seconds["world"] += perf_counter() - clock
            _append(record, rewards=episode.count(now), terminated=now.terminated)
        clock = perf_counter()
        last = self._last(now, gates, draws)
        decision, _ = self.policy.step(last, memory)
        _append(record, alive=now.alive, spawned=now.spawned, values=decision.values)
        columns = {name: torch.stack(values, dim=1) for name, values in record.items()}
        seconds["policy"] += perf_counter() - clock
        return Rollout(
            worlds=worlds,
            episodes=episodes,
            gates=columns.pop("gates", None),
            gate_choices=columns.pop("gate_choices", None),
            labels=columns.pop("labels", None),
            lengths=episode.lengths,
            talk=stack_talks(talks),
            info=episode.info,
            seconds=seconds,
            last=last,
            last_talk=stack_talks([decision.talk]),
            **columns,
        )

    def _words(self, heard: Talk, time: int) -> list[Overheard]:
        """What is heard in each round of a step instead of what would be said."""
        talks = range(time * self.policy.rounds, (time + 1) * self.policy.rounds)
        return [Overheard(heard.symbols[:, talk], heard.spoke[:, talk]) for talk in talks]

    def _places(self, worlds: Tensor, episodes: Tensor) -> Tensor:
        """Draws [B, N] that say from which world each sender's messages come, where they are shuffled."""
        keys = noise.world_keys(self.seed, f"{self.stream}/shuffle", worlds, episodes)
        return noise.uniform(keys, self.spec.num_agents)

    def _last(self, now: TeamStep, gates: Tensor | None, draws: Draws) -> Moment:
        gates = None if gates is None else self.still_open(gates, now.alive, now.spawned)
        noise_now = None if draws.channel is None else draws.channel[:, -1]
        return Moment(now.observations, now.alive, now.spawned, gates, noise_now)


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


def _append(record: dict[str, list[Tensor]], **values: Tensor) -> None:
    for name, value in values.items():
        record.setdefault(name, []).append(value)
