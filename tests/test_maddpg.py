"""MADDPG: what critics see, targets and losses by hand, the replay, teams that learn from it, and runs."""

from __future__ import annotations

import re
from dataclasses import replace

import box_world
import numpy as np
import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import weights
from test_objectives import EXAMPLE, rollout

from marlcomm import checkpoint, noise
from marlcomm.envs.actions import BoxActions
from marlcomm.envs.base import Candidates, Indexed, TeamSpec
from marlcomm.objectives.maddpg import MADDPG, Answers, CriticsWord, answers
from marlcomm.objectives.returns import squashed, unsquashed
from marlcomm.policies.critic import ActorCritic, CentralCritic, CriticShape
from marlcomm.policies.distributions import CATEGORICAL, DiagonalGaussian, Relaxation
from marlcomm.policies.records import Decision, Moment, Talk
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError
from marlcomm.rllib.replay import Draw, Replay, episode_bytes, episode_shapes, fitting_rounds, shared_windows

YES, NO = True, False
BOX = BoxActions(box_world.LOW, box_world.HIGH)
MEMORYLESS = {"hidden_size": 16, "message_size": 4, "recurrent": False}
CHANNELS = ["continuous", "ddcl", "gumbel", "silent"]
SPEC = TeamSpec("x", num_agents=3, observation_size=4, num_actions=2, horizon=5, setting="s")


class Training:
    """A team trained from a replay, without Ray."""

    def __init__(self, env="relay", channel="continuous", policy="transformer", *, worlds=32, draw=None, **how):
        env_config, policy_config = how.pop("env_config", {}), how.pop("policy_config", MEMORYLESS)
        names = TeamNames(env, env_config, policy, policy_config, channel, how.pop("channel_config", {}))
        self.seed, self.lr, shape = how.pop("seed", 0), how.pop("lr", 1e-3), how.pop("shape", CriticShape())
        self.exploration = how.pop("exploration", 0.0)
        self.env = names.make_env()
        self.networks = ActorCritic.of(names.make_policy(self.env, self.seed), shape, self.seed)
        self.policy = self.networks.policy
        self.objective = MADDPG(**({"gamma": 0.95, "regularizer": 1e-3} | how))
        self.worlds, self.rounds, self.updates = torch.arange(worlds), 0, 0
        length = self.env.spec.horizon if self.policy.remembers else 1
        self.draw = draw or Draw(rows=256 // length, length=length, burn_in=0, seed=self.seed)
        shapes = episode_shapes(self.env.spec, self.policy.gated, self.policy.draws_gate)
        self.replay = Replay(shapes, worlds, rounds=50)
        self.optimizers = [
            torch.optim.Adam(part.parameters(), lr=self.lr) for part in (self.policy, self.networks.critics)
        ]

    def play(self):
        player = Player(self.env, self.policy, self.seed, exploration=self.exploration)
        rollout = player.play(self.worlds, torch.full_like(self.worlds, self.rounds))
        self.replay.add(self.objective.columns(rollout), self.rounds)
        self.rounds += 1
        return rollout

    def batch(self):
        return self.replay.draw(self.draw, self.updates)

    def update(self):
        batch = self.batch()
        loss = self.objective.loss(self.networks, batch, answers(self.networks, batch, self.seed))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.networks.follow(0.01)
        self.updates += 1
        return loss


# --- critics ----------------------------------------------------------------------------------------------------------


def critic(parameters="shared", spec=SPEC, size=8):
    torch.manual_seed(0)
    made = CentralCritic(spec, 2, CriticShape(parameters, size))
    with torch.no_grad():
        made.slots.normal_()
    return made


def team_rows(*shape):
    generator = torch.Generator().manual_seed(1)
    observations, codes, own = (torch.randn(*shape, 3, size, generator=generator) for size in (4, 2, 2))
    return observations, codes, own, torch.rand(*shape, 3, generator=generator) < 0.8


@pytest.mark.parametrize("parameters", ["shared", "per_agent"])
def test_a_critic_is_an_mlp_over_the_whole_team(parameters):
    one = critic(parameters)
    observations, codes, _, alive = team_rows(6, 2)
    alive[:] = True
    values = one(observations, codes, alive)
    assert values.shape == (6, 2, 3)
    inputs = torch.cat([observations, codes], -1)
    for i in range(3):
        order = [i, (i + 1) % 3, (i + 2) % 3] if parameters == "shared" else [0, 1, 2]
        hidden = one.slots[i].clone()
        for place, j in enumerate(order):
            layer = one.first[0] if parameters == "shared" else one.first[j]
            part = place if parameters == "shared" else i
            hidden = hidden + layer(inputs[..., j, :])[..., part * 8 : part * 8 + 8]
        kind = 0 if parameters == "shared" else i
        for layer in (one.second, one.third):
            hidden = torch.relu(hidden) @ layer.weight[kind] + layer.bias[kind]
        assert torch.allclose(values[..., i], hidden.squeeze(-1), atol=1e-6)


@pytest.mark.parametrize("parameters", ["shared", "per_agent"])
def test_another_action_of_ones_own_is_judged_beside_what_the_others_did(parameters):
    one = critic(parameters)
    observations, codes, own, alive = team_rows(7)
    values = one(observations, codes, alive, own)
    for i in range(3):
        changed = codes.clone()
        changed[:, i] = own[:, i]
        assert torch.allclose(values[:, i], one(observations, changed, alive)[:, i], atol=1e-6)


@pytest.mark.parametrize("parameters", ["shared", "per_agent"])
def test_the_dead_are_nothing_to_a_critic(parameters):
    one = critic(parameters)
    observations, codes, own, alive = team_rows(7)
    alive[:] = torch.tensor([YES, NO, YES])
    before = one(observations, codes, alive, own)
    for x in (observations, codes, own):
        x[:, 1] += 3.0
    after = one(observations, codes, alive, own)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    alive[:] = True
    assert not torch.equal(before[:, [0, 2]], one(observations, codes, alive, own)[:, [0, 2]])


def test_indices_are_what_they_stand_for():
    indexed = Indexed(width=6, ones=1, columns=(5,))
    one = critic(spec=TeamSpec("x", 3, 2, 2, 5, "s", indexed=indexed))
    dense = critic(spec=TeamSpec("x", 3, 6, 2, 5, "s"))
    dense.load_state_dict(one.state_dict())
    observations = torch.stack([torch.randint(0, 5, (4, 3)).float(), torch.randn(4, 3)], -1)
    codes, alive = torch.randn(4, 3, 2), torch.ones(4, 3, dtype=torch.bool)
    assert torch.allclose(one(observations, codes, alive), dense(indexed.dense(observations), codes, alive), atol=1e-6)


@pytest.mark.parametrize("indexed", [None, Indexed(width=3, ones=1, columns=())])
def test_of_candidates_a_critic_is_told_what_was_chosen(indexed):
    """Not where it stood, nor what else there was."""
    candidates = Candidates(3 if indexed is None else 1, indexed)
    spec = TeamSpec("x", 2, 1 + 4 * candidates.size, 4, 5, "s", candidates=candidates)
    one = CentralCritic(spec, 4 + 2, CriticShape("shared", 8))
    shown = torch.randint(0, 3, (6, 2, 4, candidates.size)).float()
    seen, gates, alive = torch.randn(6, 2, 1), torch.randn(6, 2, 2), torch.ones(6, 2, dtype=torch.bool)
    order, actions = torch.tensor([2, 0, 3, 1]), torch.tensor([[0, 3]] * 6)

    def value(shown, actions, own=None):
        codes = torch.cat([torch.nn.functional.one_hot(actions, 4), gates], -1)
        other = None if own is None else torch.cat([torch.nn.functional.one_hot(own, 4), gates], -1)
        return one(torch.cat([seen, shown.flatten(-2)], -1), codes, alive, other)

    there = value(shown, actions)
    assert torch.allclose(value(shown[:, :, order], order.argsort()[actions]), there, atol=1e-6)
    rest = shown.clone()
    rest[:, 0, 1:], rest[:, 1, :3] = 0.0, 1.0
    assert torch.allclose(value(rest, actions), there, atol=1e-6)
    moved = value(shown, actions, own=(actions + 1) % 4)
    for agent in range(2):
        changed = actions.clone()
        changed[:, agent] = (actions[:, agent] + 1) % 4
        assert torch.allclose(moved[:, agent], value(shown, changed)[:, agent], atol=1e-5)


def test_targets_follow():
    team = Training(channel="gumbel", shape=CriticShape(twin=True))
    for network, target in (
        (team.policy, team.networks.target_policy),
        (team.networks.critics, team.networks.target_critics),
    ):
        assert not any(p.requires_grad for p in target.parameters())
        old = {name: value.clone() for name, value in target.named_parameters()}
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1.0)
        team.policy.channel.temperature.fill_(0.25)
        team.networks.follow(0.1)
        for name, value in target.named_parameters():
            assert torch.allclose(value, old[name] + 0.1, atol=1e-6), name
    assert team.networks.target_policy.channel.temperature == 0.25
    first, second = team.networks.critics
    assert not torch.equal(first.second.weight, second.second.weight)


# --- actions with a gradient ------------------------------------------------------------------------------------------


def test_relaxed_choices_have_the_right_shares_and_gradient():
    logits = torch.tensor([0.5, -0.5, 1.0], requires_grad=True)
    uniforms = noise.uniform(noise.world_keys(0, "x", torch.arange(20_000), torch.zeros(20_000).long()), 3)
    hard = CATEGORICAL.relaxed(logits.expand(20_000, 3), uniforms, Relaxation(True, 0.5))
    soft = CATEGORICAL.relaxed(logits.expand(20_000, 3), uniforms, Relaxation(False, 0.5))
    assert torch.equal(hard.detach().round(), torch.nn.functional.one_hot(hard.argmax(-1), 3).float())
    assert torch.allclose(hard.mean(0), torch.softmax(logits, 0), atol=0.015)
    assert torch.allclose(soft, torch.softmax((logits + noise.gumbel(uniforms)) / 0.5, -1))
    weights = torch.tensor([1.0, 2.0, 4.0])
    (of_hard,) = torch.autograd.grad((hard * weights).sum(), logits, retain_graph=True)
    (of_soft,) = torch.autograd.grad((soft * weights).sum(), logits)
    assert torch.allclose(of_hard, of_soft)
    assert of_hard.any()


def test_box_actions_stay_inside_and_find_back():
    family = DiagonalGaussian(BOX)
    means = torch.tensor([[-3.0, 0.5], [2.0, 0.0]], requires_grad=True)
    parameters = torch.cat([means, torch.zeros(2, 2)], -1)
    codes = family.relaxed(parameters, torch.full((2, 2), 0.5), Relaxation())
    assert codes.tolist() == [[-1.0, 0.5], [1.0, 0.0]]
    # A loss that wants everything greater: outside below it may come back, outside above it may not go on.
    (gradient,) = torch.autograd.grad(-codes.sum(), means)
    assert gradient.tolist() == [[-1.0, -1.0], [0.0, -1.0]]
    noisy = family.relaxed(parameters, torch.full((2, 2), 0.975), Relaxation(noise=0.1))
    assert torch.allclose(noisy.detach(), torch.tensor([[-0.804, 0.696], [1.0, 0.196]]), atol=1e-3)
    assert family.code(parameters, torch.tensor([[-1.5, 0.2], [0.0, 9.0]])).tolist() == pytest.approx(
        np.array([[-1.0, 0.2], [0.0, 1.0]])
    )


def test_exploration_adds_what_it_says():
    many = 50_000
    uniforms = noise.uniform(noise.world_keys(0, "x", torch.arange(many), torch.zeros(many).long()), 4)
    logits, actions = torch.zeros(many, 4), torch.full((many,), 3)
    logits[: many // 2, 1:] = CATEGORICAL.idle(logits, torch.ones(many, dtype=torch.bool))[: many // 2, 1:]
    explored = CATEGORICAL.explored(actions, logits, uniforms, 0.4)
    free, certain = explored[many // 2 :], explored[: many // 2]
    shares = torch.bincount(free, minlength=4) / len(free)
    assert torch.allclose(shares, torch.tensor([0.1, 0.1, 0.1, 0.7]), atol=0.01)
    assert set(certain.unique().tolist()) == {0, 3}  # what is impossible is never tried
    family = DiagonalGaussian(BOX)
    parameters = family.idle(torch.zeros(many, 2, 4), torch.tensor([True, False]))
    start = family.greedy(parameters)
    moved = family.explored(start, parameters, uniforms.view(many, 2, 2), 0.3)
    assert torch.equal(moved[:, 0], start[:, 0])
    assert moved[:, 1].std() == pytest.approx(0.3, rel=0.02)
    assert moved.abs().max() <= 1


def test_exploration_has_draws_of_its_own():
    team = Training(exploration=0.3)
    draws = Player(team.env, team.policy, team.seed, exploration=0.3).draws(team.worlds, team.worlds)
    assert not (draws.actions.unsqueeze(-1) == draws.exploration.unsqueeze(-2)).any()


@pytest.mark.parametrize("hard", [True, False])
def test_soft_actions_never_reach_a_discrete_world(hard):
    team = Training(relaxation=Relaxation(hard), exploration=0.1)
    stepped, step = [], team.env.step
    team.env.step = lambda actions: (stepped.append(actions), step(actions))[1]
    for _ in range(2):
        team.play()
        team.update()
    assert len(stepped) == 2 * team.env.spec.horizon
    for actions in stepped:
        assert actions.dtype == torch.int64  # and the world itself refuses anything else
    assert team.batch()["actions"].dtype == torch.int64
    team.env.reset(0, team.worlds, team.worlds)
    with pytest.raises(ValueError, match=r"relay.step: actions must be int64"):
        team.env.step(torch.softmax(torch.zeros(32, 2, 2), -1))


def test_box_policies_act_as_surely_as_they_can_and_noise_is_the_trainings():
    team = Training("reach", env_config={"horizon": 2}, exploration=0.3)
    drawn = team.play()
    assert drawn.actions.abs().max() <= 1
    player = Player(team.env, team.policy, 0)
    sampled, greedy = (player.play(team.worlds, torch.zeros_like(team.worlds), greedy=g) for g in (False, True))
    spread = (sampled.actions - greedy.actions).std()
    assert 0 < spread < 0.01
    assert (drawn.actions - greedy.actions).std() > 0.2


# --- targets and losses by hand ---------------------------------------------------------------------------------------


class Fixed:
    """A critic that says the same of everybody, or what two numbers of each agent's code are worth to it."""

    def __init__(self, values=None, worth=None):
        self.values, self.worth = values, worth
        self.asked = []

    def __call__(self, observations, codes, alive, own=None):
        self.asked.append((observations, codes, alive))
        if self.worth is None:
            return torch.tensor(self.values)
        return ((codes if own is None else own) * torch.tensor(self.worth)).sum(-1)


def decision(logits, seed=0):
    logits = torch.tensor(logits, requires_grad=True)
    agents = logits.shape[:-1]
    talk = Talk(torch.zeros(*agents, 1, dtype=torch.int32), torch.ones(agents, dtype=torch.bool))
    return Decision(logits, None, torch.zeros(agents), talk)


def window(**changes):
    """One world of two agents, one step; the second agent dies in it."""
    return {
        "observations": torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]]),
        "alive": torch.tensor([[[YES, YES], [YES, NO]]]),
        "spawned": torch.zeros(1, 2, 2, dtype=torch.bool),
        "acts": torch.tensor([[[YES, YES]]]),
        "spoke": torch.tensor([[[YES, YES]]]),
        "actions": torch.tensor([[[0, 1]]]),
        "rewards": torch.tensor([[[1.0, -2.0]]]),
        "goes_on": torch.tensor([[[YES, NO]]]),
        "agent_steps": torch.tensor([2.0]),
        "messages": torch.tensor([2.0]),
        **changes,
    }


def said(now, then):
    draws = torch.full((1, 1, 2, 2), 0.5)
    return Answers(decision(now), decision(then), draws, draws)


def networks(critics, targets):
    policy = Training().policy  # only its channel is asked
    return ActorCritic(policy, critics, policy, targets)


def test_targets_by_hand():
    spoken = said([[[[0.0, 0.0]] * 2]], [[[[0.0, 3.0], [2.0, 0.0]]]])
    objective = MADDPG(gamma=0.5, regularizer=0.0)
    one, other = Fixed([[[8.0, 100.0]]]), Fixed([[[6.0, 200.0]]])
    targets = objective.targets(networks(None, [one]), window(), spoken)
    assert targets.tolist() == [[[1.0 + 0.5 * 8.0, -2.0]]]  # who died is not bootstrapped
    observations, codes, alive = one.asked[0]
    assert observations.tolist() == [[[[3.0], [4.0]]]]
    assert alive.tolist() == [[[YES, NO]]]
    assert codes.tolist() == [[[[0.0, 1.0], [1.0, 0.0]]]]  # equal draws: the likelier action
    twin = objective.targets(networks(None, [one, other]), window(), spoken)
    assert twin.tolist() == [[[1.0 + 0.5 * 6.0, -2.0]]]


def test_targets_of_squashed_values_by_hand():
    spoken = said([[[[0.0, 0.0]] * 2]], [[[[0.0, 0.0]] * 2]])
    objective = MADDPG(gamma=0.5, regularizer=0.0, squashes=True)
    critic = Fixed([[[2.008, 0.0]]])  # h(8) = sqrt(9) - 1 + 0.008
    targets = objective.targets(networks(None, [critic]), window(), spoken)
    # r + gamma Q' are 1 + 0.5 * 8 and -2
    assert targets[0, 0].tolist() == pytest.approx([6**0.5 - 1 + 0.005, -(3**0.5 - 1 + 0.002)], abs=1e-5)


def test_rewards_of_the_replay_by_hand():
    def kept(**how):
        return MADDPG(gamma=0.9, regularizer=0.0, **how).columns(rollout(**EXAMPLE))["rewards"]

    assert kept().tolist() == [[[-1.0, 0.0], [-2.0, -0.5]]]  # -10 is the newcomer's
    mixed = torch.tensor([[[-0.5 - 2.75, -2.75], [-1.0 - 0.625, -0.25 - 0.625]]])
    assert torch.equal(kept(mean_ratio=0.5), mixed)
    assert torch.allclose(kept(mean_ratio=0.5, reward_scale=0.1), 0.1 * mixed)


def test_actions_of_targets_are_drawn_on_their_own():
    team = Training()
    team.play()
    spoken = answers(team.networks, team.batch(), team.seed)
    assert not (spoken.draws == spoken.target_draws).any()


@given(st.floats(-1e5, 1e5, width=32))
def test_squashed_values_come_back(value):
    value = torch.tensor(value)
    assert unsquashed(squashed(value)).item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5)


def test_the_horizon_bootstraps_and_an_end_does_not():
    for env, goes in (("relay", False), ("sprint", True)):
        team = Training(env, worlds=3)
        team.play()
        last = team.replay.round(0)["lengths"] - 1
        on = team.replay.round(0)["goes_on"][np.arange(3), last]
        # `relay` ends for good; of `sprint` the odd worlds do, the even ones are cut short
        assert on[1].any() == (goes and 1 % 2 == 0)
        assert on[0].all() == goes
    assert team.replay.round(0)["observations"][:, 1:].max() > 0  # what was seen after the last action is there


def test_losses_by_hand(monkeypatch):
    monkeypatch.setattr("marlcomm.objectives.maddpg.functional_call", lambda critic, weights, given: critic(*given))
    logits = [[[[1.0, 0.0], [0.0, -2.0]]]]
    spoken = said(logits, [[[[0.0, 0.0]] * 2]])
    judge, target = torch.nn.Module(), Fixed([[[2.0, 2.0]]])
    judge.__class__ = type("Linear", (torch.nn.Module,), {"forward": Fixed(worth=[3.0, 5.0]).__call__})
    objective = MADDPG(gamma=0.5, regularizer=0.1, relaxation=Relaxation(hard=False))
    loss = objective.loss(networks([judge], [target]), window(), spoken)
    # recorded actions are 0 and 1, worth 3 and 5; targets 1 + 1 and -2
    error = ((3.0 - 2.0) ** 2 + (5.0 + 2.0) ** 2) / 2
    shares = torch.softmax(torch.tensor(logits), -1)  # equal draws on both actions
    gain = float((shares * torch.tensor([3.0, 5.0])).sum(-1).mean())
    penalty = (0.5 * 1.0 + 0.5 * 4.0) / 2
    assert loss.stats["loss/value"].item() == pytest.approx(error)
    assert loss.stats["loss/policy"].item() == pytest.approx(-gain, rel=1e-5)
    assert loss.stats["policy/penalty"].item() == pytest.approx(penalty)
    assert loss.total.item() == pytest.approx(error - gain + 0.1 * penalty, rel=1e-5)


def test_each_loss_moves_its_own_weights():
    team = Training(channel="ddcl")
    team.play()
    batch = team.batch()
    spoken = answers(team.networks, batch, 0)
    stats = team.objective.loss(team.networks, batch, spoken)
    stats.total.backward()
    moved = {name: p.grad.clone() for name, p in team.networks.critics.named_parameters()}
    for p in team.networks.critics.parameters():
        p.grad = None
    targets = team.objective.targets(team.networks, batch, spoken)
    codes = spoken.now.distribution.code(spoken.now.logits, batch["actions"])
    values = team.networks.critics[0](batch["observations"][:, :1], codes, batch["alive"][:, :1])
    (values - targets).square().mean().backward()
    for name, p in team.networks.critics.named_parameters():
        assert torch.allclose(p.grad, moved[name], atol=1e-6), name
    assert all(p.grad is None for p in team.networks.target_policy.parameters())
    assert any(p.grad.any() for p in team.policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("together", [False, True])
def test_a_listeners_critic_teaches_the_speaker(channel, together):
    team = Training(
        "reach", channel, env_config={"told": True, "led": True}, policy_config=MEMORYLESS | {"hidden_size": 32}
    )
    team.play()
    batch = team.batch()
    spoken = answers(team.networks, batch, 0)
    judge = CriticsWord(team.networks.critics[0], Relaxation(), together)
    rows = {
        "observations": batch["observations"][:, :1],
        "alive": batch["alive"][:, :1],
        "recorded": batch["actions"],
        "draws": spoken.draws,
    }
    gain = judge.gain(rows, spoken.now)
    message = team.policy.to_message.weight
    (gradient,) = torch.autograd.grad(gain[..., 1].sum(), message, allow_unused=True, retain_graph=True)
    assert (gradient is not None and bool(gradient.any())) == (channel != "silent")
    # The speaker's own critic gives it nothing: the world does not obey it, and nobody talks to it.
    (own,) = torch.autograd.grad(gain[..., 0].sum(), message, allow_unused=True)
    assert own is None or not own.any()


# --- the replay -------------------------------------------------------------------------------------------------------


def numbered(replay, worlds, round_, lengths):
    """Columns of a round in which every number says which round, world and step it is of."""
    batch = {}
    for name, (shape, kind) in replay.shapes.items():
        if name == "lengths":
            batch[name] = torch.tensor(lengths)
            continue
        steps = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
        code = 1000 * round_ + 100 * torch.arange(worlds).view(-1, *[1] * len(shape)) + steps
        batch[name] = code.expand(worlds, *shape).to(kind) if kind != torch.bool else torch.ones(worlds, *shape) > 0
    running = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    batch["acts"] = running.unsqueeze(-1).expand(-1, -1, 3).clone()
    batch["spawned"][:] = False
    return batch


def ring(rounds=3):
    return Replay(episode_shapes(SPEC, gated=True), 4, rounds)


def test_windows_are_those_of_the_last_rounds():
    replay = ring()
    for round_ in range(5):
        replay.add(numbered(replay, 4, round_, [5, 1, 3, 5]), round_)
    assert list(replay.held) == [2, 3, 4]
    assert replay.env_steps == 3 * 14
    batch = replay.draw(Draw(rows=40_000, length=1, burn_in=0, seed=0), update=0)
    codes = batch["observations"][:, 0, 0, 0].long()
    wanted = {1000 * r + 100 * w + t for r in (2, 3, 4) for w, n in enumerate([5, 1, 3, 5]) for t in range(n)}
    found, counts = codes.unique(return_counts=True)
    assert set(found.tolist()) == wanted
    assert counts.float().std() / counts.float().mean() < 0.05  # each step is as likely as any other
    assert torch.equal(batch["observations"][:, 1, 0, 0].long(), codes + 1)
    assert torch.equal(batch["rewards"][:, 0, 0].long(), codes)
    assert torch.equal(batch["actions"][:, 0, 0], codes)
    assert batch["acts"].all()
    again, other = (replay.draw(Draw(8, 1, 0, 0), update=u)["rewards"] for u in (0, 1))
    assert torch.equal(again, replay.draw(Draw(8, 1, 0, 0), update=0)["rewards"])
    assert not torch.equal(again, other)


def test_sequences_have_what_came_before():
    replay = ring()
    replay.add(numbered(replay, 4, 0, [5, 1, 3, 5]), 0)
    batch = replay.draw(Draw(rows=200, length=2, burn_in=3, seed=0), update=0)
    assert batch["observations"].shape == (200, 6, 3, 4)
    assert batch["rewards"].shape == (200, 2, 3)
    first = batch["rewards"][:, 0, 0].long() % 100
    assert set(first.tolist()) == {0, 2, 4}
    for row, start in enumerate(first.tolist()):
        before = 3 - start  # steps of the window before the episode's first
        assert batch["alive"][row, :, 0].tolist() == [time >= before for time in range(6)]
        assert batch["spawned"][row, :, 0].tolist() == [time == before for time in range(6)]
        length = [5, 1, 3, 5][int(batch["rewards"][row, 0, 0]) // 100]
        assert batch["acts"][row, :, 0].tolist() == [start + step < length for step in range(2)]
    assert batch["agent_steps"][0] == batch["acts"].sum()
    assert batch["spoke"].all()  # also where an episode was over, which counts for nothing
    assert batch["messages"][0] == batch["acts"].sum() < batch["acts"].numel()


@pytest.mark.parametrize("policy", ["transformer", "ic3net", "commnet"])
def test_memory_comes_back_by_burn_in(policy):
    config = {"hidden_size": 16, "message_size": 4}
    whole = Training("reach", "continuous", policy, worlds=8, env_config={"horizon": 6}, policy_config=config)
    played = whole.play()
    with torch.no_grad():
        expected = whole.policy(
            Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates)
        ).logits
    batch = whole.replay.draw(Draw(rows=30, length=2, burn_in=4, seed=0), update=0)
    logits = answers(whole.networks, batch, 0).now.logits
    full = whole.replay.draw(Draw(rows=30, length=6, burn_in=0, seed=0), update=0)
    assert answers(whole.networks, full, 0).now.logits.shape[1] == 6
    seen = played.observations.flatten(2)
    for row in range(30):
        same = (seen == batch["observations"][row, 4].flatten()).all(-1) & True
        # `reach` shows the same at every step: the piece is known by the memory that is left out before it.
        start = int((~batch["alive"][row, :, 0]).sum())
        time, world = 4 - start, int(same.any(1).nonzero()[0])
        assert torch.allclose(logits[row], expected[world, time : time + 2], atol=1e-5)


def test_the_memory_bound_is_kept():
    shapes = episode_shapes(SPEC, gated=False)
    replay = Replay(shapes, 4, 3)
    held = sum(column.numel() * column.element_size() for column in replay._columns.values())
    assert held == replay.bytes == 12 * episode_bytes(shapes)
    assert fitting_rounds(shapes, 4, 5, env_steps=1000, limit=2**30) == 50
    assert fitting_rounds(shapes, 4, 5, env_steps=1000, limit=replay.bytes) == 3
    assert fitting_rounds(shapes, 4, 5, env_steps=20, limit=2**30) == 1
    wanted = r"wanted at least {}, what a round of 4 episodes takes"
    with pytest.raises(ConfigError, match=r"replay_env_steps: got 7, " + wanted.format(20)):
        fitting_rounds(shapes, 4, 5, env_steps=7, limit=2**30)
    with pytest.raises(ConfigError, match=r"replay_bytes: got 100, " + wanted.format(r"1,\d\d\d")):
        fitting_rounds(shapes, 4, 5, env_steps=1000, limit=100)


def test_an_update_has_the_same_windows_however_many_learners_share_them():
    assert [shared_windows(1024, 25, learners) for learners in (0, 1, 2, 3, 40)] == [40] * 5
    assert shared_windows(10, 25, 1) == 1
    with pytest.raises(ConfigError, match=r"num_learners: got 41, wanted at most 40: .* \(1,024\) makes 40 of 25 env"):
        shared_windows(1024, 25, 41)


def test_rounds_come_one_after_the_other():
    replay = ring()
    replay.add(numbered(replay, 4, 7, [5] * 4), 7)
    with pytest.raises(ValueError, match="up to 7; the next is not 9"):
        replay.add(numbered(replay, 4, 9, [5] * 4), 9)
    with pytest.raises(ConfigError, match=r"a round whose lengths are \[3\], wanted \[4\]: .*\(run\.worlds\)"):
        replay.add(numbered(replay, 3, 8, [5] * 3), 8)


def test_a_checkpoint_links_to_what_an_earlier_one_holds(tmp_path):
    arrays = {"x": np.arange(5)}
    first, second, third = (tmp_path / str(number) for number in range(3))
    checkpoint.write(first, {}, old=arrays)
    checkpoint.write(second, {}, old=checkpoint.Stored(first), new={"y": np.ones(2)})
    assert (second / "old.safetensors").stat().st_ino == (first / "old.safetensors").stat().st_ino
    checkpoint.write(third, {}, old=checkpoint.Stored(second))
    for folder in (first, second):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert np.array_equal(checkpoint.read(third).read("old")["x"], np.arange(5))
    assert list(checkpoint.read(third).parts) == ["old"]
    assert checkpoint.has_part(third, "old")
    assert not checkpoint.has_part(second, "old")


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("env", "policy"), [("relay", "transformer"), ("relay", "ic3net"), ("reach", "commnet")])
def test_every_channel_and_kind_of_action_trains(env, policy, channel):
    config = MEMORYLESS if policy == "transformer" else {"hidden_size": 16, "message_size": 4}
    team = Training(env, channel, policy, policy_config=config, env_config={"horizon": 3} if env == "reach" else {})
    before = {name: value.clone() for name, value in team.policy.named_parameters()}
    for _ in range(2):
        team.play()
        loss = team.update()
        assert all(torch.isfinite(value) for value in loss.stats.values())
    moved = {name for name, value in team.policy.named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("action_head") for name in moved)
    if policy == "ic3net":
        assert any(name.startswith("gate_head") for name in moved)


@pytest.mark.parametrize("channel", ["ddcl", "vq"])
@pytest.mark.parametrize("policy", ["tarmac", "ic3net"])
def test_every_round_of_talk_is_learned_from(policy, channel):
    """Losses are means over all messages of all rounds, drawn with noise of their own."""
    config = {"hidden_size": 16, "message_size": 4, "rounds": 2} | ({"key_size": 2} if policy == "tarmac" else {})
    team = Training("relay", channel, policy, policy_config=config)
    before = {name: value.clone() for name, value in team.policy.named_parameters()}
    team.play()
    batch = team.batch()
    talk = answers(team.networks, batch, 0).now.talk
    spoke, losses = talk.spoke & batch["acts"].repeat_interleave(2, dim=1), talk.losses
    assert torch.equal(spoke[:, ::2], spoke[:, 1::2])
    if policy == "tarmac":  # which has no gate: who spoke is what was recorded
        assert spoke.sum() == 2 * batch["messages"][0]
        stats = team.update().stats
        for name, values in losses.items():
            assert stats[f"channel/{name}"].item() == pytest.approx(values[spoke].mean().item(), rel=1e-4)
    else:
        assert all(torch.isfinite(value) for value in team.update().stats.values())
    assert any(not torch.equal(value, before[name]) for name, value in team.policy.named_parameters())


def test_a_gate_that_nothing_obeys_is_an_action_without_effect():
    config = {"hidden_size": 16, "message_size": 4, "force_gate_open": True, "train_forced_gate": True}
    team = Training("relay", policy="ic3net", policy_config=config)
    played = team.play()
    assert played.gates is None
    assert torch.equal(played.talk.spoke, played.alive[:, :-1])
    batch = team.batch()
    assert "gates" not in batch
    before = team.policy.gate_head.weight.clone()
    assert all(torch.isfinite(value) for value in team.update().stats.values())
    assert not torch.equal(team.policy.gate_head.weight, before)


def test_messages_are_credited_with_what_listeners_critics_say():
    team = Training("relay", "daps", worlds=8, channel_config={"mode": "task"}, draw=Draw(16, 1, 0, 0))
    team.play()
    stats = team.update().stats
    assert stats["channel/credit"] > 0


# --- actors of their own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["sender", "readout"])
@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("transformer", {}),
        ("ic3net", {}),
        ("ic3net", {"deaf_when_silent": True, "empty_slots_run": True, "core": "rnn"}),
        ("tarmac", {"key_size": 2}),
    ],
)
def test_networks_of_their_own_with_equal_weights_are_a_shared_one(policy, settings, placement):
    same_as_a_shared_one(policy, settings, {"placement": placement})


@pytest.mark.parametrize(
    ("policy", "settings"),
    [("ic3net", {"core": "feedforward"}), ("commnet", {}), ("tarmac", {"key_size": 2})],
)
def test_networks_of_their_own_talk_in_rounds_like_a_shared_one(policy, settings):
    same_as_a_shared_one(policy, settings | {"rounds": 2}, {})


OWN = [{"parameters": "per_agent"}, {"parameters": "per_group", "groups": [[2, 0], [1]]}]


def same_as_a_shared_one(policy, settings, channel):
    config = {"hidden_size": 16, "message_size": 4} | settings
    for how in OWN:
        shared, own = (TeamNames("relay", {"agents": 3}, policy, config | x, "fsq", channel) for x in ({}, how))
        env = shared.make_env()
        one, each = shared.make_policy(env, 0), own.make_policy(env, 1)
        weights = one.state_dict()
        copied = {name: weights[re.sub(r"^groups\.\d\.", "", name)] for name in each.state_dict()}
        each.load_state_dict(copied)
        play_alike(env, one, each)


def play_alike(env, one, each):
    numbers = torch.arange(32)
    first, second = (Player(env, team, 0).play(numbers, torch.zeros_like(numbers)) for team in (one, each))
    assert torch.equal(first.talk.symbols, second.talk.symbols)
    assert torch.equal(first.talk.spoke, second.talk.spoke)
    assert torch.equal(first.actions, second.actions)
    assert torch.allclose(first.values, second.values, atol=1e-5)


@pytest.mark.parametrize("policy", ["transformer", "ic3net"])
def test_the_ends_of_groups_are_one_network_and_one_for_each_slot(policy):
    """Groups of one are `per_agent`, weights by the same seed included; one group of all is `shared`: bit for bit."""
    config = {"hidden_size": 16, "message_size": 4}
    for groups, same in (([[0], [1], [2]], "per_agent"), ([[0, 1, 2]], "shared")):
        settings = {"parameters": "per_group", "groups": groups}, {"parameters": same}
        names = [TeamNames("relay", {"agents": 3}, policy, config | how, "vq", {}) for how in settings]
        env = names[0].make_env()
        teams = [name.make_policy(env, 3) for name in names]
        weights = [{re.sub(r"^groups\.0\.", "", k): v for k, v in team.state_dict().items()} for team in teams]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
        numbers = torch.arange(32)
        first, second = (Player(env, team, 0).play(numbers, numbers * 0) for team in teams)
        for name in ("actions", "log_probs", "values", "rewards"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert torch.equal(first.talk.symbols, second.talk.symbols)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"parameters": "per_group"}, r"groups: got None, wanted \[\[0, 1\], \[2\]\], say"),
        ({"groups": [[0], [1]]}, r"groups: got \[\[0\], \[1\]\], wanted null with parameters shared"),
        ({"parameters": "per_group", "groups": [[0, 1], [1]]}, "in one group, none twice"),
        ({"parameters": "per_group", "groups": [[0], [2]]}, "every agent slot from 0 on"),
        ({"parameters": "per_group", "groups": [[0, 1, 2], []]}, "no group empty"),
        ({"parameters": "per_group", "groups": [[0], [-1]]}, "policy.groups.1.0: got -1"),
        ({"parameters": "per_group", "groups": [[0, 1], [2, 3]]}, "of 4 agent slots, wanted groups of the world's 3"),
        ({"parameters": "per_grup"}, "'per_group'"),
    ],
)
def test_groups_that_are_none_are_refused(settings, says):
    names = TeamNames("relay", {"agents": 3}, "transformer", MEMORYLESS | settings, "ddcl", {})
    with pytest.raises(ConfigError, match=says):
        names.make_policy(names.make_env(), 0)


def test_networks_of_their_own_learn_apart():
    team = Training("relay", policy_config=MEMORYLESS | {"parameters": "per_agent"}, shape=CriticShape("per_agent"))
    first, second = ({name: p.clone() for name, p in one.named_parameters()} for one in team.policy.groups)
    assert not torch.equal(first["action_head.weight"], second["action_head.weight"])
    team.play()
    team.update()
    for one, before in zip(team.policy.groups, (first, second), strict=True):
        assert not torch.equal(one.action_head.weight, before["action_head.weight"])
    assert sum(name.startswith("channel.") for name in team.policy.state_dict()) == len(
        team.policy.channel.state_dict()
    )
    boxed = Training("reach", policy_config=MEMORYLESS | {"parameters": "per_agent"})
    assert len(boxed.policy.action_heads) == 2
    assert all(head.spread.max() < -20 for head in boxed.policy.action_heads)


# --- RLlib ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def build(cluster, built):
    """Builds MADDPG."""
    from marlcomm.algorithms import MADDPGConfig

    def start(env="relay", env_config=None, channel="ddcl", runners=0, learners=0, worlds=16, seed=7, **training):
        policy = training.pop("policy_config", MEMORYLESS)
        config = MADDPGConfig().environment(env, env_config=env_config or {})
        config.communication(policy_config=policy, channel=channel, imports=["tiny_world", "box_world"])
        training = {"learning_starts": 64, "env_steps_per_update": 32, "batch_size": 64} | training
        config.training(**training).learners(num_learners=learners).debugging(seed=seed)
        config.env_runners(num_env_runners=runners, num_envs_per_env_runner=worlds // max(runners, 1))
        return built(config)

    return start


@pytest.mark.parametrize(
    ("env", "channel", "rounds", "training"),
    [
        ("relay", "continuous", 25, {"lr": 1e-2, "env_steps_per_update": 26}),
        ("relay", "silent", 15, {"lr": 1e-2, "env_steps_per_update": 26}),
        ("reach", "continuous", 25, {"lr": 3e-3, "env_steps_per_update": 7}),
    ],
)
def test_a_team_learns_to_say_what_the_other_cannot_see(build, env, channel, rounds, training):
    """Nine updates a round. In silence at most 1/2 of the relay's episodes succeed, and 1/10 of reach's."""
    shared = {"batch_size": 256, "learning_starts": 0, "regularizer": 1e-4, "critic_lr": training["lr"]}
    config = {"told": True} if env == "reach" else {}
    team = build(env, config, channel, worlds=64, seed=0, action_noise=0.3, **shared, **training)
    for _ in range(rounds):
        team.train()
    success = team.env_runner.evaluate(500, stream="evaluation")["success"]
    assert success > 0.9 if channel == "continuous" else success < 0.6


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_rllibs_own_checkpoint_continues_too(build, tmp_path):
    from marlcomm.algorithms import MADDPG

    whole = build()
    for _ in range(2):
        whole.train()
    whole.save_to_path(tmp_path / "rllib")
    second = MADDPG.from_checkpoint(str(tmp_path / "rllib"))
    for team in (whole, second):
        team.train()
    assert same(weights(whole), weights(second))
    assert second.replay.env_steps == whole.replay.env_steps
    second.stop()


def test_what_is_no_number_is_skipped(build, monkeypatch):
    """The copies that follow have no gradients that could be looked at."""
    team = build(learning_starts=0, env_steps_per_update=8)
    objective, spoilt = type(team.learner_group._learner.objective), iter([1.0, np.nan, np.nan])
    original, before = objective.loss, weights(team)

    def loss(*arguments):
        found = original(*arguments)
        return replace(found, total=found.total * next(spoilt, 1.0))

    follow, followed = ActorCritic.follow, []
    monkeypatch.setattr(ActorCritic, "follow", lambda self, tau: (follow(self, tau), followed.append(tau)))
    monkeypatch.setattr(objective, "loss", loss)
    team.train()
    assert len(followed) == team.updates - 2  # copies stay where they are, too
    assert team.figures["update/skipped"] == 2
    assert not same(before, weights(team))
    files = sorted(file.name for file in (team.folder / "skipped").iterdir())  # updates 1 and 2 of round 0
    assert files == ["000000-0001-learner0.safetensors", "000000-0002-learner0.safetensors"]


def test_no_memory_is_burnt_in_where_nothing_wipes_it(build):
    with pytest.raises(ConfigError, match=r"burn_in: got 3, wanted 0: in a world that keeps memory \(env\.legacy\)"):
        build("traffic_junction", {"legacy": True}, policy_config={}, burn_in=3)


def test_runners_get_no_more_than_they_play_with(build):
    team = build(runners=1)
    sent = team._learned_state()["rl_module"]["default_policy"]
    assert {name.partition(".")[0] for name in sent} == {"policy"}
    assert {name.partition(".")[0] for name in weights(team)} >= {"critics", "target_policy", "target_critics"}
    team.train()
    (played,) = team.env_runner_group.foreach_env_runner(lambda runner: runner.get_state(), local_env_runner=False)
    assert same(played["rl_module"]["default_policy"], team._learned_state()["rl_module"]["default_policy"])


@pytest.mark.parametrize("learners", [2, 3])
def test_several_learners_equal_one(build, learners):
    """Three of them have unequal shares of 64 windows."""
    teams = [build(learners=number, optimizer="sgd", lr=0.1, critic_lr=0.1, grad_clip=None) for number in (0, learners)]
    before = weights(teams[0])
    for team in teams:
        for _ in range(3):
            team.train()
    one, several = map(weights, teams)
    assert max(np.abs(one[name] - before[name]).max(initial=0) for name in one) > 1e-2
    assert max(np.abs(one[name] - several[name]).max(initial=0) for name in one) < 1e-5
    for name in ("loss/policy", "loss/value", "critic/target"):
        assert teams[1].figures[name] == pytest.approx(teams[0].figures[name], rel=1e-3, abs=1e-5)


def test_a_run_from_the_command_line(trains_here, tmp_path):
    (tmp_path / "team.yaml").write_text(
        """
env: {name: relay}
policy: {name: transformer, recurrent: false, hidden_size: 16, message_size: 4}
channel: {name: ddcl}
algorithm: {name: maddpg, learning_starts: 64, env_steps_per_update: 32, batch_size: 64}
run: {worlds: 16, env_steps: 256, checkpoint_every: 1}
evaluation: {episodes: 20, code_episodes: 20}
imports: [tiny_world]
"""
    )
    said = trains_here("train", "team.yaml", cwd=tmp_path).stdout
    assert "the replay holds the last 15,625 rounds" in said
    assert "an update takes 64 windows of 1 env steps; one is due every 32 env steps" in said
    (folder,) = (tmp_path / "runs" / "team").iterdir()
    assert (folder / "summary.json").is_file()
    assert "10 episodes" in trains_here("evaluate", folder, "--episodes", 10, cwd=tmp_path).stdout
    trains_here("train", "--resume", folder, "--no-evaluate", cwd=tmp_path)
    for words in (["algorithm.taus=1"], ["algorithm.replay_bytes=100"]):
        trains_here("train", "team.yaml", *words, cwd=tmp_path, code=2)
