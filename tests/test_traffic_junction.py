"""Traffic Junction: geometry, rules against a slow port of the specification, calibration, PettingZoo, pictures."""

import numpy as np
import pytest
import torch
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from marlcomm import noise
from marlcomm.envs import traffic_junction_v0
from marlcomm.envs.traffic_junction.roads import road_map
from marlcomm.envs.traffic_junction.scripts import SCRIPTS
from marlcomm.envs.traffic_junction.settings import CARS, HORIZONS, Curriculum, TrafficJunctionSettings
from marlcomm.envs.traffic_junction.timetables import Time, actions, play, search
from marlcomm.envs.traffic_junction.world import BRAKE, GAS, TrafficJunction
from marlcomm.policies.evaluation import evaluate_script
from marlcomm.registry import ConfigError

DIFFICULTIES = ["easy", "medium", "hard"]


def world(**settings):
    return TrafficJunction(TrafficJunctionSettings(**settings))


def start(env, count, seed=0, episode=0):
    return env.reset(seed, torch.arange(count), torch.full((count,), episode))


# --- geometry --------------------------------------------------------------------------------------------------------

TURNS = {
    "easy": [[[(0, 3), (6, 3)]], [[(3, 0), (3, 6)]]],
    "medium": [
        [[(0, 6), (13, 6)], [(0, 6), (6, 6), (6, 0)], [(0, 6), (7, 6), (7, 13)]],
        [[(13, 7), (0, 7)], [(13, 7), (7, 7), (7, 13)], [(13, 7), (6, 7), (6, 0)]],
        [[(7, 0), (7, 13)], [(7, 0), (7, 6), (13, 6)], [(7, 0), (7, 7), (0, 7)]],
        [[(6, 13), (6, 0)], [(6, 13), (6, 7), (0, 7)], [(6, 13), (6, 6), (13, 6)]],
    ],
}
HARD_TURNS = {  # one entry of each side, as published; the cells of all 56 routes are counted below
    0: [
        [(17, 4)], [(12, 4), (12, 0)], [(13, 4), (13, 17)], [(4, 4), (4, 0)],
        [(5, 4), (5, 17)], [(5, 4), (5, 12), (17, 12)], [(5, 4), (5, 13), (0, 13)],
    ],
    3: [
        [(13, 17)], [(13, 12), (17, 12)], [(13, 13), (0, 13)], [(13, 4), (17, 4)],
        [(13, 5), (0, 5)], [(13, 5), (5, 5), (5, 17)], [(13, 5), (4, 5), (4, 0)],
    ],
    4: [
        [(0, 5)], [(5, 5), (5, 17)], [(4, 5), (4, 0)], [(13, 5), (13, 17)],
        [(13, 5), (13, 12), (17, 12)], [(13, 5), (13, 13), (0, 13)], [(12, 5), (12, 0)],
    ],
    7: [
        [(12, 0)], [(12, 5), (0, 5)], [(12, 4), (17, 4)], [(12, 13), (0, 13)],
        [(12, 13), (5, 13), (5, 17)], [(12, 13), (4, 13), (4, 0)], [(12, 12), (17, 12)],
    ],
}  # fmt: skip
HARD_ENTRIES = [(0, 4), (0, 12), (5, 0), (13, 0), (17, 5), (17, 13), (4, 17), (12, 17)]
_SIDE_A, _SIDE_B = [18, 17, 27, 9, 19, 26, 20], [18, 25, 19, 17, 16, 26, 11]
HARD_LENGTHS = [_SIDE_A, _SIDE_B, _SIDE_B, _SIDE_A, _SIDE_B, _SIDE_A, _SIDE_A, _SIDE_B]


def through(points):
    """All cells of a path given by its turning points."""
    path = [points[0]]
    for row, column in points[1:]:
        while path[-1] != (row, column):
            y, x = path[-1]
            path.append((y + np.sign(row - y), x + np.sign(column - x)))
    return [(int(y), int(x)) for y, x in path]


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
def test_routes_are_the_published_ones(difficulty):
    roads = road_map(difficulty)
    published = [[through(turns) for turns in entry] for entry in TURNS[difficulty]]
    assert [[list(roads.routes[route]) for route in entry] for entry in roads.entries] == published


def test_routes_of_hard_are_the_published_ones():
    roads = road_map("hard")
    assert [roads.routes[entry[0]][0] for entry in roads.entries] == HARD_ENTRIES
    assert [[len(roads.routes[route]) for route in entry] for entry in roads.entries] == HARD_LENGTHS
    for entry, turns in HARD_TURNS.items():
        published = [through([HARD_ENTRIES[entry], *points]) for points in turns]
        assert [list(roads.routes[route]) for route in roads.entries[entry]] == published


@pytest.mark.parametrize(
    ("difficulty", "cells", "crossing"), [("easy", 13, 10), ("medium", 52, None), ("hard", 128, None)]
)
def test_cells_are_numbered_road_by_road(difficulty, cells, crossing):
    roads = road_map(difficulty)
    assert len(roads.cell_ids) == len(set(roads.cell_ids.values())) == cells
    if crossing is not None:
        assert roads.cell_ids[3, 3] == crossing  # the column owns it
        assert roads.cell_ids[5, 3] == roads.num_ids == 12  # published spill: this road cell looks like "outside"


@pytest.mark.parametrize(
    ("difficulty", "vision", "size"),
    [("easy", 0, 17), ("easy", 1, 137), ("medium", 0, 61), ("medium", 1, 533), ("hard", 0, 149), ("hard", 1, 1325)],
)
def test_observation_sizes(difficulty, vision, size):
    env = world(difficulty=difficulty, vision=vision)
    assert env.spec.observation_size == size
    assert start(env, 2).observations.shape == (2, CARS[difficulty], size)


# --- rules -----------------------------------------------------------------------------------------------------------


class SlowJunction:
    """One world, written car by car from the published order of events. Arrivals are given, not drawn."""

    def __init__(self, difficulty, vision, legacy):
        self.roads, self.vision, self.legacy = road_map(difficulty), vision, legacy
        self.cars = CARS[difficulty]
        self.alive, self.wait, self.last = [False] * self.cars, [0] * self.cars, [0] * self.cars
        self.route, self.driven = [-1] * self.cars, [0] * self.cars
        self.entered = [False] * self.cars

    def cell(self, car):
        return self.roads.routes[self.route[car]][self.driven[car]]

    def step(self, actions, arrivals):
        """Arrivals: for each entry None, or (slots in the order in which they are tried, route)."""
        for car in range(self.cars):
            if not self.alive[car]:
                continue
            self.wait[car] += 1
            if actions[car] == BRAKE:
                self.last[car] = BRAKE
                continue
            self.driven[car] += 1
            if self.driven[car] == len(self.roads.routes[self.route[car]]):
                self.alive[car], self.wait[car] = False, 0
            else:
                self.last[car] = GAS
        self.entered = [False] * self.cars
        for arrival in arrivals:
            if all(self.alive):
                break
            if arrival is not None:
                slots, route = arrival
                car = next(slot for slot in slots if not self.alive[slot])
                self.alive[car], self.route[car], self.driven[car] = True, route, 0
                self.entered[car] = True
                if not self.legacy:
                    self.last[car] = 0
        return self.observe(), self.rewards()

    def rewards(self):
        cells = [self.cell(car) if self.alive[car] else None for car in range(self.cars)]
        return [
            -0.01 * self.wait[car] - 10 * (cells.count(cells[car]) > 1) if self.alive[car] else 0.0
            for car in range(self.cars)
        ]

    def observe(self):
        width = self.roads.num_ids + 3
        rows = []
        for car in range(self.cars):
            patch = np.zeros((2 * self.vision + 1, 2 * self.vision + 1, width))
            row = np.zeros(2 + patch.size)
            if self.alive[car]:
                for y in range(-self.vision, self.vision + 1):
                    for x in range(-self.vision, self.vision + 1):
                        seen = (self.cell(car)[0] + y, self.cell(car)[1] + x)
                        content = patch[y + self.vision, x + self.vision]
                        content[self.roads.cell_ids.get(seen, self.roads.num_ids)] = 1
                        content[self.roads.num_ids + 2] = sum(
                            self.alive[other] and self.cell(other) == seen for other in range(self.cars)
                        )
                row[0] = self.last[car]
                row[1] = self.route[car] / (len(self.roads.routes) - 1)
                row[2:] = patch.ravel()
            rows.append(row)
        return np.array(rows)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("difficulty", "vision"), [("easy", 0), ("easy", 1), ("medium", 0), ("medium", 1), ("hard", 1)]
)
def test_batched_worlds_follow_the_rules(difficulty, vision, legacy):
    """Whole episodes of three worlds against the slow port, with the same arrivals and random actions."""
    count = 3
    env = world(difficulty=difficulty, vision=vision, legacy=legacy, add_rate=0.4)
    now = start(env, count, seed=9)
    slow = [SlowJunction(difficulty, vision, legacy) for _ in range(count)]
    entries, agents = len(env.roads.entries), env.spec.num_agents
    words = noise.words(env.keys, env.spec.horizon, entries + agents)
    assert not now.observations.any()
    generator = torch.Generator().manual_seed(1)
    crashes = torch.zeros(count)
    for time in range(env.spec.horizon):
        actions = (torch.rand(count, agents, generator=generator) < 0.2).long()
        before = now.alive
        now = env.step(actions)
        for index, one in enumerate(slow):
            drawn = words[index, time]
            slots = drawn[entries:].argsort().tolist()
            arrivals = [
                (slots, routes[int((int(drawn[entry]) & 0xFFFFFFFF) * len(routes)) >> 32])
                if float(noise.to_uniform(drawn[entry])) <= 0.4
                else None
                for entry, routes in enumerate(env.roads.entries)
            ]
            was = list(one.alive)
            observations, rewards = one.step(actions[index].tolist(), arrivals)
            assert now.alive[index].tolist() == one.alive
            assert now.spawned[index].tolist() == one.entered
            assert np.allclose(now.rewards[index].numpy(), rewards, atol=1e-5)
            assert np.allclose(now.observations[index].numpy(), observations, atol=1e-6)
            crashes[index] += sum(reward <= -10 for reward in rewards)
            assert was == before[index].tolist()
        assert torch.equal(now.info["crashes"], crashes)
        assert torch.equal(now.info["success"], (crashes == 0).float())
    assert now.truncated.all()
    assert not now.terminated.any()
    assert crashes.sum() > 0


def test_a_slot_with_a_new_car_is_reported():
    env = world(add_rate=1.0)
    now = start(env, 4)
    seen = False
    for _ in range(env.spec.horizon):
        before = now.alive
        now = env.step(torch.zeros(4, 5, dtype=torch.int64))
        assert (now.spawned | ~now.alive | before).all()  # who is new was reported
        reused = before & now.spawned
        seen |= bool(reused.any())
        assert not now.observations[..., 0][now.spawned].any()
    assert seen  # a car left and another took its slot in the same step


def test_misuse_is_named():
    env = world()
    actions = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.step(actions)
    start(env, 2)
    with pytest.raises(ValueError, match=r"int64 of shape \(2, 5\), got torch.float32"):
        env.step(actions.float())
    with pytest.raises(ValueError, match=r"int64 of shape \(2, 5\), got torch.int64 of shape \(2, 4\)"):
        env.step(actions[:, :4])
    with pytest.raises(ValueError, match=r"action 7 is not in 0\.\.1"):
        env.step(actions + 7)
    with pytest.raises(ValueError, match="vectors of one length"):
        env.reset(0, torch.arange(3), torch.arange(2))
    for _ in range(20):
        env.step(actions)
    with pytest.raises(RuntimeError, match="after the horizon of 20 steps"):
        env.step(actions)


# --- curriculum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difficulty", "epoch", "rate"),
    [
        ("easy", 0, 0.1), ("easy", 249, 0.1), ("easy", 750, 0.2), ("easy", 1250, 0.3), ("easy", 5000, 0.3),
        ("medium", 0, 0.05), ("medium", 1249, 0.2),
        ("hard", 582, 0.02), ("hard", 583, 0.03), ("hard", 915, 0.03), ("hard", 916, 0.04), ("hard", 1249, 0.05),
    ],
)  # fmt: skip
def test_the_published_curriculum(difficulty, epoch, rate):
    settings = TrafficJunctionSettings(difficulty=difficulty, curriculum=Curriculum())
    assert settings.rate(10 * epoch) == pytest.approx(rate, abs=1e-9)
    assert settings.rate(10 * epoch + 9) == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize(
    ("difficulty", "epoch", "rate"),
    [
        ("easy", 1199, 0.28), ("easy", 1200, 0.29), ("medium", 1248, 0.19), ("medium", 1249, 0.2),
        ("hard", 582, 0.02), ("hard", 583, 0.03), ("hard", 915, 0.03), ("hard", 916, 0.04), ("hard", 1249, 0.05),
    ],
)  # fmt: skip
def test_the_legacy_curriculum_rises_when_the_published_one_does(difficulty, epoch, rate):
    settings = TrafficJunctionSettings(difficulty=difficulty, curriculum=Curriculum(), legacy=True)
    assert settings.rate(10 * epoch) == pytest.approx(rate, abs=1e-9)


def test_the_legacy_curriculum_of_easy_ends_at_0_29():
    settings = TrafficJunctionSettings(curriculum=Curriculum(), legacy=True)
    assert settings.rate(10**6) == pytest.approx(0.29)
    assert settings.final().final_rate == pytest.approx(0.29)


@pytest.mark.parametrize(("first", "last"), [(0.015, 0.155), (0.001, 0.0055), (0.1, 0.3)])
def test_a_curriculum_rises_from_its_first_rate_to_its_last(first, last):
    plan = Curriculum(first_rate=first, start_epoch=2, end_epoch=20, rounds_per_epoch=1)
    settings = TrafficJunctionSettings(add_rate=last, curriculum=plan)
    rates = [settings.rate(episode) for episode in range(30)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (first, last)
    assert settings.final() == TrafficJunctionSettings(add_rate=last)


def test_the_curriculum_reaches_the_world():
    env = world(curriculum=Curriculum(start_epoch=0, end_epoch=10, rounds_per_epoch=1))
    cars = [evaluate_cars(env, episode) for episode in (0, 9)]
    assert cars[1] > 1.8 * cars[0]


def test_each_world_has_the_rate_of_its_own_episode():
    plan = Curriculum(first_rate=0.01, start_epoch=0, end_epoch=10, rounds_per_epoch=1)
    env = world(add_rate=0.9, curriculum=plan)

    def cars(*played):
        env.reset(0, *torch.tensor(played).T)
        return [env.step(SCRIPTS["always_gas"](env)).info["cars"] for _ in range(20)][-1].tolist()

    assert cars((0, 0), (1, 9), (2, 4)) == cars((0, 0)) + cars((1, 9)) + cars((2, 4))


def evaluate_cars(env, episode):
    start(env, 500, episode=episode)
    for _ in range(20):
        now = env.step(SCRIPTS["always_gas"](env))
    return float(now.info["cars"].mean())


# --- calibration -----------------------------------------------------------------------------------------------------

# Simulations of the published environment: success, return, and the episodes they rest on.
CALIBRATION = [
    ("easy", 0.1, "random", 0.39, -58, 400),
    ("easy", 0.1, "always_gas", 0.83, -4.3, 400),
    ("easy", 0.1, "always_brake", 0.15, -286, 400),
    ("easy", 0.1, "scheduler", 1.0, -0.7, 400),
    ("easy", 0.3, "random", 0.01, -206, 400),
    ("easy", 0.3, "always_gas", 0.278, -24, 1900),
    ("easy", 0.3, "always_brake", 0.0, -702, 400),
    ("easy", 0.3, "scheduler", 0.995, -2.0, 400),
    ("medium", 0.05, "random", 0.20, -132, 100),
    ("medium", 0.05, "always_gas", 0.70, -28, 500),
    ("medium", 0.05, "always_brake", 0.02, -1227, 100),
    ("medium", 0.05, "scheduler", 1.0, -6.0, 100),
    ("medium", 0.2, "random", 0.0, -709, 100),
    ("medium", 0.2, "always_gas", 0.038, -215, 500),
    ("medium", 0.2, "always_brake", 0.0, -3061, 100),
    ("medium", 0.2, "scheduler", 1.0, -19, 100),
    ("hard", 0.02, "random", 0.18, -231, 100),
    ("hard", 0.02, "always_gas", 0.67, -51, 300),
    ("hard", 0.02, "always_brake", 0.0, -3466, 100),
    ("hard", 0.02, "scheduler", 1.0, -20, 100),
    ("hard", 0.05, "random", 0.0, -1027, 100),
    ("hard", 0.05, "always_gas", 0.085, -231, 300),
    ("hard", 0.05, "always_brake", 0.0, -9357, 100),
    ("hard", 0.05, "scheduler", 1.0, -50, 100),
]


@pytest.mark.parametrize(("difficulty", "rate", "script", "success", "returns", "published"), CALIBRATION)
def test_scripts_score_as_in_the_published_environment(difficulty, rate, script, success, returns, published):
    episodes = 1000 if difficulty != "hard" else 400
    env = world(difficulty=difficulty, add_rate=rate)
    figures = evaluate_script(env, env.scripts()[script], 0, episodes)
    pooled = (success * published + figures["success"] * episodes) / (published + episodes)
    both = 1 / published + 1 / episodes
    # The published figures are rounded to 1 %, and a share near 0 or 1 shows no spread of its own.
    assert abs(figures["success"] - success) <= 3 * (max(pooled * (1 - pooled), 1e-4) * both) ** 0.5 + 0.005
    deviation = figures["return_standard_error"] * episodes**0.5
    # Both means vary; the published returns are rounded to the last digit given.
    assert abs(figures["return"] - returns) <= 3 * deviation * both**0.5 + max(0.5, 0.01 * abs(returns))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_timetable_beats_driving_on(difficulty):
    """Whoever knows the time does better in silence; the floor is the best silent script of the information set."""
    env = world(difficulty=difficulty)
    scripts = env.scripts()
    reached = {name: evaluate_script(env, scripts[name], 1, 1000)["success"] for name in ("always_gas", "timetable")}
    if difficulty == "hard":  # 20 slots are never full, so that parking keeps nobody out: driving on stays best
        assert reached["timetable"] >= reached["always_gas"]
    else:
        assert reached["timetable"] > reached["always_gas"] + 0.05
    assert env.spec.floor == "always_gas"
    for knows_time in ({"clock": True}, {"legacy": True}):
        floor = world(difficulty=difficulty, **knows_time).spec.floor
        assert reached[floor] == max(reached.values())


def test_a_search_finds_a_better_timetable():
    env = world(difficulty="easy")
    still = torch.zeros(2, 7, 20, dtype=torch.bool)
    found = search(env, Time.clock, tries=100, worlds=64, seed=0)
    assert found.shape == still.shape
    assert play(env, found, Time.clock, 0, 64) > play(env, still, Time.clock, 0, 64)


def test_timetables_go_by_their_time():
    """By the clock all brake in step 3 after 2 cells; by a car's own time, in the step before it has waited 3."""
    env = world(difficulty="easy", add_rate=1.0)
    table = torch.zeros(2, 7, 20, dtype=torch.bool)
    table[:, 2, 3] = True
    start(env, 4)
    for step in range(6):
        alive, _, _ = env.positions()
        _, driven = env.driven
        braked = {time: actions(env, table, time) == BRAKE for time in Time}
        assert torch.equal(braked[Time.clock], (driven == 2) & (step == 3))
        assert torch.equal(braked[Time.own], alive & (driven == 2) & (env.waited == 3))
        env.step(torch.full((4, 5), GAS if step != 2 else BRAKE))


def test_a_clock_is_seen_by_the_living():
    with_clock, without = world(add_rate=0.3, clock=True), world(add_rate=0.3)
    assert with_clock.spec.observation_size == without.spec.observation_size + 1
    for env in (with_clock, without):
        start(env, 8)
    for step in range(1, 6):
        now, then = (env.step(torch.zeros(8, 5, dtype=torch.int64)) for env in (with_clock, without))
        assert torch.equal(now.observations[..., :-1], then.observations)
        assert torch.equal(now.observations[..., -1], now.alive * (step / 20))


# --- faces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_pettingzoo_accepts_it(difficulty, capsys):
    parallel_api_test(traffic_junction_v0.parallel_env(difficulty=difficulty), num_cycles=2 * HORIZONS[difficulty] + 10)
    parallel_seed_test(lambda: traffic_junction_v0.parallel_env(difficulty=difficulty))
    api_test(traffic_junction_v0.env(difficulty=difficulty), num_cycles=200)


def test_the_pettingzoo_face_is_the_same_world():
    face = traffic_junction_v0.parallel_env(difficulty="medium")
    env = world(difficulty="medium")
    for episode, seed in enumerate((3, None, None)):  # without a seed: the next episode of the same one
        observations, infos = face.reset(seed=seed)
        assert face.agents == face.possible_agents
        now = env.reset(3, torch.tensor([0]), torch.tensor([episode]), stream="pettingzoo")
        for time in range(env.spec.horizon):
            actions = {name: (time + slot) % 2 for slot, name in enumerate(face.agents)}
            observations, rewards, terminated, truncated, infos = face.step(actions)
            now = env.step(torch.tensor([list(actions.values())]))
            assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
            assert list(rewards.values()) == now.rewards[0].tolist()
            assert [info["alive"] for info in infos.values()] == now.alive[0].tolist()
            assert [info["spawned"] for info in infos.values()] == now.spawned[0].tolist()
            assert infos["agent_0"]["success"] == float(now.info["success"][0])
        assert all(truncated.values())
        assert not any(terminated.values())
        assert face.agents == []


def test_the_pettingzoo_face_names_misuse():
    with pytest.raises(ConfigError, match="did you mean 'difficulty'"):
        traffic_junction_v0.parallel_env(dificulty="hard")
    with pytest.raises(ConfigError, match="unknown mode 'rgb_aray'; did you mean 'rgb_array'"):
        traffic_junction_v0.parallel_env(render_mode="rgb_aray")
    face = traffic_junction_v0.parallel_env()
    face.reset(seed=0)
    with pytest.raises(ValueError, match="no action for agent_1"):
        face.step({"agent_0": 0, "agent_2": 0, "agent_3": 0, "agent_4": 0})
    with pytest.raises(ValueError, match="action 2 is not in"):
        face.step(dict.fromkeys(face.agents, 2))


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_pictures_show_cars_and_crashes(difficulty):
    face = traffic_junction_v0.parallel_env(difficulty=difficulty, add_rate=1.0, render_mode="rgb_array")
    face.reset(seed=1)
    empty = face.render()
    assert empty.dtype == np.uint8
    assert empty.shape == (604, 560, 3)
    for _ in range(6):
        face.step(dict.fromkeys(face.agents, BRAKE))
    crowded = face.render()
    assert (crowded != empty).any(-1).mean() > 0.01
    fire = (np.abs(crowded.astype(int) - [255, 150, 60]) < 60).all(-1)
    assert fire.sum() > 30  # every entry is jammed: crashes burn
    assert not (np.abs(empty.astype(int) - [255, 150, 60]) < 60).all(-1).any()
