"""The learner: rows of whole worlds, losses summed over one denominator, one all-reduce."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor

from marlcomm.channels.base import Peers
from marlcomm.objectives.base import channel_loss, sent_messages
from marlcomm.objectives.credit import message_credit
from marlcomm.policies.base import Decision, first_worlds
from marlcomm.policies.rollout import log_probs
from marlcomm.rllib.compat import DEFAULT_MODULE_ID, NUM_ENV_STEPS_SAMPLED_LIFETIME, TorchLearner, set_log_level
from marlcomm.rllib.module import DECISION, TeamRLModule

NON_FINITE_LIMIT = 10
_COMPARED_SYMBOLS = 500_000
FIRST_EPOCH = "first_epoch"
LAST_EPOCH = "last_epoch"
VALUE_TARGETS = "value_targets"  # number, sum and sum of squares of the round's, once a round


class TrainingError(RuntimeError):
    """Why a run cannot go on."""


class NonFiniteGradientsError(TrainingError):
    """Too many updates in a row had infinite gradients or NaNs."""


class LearnerPeers(Peers):
    """All learners of an update, joined by torch.distributed."""

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def sum(self, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    def gather(self, part: Tensor) -> Tensor:
        rows = part.new_zeros(self.size, dtype=torch.int64)
        rows[self.rank] = len(part)
        counts = self.sum(rows).tolist()
        # all_gather wants equal shapes, so every part is filled up to the longest.
        padded = torch.cat([part, part.new_zeros(max(counts) - len(part), *part.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([rows[:count] for rows, count in zip(parts, counts, strict=True)])


class TeamLearner(TorchLearner):
    """Sums the gradients of all learners itself; module-wise DDP stays off.

    Every row carries the denominators of its whole minibatch (see `marlcomm.rllib.rows`), so each learner's loss and
    each logged figure is its share of a sum.
    """

    def __init__(self, **kwargs: Any) -> None:
        set_log_level(kwargs["config"].log_level)
        super().__init__(**kwargs)
        self._env_steps = 0
        self._first_epoch = self._compare_with_rollout = False
        self._said: list[Tensor] = []
        self._non_finite = 0

    def build(self) -> None:
        self.objective = self.config.objective()
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = self.get_parameters(self._module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=self.config.make_optimizer(parameters),
            params=parameters,
            lr_or_lr_schedule=self.config.lr,
        )

    def _make_modules_ddp_if_necessary(self) -> None:
        """Instead of wrapping modules: all learners start with the weights and buffers of the first."""
        if self.config.num_learners > 1:
            for tensor in [*self._team_module().parameters(), *self._team_module().buffers()]:
                torch.distributed.broadcast(tensor.data, src=0)

    def _team_module(self) -> TeamRLModule:
        (module,) = self._module.values()
        return cast(TeamRLModule, module.unwrapped())

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._env_steps = int(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        self._first_epoch = self._compare_with_rollout = bool(timesteps[FIRST_EPOCH])
        if self._first_epoch:
            self._said.clear()
        if VALUE_TARGETS in timesteps:
            self._team_module().learn_units(*timesteps[VALUE_TARGETS])

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        if timesteps[LAST_EPOCH]:
            channel = self._team_module().policy.quantiser
            if channel.absorbs:
                peers = LearnerPeers() if self.config.num_learners > 1 else Peers()
                channel.absorb(torch.cat(self._said), self._env_steps, peers)
            channel.after_update(self._env_steps)

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: Any) -> Tensor:
        decision: Decision = fwd_out[DECISION]
        policy, value_scale = self._team_module().policy, self._team_module().value_scale
        if value_scale is not None:
            batch = {**batch, "value_scale": value_scale.expand(len(batch["world"]))}
        loss = self.objective.loss(batch, decision, self._env_steps)
        said = decision.talk.quantised
        credit = message_credit(policy, self.objective, batch, said)
        rate = channel_loss(policy.quantiser, said, batch["acts"], batch["messages"][0], credit)
        # Each learner knows its share of every figure, so shares are summed over minibatches and learners.
        for name, value in (loss.stats | rate.stats).items():
            self.metrics.log_value((module_id, name), float(value), reduce="sum")
        messages = sent_messages(said, batch["acts"]) if self._first_epoch else None
        if messages is not None:
            self._said.append(messages)
        if self._compare_with_rollout:
            flipped, symbols, ratio_error = _compare(batch, decision)
            self.metrics.log_value((module_id, "replay/flipped"), flipped, reduce="sum")
            self.metrics.log_value((module_id, "replay/symbols"), symbols, reduce="sum")
            self.metrics.log_value((module_id, "replay/ratio_error"), ratio_error, reduce="max")
            self._compare_with_rollout = False
        return cast(Tensor, loss.total + rate.total)

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        # A part that took no part (a message nobody hears) has no gradient: zero, so that all learners agree on shapes.
        gradients = {key: torch.zeros_like(key) if value is None else value for key, value in gradients.items()}
        if self.config.num_learners > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
            torch.distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients.values()])
            gradients = {
                key: part.view_as(gradient) for (key, gradient), part in zip(gradients.items(), parts, strict=True)
            }
        return gradients

    def _set_optimizer_state(self, state: Any) -> None:
        """Load a copy: the state may lie in Ray's shared memory, where two learners would step the same moments."""
        super()._set_optimizer_state(copy.deepcopy(state))

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step, unless a gradient is infinite or NaN: then skip, count, and stop after too many in a row."""
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients_dict.values())
        self.metrics.log_value((DEFAULT_MODULE_ID, "update/skipped"), 0 if finite else 1, reduce="sum")
        self._non_finite = 0 if finite else self._non_finite + 1
        if finite:
            super().apply_gradients(gradients_dict)
        elif self._non_finite >= NON_FINITE_LIMIT:
            names = [
                name
                for name, p in self._team_module().named_parameters()
                if not torch.isfinite(gradients_dict[p]).all()
            ]
            raise NonFiniteGradientsError(
                f"{self._non_finite} updates in a row had gradients that are infinite or NaN (in {', '.join(names)}); "
                "none of them was applied"
            )


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
        heard = (batch["spoke"] & batch["acts"]).unsqueeze(-1)
        flipped = (decision.talk.quantised.symbols != batch["symbols"]) & heard
        ratio = torch.exp(log_probs(decision, batch["actions"], batch.get("gate_choices")) - batch["log_probs"])
        clean = ~flipped.flatten(1).any(1).view(-1, 1, 1) & batch["acts"]
        error = ((ratio - 1).abs() * clean).max()
        return int(flipped.sum()), int(heard.sum()) * flipped.shape[-1], float(error)
