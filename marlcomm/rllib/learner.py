"""What learners share: losses summed over one denominator, one all-reduce, no step on what is not finite."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from marlcomm.channels.base import Peers
from marlcomm.objectives.base import Batch, sent_messages
from marlcomm.policies.records import Talk
from marlcomm.rllib.compat import (
    DEFAULT_MODULE_ID,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
    MultiAgentBatch,
    SampleBatch,
    TorchLearner,
    set_log_level,
)
from marlcomm.rllib.module import TeamRLModule
from marlcomm.rllib.parcels import Columns, Shipment, fetch
from marlcomm.rllib.rows import Moments, join
from marlcomm.rllib.stopwatch import Stopwatch

SKIPPED = "update/skipped"
CORE_SECONDS = "core_seconds"  # processor time of the learner's process in a lesson
FETCH_SECONDS = "fetch_seconds"  # wall time until its rows were there


@dataclass(frozen=True)
class Lesson:
    """What all learners are told at once; each of them takes its own share of the rows.

    Attributes:
        parts: the rows, in their order: columns, or where they lie.
        round: their round.
        env_steps: sampled so far.
        moments: of columns, over all parts.
        entropy_weight: of the entropy bonus, where it follows a target.
    """

    parts: Sequence[Columns | Shipment]
    round: int
    env_steps: int
    moments: dict[str, Moments]
    entropy_weight: float | None = None


@dataclass(frozen=True)
class Skipped:
    """A minibatch, or one learner's share of it, that was not learned from.

    Attributes:
        minibatch: which of the round, over all its epochs, from 0.
        in_a_row: how many in a row were skipped, this one included.
        loss: of all learners.
        gradients: the parameters whose gradients were infinite or NaN.
        columns: name -> [B, ...].
    """

    minibatch: int
    in_a_row: int
    loss: float
    gradients: list[str]
    columns: dict[str, np.ndarray]


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
    """Sums the gradients of all learners itself; module-wise DDP stays off. A subclass knows the loss.

    Every row carries the denominators of its whole minibatch (see `marlcomm.rllib.rows`), so each learner's loss and
    each logged figure is its share of a sum.
    """

    def __init__(self, **kwargs: Any) -> None:
        set_log_level(kwargs["config"].log_level)
        super().__init__(**kwargs)
        self._env_steps = 0
        self._said: list[Tensor] = []
        self._round = self._minibatch = self._in_a_row = 0
        self._loss = torch.zeros(1)
        self._learned_from: Batch = {}
        self._skipped: deque[Skipped] = deque(maxlen=1)

    def build(self) -> None:
        self.objective = self.config.objective()
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        self._optimize(module_id, self.get_parameters(self._module[module_id]), self.config.lr)

    def _optimize(self, module_id: str, parameters: Sequence[Tensor], rate: Any, **name: str) -> None:
        """Have parameters trained by the optimiser of the settings, at a rate or a schedule of rates."""
        self.register_optimizer(
            module_id=module_id,
            optimizer=self.config.make_optimizer(parameters),
            params=parameters,
            lr_or_lr_schedule=rate,
            **name,
        )

    def _make_modules_ddp_if_necessary(self) -> None:
        """Instead of wrapping modules: all learners start with the weights and buffers of the first."""
        if self.config.num_learners > 1:
            for tensor in [*self._team_module().parameters(), *self._team_module().buffers()]:
                torch.distributed.broadcast(tensor.data, src=0)

    def _team_module(self) -> TeamRLModule:
        (module,) = self._module.values()
        return cast(TeamRLModule, module.unwrapped())

    def learn(self, lesson: Lesson) -> dict[str, Any]:
        """Fetch the rows of a lesson and learn from this learner's share of them; returns what was logged."""
        watch = Stopwatch()
        rows = join(fetch(lesson.parts))
        watch.lap("fetch")
        self._env_steps = lesson.env_steps
        if lesson.round != self._round:  # a round may have several lessons
            self._round, self._minibatch = lesson.round, 0
        self._learn(rows, lesson)
        self._learned_from = {}
        self._log({FETCH_SECONDS: watch.laps["fetch"], CORE_SECONDS: watch.core_seconds})
        return cast(dict[str, Any], self.metrics.reduce())

    @abstractmethod
    def _learn(self, rows: Batch, lesson: Lesson) -> None:
        """Learn from this learner's share of all the rows. A subclass knows which."""

    def _pass(self, rows: Batch, minibatch_size: int | None = None) -> None:
        """Go once over rows, in minibatches."""
        self.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(rows)}, env_steps=len(rows["acts"])),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._env_steps},
            minibatch_size=minibatch_size,
            _no_metrics_reduce=True,  # what is logged adds up until the lesson is over
        )

    def _advance_channel(self) -> None:
        """Let the channel absorb what was said since the last time, and advance its schedules."""
        channel = self._team_module().policy.quantiser
        if channel.absorbs:
            peers = LearnerPeers() if self.config.num_learners > 1 else Peers()
            channel.absorb(torch.cat(self._said), self._env_steps, peers)
        channel.after_update(self._env_steps)
        self._said.clear()

    def _keep_said(self, said: Talk, acts: Tensor) -> None:
        """Keep what was sent, if the channel is to absorb it."""
        messages = sent_messages(said, acts)
        if messages is not None:
            self._said.append(messages)

    def _log(self, stats: Mapping[str, Tensor | float]) -> None:
        """Log this learner's share of figures: shares are summed over minibatches and learners."""
        for name, value in stats.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), float(value), reduce="sum")

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        self._learned_from = batch[DEFAULT_MODULE_ID]
        return cast(dict[str, Any], super().compute_losses(fwd_out=fwd_out, batch=batch))

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        # A part that took no part (a message nobody hears) has no gradient: zero, so that all learners agree on shapes.
        gradients = {key: torch.zeros_like(key) if value is None else value for key, value in gradients.items()}
        self._loss = loss_per_module[DEFAULT_MODULE_ID].detach().reshape(1)
        if self.config.num_learners > 1:
            flat = torch.cat([self._loss, *(gradient.flatten() for gradient in gradients.values())])
            torch.distributed.all_reduce(flat)  # the loss, too: all learners skip the same updates
            self._loss, *parts = flat.split([1, *(gradient.numel() for gradient in gradients.values())])
            gradients = {
                key: part.view_as(gradient) for (key, gradient), part in zip(gradients.items(), parts, strict=True)
            }
        return gradients

    def set_state(self, state: dict[str, Any]) -> None:
        """Take a state, older ones too: RLlib would keep weights that learned more, beside the older optimiser."""
        super().set_state({name: value for name, value in state.items() if name != WEIGHTS_SEQ_NO})

    def _set_optimizer_state(self, state: Any) -> None:
        """Load a copy: the state may lie in Ray's shared memory, where two learners would step the same moments.

        Only moments, that is; all else is of the settings of now. Another kind of optimiser than before begins anew.
        """
        optimizers = self._named_optimizers
        for name, one in state.items():  # the rate too, until RLlib sets it after the first step
            optimizers[name].param_groups[0]["lr"] = float(one["state"]["param_groups"][0]["lr"])
        state = {name: one for name, one in state.items() if _same_kind(one["state"], optimizers[name])}
        super()._set_optimizer_state(copy.deepcopy(state))
        for optimizer in optimizers.values():
            settings = {name: value for name, value in optimizer.defaults.items() if name != "lr"}  # RLlib sets that
            for group in optimizer.param_groups:
                group.update(settings)

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step, unless the loss or a gradient is infinite or NaN: then skip, count, and keep what it came from."""
        largest = torch.nn.utils.get_total_norm((self._loss, *gradients_dict.values()), norm_type=math.inf)
        finite = bool(largest.isfinite())
        self.metrics.log_value((DEFAULT_MODULE_ID, SKIPPED), 0 if finite else 1, reduce="sum")
        if finite:
            self._in_a_row = 0
            super().apply_gradients(gradients_dict)
        else:
            self._skip(gradients_dict)
        self._minibatch += 1

    def _skip(self, gradients: dict[Any, Tensor]) -> None:
        parameters = self._team_module().named_parameters()  # copies that follow have no gradients
        names = [n for n, p in parameters if p in gradients and not torch.isfinite(gradients[p]).all()]
        columns = {name: values.detach().cpu().numpy() for name, values in self._learned_from.items()}
        self._in_a_row += 1
        self._skipped.append(Skipped(self._minibatch, self._in_a_row, float(self._loss), names, columns))

    def take_skipped(self) -> list[Skipped]:
        """The newest minibatches that were skipped since the last call."""
        taken = list(self._skipped)
        self._skipped.clear()
        return taken


def _same_kind(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the state of an optimiser has no settings that another one knows nothing of."""
    told = {name for group in state["param_groups"] for name in group}
    return told - {"params", "initial_lr"} <= optimizer.defaults.keys()


def learn(learner: TeamLearner, lesson: Lesson) -> dict[str, Any]:
    """What every learner is asked to do (Ray finds a function by its name)."""
    return learner.learn(lesson)
