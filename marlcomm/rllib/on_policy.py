"""Learning from each round of episodes, a few times, and then forgetting it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, channel_loss
from marlcomm.objectives.credit import message_credit
from marlcomm.objectives.entropy import HIGHEST_ENTROPY, LOWEST_ENTROPY, EntropyTarget, EntropyWeight
from marlcomm.policies.base import Decision, each_talk, first_worlds
from marlcomm.policies.rollout import log_probs
from marlcomm.rllib.algorithm import TeamAlgorithm
from marlcomm.rllib.learner import TeamLearner
from marlcomm.rllib.module import DECISION
from marlcomm.rllib.rows import epoch_rows, normalize_advantages, value_moments

FIRST_EPOCH = "first_epoch"
LAST_EPOCH = "last_epoch"
VALUE_TARGETS = "value_targets"  # number, sum and sum of squares of the round's, once a round
_COMPARED_SYMBOLS = 500_000


class OnPolicyAlgorithm(TeamAlgorithm):
    """Several epochs over the rows of a round, in minibatches of whole worlds.

    Where the config has a target for the entropy, its weight is the same for a whole round and follows after it.
    """

    def setup(self, config: Any) -> None:
        self.entropy_target: EntropyTarget | None = self.config.entropy_target()
        self.entropy_weight = None if self.entropy_target is None else self.entropy_target.start()
        super().setup(config)

    def _learn(self, batch: Batch) -> dict[str, float]:
        """All epochs over a round; returns the mean of each learner figure over the minibatches."""
        config = self.config
        objective = config.objective()
        if objective.normalizes_advantages:
            normalize_advantages(batch, objective.normalized_over(batch), objective.sample_deviation)
        if self.entropy_weight is not None:
            batch["entropy_weight"] = torch.full((config.num_worlds,), self.entropy_weight.present)
        once = {} if config.value_settings().normalization == "none" else {VALUE_TARGETS: value_moments(batch)}
        learners = max(config.num_learners, 1)
        size = config.num_worlds // (learners * config.num_minibatches)
        sums: dict[str, float] = {}
        for epoch in range(config.num_epochs):
            rows = epoch_rows(batch, config.seed, self.round, epoch, config.num_minibatches, learners)
            ends = {FIRST_EPOCH: epoch == 0, LAST_EPOCH: epoch == config.num_epochs - 1}
            for result in self._update(rows, size, **ends, **(once if epoch == 0 else {})):
                _add_sums(sums, result, compared=epoch == 0)
        figures = _learner_figures(sums, config.num_epochs * config.num_minibatches, learners)
        return figures | self._follow_entropy(figures)

    def _follow_entropy(self, figures: dict[str, float]) -> dict[str, float]:
        """Move the weight of the entropy by what the round's was; returns the weight that it had, and the share."""
        if self.entropy_target is None or self.entropy_weight is None:
            return {}
        lowest, highest = figures.pop(LOWEST_ENTROPY), figures.pop(HIGHEST_ENTROPY)
        used = {"policy/entropy_weight": self.entropy_weight.present}
        if highest <= lowest:  # nobody had a choice
            return used
        share = (figures["policy/entropy"] - lowest) / (highest - lowest)
        self.entropy_weight = self.entropy_target.follow(self.entropy_weight, share, self.env_steps)
        return used | {"policy/entropy_share": share}

    def counters(self) -> dict[str, Any]:
        weight = self.entropy_weight
        return super().counters() | ({} if weight is None else {"entropy_weight": vars(weight)})

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "entropy_weight" in state.get("team", {}):
            self.entropy_weight = EntropyWeight(**state["team"]["entropy_weight"])


class OnPolicyLearner(TeamLearner):
    """An objective's loss on replayed episodes, whose rows are whole worlds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._first_epoch = self._compare_with_rollout = False

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._first_epoch = self._compare_with_rollout = bool(timesteps[FIRST_EPOCH])
        if VALUE_TARGETS in timesteps:
            self._team_module().learn_units(*timesteps[VALUE_TARGETS])

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        if timesteps[LAST_EPOCH]:
            self._advance_channel()
        super().after_gradient_based_update(timesteps=timesteps)

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


def _add_sums(sums: dict[str, float], result: dict[str, Any], compared: bool) -> None:
    """Add what one learner logged in one epoch; the replay is compared with the rollout in the first one only."""
    for name, stats in result.items():
        if "/" not in name or (name.startswith("replay/") and not compared):
            continue
        value = float(stats.peek())
        sums[name] = max(sums.get(name, 0.0), value) if name == "replay/ratio_error" else sums.get(name, 0.0) + value


def _learner_figures(sums: dict[str, float], updates: int, learners: int) -> dict[str, float]:
    figures = {name: value / updates for name, value in sums.items() if not name.startswith(("replay/", "update/"))}
    figures["replay/flipped_symbols"] = sums["replay/flipped"] / max(sums["replay/symbols"], 1)
    figures["replay/ratio_error"] = sums["replay/ratio_error"]
    figures["update/skipped"] = sums["update/skipped"] / learners  # all learners skip the same updates
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
