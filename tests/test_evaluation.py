"""Rollouts and evaluations: what counts of an episode, and that every message really passes through bytes."""

import numpy as np
import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch

from marlcomm import checkpoint
from marlcomm.analysis.evaluation import load_team, team_names
from marlcomm.config import experiment
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies import evaluation
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError
from marlcomm.wire import WireError
from marlcomm.wire.codes import Code

SMALL = {"hidden_size": 16, "message_size": 4}


def team(env="traffic_junction", channel="ddcl", policy_config=SMALL, env_config=None, policy="transformer"):
    names = TeamNames(env, env_config or {}, policy, policy_config, channel, {})
    world = names.make_env(final=True)
    return world, names.make_policy(world, seed=0)


# --- the end of a world ----------------------------------------------------------------------------------------------


def test_nothing_counts_after_a_worlds_end():
    env, policy = team("sprint")
    rollout = Player(env, policy, 0).play(torch.arange(6), torch.zeros(6, dtype=torch.int64))
    assert rollout.lengths.tolist() == [1, 2, 3, 1, 2, 3]
    assert rollout.rewards.sum((1, 2)).tolist() == [2, 4, 6, 2, 4, 6]
    assert rollout.acts.sum((1, 2)).tolist() == [2, 4, 6, 2, 4, 6]
    assert rollout.info["success"].tolist() == [1] * 6
    figures = evaluate(env, policy, 0, 6)
    assert (figures["return"], figures["length"], figures["success"]) == (4, 2, 1)
    assert figures["prefix_bits_per_episode"] == pytest.approx(4 * figures["prefix_bits_per_message"])
    script = evaluate_script(env, env.scripts()["idle"], 0, 6)
    assert (script["return"], script["length"], script["success"]) == (4, 2, 1)


def test_targets_end_with_the_world():
    """Worlds 1 and 3 ended for good, worlds 0 and 2 were cut short and bootstrap (under PPO) from the value there."""
    env, policy = team("sprint")
    rollout = Player(env, policy, 0).play(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    ppo = PPO(1.0, 1.0, 0.2, 0.5, Schedule.of(0.0), reward_scale=1.0, mean_ratio=0.5)
    _, targets = ppo.targets(rollout)
    last = rollout.values[:, :, 0]
    wanted = [[1 + last[0, 1]], [2, 1], [3 + last[2, 3], 2 + last[2, 3], 1 + last[2, 3]], [1]]
    for world, values in enumerate(wanted):
        assert targets[world, : len(values), 0].tolist() == pytest.approx([float(value) for value in values], abs=1e-5)
    for ratio in (0.0, 1.0):
        _, returns = Reinforce(1.0, ratio, 0.01, Schedule.of(0.0), reward_scale=1.0).targets(rollout)
        for world, length in enumerate([1, 2, 3, 1]):
            assert returns[world, :length, 1].tolist() == list(range(length, 0, -1))


def test_one_episode_has_no_spread():
    env, policy = team()
    figures = evaluate(env, policy, 0, 1)
    assert figures["success_standard_error"] == 0
    assert all(np.isfinite(value) for value in figures.values())


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["ddcl", "continuous", "silent", "gumbel"])
def test_figures_do_not_depend_on_how_much_is_done_at_once(monkeypatch, channel):
    env, policy = team(channel=channel)
    whole = evaluate(env, policy, 0, 60)
    monkeypatch.setattr(evaluation, "_WORLDS_AT_ONCE", 7)
    monkeypatch.setattr(evaluation, "_BITS_AT_ONCE", 100)
    assert evaluate(env, policy, 0, 60) == pytest.approx(whole)


def test_wide_messages_are_sent_in_parts(monkeypatch):
    """A message of 128 floats costs 4,096 bits, each of which the coders would spend bytes on."""
    env, policy = team("traffic_junction", "continuous", {"hidden_size": 128}, {"difficulty": "medium"}, "ic3net")
    sizes = []
    send = evaluation._transmit_some
    monkeypatch.setattr(evaluation, "_transmit_some", lambda *a: sizes.append(len(a[1])) or send(*a))
    figures = evaluate(env, policy, 0, 40)
    assert figures["wire_bytes_per_message"] == 4 + 4 * 128
    assert len(sizes) > 1
    assert max(sizes) * 4096 <= evaluation._BITS_AT_ONCE


def test_a_message_that_is_not_decoded_is_an_error(monkeypatch):
    env, policy = team()
    decode = Code.decode

    def wrong(self, packets):
        symbols = decode(self, packets)
        symbols[3] += 1
        return symbols

    monkeypatch.setattr(Code, "decode", wrong)
    with pytest.raises(WireError, match=r"1 of \d+ messages were not decoded to what was sent"):
        evaluate(env, policy, 0, 5)


@pytest.mark.parametrize("field", ["steps", "senders"])
def test_a_message_of_another_step_or_sender_is_an_error(monkeypatch, field):
    env, policy = team()
    read = evaluation.read_packets

    def wrong(code, packets):
        steps, senders, symbols = read(code, packets)
        {"steps": steps, "senders": senders}[field][3] += 1
        return steps, senders, symbols

    monkeypatch.setattr(evaluation, "read_packets", wrong)
    with pytest.raises(WireError, match=r"1 of \d+ messages were not decoded to what was sent"):
        evaluate(env, policy, 0, 5)


def test_what_the_paper_counts_stands_beside():
    env, policy = team()
    figures = evaluate(env, policy, 0, 40)
    assert 0 < figures["paper_bits_per_message"] < figures["prefix_bits_per_message"]
    env, policy = team(channel="vq")
    assert "paper_bits_per_message" not in evaluate(env, policy, 0, 5)


# --- what it is played on --------------------------------------------------------------------------------------------


def test_evaluations_play_the_end_of_a_curriculum():
    curriculum = {"first_rate": 0.01}
    names = TeamNames("traffic_junction", {"curriculum": curriculum}, "transformer", SMALL, "ddcl", {})
    easy, final = names.make_env(), names.make_env(final=True)
    cars = [evaluate_script(env, env.scripts()["always_gas"], 0, 200)["cars"] for env in (easy, final)]
    plain, policy = team()
    assert cars[0] < 1
    assert cars[1] == evaluate_script(plain, plain.scripts()["always_gas"], 0, 200)["cars"] > 5
    assert evaluate(final, policy, 0, 50) == evaluate(plain, policy, 0, 50)


def test_short_evaluations_play_the_end_of_a_curriculum_on_their_own_stream(start, resets):
    settings = {
        "env": {"add_rate": 0.4, "curriculum": {"first_rate": 0.01}},
        "policy": SMALL,
        "run": {"worlds": 8, "evaluation_worlds": 8},
    }
    start(experiment(settings)).evaluate()
    assert {(stream, env.settings.rate(0)) for stream, env in resets} == {("validation", 0.4)}


def states(policy):
    return {f"policy.{name}": value.numpy() for name, value in policy.state_dict().items()}


def trained_under(folder, name, **channel):
    """A checkpoint of a team that was trained with a channel, whose state is not what it began with."""
    settings = experiment({"policy": SMALL, "channel": {"name": name, **channel}})
    names = team_names(settings)
    policy = names.make_policy(names.make_env(), 0)
    with torch.no_grad():
        for value in policy.channel.state_dict().values():
            value.add_(torch.ones_like(value))
    checkpoint.write(folder, {}, settings.as_data(), weights=states(policy))
    return policy


def begun_with(folder, name, **channel):
    names = team_names(experiment({"policy": SMALL, "channel": {"name": name, **channel}}))
    return names.make_policy(names.make_env(), 0, names.start(checkpoint.read(folder)))


def test_a_trained_team_is_loaded_with_the_end_of_its_curriculum(tmp_path):
    trained_under(tmp_path / "000001", "vq")
    rises = {"env": {"add_rate": 0.4, "curriculum": {"first_rate": 0.01}}}
    env, _ = load_team(experiment({"policy": SMALL, "channel": {"name": "vq"}} | rises), tmp_path / "000001")
    assert (env.settings.curriculum, env.settings.rate(0)) == (None, 0.4)


def test_a_codebook_is_kept_where_only_what_counts_for_it_is_new(tmp_path):
    parent = trained_under(tmp_path / "000001", "vq", codebook_size=8)
    for channel in ({"replace_after": 10}, {"update": "ema"}):
        child = begun_with(tmp_path / "000001", "vq", codebook_size=8, **channel)
        assert torch.equal(child.channel.codebook, parent.channel.codebook)
    assert torch.equal(child.channel.totals, parent.channel.codebook)  # as if each was the mean of one message
    pool = trained_under(tmp_path / "000002", "dvq", pool=[[1, 4], [2, 4]])
    for channel in ({"replace_after": 10}, {"update": "ema"}):
        child = begun_with(tmp_path / "000002", "dvq", pool=[[1, 4], [2, 4]], **channel)
        assert all(
            torch.equal(own, theirs) for own, theirs in zip(child.channel.books, pool.channel.books, strict=True)
        )
    assert torch.equal(child.channel.counts[1].totals, pool.channel.books[1])


def test_a_scale_is_that_of_the_settings(tmp_path):
    trained_under(tmp_path / "000001", "uniform", bits=4, step="fixed")
    fixed = begun_with(tmp_path / "000001", "uniform", bits=8, step="fixed").channel
    assert fixed.steps() == pytest.approx([2 / 255] * 4)
    parent = trained_under(tmp_path / "000002", "uniform", bits=8)
    same, coarse = (begun_with(tmp_path / "000002", "uniform", bits=bits).channel for bits in (8, 2))
    assert torch.equal(same.log_step, parent.channel.log_step)
    fresh = team_names(experiment({"policy": SMALL, "channel": {"name": "uniform", "bits": 2}}))
    assert torch.equal(coarse.log_step, fresh.make_policy(fresh.make_env(), 0).channel.log_step)


def test_a_range_is_taken_from_what_is_said_where_numbers_are_heard(tmp_path):
    """And from nothing that an untrained team says."""
    settings = experiment({"policy": SMALL, "channel": {"name": "continuous"}})
    names = team_names(settings)
    policy = names.make_policy(names.make_env(), 0)
    with torch.no_grad():
        policy.state_dict()["to_message.weight"].mul_(30.0)  # far from -1 to 1
    checkpoint.write(tmp_path / "000001", {}, settings.as_data(), weights=states(policy))
    coarse, fine = (begun_with(tmp_path / "000001", "post_training", bits=bits).channel for bits in (1, 12))
    assert torch.equal(coarse.low, fine.low)
    assert coarse.low.min() < -2
    untrained = team(channel="post_training")[1].channel
    assert (untrained.low.tolist(), untrained.step.tolist()) == ([-1.0] * 4, pytest.approx([2 / 15] * 4))


def test_a_channel_of_its_own_that_lacks_weights_is_not_calibrated_anew(tmp_path):
    def settings(**channel):
        return experiment({"policy": SMALL, "channel": {"name": "vq", **channel}})

    trained = team_names(settings())
    policy = trained.make_policy(trained.make_env(), 0)
    weights = {f"policy.{name}": value.numpy() for name, value in policy.state_dict().items()}
    del weights["policy.channel.codebook"]
    checkpoint.write(tmp_path / "000001", {}, settings().as_data(), weights=weights)
    with pytest.raises(ConfigError, match=r"another version of it: it lacks channel\.codebook"):
        load_team(settings(), tmp_path / "000001")
    _, other = load_team(settings(codebook_size=3), tmp_path / "000001")
    assert other.channel.codebook.shape == (1, 3, 4)
