"""On what a team spends its bits: by hand, on choices that are known, and from the command line."""

import json

import numpy as np
import pytest
import torch

from marlcomm.analysis.capacity import MEASURES, Team, listen, relation
from marlcomm.analysis.pictures import draw_capacity
from marlcomm.policies.evaluation import play_script
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError

POOL = [(1, 4), (4, 16)]
BITS = [1 + 2, 1 + 16]


def team(channel="dvq", env="ghost_run", world=None, **settings):
    world = {"horizon": 4, "drones": 2, "view": 1, "size": 7} if world is None else world
    settings = {"pool": POOL} | settings if channel == "dvq" else settings
    names = TeamNames(
        env, world, "transformer", {"hidden_size": 16, "message_size": 8, "width": 8, "heads": 2}, channel, settings
    )
    built = names.make_env()
    return built, names.make_policy(built, seed=0).eval()


def choose(policy, picked):
    """The member of the pool that a message [..., D] chooses, by hand."""
    policy.quantiser._choose = lambda reading, noise: picked(reading).long()


def test_what_is_said_is_counted_once_and_beside_its_episode():
    env, policy = team()
    choose(policy, lambda reading: reading.h[..., 0] > 0)
    said = listen(env, policy, seed=3, episodes=6)
    assert len(said.bits) == 6 * 4 * 2
    assert set(said.bits) == set(BITS)
    assert (said.bits == np.array(BITS, float)[said.member]).all()
    assert np.bincount(said.episode).tolist() == [8] * 6
    assert said.measures["step"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 6
    rewards, _ = play_script(env, env.scripts()["oracle"], 3, torch.arange(6), "evaluation")
    assert said.measures["ceiling_return"].tolist() == np.repeat(rewards.sum((1, 2)).double().numpy(), 8).tolist()
    assert list(said.measures) == list(MEASURES)


@pytest.mark.parametrize("structure", ["flat", "hierarchical"])
@pytest.mark.parametrize("continuous", [False, True])
def test_distortion_is_that_of_what_each_quantiser_decodes_to(structure, continuous):
    _, policy = team(structure=structure, continuous=continuous)
    channel, messages = policy.quantiser, torch.randn(20, 8)
    found = channel.distortions(messages)
    for member in range(len(POOL)):
        choose(policy, lambda reading, member=member: torch.full(reading.h.shape[:-1], member))
        words = channel.decode(channel.encode(messages))
        assert torch.allclose(found[:, member], (channel.normalize(messages) - words).square().mean(-1), atol=1e-6)
    assert found.shape == (20, len(POOL))


def test_choices_by_what_is_hard_to_quantise_are_found():
    env, policy = team()
    channel = policy.quantiser
    choose(policy, lambda reading: _hard(channel, reading.h) > 0.5)
    middle = listen(env, policy, seed=0, episodes=50).measures["distortion"]
    choose(policy, lambda reading: _hard(channel, reading.h) > np.median(middle))
    said = listen(env, policy, seed=0, episodes=50)
    found = relation(said.measures["distortion"], said.bits, said.episode)
    assert found.low > 0.5
    assert found.curve[0][1] == BITS[0]
    assert found.curve[-1][1] == BITS[1]


def _hard(channel, h):
    with torch.no_grad():
        heard, indices = channel._search(h)
        return (
            (h.unsqueeze(-2) - channel.pieces.all(channel.pieces.table(channel.books), indices)).square().mean((-1, -2))
        )


def test_a_correlation_by_hand():
    values, bits = np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 40, 30])
    found = relation(values, bits, np.arange(4))
    assert found.spearman == pytest.approx(0.8)
    assert found.curve == [(1, 10), (2, 20), (3, 40), (4, 30)]
    assert -1 <= found.low <= 0.8 <= found.high <= 1
    many = relation(np.arange(100.0), np.arange(100.0) ** 2, np.arange(100))
    assert (many.spearman, len(many.curve), many.curve[0][0]) == (pytest.approx(1), 10, 4.5)


def test_one_episode_has_no_interval():
    found = relation(np.array([1.0, 2, 3]), np.array([5.0, 6, 7]), np.zeros(3, int))
    assert (found.spearman, found.low, found.high, str(found)) == (pytest.approx(1), None, None, "+1.00")


def test_messages_of_an_episode_are_not_draws_of_their_own():
    generator = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 100)
    values, bits = (generator.normal(size=20)[episode] for _ in range(2))
    together, apart = relation(values, bits, episode), relation(values, bits, np.arange(2000))
    assert together.spearman == pytest.approx(apart.spearman)
    assert together.high - together.low > 5 * (apart.high - apart.low)


@pytest.mark.parametrize(("values", "bits"), [([1.0, 2, 3], [5.0, 5, 5]), ([1.0, 1, 1], [5.0, 6, 7])])
def test_nothing_is_said_of_what_does_not_vary(values, bits):
    found = relation(np.array(values), np.array(bits), np.arange(3))
    assert (found.spearman, found.low, found.high, str(found)) == (None, None, None, "-")


def test_who_says_nothing_is_refused():
    env, policy = team()
    policy._speakers[:] = False
    with pytest.raises(ConfigError, match="in 2 episodes nobody said anything"):
        listen(env, policy, seed=0, episodes=2)


def test_worlds_that_play_a_few_at_a_time():
    maker = {"maker": "foreign_worlds:Leavers", "copies": 4, "ceiling": "test_capacity:idle"}
    env, policy = team(env="pettingzoo", world=maker)
    said = listen(env, policy, seed=0, episodes=6)
    assert sorted(set(said.episode)) == [0, 1, 2, 3, 4, 5]
    assert set(said.measures) == set(MEASURES)
    env.close()


def idle(env):
    return torch.zeros(env.num_worlds, env.spec.num_agents, dtype=torch.int64)


def test_teams_of_worlds_with_and_without_a_ceiling_are_drawn_together(tmp_path):
    flat = relation(np.array([1.0, 2, 3]), np.array([5.0, 6, 7]), np.arange(3))
    one, two = (Team(name, 0, 6.0, {}, dict.fromkeys(keys, flat), "", "") for name, keys in WITH_AND_WITHOUT.items())
    for teams in ([one, two], [two, one]):
        draw_capacity(teams, tmp_path / "x.png")
        assert (tmp_path / "x.png").stat().st_size > 10_000


WITH_AND_WITHOUT = {"with": list(MEASURES), "without": ["own_return", "step"]}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"channel": "vq"}, "wanted a team whose messages choose theirs, trained with channel.name=dvq"),
        ({"selector": "random"}, "got channel.selector=random, wanted 'learned'"),
    ],
)
def test_who_chooses_nothing_is_refused(case, words):
    env, policy = team(**case)
    with pytest.raises(ConfigError, match=words):
        listen(env, policy, seed=0, episodes=2)


def test_one_command(here, cluster, trains_here, tmp_path, pytestconfig):
    file = pytestconfig.rootpath / "configs/other_landmark.yaml"
    small = ["run.worlds=32", "run.env_steps=800", "evaluation.episodes=20", "evaluation.code_episodes=20", "name=dvq"]
    trains_here("train", file, *small, "channel.name=dvq", "resources.threads=1", cwd=tmp_path)
    told = here("bench", "capacity", "runs/dvq", "runs/dvq", "--episodes", 50, "--out", "found", cwd=tmp_path).stdout
    assert "distortion" in told
    found = json.loads((tmp_path / "found/capacity.json").read_text())
    assert found["command"].startswith("marlcomm bench capacity runs/dvq")
    one, other = found["teams"]
    assert one == other
    assert one["command"].startswith("marlcomm train")
    assert sum(one["shares"].values()) == pytest.approx(1)
    assert set(one["relations"]) == set(MEASURES)
    assert (tmp_path / "found/capacity.png").stat().st_size > 10_000
