"""Returns and advantages of slots whose occupants come and go.

Time t runs over the T actions of a rollout. ``rewards[:, t]`` follow action t and belong to the occupant *after* it,
so the reward of a slot that just got a new occupant is dropped. An occupant ended with action t if it was alive before
and is dead, or replaced, after; returns and advantages are cut there.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LINEAR = 1e-3  # keeps the inverse of a squashed value from growing too fast


def goes_on(alive: Tensor, spawned: Tensor, terminated: Tensor) -> Tensor:
    """Whether the occupant that took action t is still there after it.

    Args:
        alive: [B, T + 1, N] bool, before each action and after the last.
        spawned: [B, T + 1, N] bool.
        terminated: [B, T] bool, whether action t ended the world for good.

    Returns:
        [B, T, N] float32 of zeros and ones.
    """
    stays = alive[:, :-1] & alive[:, 1:] & ~spawned[:, 1:] & ~terminated.unsqueeze(-1)
    return stays.to(torch.float32)


def leaves(alive: Tensor, spawned: Tensor) -> Tensor:
    """Whether the slot's occupant left with action t, [B, T, N] of alive and spawned [B, T + 1, N]."""
    return alive[:, :-1] & ~(alive[:, 1:] & ~spawned[:, 1:])


def own_rewards(rewards: Tensor, spawned: Tensor) -> Tensor:
    """Rewards [B, T, N] of the agents that acted: those of new occupants (spawned [B, T + 1, N]) dropped."""
    return rewards * ~spawned[:, 1:]


def advantages(rewards: Tensor, values: Tensor, goes_on: Tensor, acts: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates [B, T, N] (Schulman et al. 2016), for each agent on its own.

    Args:
        rewards: [B, T, N], own rewards.
        values: [B, T + 1, N]; the value after the last action bootstraps a world that was cut short.
        goes_on: [B, T, N].
        acts: [B, T, N] bool; estimates are zero elsewhere (empty slots, and the padding of worlds that ended).
        gamma: the discount.
        lam: the decay over steps; 0 trusts the values, 1 the rewards.
    """
    deltas = rewards + gamma * goes_on * values[:, 1:] - values[:, :-1]
    estimates = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for time in reversed(range(deltas.shape[1])):
        following = acts[:, time] * (deltas[:, time] + gamma * lam * goes_on[:, time] * following)
        estimates[:, time] = following
    return estimates


def discounted(rewards: Tensor, goes_on: Tensor | None, gamma: float) -> Tensor:
    """Monte-Carlo returns [B, T, N] without bootstrap; cut where `goes_on` is zero, nowhere if it is None."""
    returns = torch.empty_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for time in reversed(range(rewards.shape[1])):
        carried = following if goes_on is None else goes_on[:, time] * following
        following = rewards[:, time] + gamma * carried
        returns[:, time] = following
    return returns


def squashed(values: Tensor) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000 of any values (Pohlen et al. 2018).

    A network that learns h of minus a squared distance learns about the distance, and tells apart what is near.
    """
    return values.sign() * ((values.abs() + 1).sqrt() - 1) + _LINEAR * values


def unsquashed(values: Tensor) -> Tensor:
    """What `squashed` maps to these."""
    far = values.abs() + 1 + _LINEAR
    root = 2 * far / (1 + (1 + 4 * _LINEAR * far).sqrt())  # sqrt(|x| + 1), without a difference of near numbers
    return values.sign() * (root.square() - 1)
