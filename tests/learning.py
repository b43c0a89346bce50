"""A training loop without Ray, for tiny worlds: what the runners and learners do, in one process."""

import numpy as np
import torch

from marlcomm.objectives.base import channel_loss
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.rllib.rows import epoch_rows, moments, standardize_advantages


def replayed(policy, batch, seed=0):
    """The policy's answers to recorded rows, with the channel noise of the rollout."""
    steps, agents = batch["acts"].shape[1:3]
    draws = channel_noise(policy.channel, seed, "train", batch["world"], batch["episode"], steps, agents, policy.rounds)
    return policy(Moment(batch["observations"], batch["alive"], batch["spawned"], batch.get("gates"), draws))


def normalize_advantages(batch, over=None, sample=False):
    """Centre and scale advantages by their own moments, over acting agents or others."""
    of = moments(batch["advantages"][batch["acts"] if over is None else over])
    standardize_advantages(batch, of, sample)


def train(env, policy, objective, optimizer, rounds, worlds=128, seed=0):
    """Rounds of one episode of every world, an update after each; returns the success of the last one's worlds."""
    everyone = torch.arange(worlds)
    for round_ in range(rounds):
        played = Player(env, policy, seed).play(everyone, torch.full_like(everyone, round_))
        batch = epoch_rows(objective.columns(played), seed, round_, 0, minibatches=1, learners=1)
        decision = replayed(policy, batch, seed)
        rate = channel_loss(policy.quantiser, decision.talk.quantised, batch["acts"], batch["messages"][0])
        loss = objective.loss(batch, decision, round_ * worlds * env.spec.horizon).total + rate.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.quantiser.after_update(round_ * worlds * env.spec.horizon)
    return float(played.info["success"].mean())


def weights(algorithm):
    """What the learners of an RLlib algorithm have, name -> array."""
    from marlcomm.rllib.compat import DEFAULT_MODULE_ID

    state = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    return {name: np.asarray(value) for name, value in state.items()}


def learned_module(algorithm):
    """The module of a learner in this process: runners have less of it."""
    (module,) = algorithm.learner_group._learner.module.values()
    return module
