"""Do frequent goals get the shorter messages? The grouping, the correlations, and what knowing the dither is worth."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_proving_ground import CONFIG

from marlcomm.analysis.frequency import Said, by_goal, correlation, entropy_given_dither, listen
from marlcomm.channels.ddcl import DDCLChannel
from marlcomm.channels.settings import DDCLSettings
from marlcomm.envs.communicating_goal.settings import GOALS, WEIGHTS, CommunicatingGoalSettings
from marlcomm.policies.team import TeamNames
from marlcomm.wire.entropy import histogram, plug_in_entropy

# A vector for each goal, in steps: any two are more than a step apart, few lie at the centre of a bin.
POINTS = torch.tensor([[0.5, 0.5], [-0.9, 0.4], [0.6, -1.3], [2.4, 0.6], [-1.6, -0.8], [-1.4, 1.6]])
DRAWS = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))


def ddcl(size):
    return DDCLChannel(size, DDCLSettings(delta=1.0))


def grouped(goals, symbols):
    """The goals of hand-made messages of one symbol, each sent without dither."""
    columns = torch.tensor(symbols).unsqueeze(1)
    surrogate = np.log2(2 * np.abs(np.array(symbols, np.float64)) + 1)
    said = Said(np.array(goals), columns.float(), columns.numpy().astype(np.int32), surrogate)
    return by_goal(said, CommunicatingGoalSettings(), ddcl(1), torch.full((3, 1), 0.5))


def test_messages_are_grouped_by_their_goal():
    goals = [0] * 4 + [1] * 2 + [3] * 2
    first, second, third = grouped(goals, [0, 0, 0, 1, -1, 1, 3, -3])
    assert [goal.cell for goal in (first, second, third)] == [GOALS[0], GOALS[1], GOALS[3]]  # of the others, nothing
    assert [goal.chance for goal in (first, second, third)] == [weight / sum(WEIGHTS) for weight in (200, 100, 25)]
    assert [goal.messages for goal in (first, second, third)] == [4, 2, 2]
    assert [goal.share for goal in (first, second, third)] == [0.5, 0.25, 0.25]
    # Elias-gamma: 1 bit for 0, 3 for +-1, 5 for +-3.
    assert [goal.code_bits for goal in (first, second, third)] == [1.5, 3, 5]
    for measure in ("paper_bits", "surrogate_bits"):
        found = [getattr(goal, measure) for goal in (first, second, third)]
        assert found == pytest.approx([math.log2(3) / 4, math.log2(3), math.log2(7)])
    assert [goal.entropy for goal in (first, second, third)] == [None] * 3  # of so few messages, none is estimable
    assert second.entropy_given_dither == 1  # as often one signal as the other


def test_an_entropy_needs_enough_messages():
    common, rare = grouped([0] * 400 + [1] * 15, [0, 1] * 200 + [2, -2, 2] * 5)
    assert common.entropy == 1
    assert rare.entropy is None


@pytest.mark.parametrize(
    ("symbols", "wanted"), [([0, 1, 2, 4, 8, 16], -1), ([16, 8, 4, 2, 1, 0], 1), ([1, 0, 2, 4, 8, 16], -33 / 35)]
)
def test_rarer_goals_of_longer_messages_correlate_negatively(symbols, wanted):
    goals = grouped(range(6), symbols)
    assert correlation(goals, "code_bits", stats.spearmanr) == pytest.approx(wanted)


def test_pearsons_correlation_is_of_the_chances():
    goals = grouped([0, 1, 2], [0, 1, 2])  # chances 200, 100, 50, bits 1, 3, 5
    chances, bits = np.array([250 / 3, -50 / 3, -200 / 3]), np.array([-2, 0, 2])
    wanted = (chances * bits).sum() / math.sqrt((chances**2).sum() * (bits**2).sum())
    assert correlation(goals, "code_bits", stats.pearsonr) == pytest.approx(wanted)


def test_no_correlation_of_what_does_not_differ():
    assert correlation(grouped([0, 1, 2], [1, -1, 1]), "code_bits", stats.spearmanr) is None
    assert correlation(grouped([0, 1], [1, 2]), "code_bits", stats.spearmanr) is None


def test_signals_that_a_dither_merges_are_one_message():
    signals = torch.tensor([[0.0, 0.0], [0.25, 0.0]]).repeat(50, 1)
    together, apart = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.5]])  # a dither of 0, and of 0.4 of a step
    assert entropy_given_dither(ddcl(2), signals, together) == 0
    assert entropy_given_dither(ddcl(2), signals, apart) == 1
    assert entropy_given_dither(ddcl(2), signals, torch.cat([together, apart])) == 0.5


def test_a_deterministic_speaker_tells_no_more_than_its_goals(monkeypatch):
    """A fixed vector for each goal, through the real channel, on the real world: H(m | eps) <= H(goal) < H(m)."""
    team = TeamNames(
        "communicating_goal",
        {},
        "transformer",
        {"message_size": 2, "width": 8, "hidden_size": 16, "heads": 2, "recurrent": False},
        "ddcl",
        {"delta": 1.0, "dither_levels": 64},
    )
    env = team.make_env(final=True)
    policy = team.make_policy(env, seed=0)

    def name_the_goal(self, features, memory):
        return POINTS[env._goal].unsqueeze(1).expand(-1, 2, -1)

    monkeypatch.setattr(type(policy), "say", name_the_goal)
    said = listen(env, policy, 0, 3000)
    assert torch.equal(said.signals, POINTS[said.goals])
    assert np.allclose(said.surrogate_bits, np.log2(2 * np.abs(said.signals.numpy()) + 1).sum(1), atol=1e-5)
    # An untrained listener hardly ever finds a goal, so goals are said nearly as often as they are drawn.
    goals = plug_in_entropy(np.bincount(said.goals))
    assert 1.5 < goals < 2
    assert entropy_given_dither(policy.channel, said.signals, DRAWS) <= goals + 1e-9
    assert plug_in_entropy(histogram(said.symbols).values()) > 1.8 * goals
    for goal in by_goal(said, env.settings, policy.channel, DRAWS):
        assert goal.entropy_given_dither == 0


def test_one_command_compares_and_goes_on(tmp_path, trainings_here):
    (tmp_path / "small.yaml").write_text(CONFIG)
    command = ("bench", "frequency", "small.yaml", "--rate-weight", 0.001, "--seeds", 1, "--jobs", 1, "--episodes", 400)
    trainings_here(*command, "--out", "results", cwd=tmp_path)
    found = json.loads((tmp_path / "results" / "frequency.json").read_text())
    assert [team["rate_weight"] for team in found["teams"]] == [0.001, 0]
    assert found["command"].startswith("marlcomm bench frequency small.yaml")
    for team in found["teams"]:
        assert f"channel.rate_weight={team['rate_weight']:g}" in team["command"]
        assert team["entropy_given_dither"] <= team["goal_entropy"] + 1e-9
        assert sum(goal["share"] for goal in team["goals"]) == pytest.approx(1)
        assert all(-1 <= value <= 1 for kind in ("spearman", "pearson") for value in team[kind].values())
        assert all(goal["code_bits"] >= 4 for goal in team["goals"])  # four symbols
    assert (tmp_path / "results" / "frequency.png").stat().st_size > 10_000
    runs = sorted((tmp_path / "runs").glob("*/*"))
    assert len(runs) == 2
    trainings_here(*command, "--out", "results", cwd=tmp_path)
    assert sorted((tmp_path / "runs").glob("*/*")) == runs  # nothing was trained again
    assert json.loads((tmp_path / "results" / "frequency.json").read_text()) == found
