"""Actions that are points of a box: what worlds are given, how policies draw them, and that teams learn to."""

import math

import box_world
import gymnasium as gym
import numpy as np
import pytest
import torch
from learning import weights
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test
from scipy import stats

from marlcomm import noise
from marlcomm.analysis.trace import prove, record
from marlcomm.envs import TeamSpec
from marlcomm.envs.actions import BoxActions, DiscreteActions
from marlcomm.envs.pettingzoo import aec_env, parallel_env
from marlcomm.objectives.base import channel_loss
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.coding import frozen_code
from marlcomm.policies.distributions import CATEGORICAL, DiagonalGaussian, GaussianHead
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise, entropies, log_probs
from marlcomm.policies.team import TeamNames

BOX = BoxActions(box_world.LOW, box_world.HIGH)
POLICIES = ["transformer", "ic3net", "commnet"]
SMALL = {"hidden_size": 16, "message_size": 4}
FOUR = torch.arange(4), torch.zeros(4, dtype=torch.int64)


def team(policy="transformer", channel="ddcl", env_config=None, seed=0, policy_config=SMALL):
    names = TeamNames("reach", env_config or {}, policy, policy_config, channel, {})
    env = names.make_env()
    return env, names.make_policy(env, seed)


def play(env, policy, worlds=64, episode=0, **how):
    numbers = torch.arange(worlds)
    return Player(env, policy, seed=0).play(numbers, torch.full_like(numbers, episode), **how)


def replay(policy, played):
    """A learner's answers to a rollout."""
    steps, agents = played.acts.shape[1:]
    drawn = channel_noise(policy.channel, 0, "train", played.worlds, played.episodes, steps, agents)
    return policy(Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, drawn))


# --- what worlds are given --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.0, (1.0, 1.0)), "x: action_bounds: a bound is one number, or 3, .* got 0.0 and"),
        ((0.0, math.inf), "finite"),
        ((-1e39, 1.0), "finite"),  # not in float32
        ((0.0, (1.0, 1.0, 0.0)), "from finite numbers to higher ones"),
        ((math.nan, 1.0), "finite"),
    ],
)
def test_boxes_that_are_none_are_refused(bounds, words):
    with pytest.raises(ValueError, match=words):
        TeamSpec("x", 2, 1, 3, 5, "s", action_bounds=bounds)


def test_a_spec_says_what_actions_are():
    discrete, box = TeamSpec("x", 2, 1, 3, 5, "s"), TeamSpec("x", 2, 1, 3, 5, "s", action_bounds=(0, (1, 2, 3)))
    assert discrete.actions == DiscreteActions(3)
    assert box.actions == BoxActions((0, 0, 0), (1, 2, 3))
    assert discrete.actions.space() == gym.spaces.Discrete(3)
    assert box.actions.space() == gym.spaces.Box(np.zeros(3, np.float32), np.array([1, 2, 3], np.float32))


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (torch.ones(4, 2, dtype=torch.int64), r"float32 of shape \(4, 2, 2\), got torch.int64 of shape \(4, 2\)"),
        (torch.ones(4, 2, 2, dtype=torch.float64), "got torch.float64"),
        (torch.ones(4, 2, 3), r"of shape \(4, 2, 3\)"),
        (torch.full((4, 2, 2), 1.5), r"reach.step: action 1.5 \(number 0 of slot 0 in world 0\) is not in \[-1, 1\]"),
        (torch.tensor([0.0, 0.25]).expand(4, 2, 2), r"action 0.25 \(number 1 of .* is not in \[0.5, 4.5\]"),
        (torch.tensor([0.0, math.nan]).expand(4, 2, 2), "action nan"),
        (torch.tensor([-math.inf, 1.0]).expand(4, 2, 2), "action -inf"),
    ],
)
def test_actions_outside_the_box_are_refused(actions, words):
    env, _ = team()
    env.reset(0, *FOUR)
    with pytest.raises(ValueError, match=words):
        env.step(actions)
    env.step(torch.tensor([1.0, 0.5]).expand(4, 2, 2))  # the border is inside


@pytest.mark.parametrize("bounds", [((-1.0, 0.5), (1.0, 4.5)), ((0.1, -7.3), (0.3, 1e4))])
def test_what_is_drawn_outside_is_brought_to_the_border(bounds):
    box = BoxActions(*bounds)
    low, high = torch.tensor(bounds)
    units = torch.tensor([[-math.inf, 3.0], [-1.0, 1.0], [0.0, 0.0]])
    points = box.point(units)
    assert torch.equal(points[0], torch.stack([low[0], high[1]]))
    assert torch.allclose(points[1:], torch.stack([torch.stack([low[0], high[1]]), (low + high) / 2]))
    wide = torch.linspace(-1.001, 1.001, 4001).unsqueeze(-1).expand(-1, 2)
    box.check("here", box.point(wide).unsqueeze(1), (4001, 1))  # no rounding leaves the box
    inside = wide[wide.abs() <= 1].view(-1, 2)
    assert torch.allclose(box.units(box.point(inside)), inside, atol=1e-5)


def test_a_scripted_team_plays_in_a_box():
    env, _ = team(env_config={"horizon": 3})
    scripts = env.scripts()
    assert evaluate_script(env, scripts["there"], 0, 50)["success"] == 1
    figures = evaluate_script(env, scripts["random"], 0, 2000)
    # the squared difference of two uniform draws of width 2 is 2/3 in the mean
    assert figures["return"] == pytest.approx(-3 * 2 * 2 / 3, rel=0.03)


def test_pettingzoo_accepts_it():
    settings = {"horizon": 5}
    parallel_api_test(parallel_env("reach", **settings), num_cycles=20)
    parallel_seed_test(lambda: parallel_env("reach", **settings))
    api_test(aec_env("reach", **settings), num_cycles=30)


def test_the_pettingzoo_face_is_the_same_world():
    face, (env, _) = parallel_env("reach", horizon=2), team(env_config={"horizon": 2})
    observations, _ = face.reset(seed=3)
    now = env.reset(3, torch.tensor([0]), torch.tensor([0]), stream="pettingzoo")
    assert face.action_space("agent_1") == BOX.space()
    actions = {"agent_1": np.array([1.0, 0.5]), "agent_0": np.array([0.1, 4.5], np.float32)}
    observations, rewards, *_ = face.step(actions)
    now = env.step(torch.tensor([[[0.1, 4.5], [1.0, 0.5]]]))
    assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
    assert list(rewards.values()) == now.rewards[0].tolist()
    with pytest.raises(ValueError, match=r"the action of agent_1 must be of shape \(2,\), got \(\)"):
        face.step(actions | {"agent_1": 1})
    with pytest.raises(ValueError, match=r"action 9 .* is not in"):
        face.step(actions | {"agent_1": np.array([0.0, 9.0])})


# --- how policies draw them -------------------------------------------------------------------------------------------


def test_normal_draws_are_those_of_their_uniforms():
    uniforms = noise.uniform(noise.world_keys(0, "x", *FOUR), 50_000)
    variates = noise.normal(uniforms)
    assert np.allclose(variates.numpy(), stats.norm.ppf(uniforms.double().numpy()), rtol=1e-5, atol=1e-6)
    assert stats.kstest(variates.flatten().numpy(), "norm").pvalue > 1e-3
    ends = noise.normal(noise.to_uniform(torch.tensor([0, -1])))  # the least and the greatest word
    assert torch.isfinite(ends).all()
    assert ends[0] == -ends[1]


def test_density_and_entropy_by_another_implementation():
    generator = torch.Generator().manual_seed(0)
    means, log_stds, actions = (torch.randn(5, 3, 2, generator=generator) for _ in range(3))
    family, parameters = DiagonalGaussian(BOX), torch.cat([means, log_stds], -1)
    expected = torch.distributions.Independent(torch.distributions.Normal(means, log_stds.exp()), 1)
    assert torch.allclose(family.log_probs(parameters, actions), expected.log_prob(actions), atol=1e-5)
    assert torch.allclose(family.entropies(parameters), expected.entropy(), atol=1e-6)
    assert torch.equal(family.greedy(parameters), means)
    drawn = family.sample(parameters, torch.full((5, 3, 2), stats.norm.cdf(1.0)))
    assert torch.allclose(drawn, means + log_stds.exp(), atol=1e-5)


def test_the_head_starts_in_the_middle_and_is_bounded():
    torch.manual_seed(0)
    head = GaussianHead(16, 2)
    states = torch.randn(100, 16)
    means, log_stds = head(states).split(2, -1)
    assert means.abs().max() < 0.05
    assert torch.allclose(log_stds.exp(), torch.tensor(0.5))
    for spread, std in ((-100.0, math.exp(-5)), (100.0, 1.0)):
        with torch.no_grad():
            head.spread.fill_(spread)
        assert torch.allclose(head(states)[:, 2:].exp(), torch.tensor(std))


def test_a_head_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a box of 2 numbers takes 4 parameters, got 2: .*distribution\.head"):
        DiagonalGaussian(BOX).greedy(torch.zeros(3, 2))


@pytest.mark.parametrize("policy_name", POLICIES)
def test_replay_is_the_rollout(policy_name):
    env, policy = team(policy_name, env_config={"horizon": 4})
    played = play(env, policy)
    assert played.actions.shape == (64, 4, 2, 2)
    assert (played.actions.abs() > 1).any()  # recorded as drawn; the world clips
    assert torch.equal(env.actions, BOX.point(played.actions[:, -1]))
    decision = replay(policy, played)
    again = log_probs(decision, played.actions, played.gate_choices)
    assert torch.allclose(again, played.log_probs, atol=1e-5)
    assert torch.allclose(decision.values, played.values[:, :-1], atol=1e-5)
    gates = CATEGORICAL.entropies(decision.gate_logits) if policy.gated else 0
    gaussian = 2 * (math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e))
    assert torch.allclose(entropies(decision), torch.tensor(gaussian) + gates)


def test_draws_have_the_policys_spread_and_are_independent():
    env, policy = team("ic3net", env_config={"horizon": 4})
    played = play(env, policy, worlds=2000)
    with torch.no_grad():
        means = replay(policy, played).logits[..., :2]
    drawn = torch.cat([((played.actions - means) / 0.5).flatten(2), played.gate_choices.float() - 0.5], -1).flatten(
        0, 1
    )
    assert torch.allclose(drawn[:, :4].std(0), torch.tensor(1.0), atol=0.03)
    assert (torch.corrcoef(drawn.T) - torch.eye(6)).abs().max() < 0.05  # numbers, slots, gates


def test_rollouts_of_a_world_do_not_depend_on_the_batch():
    env, policy = team(env_config={"horizon": 4})
    whole = play(env, policy, worlds=64)
    part = Player(env, policy, 0).play(torch.arange(31, 64), torch.zeros(33, dtype=torch.int64))
    assert torch.allclose(part.actions, whole.actions[31:], atol=1e-6)
    draws = noise.normal(noise.uniform(noise.world_keys(0, "x", torch.arange(64), torch.zeros(64).long()), 4, 2, 2))
    alone = noise.normal(noise.uniform(noise.world_keys(0, "x", torch.tensor([33]), torch.tensor([0])), 4, 2, 2))
    assert torch.equal(draws[33], alone[0])


def test_greedy_play_goes_to_the_mean():
    env, policy = team()
    played = play(env, policy, greedy=True)
    with torch.no_grad():
        means = replay(policy, played).logits[..., :2]
    assert torch.allclose(played.actions, means, atol=1e-6)
    assert not torch.equal(played.actions, play(env, policy).actions)


@pytest.mark.parametrize("policy_name", POLICIES)
def test_whom_the_world_does_not_obey_is_certain(policy_name):
    env, policy = team(policy_name, env_config={"led": True, "horizon": 2})
    played = play(env, policy)
    # the point of the box nearest to zero
    assert torch.allclose(env.actions[:, 0], torch.tensor([0.0, 0.5]))
    assert len(played.actions[:, 0, 1].unique()) > 100
    decision = replay(policy, played)
    density = decision.distribution.log_probs(decision.logits, played.actions)
    assert not density[:, :, 0].any()
    assert not decision.distribution.entropies(decision.logits)[:, :, 0].any()
    if not policy.gated:
        assert not played.log_probs[:, :, 0].any()
    spread = policy.action_head.spread
    (gradient,) = torch.autograd.grad(density[:, :, 0].sum(), spread, retain_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(density[:, :, 1].sum(), spread)
    assert torch.isfinite(gradient).all()
    assert gradient.all()


def test_evaluations_and_traces_play_in_a_box():
    env, policy = team(env_config={"horizon": 4, "told": True})
    figures = evaluate(env, policy, 0, 40)
    assert figures["return"] < 0
    assert figures["wire_bytes_per_message"] > 4
    trace = record(env, policy, 0, 40, frozen_code(env, policy, 0, 40))
    prove(env, policy, trace)
    assert len(np.unique(trace.actions)) == 40


# --- learning ---------------------------------------------------------------------------------------------------------


def objective(name, entropy=0.0):
    if name == "ppo":
        return PPO(0.99, 0.95, 0.2, 0.5, Schedule.of(entropy), reward_scale=1.0, mean_ratio=0.0)
    return Reinforce(1.0, 0.0, 0.5, Schedule.of(entropy), reward_scale=1.0)


def update(policy, optimizer, loss, played, epochs=1):
    """Updates on whole rounds; returns the largest |probability ratio - 1| before the first."""
    batch = loss.columns(played)
    batch["agent_steps"] = played.acts.sum().float().expand(len(played.worlds))
    batch["env_steps"] = played.lengths.sum().float().expand(len(played.worlds))
    first = 0.0
    for epoch in range(epochs):
        decision = replay(policy, played)
        if epoch == 0:
            ratio = torch.exp(log_probs(decision, batch["actions"], batch.get("gate_choices")) - batch["log_probs"])
            first = float((ratio - 1).detach().abs().max())
        rate = channel_loss(policy.channel, decision.talk, batch["acts"], batch["agent_steps"][0])
        optimizer.zero_grad()
        (loss.loss(batch, decision, 0).total + rate.total).backward()
        optimizer.step()
    return first


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
@pytest.mark.parametrize("policy_name", POLICIES)
def test_every_policy_trains_with_every_objective(policy_name, name):
    env, policy = team(policy_name, env_config={"horizon": 3})
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in policy.named_parameters()}
    for episode in range(2):
        played = play(env, policy, episode=episode)
        assert update(policy, optimizer, objective(name, 0.01), played) < 1e-4
        assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)
    moved = {key for key, value in policy.named_parameters() if not torch.equal(value, before[key])}
    assert {"action_head.mean.weight", "action_head.mean.bias", "action_head.spread"} <= moved


def learn(env, policy, loss, rounds, epochs, rate=1e-2):
    optimizer = torch.optim.Adam(policy.parameters())
    for episode in range(rounds):
        optimizer.param_groups[0]["lr"] = rate * (1 - episode / rounds)
        update(policy, optimizer, loss, play(env, policy, worlds=128, episode=episode), epochs)
    return evaluate(env, policy, 0, 500, greedy=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_team_learns_to_reach_a_target(seed):
    env, policy = team(channel="silent", seed=seed)
    first = entropies(replay(policy, play(env, policy))).mean()
    assert learn(env, policy, objective("ppo"), rounds=90, epochs=4)["success"] > 0.9  # random: 0.04
    assert entropies(replay(policy, play(env, policy))).mean() < first - 1  # it draws less widely now


def test_reinforce_learns_it_beside_a_gate():
    env, policy = team("ic3net", "silent")
    assert learn(env, policy, objective("reinforce"), rounds=100, epochs=1, rate=2e-2)["success"] > 0.9


def test_a_team_learns_to_say_where_the_target_is():
    shape = {"hidden_size": 32, "message_size": 4, "recurrent": False}
    env, policy = team(channel="continuous", env_config={"told": True}, policy_config=shape)
    assert learn(env, policy, objective("ppo"), rounds=80, epochs=4, rate=5e-3)["success"] > 0.9


# --- RLlib ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
def test_rllib_trains_in_a_box(built):
    from marlcomm.algorithms import MAPPOConfig
    from marlcomm.rllib.module import spaces

    config = MAPPOConfig().environment("reach", env_config={"horizon": 3})
    config.communication(policy="ic3net", policy_config=SMALL, channel="ddcl", imports=["box_world"])
    config.training(num_epochs=2).env_runners(num_env_runners=0, num_envs_per_env_runner=16)
    whole = built(config.debugging(seed=7))
    before = weights(whole)
    for _ in range(2):
        whole.train()
        assert whole.figures["replay/ratio_error"] <= 1e-4
        assert whole.figures["update/skipped"] == 0
    assert not np.array_equal(weights(whole)["policy.action_head.spread"], before["policy.action_head.spread"])
    assert spaces(whole.env_runner.env.spec)[1].contains(np.array([box_world.LOW, box_world.HIGH], np.float32))
