"""What makes numbers evidence: streams of their own, messages without sense, intervals over paired seeds."""

import itertools
from typing import get_args

import numpy as np
import pytest
import tiny_world  # noqa: F401 (registers worlds)
import torch

from marlcomm import noise
from marlcomm.analysis import cards
from marlcomm.analysis.evidence import (
    Interval,
    Scale,
    above_hull,
    best_mixture,
    compare,
    few_bits_count,
    interval,
    shortcomings,
)
from marlcomm.config import EvaluationSettings
from marlcomm.envs.foreign.world import copy_seeds
from marlcomm.policies import coding
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.evaluation import evaluate, evaluate_shuffled
from marlcomm.policies.records import Shuffled
from marlcomm.policies.settings import PolicySettings
from marlcomm.policies.team import TeamNames, make_channel
from marlcomm.registry import ENVS


def went_on(key, old, new):
    return {"resumed": [{"round": 3, "changes": {key: [old, new]}, "forced": []}]}


FINE = {"episodes": 2000, "stream": "evaluation", "trained": 1.0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"episodes": 1999}, "1,999 episodes, and evidence takes 2,000"),
        ({"stream": "tuning"}, "played on the stream 'tuning'"),
        ({"trained": 0.5}, "only 50% of its training is over"),
        (went_on("run.env_steps", 9000, 5000), "at round 3 its run.env_steps was cut from 9000 to 5000"),
        (went_on("run.minutes", None, 5), "at round 3 its run.minutes was cut from no limit to 5"),
        (went_on("run.minutes", 5, None), None),
        (went_on("run.env_steps", 5000, 9000), None),
    ],
)
def test_what_is_no_evidence_says_why(change, reason):
    found = shortcomings(FINE | change)
    assert [reason in sentence for sentence in found] == ([] if reason is None else [True])


def keys(stream):
    """Of some seeds, worlds and episodes."""
    worlds = torch.arange(500)
    return torch.cat(
        [
            noise.world_keys(seed, stream, worlds, torch.full_like(worlds, episode))
            for seed, episode in itertools.product(range(4), range(3))
        ]
    )


def test_streams_share_no_key():
    """Training, tuning and evaluation, under any seed, world and episode."""
    named = {*get_args(EvaluationSettings.model_fields["stream"].annotation), coding._STREAM, cards._STREAM}
    assert named < set(noise.STREAMS)
    drawn = torch.cat([keys(stream) for stream in noise.STREAMS])
    assert len(drawn.unique()) == len(drawn)


def test_third_parties_are_given_no_seed_on_two_streams():
    """Every stream has an eighth of the seeds, whatever the keys."""
    streams = [*noise.STREAMS, "pettingzoo"]
    extremes = torch.tensor([0, -1, 2**63 - 1, -(2**63)])
    seeds = [copy_seeds(torch.cat([keys(stream), extremes]), stream) for stream in streams]
    assert [(one // 2**28).unique().tolist() for one in seeds] == [[place] for place in range(8)]
    assert copy_seeds(keys("evaluation"), "evaluation").unique().numel() > 5990  # of 6,000
    assert torch.equal(copy_seeds(keys("deployment"), "deployment") // 2**28, torch.full((6000,), 7))


def test_what_is_learned_from_tuned_on_and_reported_are_different_rounds():
    env = ENVS.row("lewis_game").load()(ENVS.check("lewis_game", {"training_rounds": 40, "validation_rounds": 30}))

    def played(stream):
        env.reset(0, torch.arange(500), torch.zeros(500, dtype=torch.int64), stream)
        return {frozenset(map(bytes, objects.numpy())) for objects in env.candidates}

    sets = {stream: played(stream) for stream in noise.STREAMS}
    shared = {pair for pair in itertools.combinations(noise.STREAMS, 2) if sets[pair[0]] & sets[pair[1]]}
    learned = [stream for stream in noise.STREAMS if stream in ("train", "code", "calibration")]
    assert shared == {*itertools.combinations(learned, 2), ("evaluation", "card")}  # a card is of scripts


# --- messages of other episodes --------------------------------------------------------------------------------------


def test_shuffled_messages_are_those_of_other_worlds_that_speak():
    spoke = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    among = torch.tensor([True, True, True, True, False])
    said = torch.arange(5.0).view(5, 1, 1).expand(5, 3, 2)  # everybody says the number of the world
    heard = Shuffled(noise.uniform(torch.arange(5), 3), among).received(said, spoke)
    assert heard.shape == said.shape
    first, second = heard[:4, 0, 0].tolist(), heard[:, 1, 0].tolist()
    assert sorted(first) == [0, 1, 2, 3]
    assert all(theirs != own for own, theirs in enumerate(first))
    assert (second[0], second[2]) == (2, 0)  # of the two that speak, each hears the other
    assert second[4] in (0, 2)  # a world that is over hears the others, and is not heard
    assert heard[3, 2, 0] in (0, 1, 2)  # nobody else speaks there: it hears another sender
    alone = Shuffled(noise.uniform(torch.arange(2), 1), torch.tensor([True, True]))
    heard = alone.received(torch.ones(2, 1, 2), torch.tensor([[True], [False]]))
    assert heard[0].tolist() == [[0.0, 0.0]]  # nobody speaks anywhere else


class Repeater(TeamPolicy):
    """Says the bit that it sees, and names the one that it heard."""

    def see(self, observations):
        return observations

    def begin(self, worlds):
        return {}

    def say(self, features, memory):
        return features[..., 1:2]

    def hear(self, features, memory, received, audible, alive):
        return received.flip(1), {}

    def decide(self, states):
        bit = states[..., :1]
        return 100 * torch.cat([1 - bit, bit], dim=-1), None, bit.squeeze(-1)


def test_who_needs_to_hear_is_lost_among_messages_of_others():
    """Each of two agents must name the bit that the other one sees: with words of others that is chance, 1 in 4."""
    names = TeamNames("relay", {}, "transformer", {"message_size": 1}, "continuous", {})
    env = names.make_env(final=True)
    policy = Repeater(env.spec, PolicySettings(message_size=1), make_channel("continuous", {}, 1))
    own, others = evaluate(env, policy, 0, 400), evaluate_shuffled(env, policy, 0, 400)
    assert own["success"] == 1
    assert others["success"] == pytest.approx(0.25, abs=0.1)
    assert others == evaluate_shuffled(env, policy, 0, 400)
    assert "coded_bits_per_agent_step" not in others


# --- intervals -------------------------------------------------------------------------------------------------------


def test_an_interval_holds_its_mean_and_narrows_with_seeds():
    values = np.random.default_rng(3).normal(0.5, 0.1, size=40)
    few, many = interval(values[:5]), interval(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    # The standard error of 40 draws of deviation .1 is .016: two of them at either side.
    assert many.high - many.low == pytest.approx(4 * 0.1 / 40**0.5, rel=0.3)
    assert interval([0.25]) == Interval(0.25)
    assert interval([0.2, 0.3]) == Interval(0.25)  # two seeds tell no width
    assert interval([0.25] * 5) == Interval(0.25, 0.25, 0.25)


def test_a_claim_takes_five_pairs_and_an_interval_without_zero():
    better = {seed: 0.9 + 0.01 * seed for seed in range(5)}
    worse = {seed: 0.5 + 0.02 * seed for seed in range(6)}
    found = compare(better, worse)
    assert found.pairs == 5
    assert found.difference.mean == pytest.approx(0.4 - 0.01 * 2)
    assert found.claim == "higher"
    assert compare(worse, better).claim == "lower"
    four = {seed: better[seed] for seed in range(4)}
    assert compare(four, worse).claim is None
    mixed = {seed: worse[seed] + (-1) ** seed * 0.1 for seed in range(5)}
    assert compare(mixed, worse).claim is None
    assert compare(better, {7: 0.1}) is None


def test_the_interval_of_five_seeds_is_students():
    # Mean .2, deviation sqrt(.025) = .158; t of four degrees of freedom is 2.776.
    found = interval([0.0, 0.1, 0.2, 0.3, 0.4])
    assert (found.low, found.high) == pytest.approx((0.2 - 0.1963, 0.2 + 0.1963), abs=1e-4)
    assert interval([0.9, 0.95, 1.0], most=1.0).high == 1.0  # nobody crosses more often than always


def test_noise_is_rarely_claimed():
    random = np.random.default_rng(5)
    draws = random.normal(size=(2000, 2, 5))
    claims = [compare(*(dict(enumerate(team)) for team in pair)).claim for pair in draws]
    assert 0.035 < np.mean([claim is not None for claim in claims]) < 0.065  # 5 %
    bits, values = random.uniform(4, 12, size=(500, 10, 1)).repeat(5, 2), random.normal(size=(500, 10, 5))
    worlds = [[_by_seed(team) for team in world] for world in np.stack([bits, values], -1)]
    found = [one for own, *others in worlds if (one := above_hull(own, others)) is not None]
    assert abs(np.mean([one.difference.mean for one in found])) < 0.1  # the best of nine by chance is no better
    assert np.mean([one.claim is not None for one in found]) < 0.1


def _by_seed(points):
    return {seed: tuple(point) for seed, point in enumerate(points.tolist())}


def test_the_upper_hull_is_what_mixtures_of_two_reach():
    points = np.array([[2.0, 0.0], [4.0, 10.0], [6.0, 3.0], [8.0, 14.0]])
    shares = {2.0: [1, 0, 0, 0], 3.0: [0.5, 0.5, 0, 0], 6.0: [0, 0.5, 0, 0.5], 20.0: [0, 0, 0, 1]}
    assert {bits: best_mixture(points, bits).tolist() for bits in shares} == shares
    assert best_mixture(points, 1.0) is None  # nobody can do with so few


def test_a_team_is_compared_with_a_hull_over_common_seeds():
    line = [{seed: (bits, bits + 0.1 * seed) for seed in range(5)} for bits in (2.0, 6.0)]
    found = above_hull({seed: (4.0, 5.0 + 0.1 * seed + 0.01 * seed**2) for seed in range(5)}, line)
    assert (found.pairs, found.claim) == (5, "higher")
    assert found.difference.mean == pytest.approx(1.06)
    assert found.difference.low == pytest.approx(
        1.06 - 2.776 * np.std([0, 0.01, 0.04, 0.09, 0.16], ddof=1) / 5**0.5, 1e-3
    )
    flat = above_hull(
        dict.fromkeys(range(5), (4.0, 5.0)), [dict.fromkeys(range(5), p) for p in ((2.0, 1.0), (6.0, 3.0))]
    )
    assert (flat.difference, flat.claim) == (Interval(3.0, 3.0, 3.0), "higher")  # all seeds say the same
    few = [dict.fromkeys(range(5), point) for point in ((10.0, 0.9), (20.0, 0.95))]
    rarely = {seed: (5.1 if seed == 4 else 11.0, 0.88 - 0.01 * seed) for seed in range(5)}
    assert above_hull(rarely, few) is None  # without some seed it sends fewer bits than all others
    assert above_hull(dict.fromkeys(range(2), (1.0, 9.0)), line) is None  # fewer bits than any of them
    assert above_hull({0: (4.0, 9.0)}, line) is None  # no seed is left to hold it against
    assert above_hull({7: (4.0, 9.0)}, line) is None  # a seed of its own


@pytest.mark.parametrize(
    ("metric", "value", "continuous", "bits", "counts"),
    [
        ("success", 0.951, 0.97, 16, True),
        ("success", 0.949, 0.97, 16, False),
        ("success", 0.99, 0.97, 16.1, False),
        ("success", 0.99, None, 8, False),
        ("return", -10.1, -10.0, 8, True),  # of a way of 10, .2 may be lost
        ("return", -10.3, -10.0, 8, False),
        ("length", 8.5, 8.2, 8, False),
        ("length", 8.3, 8.2, 8, True),
        ("length", 7.0, 8.2, 8, True),
        ("success", 0.3, 0.3, 8, False),  # nobody has learned anything
        ("length", 15.8, 15.9, 8, False),
    ],
)
def test_few_bits_count_where_nothing_is_lost(metric, value, continuous, bits, counts):
    ends = {"success": (0.28, 1.0), "return": (-12.0, -2.0), "length": (16.0, 4.6)}[metric]
    reasons = few_bits_count(value, continuous, bits, 16, Scale(metric, *ends))
    assert (not reasons) == counts
