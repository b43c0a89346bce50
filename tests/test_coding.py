"""The headline rate: frozen codes, and what they make of an evaluation."""

import math

import numpy as np
import pytest
import torch

from marlcomm.policies import coding
from marlcomm.policies.coding import CodedEpisodes, FrozenCode, frozen_code, shortest_code
from marlcomm.policies.evaluation import evaluate
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames, make_channel, overhear
from marlcomm.wire import Alphabet, BandwidthMeter, Code, WireError
from marlcomm.wire.conditional import ConditionalTables

SMALL = {"hidden_size": 16, "width": 8, "message_size": 4}


def team(channel="ddcl", channel_config=None, policy="transformer", policy_config=SMALL):
    names = TeamNames("traffic_junction", {"add_rate": 0.5}, policy, policy_config, channel, channel_config or {})
    world = names.make_env(final=True)
    return world, names.make_policy(world, seed=0)


def zipf(rng, messages, values):
    shares = 1 / np.arange(1, values + 1) ** 2
    return rng.choice(values, size=(messages, 1), p=shares / shares.sum()).astype(np.int32)


def test_statistics_are_used_where_they_pay():
    rng = np.random.default_rng(0)
    even = rng.integers(0, 16, (4000, 2)).astype(np.int32)
    plain = Alphabet.fixed([16, 16])
    assert shortest_code(plain, even[:2000], even[2000:]).lengths(even).mean() == pytest.approx(8, abs=0.05)
    skewed = zipf(rng, 4000, 16)
    shares = np.bincount(skewed[:, 0]) / 4000
    entropy = -(shares * np.log2(shares)).sum()
    length = shortest_code(Alphabet.fixed([16]), skewed[:2000], skewed[2000:]).lengths(skewed).mean()
    assert entropy <= length < entropy + 0.2 < 4
    # Both elements say the same: one code of whole messages pays once for it.
    twice = np.repeat(skewed, 2, axis=1)
    assert shortest_code(plain, twice[:2000], twice[2000:]).lengths(twice).mean() < entropy + 0.3


def test_nothing_to_fit_on_leaves_the_default():
    none = np.zeros((0, 2), np.int32)
    assert shortest_code(Alphabet.fixed([3, 3]), none, none).digest == Code(Alphabet.fixed([3, 3])).digest
    with_floats = Alphabet.choice([Alphabet.fixed([16]), Alphabet.raw(2)])
    skewed = np.zeros((200, with_floats.columns), np.int32)
    skewed[:20, 1] = np.arange(20) % 16  # the other messages are the first codeword of the first kind
    fitted = shortest_code(with_floats, skewed[:100], skewed[100:])
    assert fitted.lengths(skewed).sum() < Code(with_floats).lengths(skewed).sum()
    floats = np.zeros((50, 2), np.int32)
    assert shortest_code(Alphabet.raw(2), floats, floats).lengths(floats).tolist() == [64] * 50


@pytest.mark.parametrize(
    ("channel", "settings"),
    [
        ("ddcl", {}),
        ("vq", {}),
        ("gumbel", {"tokens": 3, "end_token": True}),
        ("dvq", {}),
        ("continuous", {}),
        ("ddcl", {"dither_levels": 64, "code": "dither_conditional"}),
    ],
    ids=str,
)
def test_the_headline_is_the_payload_of_packets_that_decode(channel, settings):
    env, policy = team(channel, settings)
    code = frozen_code(env, policy, seed=0, episodes=60)
    assert code.digest == frozen_code(env, policy, seed=0, episodes=60).digest
    figures, plain = evaluate(env, policy, 0, 40, code=code), evaluate(env, policy, 0, 40)
    assert figures["coded_bits_per_message"] <= plain["prefix_bits_per_message"] + 1e-9
    low, high = figures["coded_bits_per_episode_low"], figures["coded_bits_per_episode_high"]
    assert low <= figures["coded_bits_per_episode"] <= high
    messages = figures["coded_bits_per_episode"] / figures["coded_bits_per_message"]
    payload = figures["wire_bytes_per_episode"] - 4 * messages
    assert figures["coded_bits_per_episode"] <= 8 * payload < figures["coded_bits_per_episode"] + 8 * messages
    assert "coded_bits_per_message" not in plain
    assert figures["success"] == plain["success"]


def test_knowing_the_dither_is_cheaper():
    bits = []
    for settings in ({"dither_levels": 64}, {"dither_levels": 64, "code": "dither_conditional"}):
        # Without memory a car says one of a few things, each with its own dither every time.
        env, policy = team("ddcl", settings | {"delta": 0.5}, policy_config=SMALL | {"recurrent": False})
        code = frozen_code(env, policy, seed=0, episodes=200)
        bits.append(evaluate(env, policy, 0, 60, code=code)["coded_bits_per_message"])
    assert bits[1] < 0.9 * bits[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dither_levels": 16, "code": "dither_conditional"}, "contexts of 64 levels, the channel's have 16"),
        ({}, "contexts of 64 levels, the channel's have None"),
        ({"dither_levels": 64, "code": "dither_conditional", "limit": 9}, "another alphabet"),
    ],
)
def test_tables_for_other_contexts_are_refused(settings, reason):
    given = {"dither_levels": 64, "code": "dither_conditional"}
    tables = ConditionalTables.fit(np.random.default_rng(0).normal(size=(50, 4)), 64)
    state = {"kind": "conditional", "tables": tables.state()}
    assert FrozenCode.from_state(state, make_channel("ddcl", given, 4)).digest == tables.digest
    with pytest.raises(WireError, match=reason):
        FrozenCode.from_state(state, make_channel("ddcl", settings, 4))


@pytest.mark.parametrize("state", [[], {}, {"kind": "none", "tables": {}}, {"kind": "marginal", "tables": []}])
def test_what_describes_no_frozen_code_is_refused(state):
    with pytest.raises(WireError, match=r"frozen code|state of a code"):
        FrozenCode.from_state(state, make_channel("vq", {}, 4))


def test_the_dither_is_left_out_of_it_where_that_is_shorter():
    """A codeword is at least one bit, and the conditional code writes one for each element that is not repeated."""
    env, policy = team("ddcl", {"dither_levels": 64, "code": "dither_conditional", "delta": 2.0})
    code = frozen_code(env, policy, seed=0, episodes=200)
    assert isinstance(code.code, Code)
    assert evaluate(env, policy, 0, 60, code=code)["coded_bits_per_message"] < 4


def test_silence_costs_nothing_and_a_gate_its_presence():
    env, policy = team("silent")
    figures = evaluate(env, policy, 0, 20, code=frozen_code(env, policy, 0, 10))
    assert figures["coded_bits_per_agent_step"] == figures["coded_bits_per_episode_high"] == 0
    env, policy = team("vq", {"codebook_size": 2}, "ic3net", {"hidden_size": 16, "message_size": 4})
    figures = evaluate(env, policy, 0, 20, code=frozen_code(env, policy, 0, 10))
    said = figures["messages_per_agent_step"]
    assert 1 < figures["coded_bits_per_agent_step"] <= 1 + said * (1 + 1e-9)


def test_intervals_by_hand():
    coded = CodedEpisodes(BandwidthMeter(Alphabet.fixed([4])))
    acts = np.ones((3, 2, 1), bool)
    sent = acts.copy()
    sent[2] = False
    coded.add(np.array([2, 2, 1, 1]), sent, acts)
    report = coded.report(seed=0)
    assert report["coded_bits_per_agent_step"] == 1.0
    assert report["coded_bits_per_episode"] == 2.0
    assert report["coded_bits_per_message"] == 1.5
    assert (report["coded_bits_per_episode_low"], report["coded_bits_per_episode_high"]) == (0.0, 4.0)
    many = CodedEpisodes(BandwidthMeter(Alphabet.fixed([4])))
    lengths = np.random.default_rng(0).integers(1, 4, 4000)
    many.add(lengths, np.ones((4000, 1, 1), bool), np.ones((4000, 1, 1), bool))
    report = many.report(seed=0)
    width = report["coded_bits_per_episode_high"] - report["coded_bits_per_episode_low"]
    assert width == pytest.approx(2 * 1.96 * lengths.std() / math.sqrt(4000), rel=0.15)


def test_rates_go_with_the_rights_to_speak_of_their_own_episodes():
    coded = CodedEpisodes(BandwidthMeter(Alphabet.fixed([4])))
    acts = np.arange(8) < np.array([[1], [3], [8], [2]])
    coded.add(np.full(14, 2), acts[..., None], acts[..., None])
    report = coded.report(seed=0)
    assert [report[f"coded_bits_per_agent_step{end}"] for end in ("", "_low", "_high")] == [2, 2, 2]


def test_a_code_is_chosen_on_other_episodes_than_it_is_fitted_on(monkeypatch):
    env, policy = team()
    seen = []

    def spy(alphabet, fitted_on, chosen_on, *more):
        seen.append((fitted_on, chosen_on))
        return shortest_code(alphabet, fitted_on, chosen_on, *more)

    monkeypatch.setattr(coding, "shortest_code", spy)
    frozen_code(env, policy, 0, 6)
    with policy.channel.evaluation():
        rollout, _ = overhear(Player(env, policy, 0, "code"), torch.arange(6))
    symbols, sent = rollout.talk.symbols.numpy(), rollout.sent.numpy()
    ((fitted_on, chosen_on),) = seen
    assert np.array_equal(fitted_on, symbols[:3][sent[:3]])
    assert np.array_equal(chosen_on, symbols[3:][sent[3:]])


def test_a_code_is_fitted_on_episodes_that_no_evaluation_plays(resets):
    env, policy = team()
    frozen_code(env, policy, 0, 4)
    assert {stream for stream, _ in resets} == {"code"}
    worlds, first = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    played = [Player(env, policy, 0, stream).play(worlds, first).observations for stream in ("code", "evaluation")]
    assert not torch.equal(*played)
