"""How an agent's action is drawn from the numbers that its policy gives: one of a few, or a point of a box."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from marlcomm import noise
from marlcomm.envs.actions import ActionSpace, BoxActions

_NEVER = -1e9  # the logit of what cannot be chosen; finite, so that probability times logarithm is zero
_CERTAIN = -1e9  # the log standard deviation of what is not drawn

# Standard deviations in units in which the box goes from -1 to 1. Wider ones would mostly be clipped to the border, and
# an entropy bonus, which does not see the clipping, would widen them for ever.
_LOWEST_LOG_STD, _HIGHEST_LOG_STD = -5.0, 0.0
_FIRST_STD = 0.5
_NARROW = -30.0  # its sigmoid is zero in float32: the lowest spread
_ENTROPY_OF_UNIT = 0.5 * math.log(2 * math.pi * math.e)  # of a number drawn with standard deviation 1
_MEAN_GAIN = 0.01  # first means are nearly the same everywhere, as Andrychowicz et al. (2021) advise


class ActionDistribution(ABC):
    """A family of distributions over an agent's action, with parameters [..., P] that a policy's head gives.

    Actions are recorded, and learned from, as they were drawn: [...] or [..., A]. `to_world` says what the world is
    given for them.
    """

    @abstractmethod
    def head(self, features: int, actions: int) -> nn.Module:
        """An untrained map from states [..., features] to the parameters; `actions` is A of the world."""

    @abstractmethod
    def noise_size(self, actions: int) -> int:
        """K, how many uniform draws an action takes."""

    @abstractmethod
    def sample(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """Draw actions from uniforms [..., K] in (0, 1)."""

    @abstractmethod
    def greedy(self, parameters: Tensor) -> Tensor:
        """The likeliest actions."""

    @abstractmethod
    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities, or densities, [...] of drawn actions."""

    @abstractmethod
    def entropies(self, parameters: Tensor) -> Tensor:
        """Entropies [...] in nats."""

    @abstractmethod
    def entropy_range(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and highest entropies [...] in nats that a policy could have where it gave these parameters."""

    @abstractmethod
    def idle(self, parameters: Tensor, slots: Tensor) -> Tensor:
        """Parameters [..., N, P] that leave some slots [N] one action only: certain, and without a gradient."""

    def possible(self, parameters: Tensor) -> Tensor:
        """Parameters [..., N, P] that leave every slot what it can do."""
        return parameters

    @abstractmethod
    def code_size(self, actions: int) -> int:
        """W, how many numbers a critic is given for an action, and how many draws `relaxed` takes."""

    @abstractmethod
    def code(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """What a critic is given for drawn actions [...] of these parameters, [..., W]."""

    @abstractmethod
    def relaxed(self, parameters: Tensor, uniforms: Tensor, relaxation: Relaxation) -> Tensor:
        """Codes [..., W] of new actions with a gradient for the parameters, from uniforms [..., W] in (0, 1)."""

    @abstractmethod
    def explored(self, actions: Tensor, parameters: Tensor, uniforms: Tensor, amount: float) -> Tensor:
        """Drawn actions made more various by an amount, from uniforms [..., W] in (0, 1).

        What is certain (see `idle`) stays as it is.
        """

    @abstractmethod
    def penalty(self, parameters: Tensor) -> Tensor:
        """Mean square [...] of what should stay small, so that an action never gets out of a gradient's reach."""

    def narrow(self, head: nn.Module) -> None:  # noqa: B027 (most families have no spread)
        """Make a head draw as surely as it can: whoever trains without likelihoods does not train its spread."""

    def to_world(self, actions: Tensor) -> Tensor:
        """What the world is given for drawn actions."""
        return actions


@dataclass(frozen=True)
class Relaxation:
    """How actions are drawn with a gradient.

    Attributes:
        hard: discrete ones are one-hot, with the gradient of the relaxed sample; else they are the relaxed sample.
        temperature: of that.
        noise: standard deviation of what is added to box actions, which have their gradient without.
    """

    hard: bool = True
    temperature: float = 1.0
    noise: float = 0.0


class Categorical(ActionDistribution):
    """One of P = A options, by logits [..., A]; idle is option 0. One draw, by inverting the distribution function."""

    def head(self, features: int, actions: int) -> nn.Module:
        return nn.Linear(features, actions)

    def noise_size(self, actions: int) -> int:
        return 1

    def sample(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        return noise.categorical(parameters, uniforms.squeeze(-1))

    def greedy(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return torch.log_softmax(parameters, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropies(self, parameters: Tensor) -> Tensor:
        log_p = torch.log_softmax(parameters, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def entropy_range(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        options = (parameters > _NEVER / 2).sum(-1)
        return torch.zeros_like(parameters[..., 0]), torch.log(options.to(parameters.dtype))

    def idle(self, parameters: Tensor, slots: Tensor) -> Tensor:
        later = torch.arange(parameters.shape[-1], device=parameters.device) > 0
        return parameters.masked_fill(slots.unsqueeze(-1) & later, _NEVER)

    def code_size(self, actions: int) -> int:
        return actions

    def code(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return nn.functional.one_hot(actions, parameters.shape[-1]).to(parameters.dtype)

    def relaxed(self, parameters: Tensor, uniforms: Tensor, relaxation: Relaxation) -> Tensor:
        """Gumbel-softmax, or its straight-through estimator (Jang et al. 2017)."""
        perturbed = parameters + noise.gumbel(uniforms)
        soft = torch.softmax(perturbed / relaxation.temperature, dim=-1)
        if not relaxation.hard:
            return soft
        hard = nn.functional.one_hot(perturbed.argmax(-1), perturbed.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())

    def explored(self, actions: Tensor, parameters: Tensor, uniforms: Tensor, amount: float) -> Tensor:
        """With probability `amount` any option, all alike: two of the draws say whether, and which."""
        possible = parameters > _NEVER
        anything = uniforms[..., 0] < amount
        options = torch.log(possible.to(parameters.dtype))
        return torch.where(anything, noise.categorical(options, uniforms[..., -1]), actions)

    def penalty(self, parameters: Tensor) -> Tensor:
        return (parameters * (parameters > _NEVER)).square().mean(-1)


CATEGORICAL = Categorical()


@dataclass(frozen=True)
class SlotCategorical(Categorical):
    """Options by logits [..., N, A], of which slot n has the first counts[n]; the others are never drawn."""

    counts: tuple[int, ...]

    def possible(self, parameters: Tensor) -> Tensor:
        options = torch.arange(parameters.shape[-1], device=parameters.device)
        return parameters.masked_fill(options >= self._counts(parameters).unsqueeze(-1), _NEVER)

    def sample(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        # A sum of probabilities may be rounded to less than a draw, and what follows it would be taken.
        return torch.minimum(super().sample(parameters, uniforms), self._counts(parameters) - 1)

    def _counts(self, like: Tensor) -> Tensor:
        return torch.tensor(self.counts, device=like.device)


@dataclass(frozen=True)
class DiagonalGaussian(ActionDistribution):
    """Points [..., A] about a box, by P = 2 A parameters: A means, then A log standard deviations.

    They are drawn, recorded and learned from in units in which the box goes from -1 to 1, and not clipped: the
    log-probability is the density of what was drawn, and the entropy that of the whole Gaussian. Only the world is
    given the nearest point of the box. The likeliest action is the mean. A draw inverts the distribution function,
    number by number. Idle is the point of the box nearest to zero.
    """

    box: BoxActions

    def head(self, features: int, actions: int) -> nn.Module:
        return GaussianHead(features, actions)

    def noise_size(self, actions: int) -> int:
        return actions

    def sample(self, parameters: Tensor, uniforms: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        return mean + log_std.exp() * noise.normal(uniforms)

    def greedy(self, parameters: Tensor) -> Tensor:
        return self._split(parameters)[0]

    def log_probs(self, parameters: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = self._split(parameters)
        drawn = log_std > _CERTAIN
        log_std = log_std.masked_fill(~drawn, 0.0)
        density = -0.5 * ((actions - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)
        return (density * drawn).sum(-1)

    def entropies(self, parameters: Tensor) -> Tensor:
        _, log_std = self._split(parameters)
        return torch.where(log_std > _CERTAIN, log_std + _ENTROPY_OF_UNIT, 0.0).sum(-1)

    def entropy_range(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        numbers = (self._split(parameters)[1] > _CERTAIN).to(parameters.dtype).sum(-1)
        return numbers * (_LOWEST_LOG_STD + _ENTROPY_OF_UNIT), numbers * (_HIGHEST_LOG_STD + _ENTROPY_OF_UNIT)

    def idle(self, parameters: Tensor, slots: Tensor) -> Tensor:
        zeros = parameters.new_zeros(self.box.shape)
        rest = self.box.units(self.box.nearest(zeros))
        return torch.where(slots.unsqueeze(-1), torch.cat([rest, zeros + _CERTAIN]), parameters)

    def to_world(self, actions: Tensor) -> Tensor:
        return self.box.point(actions)

    def code_size(self, actions: int) -> int:
        return actions

    def code(self, parameters: Tensor, actions: Tensor) -> Tensor:
        return actions.clamp(-1, 1)

    def relaxed(self, parameters: Tensor, uniforms: Tensor, relaxation: Relaxation) -> Tensor:
        """The mean, inside the box, with noise on top that has no gradient."""
        mean, log_std = self._split(parameters)
        inside: Tensor = _Inside.apply(mean)  # type: ignore[no-untyped-call]
        if not relaxation.noise:
            return inside
        added = relaxation.noise * noise.normal(uniforms) * (log_std > _CERTAIN)
        return inside + ((inside + added).clamp(-1, 1) - inside).detach()

    def explored(self, actions: Tensor, parameters: Tensor, uniforms: Tensor, amount: float) -> Tensor:
        """Normal noise of standard deviation `amount` on top, and inside the box again."""
        uncertain = self._split(parameters)[1] > _CERTAIN
        return torch.where(uncertain, (actions + amount * noise.normal(uniforms)).clamp(-1, 1), actions)

    def penalty(self, parameters: Tensor) -> Tensor:
        return self._split(parameters)[0].square().mean(-1)

    def narrow(self, head: nn.Module) -> None:
        if not isinstance(head, GaussianHead):
            raise TypeError(f"a policy's action head is made by TeamPolicy.distribution.head, got {type(head)}")
        with torch.no_grad():
            head.spread.fill_(_NARROW)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        size = len(self.box.low)
        if parameters.shape[-1] != 2 * size:
            raise ValueError(
                f"a box of {size} numbers takes {2 * size} parameters, got {parameters.shape[-1]}: "
                "a policy's action head is made by TeamPolicy.distribution.head"
            )
        mean, log_std = parameters.split(size, dim=-1)
        return mean, log_std


class _Inside(torch.autograd.Function):
    """Means clipped to [-1, 1], whose gradient is stopped only where it would push further out.

    A plain clip would leave a mean that is outside without any (inverting gradients, Hausknecht and Stone 2016).
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor) -> Tensor:
        ctx.save_for_backward(mean)
        return mean.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (mean,) = ctx.saved_tensors
        outward = (mean.abs() > 1) & (gradient * mean < 0)  # losses go down, against the gradient
        return gradient.masked_fill(outward, 0.0)


class GaussianHead(nn.Module):
    """Means [..., A] linear in states [..., H], and log standard deviations [A] that are the same in every state.

    One number for each axis, as in most PPO for continuous control: exploration fades with what the whole team has
    learned, not wherever a few samples make a state look sure. It stays within smooth bounds, so that no step can
    strand it where there is no gradient.
    """

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, actions)
        nn.init.orthogonal_(self.mean.weight, gain=_MEAN_GAIN)
        nn.init.zeros_(self.mean.bias)
        share = (math.log(_FIRST_STD) - _LOWEST_LOG_STD) / (_HIGHEST_LOG_STD - _LOWEST_LOG_STD)
        self.spread = nn.Parameter(torch.full((actions,), math.log(share / (1 - share))))

    def forward(self, states: Tensor) -> Tensor:
        """Parameters [..., 2 A]."""
        mean = self.mean(states)
        log_std = _LOWEST_LOG_STD + (_HIGHEST_LOG_STD - _LOWEST_LOG_STD) * torch.sigmoid(self.spread)
        return torch.cat([mean, log_std.expand_as(mean)], dim=-1)


def distribution_over(actions: ActionSpace, choices: tuple[int, ...] | None = None) -> ActionDistribution:
    """The family that policies draw from these actions, of which slots may have the first `choices` only."""
    if isinstance(actions, BoxActions):
        return DiagonalGaussian(actions)
    return CATEGORICAL if choices is None else SlotCategorical(choices)
