"""MAPPO's critics, units of values and weights of entropy: against numbers worked by hand, and learning."""

import math
from dataclasses import replace

import numpy as np
import pytest
import third_party  # noqa: F401 (registers its channels)
import tiny_world  # noqa: F401 (registers its worlds)
import torch
from box_world import LOW  # noqa: F401 (registers its world)
from learning import normalize_advantages, weights
from test_objectives import ANSWER, BATCH, NO, YES, decision, ppo, rollout

from marlcomm import config
from marlcomm.algorithms.build import algorithm_config
from marlcomm.algorithms.settings import MAPPOTraining
from marlcomm.dry_run import DryRun, dry_run
from marlcomm.envs.actions import BoxActions
from marlcomm.envs.base import TeamSpec
from marlcomm.objectives.base import channel_loss
from marlcomm.objectives.entropy import HIGHEST_ENTROPY, LOWEST_ENTROPY, EntropyTarget, EntropyWeight
from marlcomm.objectives.ppo import ValueLoss
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies import values as team_values
from marlcomm.policies.distributions import CATEGORICAL, DiagonalGaussian, SlotCategorical
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise, entropies, entropy_ranges
from marlcomm.policies.team import TeamNames
from marlcomm.policies.values import CentralValue, TeamValues, ValueNorm, ValueSettings
from marlcomm.registry import ConfigError, validate
from marlcomm.rllib.module import TeamRLModule, spaces
from marlcomm.rllib.replay import episode_bytes, episode_shapes
from marlcomm.rllib.rows import epoch_rows, minibatches, value_moments
from marlcomm.runs import Run
from marlcomm.training import Interruption, rounds

SMALL = {"hidden_size": 16, "message_size": 4}


def names(
    env="traffic_junction", policy="transformer", channel="ddcl", env_config=None, parameters="shared", **channel_config
):
    env_config = {"add_rate": 0.4} if env == "traffic_junction" and env_config is None else env_config or {}
    return TeamNames(env, env_config, policy, SMALL | {"parameters": parameters}, channel, channel_config)


def team(*arguments, **settings):
    parts = names(*arguments, **settings)
    env = parts.make_env()
    return env, parts.make_policy(env, seed=3)


def play(env, policy, worlds=40):
    worlds = torch.arange(worlds)
    return Player(env, policy, seed=3).play(worlds, torch.zeros_like(worlds))


def batch_of(played, objective=None, values=None):
    rows = (objective or ppo()).columns(played) | ({} if values is None else values.columns(played))
    return rows | {"agent_steps": rows["acts"].sum().float().expand(len(rows["world"]))}


def replayed(policy, batch):
    steps, agents = batch["alive"].shape[1:]
    noise = channel_noise(policy.channel, 3, "train", batch["world"], batch["episode"], steps, agents, policy.rounds)
    return policy(Moment(batch["observations"], batch["alive"], batch["spawned"], batch.get("gates"), noise)), noise


# --- the central critic -----------------------------------------------------------------------------------------------


def test_who_judges_is_given_to_the_objective_with_deaths_and_truncation_by_hand():
    """Two agents, two steps; slot 1's car leaves in step 0 for a new one, which dies; the horizon cuts slot 0 short."""
    played = rollout(
        rewards=[[[-1.0, -10.0], [-2.0, -0.5]]],
        alive=[[[YES, YES], [YES, YES], [YES, NO]]],
        spawned=[[[NO, NO], [NO, YES], [NO, NO]]],
        values=[[[9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]],
    )
    central = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [4.0, 8.0]]])
    estimates, targets = ppo(gamma=0.5, lam=0.5).targets(replace(played, values=central))
    second = -2.0 + 0.5 * 4.0 - 3.0  # truncated: bootstraps from the critic's value of the last observation
    first = (-1.0 + 0.5 * 3.0 - 1.0) + 0.25 * second
    replaced, died = 0.0 - 2.0, -0.5 - 5.0  # neither bootstraps
    assert estimates[0].tolist() == [[first, replaced], [second, died]]
    assert targets[0].tolist() == [[first + 1.0, 0.0], [second + 3.0, -0.5]]


CASES = [
    ("transformer", "ddcl", "traffic_junction", {"add_rate": 0.4}, {}),
    ("ic3net", "vq", "traffic_junction", {"add_rate": 0.4}, {}),
    ("transformer", "vq", "predator_prey", {}, {}),  # indices
    ("transformer", "gumbel", "lewis_game", {}, {}),  # indices and candidates
    ("transformer", "dvq", "traffic_junction", {"add_rate": 0.4}, {"placement": "readout"}),
    ("transformer", "silent", "reach", {}, {}),
]


@pytest.mark.parametrize(("policy", "channel", "env", "env_config", "channel_config"), CASES)
@pytest.mark.parametrize("judge", [("central", False), ("central", True), ("central_with_messages", True)])
def test_runner_and_learner_judge_alike_and_nothing_else_changes(
    policy, channel, env, env_config, channel_config, judge
):
    env, policy = team(env, policy, channel, env_config, **channel_config)
    critic, rewards = judge
    values = TeamValues(policy, ValueSettings(critic, size=16, rewards=rewards), seed=3)
    played = play(env, policy)
    judged = values.rollout(policy, played, seed=3)
    for name, recorded in vars(played).items():
        assert name in ("values", "seconds") or getattr(judged, name) is recorded
    assert judged.values.shape == played.values.shape
    answer, noise = replayed(policy, batch := batch_of(judged, values=values))
    again = values.decision(policy, batch, answer, noise)
    assert torch.allclose(again.values, judged.values[:, :-1], atol=1e-6)
    assert again.logits is answer.logits
    again.values.sum().backward()
    assert all(weight.grad is None for weight in policy.parameters())  # whoever is judged does not move
    assert all(weight.grad is not None for weight in values.parameters())


def test_the_critic_sees_the_whole_team_but_nobody_dead():
    env, _ = team()
    critic = CentralValue(env.spec, 0, 16)
    seen, nothing = (
        torch.randn(3, env.spec.num_agents, env.spec.observation_size),
        torch.zeros(3, env.spec.num_agents, 0),
    )
    alive = torch.ones(3, env.spec.num_agents, dtype=torch.bool)
    alive[:, 1] = False
    other = seen.clone()
    other[:, 1] += 1.0
    before = critic(seen, nothing, alive)
    assert torch.equal(critic(other, nothing, alive), before)
    other[:, 2] += 1.0
    assert (critic(other, nothing, alive) != before)[:, [0, 2, 3]].all()
    swapped = critic(seen.flip(1), nothing, alive.flip(1))
    assert not torch.allclose(swapped.flip(1), before)  # slots are told apart


def test_a_critic_is_told_what_the_last_step_was_paid_and_nothing_later():
    env, policy = team()
    values = TeamValues(policy, ValueSettings("central", size=16, rewards=True), seed=3)
    played = play(env, policy)
    assert values.columns(played)["paid"][:, 1:].tolist() == played.rewards[:, :-1].tolist()
    assert not values.columns(played)["paid"][:, 0].any()
    assert TeamValues(policy, ValueSettings("central", size=16), seed=3).columns(played) == {}
    others = played.rewards.clone()
    others[:, 2] -= 5.0
    before, after = (values.rollout(policy, replace(played, rewards=r), 3).values for r in (played.rewards, others))
    changed = (before != after).flatten(2).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_messages_are_heard_only_where_asked_and_only_those_sent():
    env, policy = team()
    played = play(env, policy)
    others = replace(played.talk, symbols=played.talk.symbols + 3)
    for critic, hears in (("central", False), ("central_with_messages", True)):
        values = TeamValues(policy, ValueSettings(critic, size=16), seed=3)
        judged, other = (values.rollout(policy, replace(played, talk=talk), 3) for talk in (played.talk, others))
        assert torch.equal(judged.values, other.values) != hears
        muted = replace(played.talk, spoke=torch.zeros_like(played.talk.spoke))
        deaf = [replace(muted, symbols=talk.symbols) for talk in (played.talk, others)]
        one, two = (values.rollout(policy, replace(played, talk=talk), 3) for talk in deaf)
        assert torch.equal(one.values, two.values)


@pytest.mark.parametrize("channel", ["vq", "ddcl"])  # without draws, and with
def test_every_round_of_talk_is_heard_by_the_critic(channel):
    parts = TeamNames("traffic_junction", {"add_rate": 0.4}, "commnet", SMALL | {"rounds": 2}, channel, {})
    env = parts.make_env()
    policy = parts.make_policy(env, seed=3)
    values = TeamValues(policy, ValueSettings("central_with_messages", 16), seed=3)
    judged = values.rollout(policy, play(env, policy), 3)
    answer, noise = replayed(policy, batch := batch_of(judged))
    assert torch.allclose(
        values.decision(policy, batch, answer, noise).values, judged.values[:, :-1], rtol=1e-4, atol=1e-6
    )
    said = values._messages(policy, batch["symbols"], batch["spoke"], noise)
    assert said.shape == (*batch["acts"].shape, 2 * 4)
    for talk in (0, 1):
        muted = batch["spoke"].clone()
        muted[:, talk::2] = False
        changed = values._messages(policy, batch["symbols"], muted, noise) != said
        assert changed.flatten(0, 2).any(0).view(2, 4).any(-1).tolist() == [talk == 0, talk == 1]


def test_worlds_are_judged_in_parts_as_at_once(monkeypatch):
    env, policy = team()
    values, played = TeamValues(policy, ValueSettings("central", size=16), seed=3), play(env, policy)
    whole = values.rollout(policy, played, 3).values
    monkeypatch.setattr("marlcomm.policies.values._WORLDS_AT_ONCE", 7)
    assert torch.allclose(values.rollout(policy, played, 3).values, whole, atol=1e-6)


def test_rollouts_in_turns_keep_what_came_last():
    env, policy = team()
    whole = play(env, policy)
    env.worlds_at_once = 13
    parts = play(env, policy)
    assert torch.equal(parts.last.observations, whole.last.observations)
    assert torch.equal(parts.last.alive, whole.alive[:, -1])
    assert parts.last_talk.symbols.shape == whole.last_talk.symbols.shape


# --- units of values --------------------------------------------------------------------------------------------------


def test_statistics_of_targets_by_hand():
    norm = ValueNorm(decay=0.5)
    assert (norm.mean.item(), norm.scale.item()) == (0.0, 1.0)
    norm.update(2, 2.0 + 4.0, 4.0 + 16.0)  # one round: its own mean and deviation, whatever the decay
    assert (norm.mean.item(), norm.variance.item()) == (3.0, 1.0)
    norm.update(4, 0.0, 16.0)  # of weights 1/4 and 1/2 so far, the two rounds have 1/3 and 2/3
    mean, square = (3.0 + 2 * 0.0) / 3, (10.0 + 2 * 4.0) / 3
    assert norm.mean.item() == pytest.approx(mean)
    assert norm.scale.item() == pytest.approx(math.sqrt(square - mean**2))
    norm.update(0, 0.0, 0.0)
    norm.update(3, math.nan, math.nan)  # of updates that are skipped
    norm.update(3, 1.0, math.inf)
    assert norm.mean.item() == pytest.approx(mean)
    assert norm.restore(torch.tensor([0.0, 2.0])).tolist() == pytest.approx([1.0, 1.0 + 2 * math.sqrt(5.0)])


def test_what_hardly_varies_is_not_blown_up():
    norm = ValueNorm(decay=0.5)
    norm.update(3, 3e4, 3e8)
    assert (norm.mean.item(), norm.scale.item()) == (1e4, pytest.approx(1e-3))


def test_moments_count_who_acted():
    batch = {
        "value_targets": torch.tensor([[[1.0, 99.0], [3.0, -2.0]]]),
        "acts": torch.tensor([[[YES, NO], [YES, YES]]]),
    }
    assert value_moments(batch) == (3.0, 2.0, 14.0)


@pytest.mark.parametrize(("critic", "parameters"), [("local", "shared"), ("local", "per_agent"), ("central", "shared")])
def test_popart_keeps_values_while_their_units_change(critic, parameters):
    env, policy = team(parameters=parameters)
    running, popart = (TeamValues(policy, ValueSettings(critic, 16, kind), seed=3) for kind in ("running", "popart"))
    for values in (running, popart):
        before = values.rollout(policy, play(env, policy), 3).values
        values.learn_units(policy, 10, 50.0, 1000.0)
        values.learn_units(policy, 10, -20.0, 70.0)
        after = values.rollout(policy, play(env, policy), 3).values
        assert torch.allclose(after, before, atol=1e-5) == (values is popart)


def test_a_policy_that_does_not_say_how_it_values_has_no_popart():
    _, policy = team()
    del policy.value_head
    with pytest.raises(ConfigError, match="value_normalization: got 'popart', wanted 'running' or 'none'"):
        TeamValues(policy, ValueSettings(normalization="popart"), 3)
    assert TeamValues(policy, ValueSettings("central", 16, "popart"), 3).critic is not None


def value_loss(batch, values, **settings):
    return ValueLoss(**settings).of(batch, torch.tensor(values)).tolist()


def test_value_losses_by_hand():
    batch = {"value_targets": torch.tensor([0.0, 0.0, 0.0]), "values": torch.tensor([1.0, 1.0, -1.0])}
    values = [0.5, 3.0, -2.0]
    assert value_loss(batch, values) == [0.125, 4.5, 2.0]
    assert value_loss(batch, values, huber_delta=1.0) == [0.125, 2.5, 1.5]
    # 0.5 came nearer by half, of which 0.25 counts; 3 and -2 went away
    assert value_loss(batch, values, clip=0.25) == pytest.approx([0.5 * 0.75**2, 4.5, 2.0])
    scaled = batch | {"value_scale": torch.tensor([2.0]), "value_targets": torch.tensor([1.0, 1.0, 1.0])}
    assert value_loss(scaled, values, huber_delta=1.0) == pytest.approx([0.5 * 0.25**2, 0.5, 1.5 - 0.5])
    assert value_loss(scaled, values, clip=0.25)[0] == pytest.approx(0.5 * 0.25**2)  # reaches 0.5


def test_errors_in_units_of_targets_are_those_of_standardised_outputs():
    norm, targets, outputs = ValueNorm(0.9), torch.tensor([3.0, -5.0, 8.0]), torch.tensor([0.3, -1.0, 2.0])
    norm.update(3, float(targets.sum()), float(targets.square().sum()))
    batch = {"value_targets": targets, "value_scale": norm.scale.view(1)}
    standardised = (targets - norm.mean) / norm.scale
    assert torch.allclose(
        ValueLoss().of(batch, norm.restore(outputs)), 0.5 * (outputs - standardised).square(), atol=1e-6
    )


def test_the_default_loss_is_what_it_was():
    answer = decision(*ANSWER)
    default = ppo().loss(BATCH, answer, 0).total
    error = 0.5 * (answer.values - BATCH["value_targets"]).square()
    assert torch.equal(ValueLoss().of(BATCH, answer.values), error)
    weighed = BATCH | {"entropy_weight": torch.zeros(1), "value_scale": torch.ones(1)}
    assert torch.equal(ppo().loss(weighed, answer, 0).total, default)


# --- a target for the entropy -----------------------------------------------------------------------------------------


def test_ranges_of_entropies():
    logits = torch.randn(2, 3, 4)
    lowest, highest = CATEGORICAL.entropy_range(CATEGORICAL.idle(logits, torch.tensor([NO, YES, NO])))
    assert not lowest.any()
    assert highest[0].tolist() == pytest.approx([math.log(4), 0.0, math.log(4)])
    slots = SlotCategorical((4, 2, 1))
    assert slots.entropy_range(slots.possible(logits))[1][0].tolist() == pytest.approx([math.log(4), math.log(2), 0])
    box = DiagonalGaussian(BoxActions.of(2, -1.0, 1.0))
    unit = 0.5 * math.log(2 * math.pi * math.e)
    ends = box.head(5, 2)
    for spread, end in ((-30.0, 0), (30.0, 1)):
        torch.nn.init.constant_(ends.spread, spread)
        parameters = ends(torch.randn(3, 5))
        bounds = box.entropy_range(parameters)
        assert box.entropies(parameters).tolist() == pytest.approx(bounds[end].tolist(), abs=1e-4)
    assert bounds[1][0].item() == pytest.approx(2 * unit)
    idle = box.idle(ends(torch.randn(1, 3, 5)), torch.tensor([NO, YES, NO]))
    assert [float(bound[0, 1]) for bound in box.entropy_range(idle)] == [0.0, 0.0]


def test_the_gate_is_part_of_the_range():
    answer = decision([[[[0.8, 0.2]]]], [[[0.0]]], gates=[[[[0.25, 0.75]]]])
    assert entropy_ranges(answer)[1].item() == pytest.approx(2 * math.log(2))


def test_dual_steps_by_hand():
    target = EntropyTarget(Schedule.of([[0, 0.8], [100, 0.4]]), rate=2.0, gain=5.0, first=0.1)
    weight = target.start()
    assert weight == EntropyWeight(0.1, 0.1)
    weight = target.follow(weight, 0.5, 0)  # too sure by 0.3: pays more
    assert weight.multiplier == pytest.approx(0.1 * math.exp(2.0 * 0.3))
    assert weight.present == pytest.approx(0.1 * math.exp(2.0 * 0.3 + 5.0 * 0.3))
    weight = target.follow(weight, 0.6, 100)  # by now 0.4 is wanted: pays less
    assert weight.multiplier == pytest.approx(0.1 * math.exp(2.0 * 0.1))
    assert weight.present == pytest.approx(0.1 * math.exp(2.0 * 0.1 - 5.0 * 0.2))
    assert target.follow(EntropyWeight(1e-6, 1.0), 1.0, 0) == EntropyWeight(1e-6, 1e-6)
    assert target.follow(EntropyWeight(99.9, 1.0), 0.0, 0) == EntropyWeight(100.0, 100.0)


def test_a_weight_in_the_rows_replaces_the_schedule():
    answer = decision(*ANSWER)
    plain = ppo(entropy_weight=Schedule.of(0.3)).loss(BATCH, answer, 0)
    rows = BATCH | {"entropy_weight": torch.full((1,), 0.3)}
    followed = ppo(entropy_weight=Schedule.of(9.0)).loss(rows, answer, 0)
    assert followed.total.item() == pytest.approx(plain.total.item(), rel=1e-6)
    assert followed.stats.keys() - plain.stats.keys() == {LOWEST_ENTROPY, HIGHEST_ENTROPY}
    assert followed.stats[HIGHEST_ENTROPY].item() == pytest.approx(math.log(2))
    assert followed.stats["policy/entropy"].item() == pytest.approx(entropies(answer)[BATCH["acts"]].mean().item())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_entropy": 1.5}, "at most 1, got 1.5"),
        ({"target_entropy": [[0, 0.5], [9, 2.0]]}, "at most 1"),
        ({"target_entropy": 0.5, "entropy_coeff": 0.0}, "entropy_coeff must begin above 0"),
        ({"critic": "centre"}, "'centre'"),
        ({"critic_rewards": True}, "critic_rewards wants critic=central"),
        ({"huber_delta": 0}, "huber_delta"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        validate(MAPPOTraining, settings, "algorithm")


# --- learning ---------------------------------------------------------------------------------------------------------


class Loop:
    """What MAPPO does in a round, without Ray."""

    def __init__(self, parts, settings, target=None, worlds=128, lr=3e-3, **objective):
        self.env = parts.make_env()
        self.policy = parts.make_policy(self.env, seed=3)
        self.values = TeamValues(self.policy, settings, seed=3)
        self.objective = ppo(gamma=0.99, lam=0.95, value_weight=1.0, **objective)
        self.optimizer = torch.optim.Adam([*self.policy.parameters(), *self.values.parameters()], lr=lr)
        self.worlds, self.target, self.round = torch.arange(worlds), target, 0
        self.weight = None if target is None else target.start()

    def train(self):
        """One round; returns the share of successes."""
        player = Player(self.env, self.policy, 3)
        played = player.play(self.worlds, torch.full_like(self.worlds, self.round))
        rows = self.objective.columns(self.values.rollout(self.policy, played, 3))
        normalize_advantages(rows)
        if self.weight is not None:
            rows["entropy_weight"] = torch.full((len(self.worlds),), self.weight.present)
        self.values.learn_units(self.policy, *value_moments(rows))
        for epoch in range(4):
            for part in minibatches(epoch_rows(rows, 3, self.round, epoch, 2, 1), 2):
                stats = self.step(part)
        self.policy.quantiser.after_update(0)
        if self.target is not None:
            lowest, highest = stats[LOWEST_ENTROPY], stats[HIGHEST_ENTROPY]
            self.share = float((stats["policy/entropy"] - lowest) / (highest - lowest))
            self.weight = self.target.follow(self.weight, self.share, 0)
        self.round += 1
        return float(played.info["success"].mean())

    def step(self, part):
        answer, noise = replayed(self.policy, part)
        answer = self.values.decision(self.policy, part, answer, noise)
        if self.values.norm is not None:
            part = part | {"value_scale": self.values.norm.scale.view(1)}
        loss = self.objective.loss(part, answer, 0)
        total = loss.total + channel_loss(self.policy.quantiser, answer.talk, part["acts"], part["messages"][0]).total
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return loss.stats


CENTRAL = ValueSettings("central_with_messages", size=32, normalization="popart", decay=0.9)


@pytest.mark.parametrize(
    ("channel", "settings", "loss"),
    [
        ({"channel": "sign"}, CENTRAL, ValueLoss(huber_delta=1.0, clip=0.5)),
        ({"channel": "vq", "codebook_size": 8, "segments": 2}, ValueSettings("central", 32), ValueLoss()),
    ],
    ids=["everything", "central"],
)
def test_a_team_learns_to_say_what_the_other_cannot_see(channel, settings, loss):
    loop = Loop(names("relay", **channel), settings, entropy_weight=Schedule.of(0.01), value_loss=loss)
    successes = []
    for left in range(30, 0, -1):
        loop.optimizer.param_groups[0]["lr"] = 3e-3 * left / 30
        successes.append(loop.train())
    assert np.mean(successes[-3:]) > 0.9


def test_silence_cannot():
    loop = Loop(names("relay", channel="silent"), CENTRAL, entropy_weight=Schedule.of(0.01))
    assert np.mean([loop.train() for _ in range(15)][-5:]) < 0.35  # two coin flips: 0.25


@pytest.mark.parametrize(
    ("env", "channel", "lr", "rounds"), [("relay", "sign", 1e-3, 80), ("reach", "continuous", 1e-2, 45)]
)
def test_the_entropy_goes_where_it_is_wanted_and_stays(env, channel, lr, rounds):
    target = EntropyTarget(Schedule.of(0.6), rate=1.0, gain=10.0, first=0.03)
    loop = Loop(names(env, channel=channel), ValueSettings("central", 32), target, lr=lr)
    shares = []
    for _ in range(rounds):
        loop.train()
        shares.append(loop.share)
    assert shares[0] > 0.8
    assert all(abs(share - 0.6) < 0.15 for share in shares[-15:])


def test_the_listeners_loss_reaches_the_speaker_and_the_critics_does_not():
    env, policy = team("relay", channel="ddcl")
    values = TeamValues(policy, CENTRAL, seed=3)
    batch = batch_of(values.rollout(policy, play(env, policy), 3))
    batch["advantages"][..., 1] = 0.0  # agent 0 listens, and it alone has something to gain
    batch["observations"].requires_grad_()

    def gradient_of_speaker(value_weight, gain):
        answer, noise = replayed(policy, batch)
        rows = batch | {"advantages": batch["advantages"] * gain}
        answer = values.decision(policy, rows | {"observations": batch["observations"].detach()}, answer, noise)
        (gradient,) = torch.autograd.grad(
            ppo(value_weight=value_weight).loss(rows, answer, 0).total, batch["observations"]
        )
        return gradient[:, :, 1].abs().max().item()

    assert gradient_of_speaker(0.0, 1.0) > 1e-7
    assert gradient_of_speaker(1.0, 0.0) == 0.0
    env, policy = team("relay", channel="silent")
    values = TeamValues(policy, CENTRAL, seed=3)
    assert gradient_of_speaker(1.0, 1.0) == 0.0


# --- runs -------------------------------------------------------------------------------------------------------------


class Clockwork:
    """An algorithm of which only the counters move."""

    def __init__(self, env_steps=0, seconds=0.0, round_=0):
        self.env_steps, self.seconds, self.round, self.training_iteration = env_steps, seconds, round_, round_
        self.figures = {}

    def train(self):
        self.env_steps, self.seconds, self.round = self.env_steps + 100, self.seconds + 30.0, self.round + 1


@pytest.mark.parametrize(
    ("settings", "begun", "rounds_left"),
    [
        ({"env_steps": 350}, {}, 4),
        ({"env_steps": 350, "minutes": 1.25}, {}, 3),  # after 90 s, in the round in which the time was over
        ({"env_steps": 350, "minutes": 9}, {}, 4),
        ({"env_steps": None, "minutes": 2}, {}, 4),
        ({"env_steps": None, "minutes": 2}, {"env_steps": 300, "seconds": 90.0, "round_": 3}, 1),  # of all sessions
        ({"env_steps": None, "minutes": 2}, {"env_steps": 500, "seconds": 150.0, "round_": 5}, 0),
    ],
)
def test_a_run_stops_where_steps_or_minutes_are_over(tmp_path, monkeypatch, settings, begun, rounds_left):
    saved = []
    monkeypatch.setattr(
        "marlcomm.rllib.checkpoint.save", lambda algorithm, folder, settings: saved.append((folder.name, settings))
    )
    plan = config.experiment({"run": settings})
    clockwork = Clockwork(**begun)
    assert len(list(rounds(clockwork, Run(tmp_path), plan, Interruption(lambda: None)))) == rounds_left
    assert saved[-1] == (f"{clockwork.round:06d}", plan.as_data())
    assert plan.run.done(clockwork.env_steps, clockwork.seconds) >= 1


def test_checkpoints_are_due_by_minutes_too(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("marlcomm.rllib.checkpoint.save", lambda algorithm, folder, settings: saved.append(folder.name))
    plan = config.experiment({"run": {"env_steps": 700, "checkpoint_every": None, "checkpoint_minutes": 1}})
    list(rounds(Clockwork(), Run(tmp_path), plan, Interruption(lambda: None)))
    assert saved == ["000000", "000002", "000004", "000006", "000007"]  # a round takes half a minute


def test_a_run_must_end():
    with pytest.raises(ConfigError, match="env_steps or minutes must be a number"):
        config.experiment({"run": {"env_steps": None}})


EVERYTHING = {
    "env": {"add_rate": 0.3, "curriculum": {"first_rate": 0.1, "start_epoch": 1, "end_epoch": 4}},
    "policy": SMALL,
    "run": {"worlds": 32},
    "algorithm": {
        "critic": "central_with_messages",
        "critic_size": 16,
        "critic_rewards": True,
        "value_normalization": "popart",
        "value_loss": "huber",
        "value_clip": 0.2,
        "target_entropy": [[0, 0.9], [3000, 0.5]],
        "num_epochs": 2,
    },
}


@pytest.fixture
def build(cluster, built):
    """Builds MAPPO with everything on."""

    def start(workers=0, **algorithm):
        resources = {"num_env_runners": workers, "num_learners": workers}
        parts = EVERYTHING | {"algorithm": EVERYTHING["algorithm"] | algorithm, "resources": resources}
        return built(algorithm_config(config.experiment(parts)))

    return start


def test_two_runners_and_two_learners_equal_one_process(build):
    teams = [build(workers, optimizer="sgd", lr=1e-3) for workers in (0, 2)]
    before = weights(teams[0])
    for _ in range(2):
        for algorithm in teams:
            algorithm.train()
    one, two = map(weights, teams)
    assert max(np.abs(one[name] - before[name]).max() for name in one) > 1e-3
    assert max(np.abs(one[name] - two[name]).max() for name in one) < 1e-4
    assert teams[1].entropy_weight.present == pytest.approx(teams[0].entropy_weight.present, rel=1e-3)


def test_by_default_the_module_is_the_policy():
    observed, acted = spaces(names().make_env().spec)
    default = algorithm_config(config.experiment({"policy": SMALL})).get_default_rl_module_spec()
    module = TeamRLModule(observation_space=observed, action_space=acted, model_config=default.model_config)
    assert all(name.startswith("policy.") for name in module.state_dict())
    played = play(names().make_env(), module.policy)
    assert module.valued(played) is played
    assert module.value_scale is None


DRY = ["run.worlds=32", "run.env_steps=6400", "run.evaluate_every=4", "run.evaluation_worlds=20"]
DRY += ["policy.hidden_size=16", "algorithm.critic=central", "algorithm.critic_size=8", "algorithm.critic_rewards=true"]
DRY += ["resources.num_cpus=4"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dry_run_tells_and_leaves_nothing(trains_here, tmp_path, workers):
    workplaces = [f"resources.num_env_runners={workers}", "resources.threads=1"]
    said = trains_here("train", "--dry-run", *DRY, *workplaces, cwd=tmp_path).stdout
    words = " ".join(said.split())
    for wanted in (
        "observations 32 x 20 x 5 x",
        "actions 32 x 20 x 5 ",
        "team_values ",
        "channel 0",
        "nominal",
        "640 env steps in",
        "10 rounds, about",
        "memory of training process",
    ):
        assert wanted in words
    assert ("memory of env runners (1)" in words) == bool(workers)
    assert not list(tmp_path.iterdir())
    assert "leave out --resume" in trains_here("train", "--dry-run", "--resume", "x", cwd=tmp_path, code=2).stderr


def test_a_dry_run_of_rounds_that_grow_counts_the_small_ones():
    """A quarter of the largest for half of the run: ten rounds, and two and a half that take four times as long."""
    tried = DryRun({}, {}, {}, 400, lambda env_steps: 4 if env_steps < 1000 else 1, 8.0, 1.0, {}, [])
    run = config.RunSettings(env_steps=2000, evaluate_every=4)
    assert tried.rounds(run) == 13
    assert tried.seconds(run) == 5 * 8 + 3
    assert MAPPOTraining(episodes=[[0, 1], [1000, 1], [1001, 4]]).episodes_at(500) == 1


def test_a_dry_run_of_a_replay_learns_at_once_and_counts_all_of_it(cluster, monkeypatch):
    monkeypatch.setattr("marlcomm.dry_run._peak_of_process", lambda worker=None: 1000)
    maddpg = {"name": "maddpg", "env_steps_per_update": 100, "batch_size": 64, "replay_env_steps": 50 * 32 * 20}
    team = {"policy": SMALL, "channel": {"name": "post_training"}, "algorithm": maddpg}
    tried = dry_run(config.experiment({**team, "run": {"worlds": 32}}))
    assert tried.figures["update/updates"] == 2 * 32 * 20 // 100
    assert tried.shapes["rewards"] == (32, 20, 5)
    assert {"critics", "channel"} < tried.parameters.keys()
    assert "target_policy" not in tried.parameters
    assert "while it trains, its range stays -1 to 1" in tried.remarks[0]
    assert "the replay holds the last 50 rounds" in tried.remarks[1]
    an_episode = episode_bytes(episode_shapes(names().make_env().spec, gated=False))
    assert tried.peak_bytes == {"training process": 1000 + 48 * 32 * an_episode}  # two rounds are there already


def test_a_central_critic_is_as_it_is_written():
    """e_j = relu(W [o_j, u_j, slot_j]), h_i = relu(A e_i + C sum_j e_j / sqrt(N)), v_i = w relu(V h_i)."""
    torch.manual_seed(0)
    spec = TeamSpec("by hand", 4, observation_size=3, num_actions=2, horizon=4, setting="by hand")
    critic = CentralValue(spec, 2, 5)
    observations, told, alive = torch.randn(4, 3), torch.randn(4, 2), torch.tensor([1.0, 1.0, 0.0, 1.0])
    layer = {name: value.detach().numpy() for name, value in critic.named_parameters()}
    entries = np.hstack([observations, told, np.eye(4)]) @ layer["embed.weight"].T + layer["embed.bias"]
    each = np.maximum(entries, 0) * alive.numpy()[:, None]
    hidden = each @ layer["own.weight"].T + layer["own.bias"] + each.sum(0) / 2 @ layer["team.weight"].T
    second = np.maximum(np.maximum(hidden, 0) @ layer["second.weight"].T + layer["second.bias"], 0)
    values = second @ layer["value_head.weight"].T + layer["value_head.bias"]
    assert critic(observations, told, alive).tolist() == pytest.approx(values[:, 0].tolist(), abs=1e-5)


def test_a_critic_is_told_what_was_paid_in_logarithms():
    told = team_values._with_rewards(torch.tensor([[7.0], [8.0], [9.0]]), torch.tensor([0.0, np.e - 1, 1 - np.e]))
    assert told.tolist() == [pytest.approx(row) for row in ([7.0, 0.0], [8.0, 1.0], [9.0, -1.0])]
