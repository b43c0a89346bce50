"""GhostRun: rules against a slow port, pictures on screens, silence, calibration, maps, faces."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from marlcomm import noise
from marlcomm.envs import ghost_run_v0
from marlcomm.envs.cards import cards
from marlcomm.envs.ghost_run.cells import FREE, TREE, WALL, bits_set
from marlcomm.envs.ghost_run.scripts import SCRIPTS
from marlcomm.envs.ghost_run.settings import GhostRunSettings
from marlcomm.envs.ghost_run.world import GhostRun
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, ConfigError

SILENT = ("corner", "spread", "own_view")


def world(**settings):
    return GhostRun(GhostRunSettings(**settings))


def start(env, count, seed=0, episode=0, stream="train"):
    return env.reset(seed, torch.arange(count), torch.full((count,), episode), stream)


def places(env, cells):
    return list(zip(env.cells.row(cells).tolist(), env.cells.column(cells).tolist(), strict=True))


def on_field(env, board):
    return board[..., env.cells.field].unflatten(-1, (env.preset.size, env.preset.size))


# --- rules -----------------------------------------------------------------------------------------------------------


class SlowField:
    """One field, ghost by ghost and pixel by pixel, as the published code has it. Places are [row, column]."""

    STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))
    COLOURS = {FREE: (1, 1, 1), WALL: (0, 0, 0), TREE: (0, 1, 0)}  # noqa: RUF012

    def __init__(self, preset, edge, land, drones, ghosts):
        self.preset, self.edge, self.land = preset, edge, land
        self.drones, self.ghosts = [list(place) for place in drones], [list(place) for place in ghosts]

    def step(self, actions, directions):
        size, edge = self.preset.size, self.edge
        for drone, action in zip(self.drones, actions, strict=True):
            to = [a + self.preset.drone_step * b for a, b in zip(drone, self.STEPS[action], strict=True)]
            if all(edge <= x < size - edge for x in to):
                drone[:] = to
        for ghost, direction in zip(self.ghosts, directions, strict=True):
            to = [a + self.preset.ghost_step * b for a, b in zip(ghost, self.STEPS[direction], strict=True)]
            if all(0 <= x < size for x in to) and self.land[to[0], to[1]] == FREE:
                ghost[:] = to

    def colour(self, row, column):
        size = self.preset.size
        if not (0 <= row < size and 0 <= column < size):
            return (0.5, 0.5, 0.5)
        return (1, 0, 0) if [row, column] in self.ghosts else self.COLOURS[int(self.land[row, column])]

    def picture(self, drone):
        view, window = self.preset.view, 2 * self.preset.view - 1
        seen = np.full((window, window, 3), 0.5)
        for i, j in np.ndindex(window, window):
            # the published disc, which lacks its four tips
            if (view - 1 - i) ** 2 + (view - 1 - j) ** 2 <= view**2:
                seen[i, j] = self.colour(drone[0] + i - view + 1, drone[1] + j - view + 1)
        return seen

    def joint_view(self):
        size, view = self.preset.size, self.preset.view
        joint = np.full((size, size, 3), 0.5)
        for drone in self.drones:
            picture = self.picture(drone)
            for i, j in zip(*np.nonzero((picture != 0.5).any(-1)), strict=True):
                joint[drone[0] + i - view + 1, drone[1] + j - view + 1] = picture[i, j]
        return joint

    def everything(self):
        size = self.preset.size
        return np.array([[self.colour(row, column) for column in range(size)] for row in range(size)], float)


def directions(env, time):
    """[B, F, G] the ghosts' directions at a step: two bits of a word for each."""
    keys = noise.words(noise.absorb(env.keys, noise.stream_number("fields")), env.settings.fields)
    block, place = divmod(time - 1, 32)
    words = noise.words(noise.absorb(keys, noise.stream_number("walk")), 1, env.preset.ghosts, first=block)[..., 0, :]
    return (words >> 2 * place) & 3


CASES = [
    {"mode": "legacy", "drones": 3, "ghosts": 30, "horizon": 6},
    {"mode": "legacy", "map": "ood", "drones": 2, "size": 23, "view": 4, "horizon": 34},
    {"mode": "legacy", "map": "fresh", "size": 20, "trees": 60, "ghosts": 80, "view": 12, "drones": 1, "horizon": 8},
    {"drones": 3, "ghosts": 9, "trees": 30, "horizon": 10},
    {"drones": 2, "size": 9, "view": 2, "drone_step": 1, "ghost_step": 2, "ghosts": 7, "map": "train", "layout": 3},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_batched_worlds_follow_the_rules(settings):
    """Whole episodes of three worlds against the slow port, with the same maps, draws and random actions."""
    count, env = 3, world(observations="dense", **settings)
    indices = world(**settings)
    start(env, count, seed=5)
    start(indices, count, seed=5)
    preset, fields = env.preset, env.settings.fields
    lands = on_field(env, env.ground)
    edge = 0 if env.settings.legacy else preset.view - 1
    slow = [
        SlowField(preset, edge, lands[m].numpy(), places(env, env.drones[m]), places(env, env.ghosts[m]))
        for m in range(count * fields)
    ]
    pixels = np.zeros(count)
    keys = noise.absorb(env.keys, noise.stream_number("reward"))
    for time in range(1, preset.horizon + 1):
        actions = SCRIPTS["random"](env)
        now, of_indices = env.step(actions), indices.step(actions)
        walked = directions(env, time).flatten(0, 1)
        red = np.zeros((count, fields))
        for m, field in enumerate(slow):
            field.step(actions.view(count * fields, -1)[m].tolist(), walked[m].tolist())
            assert places(env, env.drones[m]) == [tuple(drone) for drone in field.drones]
            assert places(env, env.ghosts[m]) == [tuple(ghost) for ghost in field.ghosts]
            red[divmod(m, fields)] = (field.joint_view() == (1, 0, 0)).all(-1).sum()
        pixels += red.sum(1)
        assert now.info["red_pixels"].tolist() == pixels.tolist()
        assert now.info["success"].tolist() == (red.sum(1) == 0).tolist()
        assert torch.equal(now.rewards, of_indices.rewards)
        assert bool(now.truncated.all()) == (time == preset.horizon)
        jitter = noise.normal(noise.uniform(keys, 1, first=time)[:, 0])
        for index in range(count):
            if env.settings.legacy:
                wanted = np.full(preset.drones, -10 * red[index, 0] - 1 + 1e-4 * float(jitter[index]))
            else:
                wanted = -red[index]
            assert now.rewards[index].tolist() == pytest.approx(wanted.tolist(), abs=2e-4)
            for agent in range(preset.drones):
                if env.settings.legacy:
                    picture = slow[index].picture(slow[index].drones[agent])
                    own = slow[index].drones[agent]
                else:
                    picture = slow[index * fields + (agent + 1) % fields].everything()
                    own = slow[index * fields + agent].drones[0]
                position = np.concatenate([np.eye(preset.size)[x] for x in own])
                assert np.array_equal(now.observations[index, agent].numpy(), np.append(picture.flatten(), position))
    assert pixels.sum() > 0


@pytest.mark.parametrize(
    ("settings", "dense", "indices", "long"),
    [({"mode": "legacy"}, 1183, 313 + 2, 313 * 4 + 100), ({}, 3 * 225 + 30, 225 + 2, 225 * 4 + 30)],
)
def test_observation_sizes(settings, dense, indices, long):
    assert world(observations="dense", **settings).spec.observation_size == dense
    spec = world(**settings).spec
    assert (spec.observation_size, spec.indexed.width) == (indices, long)


@pytest.mark.parametrize("settings", [{"mode": "legacy"}, {}])
def test_indices_and_colours_say_the_same(settings):
    """Each cell holds one thing, whose colour is that of the pixel, or nothing; a row and a column."""
    env, dense = world(**settings), world(observations="dense", **settings)
    start(env, 20)
    seen = env.step(SCRIPTS["random"](env)).observations
    start(dense, 20)
    colours = dense.step(SCRIPTS["random"](dense)).observations
    size = env.preset.size
    long = env.spec.indexed.dense(seen)
    things = long[..., : -2 * size].unflatten(-1, (-1, 4))
    kinds = torch.cat([1 - things.sum(-1, keepdim=True), things], -1)
    assert set(kinds.unique().tolist()) == {0, 1}
    pixels = colours[..., : -2 * size].unflatten(-1, (-1, 3))
    if env.settings.legacy:
        assert (pixels[..., ~env.cells.in_disc, :] == 0.5).all()
        pixels = pixels[..., env.cells.in_disc, :]
    palette = torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0.5, 0.5, 0.5]])
    assert torch.equal(kinds @ palette, pixels)
    assert torch.equal(long[..., -2 * size :], colours[..., -2 * size :])
    assert len(kinds.flatten(0, -2).unique(dim=0)) == (5 if env.settings.legacy else 4)  # nothing is outside a field


def test_the_published_disc():
    """19 by 19 pixels, of which 48 are further than 10 from the middle."""
    cells = world(mode="legacy").cells
    assert len(cells.picture) == 361
    assert len(cells.disc) == 313


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=20))
def test_bits_are_counted(words):
    assert bits_set(torch.tensor(words)).tolist() == [word.bit_count() for word in words]


def test_coverage_is_what_was_in_view():
    env = world(mode="legacy", drones=2, size=30, view=5)
    start(env, 4)
    covered = env.in_view().any(1)
    for _ in range(6):
        now = env.step(SCRIPTS["random"](env))
        covered |= env.in_view().any(1)
    assert now.info["coverage"].tolist() == pytest.approx(covered.float().mean((1, 2)).tolist())


# --- maps ------------------------------------------------------------------------------------------------------------


def test_maps():
    def grounds(seed=0, episode=0, **settings):
        env = world(**settings)
        start(env, 6, seed, episode)
        return on_field(env, env.ground).unflatten(0, (6, -1))

    for mode in ("legacy", "crossed"):
        fixed = grounds(mode=mode, map="train")
        assert (fixed == fixed[:1]).all()
        assert torch.equal(fixed, grounds(seed=3, episode=2, mode=mode, map="train"))
        assert not torch.equal(fixed, grounds(mode=mode, map="train", layout=1))
        fresh = grounds(mode=mode, map="fresh")
        assert len(fresh.flatten(1).unique(dim=0)) == 6
        assert not torch.equal(fresh, grounds(mode=mode, map="fresh", episode=1))
        unlike = world(mode=mode, map="ood", trees=7, ghosts=7).preset
        assert (unlike.trees, unlike.ghosts) == ((5, 50) if mode == "legacy" else (2, 8))
    several = grounds(map="train")[0]
    assert len(several.flatten(1).unique(dim=0)) == 5  # a map for each field


def test_walls_are_rare_and_trees_exact():
    env = world(mode="legacy", map="fresh", trees=100, ghosts=100)
    start(env, 300)
    ground = on_field(env, env.ground).flatten(1)
    assert ((ground == TREE).sum(1) == 100).all()
    walls = (ground == WALL).float().mean()
    assert abs(walls - 0.01) < 4 * (0.01 / ground.numel()) ** 0.5
    trees = (ground == TREE).sum(0).float()  # anywhere alike
    assert abs(float(((trees - 12) ** 2 / 12).sum()) / 2500 - 1) < 0.15


@pytest.mark.parametrize("settings", [{"mode": "legacy", "size": 12, "ghosts": 30}, {"size": 12, "ghosts": 20}])
def test_ghosts_stay_spread_over_free_cells(settings):
    """All free cells alike, at the start and at the end: what a silent pilot cannot see, it cannot guess."""
    env = world(map="train", **settings)
    start(env, 2000)
    ground = env.ground[: env.settings.fields]
    for _ in range(env.spec.horizon + 1):
        ghosts = env.ghosts.view(2000, env.settings.fields, -1)
        for field in range(env.settings.fields):
            free = (ground[field] == FREE).nonzero().flatten()
            counts = torch.bincount(ghosts[:, field].flatten(), minlength=env.cells.count)
            assert counts.sum() == counts[free].sum()
            expected = ghosts[:, field].numel() / len(free)
            chi_squared = float(((counts[free] - expected) ** 2 / expected).sum())
            assert chi_squared < len(free) + 5 * (2 * len(free)) ** 0.5
        if env.time < env.spec.horizon:
            env.step(SCRIPTS["random"](env))


def test_drones_start_anywhere():
    env = world()
    start(env, 4000)
    rows, columns = env.cells.row(env.drones), env.cells.column(env.drones)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 11, 3, 11)
    counts = torch.bincount(((rows - 3) * 9 + columns - 3).flatten(), minlength=81)
    assert float(((counts - 4000 * 5 / 81) ** 2 / (4000 * 5 / 81)).sum()) < 81 + 5 * 162**0.5
    again = world()
    start(again, 4000, episode=1)
    assert not torch.equal(env.drones, again.drones)


def test_every_drone_moves_alone():
    """In the published code all share one place at first, and evaluations take each step twice."""
    env = world(mode="legacy", drones=3)
    start(env, 200)
    for _ in range(3):
        before = env.drones
        env.step(torch.tensor([[1, 3, 0]]).repeat(200, 1))
        moved = env.drones - before
        step = torch.tensor([5 * env.cells.stride, 5, -5 * env.cells.stride])
        assert ((moved == step) | (moved == 0)).all()
        assert (moved != 0).any(0).all()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "legasy"}, r"env\.mode: got 'legasy', wanted .*'legacy'"),
        ({"map": "test"}, r"env\.map: got 'test', wanted"),
        ({"view": 9}, r"view: got 9, but what a drone sees is 2 view - 1 = 17 cells wide .* has 15 \(nearest: 8\)"),
        ({"drones": 1}, r"drones: got 1, wanted at least 2.*nearest: 2"),
        ({"mode": "legacy", "screen": "next"}, "screen: got 'next', wanted 'own' in mode 'legacy'"),
        ({"trees": 57}, r"trees: got 57, wanted at most 56, a quarter of 15 x 15 cells \(nearest: 56\)"),
        ({"size": 61}, r"env\.size"),
        ({"ghosts": 0}, r"env\.ghosts: got 0, wanted greater than or equal to 1"),
        ({"layout": 2}, "layout: got 2, but map 'fresh' does not read it: set map to 'train', or leave"),
        ({"horizon": True}, r"env\.horizon: got True, wanted an integer"),
        ({"ghost": 3}, "did you mean 'ghosts'"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        ENVS.check("ghost_run", settings)


def test_settings_that_change_the_score_change_the_setting():
    others = [
        {}, {"drones": 4}, {"trees": 5}, {"ghosts": 5}, {"map": "train"}, {"map": "train", "layout": 1}, {"map": "ood"},
        {"screen": "own"}, {"size": 16}, {"view": 3}, {"horizon": 24}, {"drone_step": 1}, {"ghost_step": 2},
        {"mode": "legacy"}, {"mode": "legacy", "map": "ood"},
    ]  # fmt: skip
    assert len({GhostRunSettings(**other).setting for other in others}) == len(others)
    same = GhostRunSettings(drones=5, size=15, map="fresh", screen="next", observations="dense")
    assert same.setting == GhostRunSettings().setting


# --- silence ---------------------------------------------------------------------------------------------------------


def test_nothing_that_others_do_changes_what_a_pilot_sees_or_earns():
    """So silent pilots cannot talk with their drones either."""
    env = world()
    played = []
    for others in (0, 1):
        start(env, 50)
        seen = []
        for time in range(env.spec.horizon):
            actions = torch.full((50, 5), 4 if others else time % 5)
            actions[:, 2] = time % 4
            now = env.step(actions)
            seen.append((now.observations, now.rewards))
        played.append([torch.stack(part) for part in zip(*seen, strict=True)])
    for one, other in zip(*played, strict=True):
        assert torch.equal(one[:, :, 2], other[:, :, 2])
        assert not torch.equal(one, other)


def test_what_a_pilot_sees_says_nothing_of_its_own_field():
    """Pilot 2 of two worlds, one of which has another world's ghosts and ground on field 2, sees the same."""
    env = world()
    start(env, 100)
    seen = env._seen()
    own = torch.arange(100) * 5 + 2
    for board in (env._ghosts, env._ground):
        board[own] = board[own.flip(0)].clone()
    changed = env._seen()
    assert torch.equal(changed[:, 2], seen[:, 2])
    assert not torch.equal(changed[:, 1], seen[:, 1])


def test_no_silent_team_beats_another():
    """All free cells are alike, so whatever does not depend on a field's ghosts returns the same on average."""
    env, episodes = world(), 4000
    # Cells of a disc, free ones among them, and the chance that a free one holds a ghost or more.
    start(env, episodes)
    free = (on_field(env, env.ground) == FREE).double().mean((1, 2)) * 225
    chance = (free / 225 * (1 - (1 - 1 / free) ** env.preset.ghosts)).mean()
    expected = -float(chance) * len(env.cells.disc) * env.spec.horizon * env.preset.drones
    for name in ("random", "corner", "spread"):
        figures = evaluate_script(env, SCRIPTS[name], 1, episodes)
        assert abs(figures["return"] - expected) < 4 * figures["return_standard_error"] + 0.01 * abs(expected)


def test_on_one_map_silence_can_do_little_better():
    """A silent team that knows the map can hover where trees and walls leave least room: at once, and for good."""
    env = world(map="train")
    start(env, 1)
    least = [0.0, 0.0]
    for field in env.ground:
        hover = env.cells.hover.nonzero().flatten()
        free = field == FREE
        room = free[hover.unsqueeze(1) + env.cells.disc].sum(1).double()
        for index, cells in enumerate((room.min(), room.mean())):
            least[index] += float(cells * (1 - (1 - 1 / free.sum()) ** env.preset.ghosts)) * env.spec.horizon
    references = cards("ghost_run")[env.spec.setting]["references"]
    share = (least[1] - least[0]) / (references["oracle"]["return"] - references["random"]["return"])
    assert references["random"]["return"] == pytest.approx(-least[1], rel=0.05)
    assert share < 0.2


def test_what_talk_is_worth():
    """The best silent script's share of the way from random to full information; own screens need no talk."""
    for settings, low, high in (({}, -0.1, 0.1), ({"screen": "own"}, 0.99, 1.01)):
        env = world(**settings)
        figures = {name: evaluate_script(env, SCRIPTS[name], 0, 150)["return"] for name in SCRIPTS}
        way = figures["oracle"] - figures["random"]
        best = max(figures[name] for name in SILENT)
        assert low < (best - figures["random"]) / way < high
        assert figures["all_screens"] == figures["oracle"]
        assert way > 5 * 15


@pytest.mark.parametrize("settings", [{}, {"mode": "legacy", "drones": 3, "size": 30}])
def test_silent_scripts_use_their_own_screen(settings):
    """Change what pilot 0 does not see: it does the same."""
    env = world(map="train", **settings)
    start(env, 60)
    for _ in range(3):
        env.step(SCRIPTS["random"](env))
    before = {name: SCRIPTS[name](env)[:, 0] for name in SILENT}
    if env.settings.legacy:
        hidden = ~env.cells.sees(env.drones, env.ghosts)[:, 0]
        far = env.cells.sees(env.drones, env.ghosts.flip(0).roll(1, 1))[:, 0]
        swap = hidden & ~env.cells.sees(env.drones, env.ghosts.flip(0))[:, 0]
        assert far.any()
        env._ghosts = torch.where(swap, env.ghosts.flip(0), env.ghosts)
        env._drones = torch.cat([env.drones[:, :1], env.drones[:, 1:].flip(0)], 1)
        assert swap.any()
    else:
        ghosts = env.ghosts.unflatten(0, (60, 5)).clone()
        ghosts[:, [0, 2, 3, 4]] = ghosts[:, [0, 2, 3, 4]].flip(0)
        env._ghosts = ghosts.flatten(0, 1)
    for name, actions in before.items():
        assert torch.equal(SCRIPTS[name](env)[:, 0], actions), name


@pytest.mark.parametrize("mode", ["crossed", "legacy"])
@pytest.mark.parametrize("policy", ["ic3net", "transformer"])
def test_silence_is_silent(mode, policy):
    """Under `silent` nothing that pilot 0 does changes with what others see, bit for bit."""
    small = {"hidden_size": 16, "message_size": 4} | ({"width": 8} if policy == "transformer" else {})
    names = TeamNames("ghost_run", {"mode": mode, "drones": 3}, policy, small, "silent", {})
    env = names.make_env()
    team = names.make_policy(env, seed=0)
    played = Player(env, team, 0).play(torch.arange(30), torch.zeros(30, dtype=torch.int64))
    draws = channel_noise(team.channel, 0, "train", played.worlds, played.episodes, *played.acts.shape[1:])
    whole = Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, draws)
    seen = whole.observations.clone()
    seen[:, :, 1:] = seen[:, :, 1:].flip(0)
    assert not torch.equal(seen, whole.observations)
    with torch.no_grad():
        before, after = team(whole), team(Moment(**(vars(whole) | {"observations": seen})))
    assert torch.equal(before.logits[:, :, 0], after.logits[:, :, 0])
    assert torch.equal(before.values[:, :, 0], after.values[:, :, 0])
    assert not torch.equal(before.logits[:, :, 1:], after.logits[:, :, 1:])


# --- calibration -----------------------------------------------------------------------------------------------------

# Means and standard deviations of simulations of the published rules on random maps, from small samples.
CALIBRATION = [
    (5, 20, "random", -2058, 286), (5, 20, "corner", -800, 273),
    (5, 100, "random", -10492, 1208), (5, 100, "corner", -3914, 760),
    (10, 100, "random", -16061, 1166), (10, 100, "corner", -5201, 871),
    (3, 20, "corner", -631, 255),
]  # fmt: skip


@pytest.mark.parametrize(("drones", "ghosts", "script", "mean", "deviation"), CALIBRATION)
def test_legacy_scores_as_in_the_published_rules(drones, ghosts, script, mean, deviation):
    env = world(mode="legacy", map="fresh", drones=drones, ghosts=ghosts)
    figures = evaluate_script(env, SCRIPTS[script], 0, 400)
    error = (figures["return_standard_error"] / drones) + deviation / 40**0.5
    assert abs(figures["return"] / drones - mean) < 3 * error


def test_the_card_is_measured():
    stored = cards("ghost_run")
    settings = [GhostRunSettings(**chosen) for chosen in GhostRunSettings.card_settings]
    assert set(stored) == {chosen.setting for chosen in settings}
    for chosen in settings:
        card = stored[chosen.setting]
        references = card["references"]
        floor, ceiling, random = (references[name]["return"] for name in (card["floor"], card["ceiling"], "random"))
        best = max(references[name]["return"] for name in SILENT)
        error = references[card["floor"]]["return_standard_error"]
        assert best - floor <= 4 * error, chosen.setting
        share = (best - random) / (ceiling - random)
        needs_talk = not chosen.legacy and chosen.shows_next
        assert (share < 0.4) == needs_talk, chosen.setting
    assert world().spec.card == stored["crossed-5drones-6trees-4ghosts-fresh"]


# --- invariants ------------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_whatever_the_settings_worlds_stay_sane(data):
    mode = data.draw(st.sampled_from(["crossed", "legacy"]))
    size = data.draw(st.integers(5, 14))
    view = data.draw(st.integers(1, (size + 1) // 2 if mode == "crossed" else 12))
    settings = {
        "mode": mode, "size": size, "view": view,
        "map": data.draw(st.sampled_from(["train", "fresh", "ood"])),
        "drones": data.draw(st.integers(2, 5)),
        "trees": data.draw(st.integers(0, size**2 // 4)),
        "ghosts": data.draw(st.integers(1, 12)),
        "horizon": data.draw(st.integers(1, 6)),
        "drone_step": data.draw(st.integers(1, 6)),
        "ghost_step": data.draw(st.integers(1, 6)),
        "observations": data.draw(st.sampled_from(["indices", "dense"])),
    }  # fmt: skip
    env = world(**settings)
    script = SCRIPTS[data.draw(st.sampled_from(list(SCRIPTS)))]
    start(env, 4, seed=data.draw(st.integers(0, 1000)))
    edge = 0 if env.settings.legacy else view - 1
    low, high = env.spec.observation_bounds
    met = torch.zeros(4)
    for time in range(env.spec.horizon):
        before = env.ghosts
        now = env.step(script(env))
        assert now.observations.shape == (4, settings["drones"], env.spec.observation_size)
        assert now.observations.dtype == now.rewards.dtype == torch.float32
        assert low <= now.observations.min()
        assert now.observations.max() <= high
        for line in (env.cells.row(env.drones), env.cells.column(env.drones)):
            assert edge <= line.min()
            assert line.max() < size - edge
        assert (env.ground.gather(1, env.ghosts) == FREE).all()
        assert set((env.ghosts - before).abs().unique().tolist()) <= {
            0, settings["ghost_step"], settings["ghost_step"] * env.cells.stride
        }  # fmt: skip
        assert torch.isfinite(now.rewards).all()
        assert (now.rewards <= 1e-3).all()
        assert (now.info["ghosts_met"] >= met).all()
        met = now.info["ghosts_met"]
        assert (now.info["coverage"] > 0).all()
        assert (now.info["coverage"] <= 1).all()
        assert bool(now.truncated.all()) == (time + 1 == env.spec.horizon)
        assert not now.terminated.any()


@pytest.mark.parametrize(
    ("actions", "error", "words"),
    [
        (torch.zeros(2, 5), ValueError, "actions must be int64 of shape"),
        (torch.zeros(2, 2, dtype=torch.int64), ValueError, "actions must be int64 of shape"),
        (torch.full((2, 5), 4), ValueError, r"action 4 is not in 0\.\.3"),
    ],
)
def test_wrong_actions_are_named(actions, error, words):
    env = world(mode="legacy")
    start(env, 2)
    with pytest.raises(error, match=words):
        env.step(actions)


# --- faces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channel"), [("crossed", "ddcl"), ("legacy", "silent")])
def test_teams_play_it(mode, channel):
    small = {"hidden_size": 16, "width": 8, "message_size": 4}
    names = TeamNames("ghost_run", {"mode": mode}, "transformer", small, channel, {})
    env = names.make_env()
    figures = evaluate(env, names.make_policy(env, seed=0), 0, 20)
    assert figures["length"] == 25
    assert figures["return"] < 0
    assert 0 < figures["ghosts_met"] <= 1
    assert (figures["prefix_bits_per_episode"] > 0) == (channel == "ddcl")


def test_a_team_can_play_other_maps():
    """The widths of a policy depend on neither map nor ghosts."""
    specs = [world(mode="legacy", map=where, ghosts=20).spec for where in ("train", "fresh", "ood")]
    assert len({spec.setting for spec in specs}) == 3
    assert len({(spec.observation_size, spec.indexed, spec.num_actions) for spec in specs}) == 1


@pytest.mark.parametrize("settings", [{}, {"mode": "legacy", "observations": "indices"}])
def test_pettingzoo_accepts_it(settings, capsys):
    parallel_api_test(ghost_run_v0.parallel_env(**settings), num_cycles=60)
    parallel_seed_test(lambda: ghost_run_v0.parallel_env(**settings))
    api_test(ghost_run_v0.env(**settings), num_cycles=100)


def test_the_pettingzoo_face_is_the_same_world():
    face, env = ghost_run_v0.parallel_env(), world(observations="dense")
    face.reset(seed=3)
    env.reset(3, torch.tensor([0]), torch.tensor([0]), stream="pettingzoo")
    while face.agents:
        moves = SCRIPTS["oracle"](env)[0].tolist()
        observations, rewards, _, truncated, infos = face.step(dict(zip(face.agents, moves, strict=True)))
        now = env.step(torch.tensor([moves]))
        assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
        assert list(rewards.values()) == now.rewards[0].tolist()
        assert infos["agent_1"]["red_pixels"] == pytest.approx(float(now.info["red_pixels"]))
    assert all(truncated.values())
    with pytest.raises(ConfigError, match="did you mean 'drones'"):
        ghost_run_v0.parallel_env(drone=4)


def near(picture, colour):
    return (np.abs(picture.astype(int) - colour) < 14).all(-1)


@pytest.mark.parametrize(("settings", "height"), [({}, 491), ({"mode": "legacy", "map": "fresh"}, 644)])
def test_pictures_show_gardens_drones_and_ghosts(settings, height):
    env = world(**settings)
    start(env, 4, seed=2)
    pictures = [env.render(index) for index in range(4)]
    assert all(not np.array_equal(*pair) for pair in itertools.pairwise(pictures))
    assert pictures[0].shape == (height, 600, 3)
    assert pictures[0].dtype == np.uint8
    lit = near(pictures[0], (99, 107, 86)).sum() / (600 * (height - 44))
    fields = env.settings.fields
    seen = float(env.in_view().any(1)[:fields].float().mean())
    assert 0.4 * seen < lit < 1.1 * seen
    red_glow = [
        near(picture[:-44], (255, 92, 84)).sum() + near(picture[:-44], (250, 252, 255)).sum() for picture in pictures
    ]
    in_view = [
        int((env.cells.sees(env.drones, env.ghosts).any(1)[i * fields : (i + 1) * fields]).sum()) for i in range(4)
    ]
    assert np.corrcoef(red_glow, in_view)[0, 1] > 0.8
    before = env.render(0)
    for _ in range(env.spec.horizon):
        env.step(SCRIPTS["oracle"](env))
    assert (env.render(0) != before).any(-1).mean() > 0.02


def test_pictures_say_when_nobody_is_in_view():
    env = world(ghosts=1)
    start(env, 40)
    quiet = ~env.cells.sees(env.drones, env.ghosts).any(1).any(1).view(40, 5).any(1)
    gold = [near(env.render(index)[-44:], (255, 226, 130)).sum() > 50 for index in range(40)]
    assert gold == quiet.tolist()
    assert 0 < quiet.sum() < 40
