"""What RLlib's learners make of a round, beside the same round written out: the same weights, to the last bit."""

import numpy as np
import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch
from learning import learned_module, weights
from small_teams import RELAY, WORLDS, team

from marlcomm.channels.vq import VQChannel
from marlcomm.config import experiment
from marlcomm.objectives.base import channel_loss
from marlcomm.objectives.maddpg import MADDPG, answers
from marlcomm.objectives.ppo import PPO, ValueLoss
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.critic import ActorCritic, CriticShape
from marlcomm.policies.distributions import Relaxation
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.values import TeamValues, ValueSettings
from marlcomm.rllib.replay import Draw, Replay, episode_shapes
from marlcomm.rllib.rows import (
    ADVANTAGES,
    VALUE_TARGETS,
    epoch_rows,
    minibatches,
    round_moments,
    standardize_advantages,
)

SEED = 1
EVERYONE = torch.arange(WORLDS)
MAPPO = {
    "critic": "central_with_messages",
    "critic_size": 8,
    "critic_rewards": True,
    "value_normalization": "popart",
    "value_norm_decay": 0.9,
    "value_loss": "huber",
    "huber_delta": 0.7,
    "value_clip": 0.2,
    "num_epochs": 3,
    "num_minibatches": 2,
    "lr": [[0, 1e-2], [400, 1e-3]],
    "entropy_coeff": [[0, 0.3], [300, 0.01]],
    "gamma": 0.9,
    "lambda_": 0.7,
    "mean_ratio": 0.25,
    "clip_param": 0.13,
    "grad_clip": None,
    "vf_loss_coeff": 0.6,
    "reward_scale": 0.5,
    "target_entropy": [[0, 0.9], [300, 0.5]],
    "target_entropy_rate": 0.8,
    "target_entropy_gain": 3.0,
}
REPLAY = {
    "learning_starts": 40,
    "env_steps_per_update": 24,
    "batch_size": 36,
    "sequence_length": 3,
    "burn_in": 2,
    "tau": 0.3,
    "lr": 3e-3,
    "critic_lr": 7e-3,
    "replay_env_steps": 10**5,
    "grad_clip": None,
}


def assert_same_weights(algorithm, **parts):
    ours = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    theirs = weights(algorithm)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_rounds_of_mappo(start):
    ddcl = {"name": "ddcl", "rate_weight": 0.1, "rate_warmup": 200}
    algorithm = start(experiment(team(RELAY, algorithm={"name": "mappo"} | MAPPO, channel=ddcl)))
    names = algorithm.config.team_names()
    env = names.make_env()
    policy = names.make_policy(env, SEED)
    values = TeamValues(policy, ValueSettings("central_with_messages", 8, "popart", 0.9, True), SEED)
    entropy = Schedule.of([[0, 0.3], [300, 0.01]])
    objective = PPO(0.9, 0.7, 0.13, 0.6, entropy, 0.5, 0.25, ValueLoss(0.7, 0.2))
    optimizer = torch.optim.Adam([*policy.parameters(), *values.parameters()], lr=1e-2, fused=True)
    rates, wanted = Schedule.of([[0, 1e-2], [400, 1e-3]]), Schedule.of([[0, 0.9], [300, 0.5]])
    steps, weight = 0, 0.3
    multiplier = weight
    for round_ in range(3):
        algorithm.training_step()
        rollout = values.rollout(policy, Player(env, policy, SEED).play(EVERYONE, EVERYONE * 0 + round_), SEED)
        steps += rollout.env_steps
        rows = objective.columns(rollout) | values.columns(rollout)
        moments = round_moments(rows, rows["acts"])
        standardize_advantages(rows, moments[ADVANTAGES])
        values.learn_units(policy, *moments[VALUE_TARGETS])
        rows["entropy_weight"] = torch.full((WORLDS,), weight)
        stats = []
        for epoch in range(3):
            for part in minibatches(epoch_rows(rows, SEED, round_, epoch, 2, 1), 2):
                who = part["world"], part["episode"], *part["alive"].shape[1:3], policy.rounds
                noise = channel_noise(policy.channel, SEED, "train", *who)
                moment = Moment(part["observations"], part["alive"], part["spawned"], None, noise)
                decision = values.decision(policy, part, policy(moment, running=part["running"]), noise)
                part["value_scale"] = values.norm.scale.expand(WORLDS // 2)
                loss = objective.loss(part, decision, steps)
                rate = channel_loss(policy.quantiser, decision.talk, part["acts"], part["messages"][0])
                optimizer.zero_grad()
                (loss.total + rate.total).backward()
                optimizer.step()
                stats.append(loss.stats)
            optimizer.param_groups[0]["lr"] = rates.at(steps)  # as RLlib does it, after each pass
        policy.quantiser.after_update(steps)
        own, low, high = (
            float(sum(one[f"policy/{kind}entropy"] for one in stats)) for kind in ("", "lowest_", "highest_")
        )
        lacks = wanted.at(steps) - (own - low) / (high - low)
        multiplier *= np.exp(0.8 * lacks)
        weight = multiplier * np.exp(3.0 * lacks)
        assert algorithm.entropy_weight.present == pytest.approx(weight, rel=1e-6)
        weight, multiplier = algorithm.entropy_weight.present, algorithm.entropy_weight.multiplier
        assert_same_weights(algorithm, policy=policy, team_values=values)
        played, learned = algorithm.env_runner.module.state_dict(), learned_module(algorithm).state_dict()
        assert all(torch.equal(played[name], learned[name]) for name in learned)


def test_losses_are_told_how_many_env_steps_there_were(start, monkeypatch):
    told, loss = [], PPO.loss
    monkeypatch.setattr(PPO, "loss", lambda self, *given: (told.append(given[-1]), loss(self, *given))[1])
    algorithm = start(experiment(team(RELAY)))
    for _ in range(2):
        algorithm.training_step()
    assert told == [4 * WORLDS, 2 * 4 * WORLDS]


def test_what_was_said_is_absorbed_once_however_often_it_is_learned_from(start, monkeypatch):
    counts, absorb = [], VQChannel.absorb
    monkeypatch.setattr(
        VQChannel, "absorb", lambda self, said, *given: (counts.append(len(said)), absorb(self, said, *given))[1]
    )
    algorithm = {"name": "mappo", "num_epochs": 3, "num_minibatches": 2}
    start(experiment(team(RELAY, channel={"name": "vq", "update": "ema"}, algorithm=algorithm))).training_step()
    assert counts == [4 * WORLDS * RELAY["agents"]]


@pytest.mark.parametrize(
    ("env", "channel", "settings", "objective", "shape", "exploration"),
    [
        (
            RELAY,
            "ddcl",
            {"twin": True, "parameters": "per_agent", "value_rescaling": True, "others": "current", "actions": "soft"}
            | {"temperature": 0.7, "mean_ratio": 0.3, "reward_scale": 2.0, "gamma": 0.8, "regularizer": 0.01}
            | {"epsilon": [[0, 0.5], [200, 0.1]], "critic_size": 8},
            MADDPG(0.8, 0.01, Relaxation(False, 0.7), 0.0, True, 2.0, 0.3, True),
            CriticShape("per_agent", 8, True),
            [[0, 0.5], [200, 0.1]],
        ),
        (
            {"name": "particle_spread", "horizon": 4, "actions": "continuous"},
            "vq",
            {"target_noise": 0.2, "action_noise": [[0, 0.4], [150, 0.1]], "reward_scale": 0.5, "gamma": 0.9}
            | {"regularizer": 0.02, "critic_size": 8},
            MADDPG(0.9, 0.02, Relaxation(True, 1.0), 0.2, False, 0.5, 0.0, False),
            CriticShape("shared", 8, False),
            [[0, 0.4], [150, 0.1]],
        ),
    ],
    ids=["discrete", "box"],
)
def test_rounds_of_maddpg(start, env, channel, settings, objective, shape, exploration):
    algorithm = start(
        experiment(team(env, channel={"name": channel}, algorithm={"name": "maddpg"} | REPLAY | settings))
    )
    names = algorithm.config.team_names()
    world = names.make_env()
    networks = ActorCritic.of(names.make_policy(world, SEED), shape, SEED)
    policy = networks.policy
    replay = Replay(episode_shapes(world.spec, policy.gated, policy.draws_gate), WORLDS, 100)
    actors = torch.optim.Adam(policy.parameters(), lr=3e-3, fused=True)
    critics = torch.optim.Adam(networks.critics.parameters(), lr=7e-3, fused=True)
    trained = [*policy.parameters(), *networks.critics.parameters()]
    steps = updates = waiting = 0
    for round_ in range(4):
        algorithm.training_step()
        player = Player(world, policy, SEED, exploration=Schedule.of(exploration).at(steps))
        rollout = player.play(EVERYONE, EVERYONE * 0 + round_)
        steps += rollout.env_steps
        replay.add(objective.columns(rollout), round_)
        due, waiting = divmod(waiting + min(rollout.env_steps, max(steps - 40, 0)), 24)
        for _ in range(due):
            batch = replay.draw(Draw(12, 3, 2, SEED), updates)
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            objective.loss(networks, batch, answers(networks, batch, SEED)).total.backward()
            actors.step()
            critics.step()
            networks.follow(0.3)
            updates += 1
            policy.quantiser.after_update(steps)
        assert algorithm.updates == updates
        assert_same_weights(
            algorithm,
            policy=policy,
            critics=networks.critics,
            target_policy=networks.target_policy,
            target_critics=networks.target_critics,
        )
    assert updates > 5


@pytest.mark.parametrize("name", ["mappo", "ic3net", "maddpg"])
def test_a_gradient_is_no_longer_than_it_may_be(start, name):
    """A step of plain gradient descent at rate 1 is the gradient; actors and critics are cut each on their own."""
    settings = {"name": name, "optimizer": "sgd", "lr": 1.0, "grad_clip": 1e-3}
    replay = {"critic_lr": 1.0, "learning_starts": 0, "env_steps_per_update": WORLDS * 4}  # an update a round
    algorithm = start(experiment(team(RELAY, algorithm=settings | (replay if name == "maddpg" else {}))))
    before = weights(algorithm)
    algorithm.training_step()
    assert getattr(algorithm, "updates", 1) == 1
    after, parts = weights(algorithm), dict(learned_module(algorithm).named_parameters())
    for of in ("policy", "critics") if name == "maddpg" else ("",):
        moved = [after[part] - before[part] for part in parts if part.startswith(of)]
        assert np.sqrt(sum(np.square(one).sum() for one in moved)) == pytest.approx(1e-3, rel=1e-3)
