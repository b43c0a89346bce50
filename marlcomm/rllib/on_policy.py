"""Learning from each round of episodes, a few times, and then forgetting it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, channel_loss
from marlcomm.objectives.credit import message_credit
from marlcomm.objectives.entropy import HIGHEST_ENTROPY, LOWEST_ENTROPY, EntropyTarget, EntropyWeight
from marlcomm.policies.records import Decision, each_talk, first_worlds
from marlcomm.policies.rollout import log_probs
from marlcomm.rllib.algorithm import TeamAlgorithm
from marlcomm.rllib.learner import Lesson, TeamLearner
from marlcomm.rllib.module import DECISION
from marlcomm.rllib.rows import ADVANTAGES, VALUE_TARGETS, add_moments, epoch_rows, standardize_advantages
from marlcomm.rllib.runner import Sample
from marlcomm.rllib.settings import RoundTraining

_COMPARED_SYMBOLS = 500_000


class OnPolicyAlgorithm(TeamAlgorithm):
    """Several epochs over the rows of a round, in minibatches of whole worlds.

    Where the config has a target for the entropy, its weight is the same for a whole round and follows after it.
    """

    def setup(self, config: Any) -> None:
        self.entropy_target: EntropyTarget | None = self.config.entropy_target()
        self.entropy_weight = None if self.entropy_target is None else self.entropy_target.start()
        self._settings = cast(RoundTraining, self.config.algorithm_settings())
        super().setup(config)

    def _how_to_play(self) -> dict[str, Any]:
        return super()._how_to_play() | {"episodes": self._settings.episodes_at(self.env_steps)}

    def _learn(self, samples: Sequence[Sample]) -> dict[str, float]:
        """All epochs over a round; returns the mean of each learner figure over the minibatches."""
        config = self.config
        lesson = Lesson(
            parts=[self._within_reach(sample.batch) for sample in samples],
            round=self.round,
            env_steps=self.env_steps,
            moments={name: add_moments([s.moments[name] for s in samples]) for name in samples[0].moments},
            entropy_weight=None if self.entropy_weight is None else self.entropy_weight.present,
        )
        results = self._teach(lesson)
        figures = _learner_figures(results, config.num_epochs * config.num_minibatches * samples[0].episodes)
        return figures | self._follow_entropy(figures)

    def _follow_entropy(self, figures: dict[str, float]) -> dict[str, float]:
        """Move the weight of the entropy by what the round's was; returns the weight that it had, and the share."""
        if self.entropy_target is None or self.entropy_weight is None:
            return {}
        lowest, highest = figures.pop(LOWEST_ENTROPY), figures.pop(HIGHEST_ENTROPY)
        used = {"policy/entropy_weight": self.entropy_weight.present}
        if not highest > lowest:  # nobody had a choice, or it is NaN
            return used
        share = (figures["policy/entropy"] - lowest) / (highest - lowest)
        if not math.isfinite(share):  # of updates that were skipped
            return used
        self.entropy_weight = self.entropy_target.follow(self.entropy_weight, share, self.env_steps)
        return used | {"policy/entropy_share": share}

    def counters(self) -> dict[str, Any]:
        weight = self.entropy_weight
        return super().counters() | ({} if weight is None else {"entropy_weight": vars(weight)})

    def set_state(self, state: dict[str, Any]) -> None:
        begun = self.entropy_weight
        super().set_state(state)
        told = state.get("team", {}).get("entropy_weight")
        # Without a target now, the weight is that of the settings, whatever followed one before.
        self.entropy_weight = begun if told is None or self.entropy_target is None else EntropyWeight(**told)


class OnPolicyLearner(TeamLearner):
    """An objective's loss on replayed episodes, whose rows are whole worlds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._first_epoch = self._compare_with_rollout = False

    def _learn(self, rows: Batch, lesson: Lesson) -> None:
        config, objective = self.config, self.objective
        if objective.normalizes_advantages:
            standardize_advantages(rows, lesson.moments[ADVANTAGES], objective.sample_deviation)
        if VALUE_TARGETS in lesson.moments:
            self._team_module().learn_units(*lesson.moments[VALUE_TARGETS])
        episodes, learners = len(rows["world"]), max(config.num_learners, 1)
        if lesson.entropy_weight is not None:
            rows["entropy_weight"] = torch.full((episodes,), lesson.entropy_weight)
        number = config.num_minibatches * episodes // config.num_worlds
        for epoch in range(config.num_epochs):
            self._first_epoch = self._compare_with_rollout = epoch == 0
            own = epoch_rows(rows, config.seed, lesson.round, epoch, number, learners, self._learner_index)
            self._pass(own, len(own["world"]) // number)
        self._advance_channel()

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        decision: Decision = fwd_out[DECISION]
        policy, value_scale = self._team_module().policy, self._team_module().value_scale
        if value_scale is not None:
            batch = {**batch, "value_scale": value_scale.expand(len(batch["world"]))}
        loss = self.objective.loss(batch, decision, self._env_steps)
        said = decision.talk.quantised
        credit = message_credit(policy, self.objective, batch, said)
        rate = channel_loss(policy.quantiser, said, batch["acts"], batch["messages"][0], credit)
        self._log(loss.stats | rate.stats)
        if self._first_epoch:
            self._keep_said(said, batch["acts"])
        if self._compare_with_rollout:
            flipped, symbols, ratio_error = _compare(batch, decision)
            self.metrics.log_value((module_id, "replay/flipped"), flipped, reduce="sum")
            self.metrics.log_value((module_id, "replay/symbols"), symbols, reduce="sum")
            self.metrics.log_value((module_id, "replay/ratio_error"), ratio_error, reduce="max")
            self._compare_with_rollout = False
        return cast(Tensor, loss.total + rate.total)


def _learner_figures(results: list[dict[str, Any]], updates: int) -> dict[str, float]:
    """Means over the updates of a round of what its learners logged, each its share."""
    sums = {name: float(sum(result[name].peek() for result in results)) for name in results[0] if "/" in name}
    figures = {name: value / updates for name, value in sums.items() if not name.startswith(("replay/", "update/"))}
    figures["replay/flipped_symbols"] = sums["replay/flipped"] / max(sums["replay/symbols"], 1)
    figures["replay/ratio_error"] = max(float(result["replay/ratio_error"].peek()) for result in results)
    figures["update/skipped"] = sums["update/skipped"] / len(results)  # all learners skip the same updates
    return figures


def _compare(batch: dict[str, Tensor], decision: Decision) -> tuple[int, int, float]:
    """How far the learner's replay is from the rollout, before any step of the round.

    Returns how many symbols came out differently, of how many, and the largest |probability ratio - 1| in worlds
    without such a flip. A bounded number of symbols is compared, in the first worlds of the minibatch.
    """
    with torch.no_grad():
        symbols = batch["symbols"]
        worlds = max(_COMPARED_SYMBOLS // max(symbols[0].numel(), 1), 1)
        batch = {name: value[:worlds] for name, value in batch.items()}
        decision = first_worlds(decision, worlds)
        heard = (batch["spoke"] & each_talk(batch["acts"], batch["spoke"])).unsqueeze(-1)
        flipped = (decision.talk.quantised.symbols != batch["symbols"]) & heard
        ratio = torch.exp(log_probs(decision, batch["actions"], batch.get("gate_choices")) - batch["log_probs"])
        clean = ~flipped.flatten(1).any(1).view(-1, 1, 1) & batch["acts"]
        error = ((ratio - 1).abs() * clean).max()
        return int(flipped.sum()), int(heard.sum()) * flipped.shape[-1], float(error)
