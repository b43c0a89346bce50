"""Particle Spread: mpe2 step by step, views by hand, what silence is worth, invariants, PettingZoo, pictures."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from marlcomm.envs import particle_spread_v0
from marlcomm.envs.cards import cards
from marlcomm.envs.particle_spread.physics import MOVES, TOUCH
from marlcomm.envs.particle_spread.scripts import SCRIPTS, in_view, share_out, steer
from marlcomm.envs.particle_spread.settings import ParticleSpreadSettings
from marlcomm.envs.particle_spread.world import ParticleSpread
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, ConfigError

VIEWS = ["full", "nearest", "radius", "other_landmark"]
TO_THE_RIM = (2**0.5 + math.asinh(1)) / 2  # mean distance from the middle of the square: 1.148


def world(**settings):
    return ParticleSpread(ParticleSpreadSettings(**settings))


def start(env, count, seed=0, episode=0):
    return env.reset(seed, torch.arange(count), torch.full((count,), episode))


def placed(positions, landmarks, velocities=None, **settings):
    """One world with everything where it is wanted, and what is returned at its start."""
    env = world(agents=len(positions), **settings)
    start(env, 1)
    given_places = [None if x is None else torch.tensor([x], dtype=torch.float32) for x in (positions, landmarks)]
    return env, env.place(*given_places, None if velocities is None else torch.tensor([velocities]))


def randomly(env, worlds, generator):
    return torch.randint(0, 5, (worlds, env.spec.num_agents), generator=generator)


# --- mpe2 ------------------------------------------------------------------------------------------------------------


class Published:
    """mpe2's simple_spread_v3 in the state of one world of a batch."""

    def __init__(self, env, index, **options):
        spread = pytest.importorskip("mpe2.simple_spread_v3")
        self.env = spread.raw_env(N=env.spec.num_agents, local_ratio=env.settings.local_ratio, **options)
        self.env.reset(seed=0)
        self.world = self.env.world
        for slot, agent in enumerate(self.world.agents):
            agent.state.p_pos = env.positions[index, slot].double().numpy().copy()
            agent.state.p_vel = env.velocities[index, slot].double().numpy().copy()
            self.world.landmarks[slot].state.p_pos = env.landmarks[index, slot].double().numpy().copy()

    def step(self, actions):
        for action in actions.tolist() if actions.ndim == 1 else actions:
            self.env.step(action)
        return np.array([self.env.rewards[agent.name] for agent in self.world.agents])

    def observe(self):  # in float64: its own `observe` rounds
        return np.array([self.env.scenario.observation(agent, self.world) for agent in self.world.agents])


AS_PUBLISHED = [
    *(({"agents": agents}, {}) for agents in range(2, 11)),
    ({"local_ratio": 0.0}, {}),
    ({"agents": 4, "local_ratio": 0.8}, {}),
    (
        {"agents": 5, "view": "nearest", "nearest_agents": 2, "nearest_landmarks": 3},
        {"num_agent_neighbors": 2, "num_landmark_neighbors": 3},
    ),
    ({"view": "nearest", "nearest_landmarks": None}, {"num_agent_neighbors": 1}),
    (
        {"agents": 2, "view": "nearest", "nearest_agents": 3, "nearest_landmarks": 4},  # more than there are
        {"num_agent_neighbors": 3, "num_landmark_neighbors": 4},
    ),
]


@pytest.mark.parametrize(("settings", "options"), AS_PUBLISHED)
def test_whole_episodes_are_those_of_mpe2(settings, options):
    """In float64, from the same states under the same actions; crowded, so that agents push each other."""
    env, generator = world(**settings), torch.Generator().manual_seed(1)
    start(env, 4)
    now = env.place(env.positions.double() * 0.4, env.landmarks.double())
    slow = [Published(env, index, **options) for index in range(4)]
    for time in range(1, env.spec.horizon + 1):
        for index, one in enumerate(slow):
            assert np.abs(now.observations[index].numpy() - one.observe()).max() <= 1e-6
        actions = randomly(env, 4, generator)
        now = env.step(actions)
        rewards = np.stack([one.step(own) for one, own in zip(slow, actions, strict=True)])
        assert np.abs(now.rewards.numpy() - rewards).max() <= 1e-6
        assert bool(now.truncated.all()) == (time == 25) == slow[0].env.truncations["agent_0"]
    assert now.info["collisions"].sum() > 0
    assert now.observations.shape[-1] == slow[0].env.observation_space("agent_0").shape[0]


@pytest.mark.parametrize("agents", [2, 5])
def test_whole_continuous_episodes_are_those_of_mpe2(agents):
    env, generator = world(agents=agents, actions="continuous"), torch.Generator().manual_seed(2)
    start(env, 3)
    env.place(env.positions.double() * 0.4, env.landmarks.double())
    slow = [Published(env, index, continuous_actions=True) for index in range(3)]
    for _ in range(env.spec.horizon):
        actions = torch.rand(3, agents, 5, generator=generator)
        now = env.step(actions)
        rewards = np.stack([one.step(own) for one, own in zip(slow, actions.numpy(), strict=True)])
        assert np.abs(now.rewards.numpy() - rewards).max() <= 1e-6
        for index, one in enumerate(slow):
            assert np.abs(now.observations[index].numpy() - one.observe()).max() <= 1e-6


def test_scripts_push_in_a_box_as_in_discrete_directions_and_the_oracle_diagonally_too():
    def value(script, actions):
        return evaluate_script(world(actions=actions), SCRIPTS[script], 0, 200)["return"]

    assert value("stay", "continuous") == value("stay", "discrete")
    assert value("oracle", "continuous") > value("oracle", "discrete")


@pytest.mark.parametrize("agents", range(2, 11))
def test_a_step_in_float32_is_that_of_mpe2(agents):
    env, generator = world(agents=agents), torch.Generator().manual_seed(agents)
    start(env, 20)
    env.place(env.positions * 0.5, env.landmarks, torch.randn(20, agents, 2, generator=generator))
    slow = [Published(env, index) for index in range(20)]
    actions = randomly(env, 20, generator)
    now = env.step(actions)
    assert now.observations.dtype == now.rewards.dtype == torch.float32
    rewards = np.stack([one.step(own) for one, own in zip(slow, actions, strict=True)])
    assert np.abs(now.rewards.numpy() - rewards).max() <= 1e-5
    assert np.abs(now.observations.numpy() - np.stack([one.observe() for one in slow])).max() <= 1e-5
    assert now.info["collisions"].sum() > 0


@pytest.mark.parametrize("agents", [2, 10])
def test_statistics_are_those_of_mpe2(agents):
    env = world(agents=agents)
    start(env, 20)
    env.place(env.positions * 0.3, env.landmarks * 0.3)
    slow = [Published(env, index) for index in range(20)]
    actions = torch.zeros(20, agents, dtype=torch.int64)
    now = env.step(actions)
    for index, one in enumerate(slow):
        one.step(actions[index])
        measured = [one.env.scenario.benchmark_data(agent, one.world) for agent in one.world.agents]
        _, touches, distances, occupied = zip(*measured, strict=True)
        assert now.info["collisions"][index] == sum(touches) / 2
        assert now.info["landmark_distance"][index] == pytest.approx(distances[0], abs=1e-5)
        assert now.info["coverage"][index] == pytest.approx(occupied[0] / agents)
    assert now.info["coverage"].max() > 0


def test_the_landmark_distance_is_a_mean_over_steps():
    env, _ = placed([[-0.6, 0.0], [0.6, 0.0]], [[-0.6, 0.5], [0.6, 0.5]])
    for _ in range(3):
        assert env.step(torch.zeros(1, 2, dtype=torch.int64)).info["landmark_distance"].tolist() == [1.0]


# --- rules by hand ---------------------------------------------------------------------------------------------------


def test_a_push_is_felt_one_step_later():
    env, _ = placed([[0.0, 0.0], [0.9, 0.9]], [[0.0, 0.0], [0.9, 0.9]])
    first = env.step(torch.tensor([[2, 0]]))
    assert env.positions[0, 0].tolist() == [0, 0]
    assert env.velocities[0, 0].tolist() == [0.5, 0]
    assert first.info["success"] == 1
    env.step(torch.tensor([[0, 0]]))
    assert env.positions[0, 0].tolist() == pytest.approx([0.05, 0])
    assert env.velocities[0, 0].tolist() == pytest.approx([0.375, 0])


def test_agents_in_the_very_same_place_are_not_lost():
    env, _ = placed([[0.2, 0.2], [0.2, 0.2]], [[0.0, 0.0], [0.9, 0.9]])
    now = env.step(torch.tensor([[1, 2]]))
    assert torch.isfinite(now.observations).all()
    assert now.info["collisions"] == 1


def test_other_landmark_scores_each_landmark_by_its_own_agent():
    """Both landmarks are covered, by the wrong agents: nothing is earned."""
    places = [[-0.6, 0.0], [0.6, 0.0]]
    env, _ = placed(places, places[::-1], view="other_landmark", local_ratio=0.25)
    now = env.step(torch.zeros(1, 2, dtype=torch.int64))
    assert now.rewards[0].tolist() == pytest.approx([-0.75 * 2.4] * 2)
    assert (now.info["coverage"], now.info["success"]) == (0, 0)
    env, _ = placed(places, places, view="other_landmark")
    now = env.step(torch.zeros(1, 2, dtype=torch.int64))
    assert now.rewards[0].tolist() == [0, 0]
    assert now.info["success"] == 1


def test_other_landmark_shows_one_landmark_and_nobody():
    env = world(view="other_landmark", agents=4)
    now = start(env, 30)
    assert now.observations.shape == (30, 4, 6)
    for slot in range(4):
        expected = env.landmarks[:, (slot + 1) % 4] - env.positions[:, slot]
        assert torch.equal(
            now.observations[:, slot], torch.cat([torch.zeros(30, 2), env.positions[:, slot], expected], 1)
        )
    before, (positions, landmarks) = now.observations[:, 1], (env.positions.clone(), env.landmarks.clone())
    positions[:, [0, 2, 3]] += 0.5
    landmarks[:, [0, 1, 3]] += 0.5
    assert torch.equal(env.place(positions, landmarks).observations[:, 1], before)


def test_a_radius_hides_what_is_far_and_says_so():
    _, now = placed([[0, 0], [0.4, 0], [0, 0.9]], [[0.3, 0.3], [-0.5, 0], [0.6, 0]], view="radius", radius=0.5)
    first = now.observations[0, 0].tolist()
    assert first[4:10] == pytest.approx([0.3, 0.3, -0.5, 0, 0, 0])  # at exactly the radius it is still seen
    assert first[10:14] == pytest.approx([0.4, 0, 0, 0])
    assert first[14:] == [1, 1, 0, 1, 0]
    assert now.observations[0, 2, 4:].tolist() == [0] * 15


@pytest.mark.parametrize("agents", [2, 7])
def test_views_have_the_widths_of_the_docs(agents):
    widths = {"full": 6 * agents, "nearest": 10, "radius": 6 * agents + 1, "other_landmark": 6}
    for view in VIEWS:
        assert start(world(view=view, agents=agents), 3).observations.shape[-1] == widths[view]


def test_episodes_begin_anywhere():
    env = world(agents=4)
    start(env, 20_000)
    for places in (env.positions, env.landmarks):
        assert places.abs().max() < 1
        assert torch.allclose(places.mean((0, 1)), torch.zeros(2), atol=0.01)
        assert places.square().mean().item() == pytest.approx(1 / 3, abs=0.005)
    together = torch.corrcoef(torch.cat([env.positions, env.landmarks], 1).flatten(1).t())
    assert (together - torch.eye(16)).abs().max() < 0.03
    assert not env.velocities.any()


def test_the_rim_is_hit_everywhere_alike():
    env = world(view="other_landmark", agents=2)
    start(env, 20_000)
    x, y = env.landmarks[:, 0].unbind(-1)
    assert torch.equal(torch.maximum(x.abs(), y.abs()), torch.ones(20_000))
    for side, along in ((x == 1, y), (x == -1, y), (y == 1, x), (y == -1, x)):
        assert side.float().mean().item() == pytest.approx(0.25, abs=0.015)
        assert along[side].mean().item() == pytest.approx(0, abs=0.03)
        assert along[side].square().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert env.landmarks.norm(dim=-1).mean().item() == pytest.approx(TO_THE_RIM, abs=0.003)
    start(env := world(view="other_landmark", landmarks="anywhere"), 100)
    assert env.landmarks.abs().amax(-1).max() < 1


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    agents=st.integers(2, 10),
    view=st.sampled_from(VIEWS),
    horizon=st.integers(1, 40),
    local_ratio=st.floats(0, 1),
    crowd=st.sampled_from([1.0, 0.1, 0.0]),
    seed=st.integers(0, 2**31),
)
def test_what_always_holds(agents, view, horizon, local_ratio, crowd, seed):
    """However crowded, and whatever is done."""
    env = world(agents=agents, view=view, horizon=horizon, local_ratio=local_ratio)
    generator = torch.Generator().manual_seed(seed)
    start(env, 3, seed)
    env.place(env.positions * crowd, env.landmarks)
    # A push adds 0.5 to a speed, each other agent at most 100 * (0.3 + 0.001 ln 2) * 0.1; a quarter is lost.
    fastest = (0.5 + 3.01 * (agents - 1)) / 0.25
    collisions = torch.zeros(3)
    for time in range(1, horizon + 1):
        now = env.step(randomly(env, 3, generator))
        assert torch.isfinite(now.observations).all()
        assert env.velocities.norm(dim=-1).max() <= fastest
        assert env.positions.norm(dim=-1).max() <= 2**0.5 + 0.1 * fastest * time
        assert torch.isfinite(now.rewards).all()
        assert (now.rewards <= 0).all()
        assert now.alive.all()
        assert not now.spawned.any()
        assert not now.terminated.any()
        assert bool(now.truncated.all()) == bool(now.truncated.any()) == (time == horizon)
        assert ((now.info["coverage"] == 1) == (now.info["success"] == 1)).all()
        assert (now.info["collisions"] >= collisions).all()
        collisions = now.info["collisions"]
    assert (collisions <= horizon * agents * (agents - 1) / 2).all()
    with pytest.raises(RuntimeError, match="after the horizon"):
        env.step(randomly(env, 3, generator))


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agents": 1}, r"env\.agents: got 1, wanted .*2"),
        ({"agents": 11}, r"env\.agents: got 11, wanted .*10"),
        ({"agents": "3"}, r"env\.agents"),
        ({"horizon": 0}, r"env\.horizon"),
        ({"local_ratio": 1.5}, r"env\.local_ratio: got 1\.5, wanted .*1"),
        ({"view": "nearst"}, r"env\.view: got 'nearst', wanted .*'nearest'"),
        ({"view": "nearest", "nearest_agents": 0}, r"env\.nearest_agents"),
        ({"radius": 0.7}, "radius: got 0.7, but view 'full' does not read it: set view to 'radius', or leave"),
        ({"view": "radius", "nearest_landmarks": 2}, "nearest_landmarks: got 2, but view 'radius' does not read it"),
        ({"view": "radius", "radius": 0}, r"env\.radius"),
        ({"landmarks": "border"}, r"env\.landmarks: got 'border', wanted 'anywhere' or 'rim'"),
        ({"N": 3}, r"env\.N: unknown key"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        ENVS.check("particle_spread", settings)


def test_settings_that_change_the_score_change_the_setting():
    others = [
        {}, {"agents": 4}, {"horizon": 24}, {"local_ratio": 0.4}, {"landmarks": "rim"},
        {"view": "nearest"}, {"view": "nearest", "nearest_agents": 2}, {"view": "nearest", "nearest_landmarks": None},
        {"view": "radius"}, {"view": "radius", "radius": 0.51},
        {"view": "other_landmark"}, {"view": "other_landmark", "landmarks": "anywhere"},
    ]  # fmt: skip
    assert len({ParticleSpreadSettings(**other).setting for other in others}) == len(others)
    assert ParticleSpreadSettings(landmarks="anywhere").setting == ParticleSpreadSettings().setting


@pytest.mark.parametrize(
    ("actions", "error", "words"),
    [
        (torch.zeros(2, 3), ValueError, "actions must be int64 of shape"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, "actions must be int64 of shape"),
        (torch.full((2, 3), 5), ValueError, r"action 5 is not in 0\.\.4"),
    ],
)
def test_wrong_actions_are_named(actions, error, words):
    env = world()
    start(env, 2)
    with pytest.raises(error, match=words):
        env.step(actions)


# --- what silence is worth -------------------------------------------------------------------------------------------


def returns(env, *names, episodes=300):
    scores = {name: evaluate_script(env, env.scripts()[name], 0, episodes) for name in names}
    return [scores[name]["return"] for name in names]


@pytest.mark.parametrize(("script", "per_agent"), [("random", -26.2), ("stay", -24.0)])
def test_scripts_score_as_in_the_published_environment(script, per_agent):
    """Means of 400 episodes there, so both vary."""
    figures = evaluate_script(world(), SCRIPTS[script], 0, 2000)
    error = figures["return_standard_error"] / 3 * (1 + 2000 / 400) ** 0.5
    assert abs(figures["return"] / 3 - per_agent) <= 3 * error + 0.05


def test_the_ceiling_is_above_published_scripts():
    """Optimal assignment and greedy motion score -7.8 there."""
    figures = evaluate_script(world(), SCRIPTS["oracle"], 0, 500)
    assert figures["return"] / 3 - 3 * figures["return_standard_error"] / 3 > -7.8
    assert figures["success"] > 0.85


def test_the_standard_view_needs_no_talk():
    env = world()
    random, silent, ceiling = returns(env, "random", "own_view", "oracle")
    assert (silent - random) / (ceiling - random) > 0.95


@pytest.mark.parametrize("agents", [2, 3, 5])
def test_other_landmark_is_a_communication_task(agents):
    env = world(view="other_landmark", agents=agents)
    random, ceiling, *silent = returns(env, "random", "oracle", "stay", "formation", "own_view")
    assert (max(silent) - random) / (ceiling - random) < 0.4
    assert max(silent) == silent[1]  # the floor
    # No silent team whatsoever earns more than one that is in the middle from the start, and never touches.
    assert silent[1] < -0.5 * agents**2 * 25 * TO_THE_RIM


def rim(count):
    """[count, 2] places along the rim."""
    way = (torch.arange(count) + 0.5) / count * 8
    x, y = (((way + shift) % 8 - 4).abs() - 2 for shift in (0, 2))  # triangle waves, a quarter apart
    return torch.stack([x, y], -1).clamp(-1, 1)


def test_a_team_that_sees_itself_would_talk_with_its_bodies():
    """Why the view shows nobody: who sees the others' places reads their pushes, and three pushes name 125 places."""
    env, words, base = world(view="other_landmark"), rim(125), torch.tensor([25, 5, 1])
    assert torch.equal(words.abs().amax(1), torch.ones(125))
    places, goals = [], []

    def bodies(env):
        if env.time == 0:
            places.clear()
        places.append(env.positions.clone())
        if env.time < 3:
            word = torch.cdist(env.landmarks.roll(-1, 1), words).argmin(-1, keepdim=True)
            return (word // base % 5)[..., env.time]
        if env.time == 3:
            return SCRIPTS["stay"](env)
        if env.time == 4:  # the third push shows in the fourth step
            speeds = torch.stack([b - a for a, b in itertools.pairwise(places)])
            pushes = (speeds[1:] - 0.75 * speeds[:-1]) / 0.01
            moves = torch.cdist(pushes, 5 * torch.tensor(MOVES)).argmin(-1)
            goals[:] = [words[(moves * base.view(3, 1, 1)).sum(0)].roll(1, 1)]
        return steer(env, goals[0])

    random, ceiling = returns(env, "random", "oracle")
    talked = evaluate_script(env, bodies, 0, 300)["return"]
    assert (talked - random) / (ceiling - random) > 0.6


@pytest.mark.parametrize("view", ["nearest", "radius", "other_landmark"])
def test_silent_scripts_use_nothing_out_of_view(view):
    """Move what agent 0 does not see far away: it does the same."""
    env = world(view=view, agents=4)
    start(env, 200)
    agents, landmarks = (seen[:, 0].unsqueeze(-1) for seen in in_view(env))
    before = {name: SCRIPTS[name](env)[:, 0] for name in ("formation", "own_view")}
    far = 50 + torch.arange(4).view(1, 4, 1) * 5.0
    positions, goals = torch.where(agents, env.positions, far), torch.where(landmarks, env.landmarks, -far)
    assert not torch.equal(goals, env.landmarks)
    env.place(positions, goals)
    for name, actions in before.items():
        assert torch.equal(SCRIPTS[name](env)[:, 0], actions), name


def test_landmarks_are_shared_out_for_the_least_sum():
    """Greedily, the first agent would take what the second one needs."""
    positions, landmarks = torch.tensor([[[0.0, 0], [1.0, 0]]]), torch.tensor([[[0.9, 0.0], [-1.5, 0.0]]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    goals, found = share_out(positions, landmarks, everything, everything)
    assert goals[0].tolist() == pytest.approx(torch.tensor([[-1.5, 0], [0.9, 0]]))
    assert found.all()
    goals, found = share_out(positions, landmarks, everything, torch.tensor([[True, False]]))
    assert found.tolist() == [[False, True]]  # the closer one gets the only one in view
    near = torch.tensor([[[0.0, 0.0], [0.1, 0.0]]])
    goals, _ = share_out(near, near, everything, everything)
    assert (goals[0, 0] - goals[0, 1]).norm() >= TOUCH


def test_the_card_is_measured():
    stored = cards("particle_spread")
    settings = [ParticleSpreadSettings(**chosen) for chosen in ParticleSpreadSettings.card_settings]
    assert set(stored) == {chosen.setting for chosen in settings}
    for chosen in settings:
        card = stored[chosen.setting]
        scores = {name: figures["return"] for name, figures in card["references"].items()}
        silent = max(scores[name] for name in ("stay", "formation", "own_view"))
        assert scores[card["floor"]] == silent, chosen.setting
        assert scores[card["ceiling"]] == max(scores.values())
        if chosen.view == "other_landmark" and chosen.on_rim:
            assert (silent - scores["random"]) / (scores["oracle"] - scores["random"]) < 0.4
    assert world().spec.card == stored["full-3agents-horizon25"]


# --- faces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_teams_play_it(view):
    channel = "silent" if view == "full" else "ddcl"
    small = {"hidden_size": 16, "width": 8, "message_size": 4}
    names = TeamNames("particle_spread", {"view": view, "agents": 4}, "transformer", small, channel, {})
    env = names.make_env()
    figures = evaluate(env, names.make_policy(env, seed=0), 0, 20)
    assert figures["length"] == 25
    assert figures["return"] < 0
    assert (figures["prefix_bits_per_episode"] > 0) == (channel == "ddcl")


@pytest.mark.parametrize("settings", [{}, {"view": "radius", "agents": 5}, {"view": "other_landmark"}])
def test_pettingzoo_accepts_it(settings, capsys):
    parallel_api_test(particle_spread_v0.parallel_env(**settings), num_cycles=60)
    parallel_seed_test(lambda: particle_spread_v0.parallel_env(**settings))
    api_test(particle_spread_v0.env(**settings), num_cycles=100)


def test_the_pettingzoo_face_is_the_same_world():
    face, env = particle_spread_v0.parallel_env(view="radius"), world(view="radius")
    face.reset(seed=3)
    env.reset(3, torch.tensor([0]), torch.tensor([0]), stream="pettingzoo")
    while face.agents:
        moves = SCRIPTS["own_view"](env)[0].tolist()
        observations, rewards, _, truncated, infos = face.step(dict(zip(face.agents, moves, strict=True)))
        now = env.step(torch.tensor([moves]))
        assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
        assert list(rewards.values()) == now.rewards[0].tolist()
        assert infos["agent_1"]["coverage"] == pytest.approx(float(now.info["coverage"]))
    assert all(truncated.values())
    with pytest.raises(ConfigError, match="did you mean 'agents'"):
        particle_spread_v0.parallel_env(agent=4)


def near(picture, colour):
    return (np.abs(picture.astype(int) - colour) < 30).all(-1)


@pytest.mark.parametrize("view", VIEWS)
def test_pictures_show_saucers_where_they_are(view):
    places = [[-0.7, 0.5], [0.65, -0.65]]
    env, _ = placed(places, [[0.5, 0.5], [-0.5, -0.5]], view=view)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.shape == (604, 560, 3)
    for (x, y), paint in zip(places, [(230, 159, 0), (86, 180, 233)], strict=True):
        rows, columns = np.nonzero(near(before[:560], paint))
        scale = 280 / 1.3
        assert np.abs([np.median(columns) - 280 - x * scale, np.median(rows) - 280 + y * scale]).max() < 20
    env.step(torch.tensor([[2, 0]]))
    flame = near(env.render(), (255, 138, 48)).sum() - near(before, (255, 138, 48)).sum()
    assert flame > 30


def test_pictures_show_bumps_and_covered_landmarks():
    apart, _ = placed([[-0.5, 0.0], [0.5, 0.0]], [[0.9, 0.9], [-0.9, -0.9]])
    touching, _ = placed([[-0.1, 0.0], [0.1, 0.0]], [[0.9, 0.9], [-0.9, -0.9]])
    covering, _ = placed([[-0.5, 0.0], [0.5, 0.0]], [[-0.5, 0.09], [-0.9, -0.9]])
    sparks = [near(env.render(), (255, 244, 190)).sum() for env in (apart, touching)]
    assert sparks[1] > sparks[0] + 50
    glow = [near(env.render(), (255, 226, 120)).sum() for env in (apart, covering)]
    assert glow[1] > glow[0]
    far, _ = placed([[3.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [-0.9, -0.9]])
    assert near(far.render()[:560], (230, 159, 0)).sum() > 20  # it is still in the picture
