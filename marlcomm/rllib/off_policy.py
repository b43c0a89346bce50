"""Learning from a replay of recorded episodes, by actors, central critics and slow copies of both."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from marlcomm import checkpoint
from marlcomm.objectives.base import Batch
from marlcomm.objectives.maddpg import Answers, answers
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.critic import ActorCritic, CriticShape
from marlcomm.registry import ConfigError
from marlcomm.rllib.algorithm import TeamAlgorithm
from marlcomm.rllib.compat import InferenceOnlyAPI
from marlcomm.rllib.learner import Lesson, TeamLearner
from marlcomm.rllib.module import TeamRLModule
from marlcomm.rllib.parcels import fetch
from marlcomm.rllib.replay import Draw, Replay, episode_shapes, fitting_rounds, shared_windows
from marlcomm.rllib.rows import join
from marlcomm.rllib.runner import Sample

ANSWERS = "answers"
_REPLAY = "replay"


class ActorCriticModule(TeamRLModule, InferenceOnlyAPI):
    """A team with critics and targets; `model_config["critic"]` holds the settings of a `CriticShape`.

    Runners have the policy alone.
    """

    def setup(self) -> None:
        super().setup()
        self.networks = ActorCritic.of(self.policy, CriticShape(**self.model_config["critic"]), self.seed)
        # Named here, so that they are among what is saved and sent; a dataclass is no part of a module.
        self.critics = self.networks.critics
        self.target_policy, self.target_critics = self.networks.target_policy, self.networks.target_critics

    def get_non_inference_attributes(self) -> list[str]:
        return ["networks", "critics", "target_policy", "target_critics"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {ANSWERS: answers(self.networks, batch, self.seed)}


class OffPolicyLearner(TeamLearner):
    """Actors and critics by an optimiser each, from one sum of losses; their copies follow every step."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        networks = self._networks()
        self._optimize(module_id, list(networks.policy.parameters()), self.config.lr, optimizer_name="actor")
        self._optimize(module_id, list(networks.critics.parameters()), self.config.critic_lr, optimizer_name="critic")

    def _networks(self) -> ActorCritic:
        return cast(ActorCriticModule, self._team_module()).networks

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        said: Answers = fwd_out[ANSWERS]
        loss = self.objective.loss(self._networks(), batch, said)
        self._log(loss.stats)
        self._keep_said(said.now.talk.quantised, batch["acts"])
        return cast(Tensor, loss.total)

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        super().apply_gradients(gradients_dict)
        if not self._in_a_row:  # nothing was skipped
            self._networks().follow(self.config.tau)

    def _learn(self, rows: Batch, lesson: Lesson) -> None:
        """One update; learner l takes the l-th part of its windows."""
        size, learners = len(rows["acts"]), max(self.config.num_learners, 1)
        own = slice(self._learner_index * size // learners, (self._learner_index + 1) * size // learners)
        self._pass({name: values[own] for name, values in rows.items()})
        self._advance_channel()


class OffPolicyAlgorithm(TeamAlgorithm):
    """Updates on windows drawn from a replay: so many for each env step, all at the end of a round.

    The replay is a part of every checkpoint: a run that continues draws the same windows of the same episodes.

    Attributes:
        updates: how many were made.
        waiting_env_steps: how many came after the last update that was due.
    """

    def setup(self, config: Any) -> None:
        self.updates = self.waiting_env_steps = 0
        super().setup(config)
        settings, policy = self.config, cast(TeamRLModule, self.env_runner.module).policy
        spec = policy.spec
        length = settings.sequence_length or spec.horizon if policy.remembers else 1
        rows = shared_windows(settings.batch_size, length, settings.num_learners)
        burn_in = settings.burn_in if policy.remembers else 0
        if burn_in and spec.keeps_memory:
            raise ConfigError(
                f"training.burn_in: got {burn_in}, wanted 0: in a world that keeps memory (env.legacy) nothing wipes "
                "what is remembered of the steps before an episode, which are none"
            )
        self._exploration = Schedule.of(settings.exploration(spec.actions))
        self._draw = Draw(rows, length, burn_in, settings.seed)
        shapes, worlds = episode_shapes(spec, policy.gated, policy.draws_gate), settings.num_worlds
        rounds = fitting_rounds(shapes, worlds, spec.horizon, settings.replay_env_steps, settings.replay_bytes)
        self.replay = Replay(shapes, worlds, rounds)

    @property
    def remarks(self) -> list[str]:
        replay, draw = self.replay, self._draw
        episodes, size, every = replay.rounds * replay.episodes, replay.bytes / 2**20, self.config.env_steps_per_update
        return [
            *super().remarks,
            f"the replay holds the last {replay.rounds:,} rounds, {episodes:,} episodes, in {size:,.1f} MiB",
            f"an update takes {draw.rows:,} windows of {draw.length} env steps; one is due every {every} env steps",
        ]

    @property
    def bytes_to_come(self) -> int:
        return self.replay.bytes - self.replay.bytes_held  # memory that nobody has written to is not taken yet

    def _how_to_play(self) -> dict[str, Any]:
        return super()._how_to_play() | {"exploration": self._exploration.at(self.env_steps)}

    def _learn(self, samples: Sequence[Sample]) -> dict[str, float]:
        self.replay.add(join(fetch([sample.batch for sample in samples])), self.round)
        config = self.config
        due = self._due(sum(sample.env_steps for sample in samples))
        sums: dict[str, float] = {}
        for _ in range(due):
            for result in self._update():
                for name, stats in result.items():
                    if "/" in name:
                        sums[name] = sums.get(name, 0.0) + float(stats.peek())
            self.updates += 1
        skipped = sums.pop("update/skipped", 0.0) / max(config.num_learners, 1)  # all learners skip the same updates
        return {
            **{name: value / due for name, value in sums.items()},
            "update/skipped": skipped,
            "update/updates": self.updates,
            "replay/env_steps": self.replay.env_steps,
            "replay/mebibytes": self.replay.bytes / 2**20,
        }

    def _due(self, played: int) -> int:
        """How many updates are to be made after a round of so many env steps, which are counted already.

        Each round is counted by the settings of now: where these were changed, nothing is made up for or left out.
        """
        counting = min(played, self._after_start())
        every = cast(int, self.config.env_steps_per_update)
        due, self.waiting_env_steps = divmod(self.waiting_env_steps + counting, every)
        return due

    def _after_start(self) -> int:
        """Env steps since learning started."""
        return max(self.env_steps - cast(int, self.config.learning_starts), 0)

    def _update(self) -> list[dict[str, Any]]:
        """The next update: all learners take their part of the same windows."""
        windows = self.replay.draw(self._draw, self.updates)
        columns = self._within_reach({name: values.numpy() for name, values in windows.items()})
        return self._teach(Lesson([columns], self.round, self.env_steps, moments={}))

    def counters(self) -> dict[str, Any]:
        return super().counters() | {"updates": self.updates, "waiting_env_steps": self.waiting_env_steps}

    def parts(self, last: Path | None) -> dict[str, Any]:
        """Each round of the replay is a part of its own, which is written once: later checkpoints link to it."""
        parts = super().parts(last)
        for round_ in self.replay.held:
            name = f"{_REPLAY}-{round_:06d}"
            known = last is not None and checkpoint.has_part(last, name)
            parts[name] = checkpoint.Stored(cast(Path, last)) if known else self.replay.round(round_)
        return parts

    def load_parts(self, stored: checkpoint.Checkpoint) -> None:
        super().load_parts(stored)
        self.replay.clear()
        for name in stored.parts:
            kind, _, round_ = name.partition("-")
            if kind == _REPLAY:
                columns = {key: torch.as_tensor(value) for key, value in stored.read(name).items()}
                self.replay.add(columns, int(round_))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        # Copies: whoever holds the state goes on training, and the ring overwrites its oldest round.
        return state | {"replay": {round_: copy.deepcopy(self.replay.round(round_)) for round_ in self.replay.held}}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        counters = state.get("team", {})
        if "updates" in counters and "waiting_env_steps" not in counters:  # of a checkpoint that counted updates alone
            self.waiting_env_steps = self._after_start() % self.config.env_steps_per_update
        if "replay" in state:
            self.replay.clear()
            for round_, columns in state["replay"].items():
                self.replay.add({name: torch.as_tensor(value) for name, value in columns.items()}, round_)
