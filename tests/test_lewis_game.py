"""The Lewis game: symbols needed, stored rounds and files, rules, candidates, silence, references, bits, faces."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

from marlcomm import config
from marlcomm.envs import lewis_game_v0
from marlcomm.envs.base import Candidates, Indexed, TeamSpec
from marlcomm.envs.cards import cards
from marlcomm.envs.check import check_env
from marlcomm.envs.lewis_game import files
from marlcomm.envs.lewis_game.files import read_npz, write_egg, write_npz
from marlcomm.envs.lewis_game.rounds import acceptance, build_rounds, draw, refuse_rare
from marlcomm.envs.lewis_game.scripts import SCRIPTS
from marlcomm.envs.lewis_game.settings import Game, LewisGameSettings
from marlcomm.envs.lewis_game.symbols import minimum_symbols
from marlcomm.envs.lewis_game.world import RECEIVER, SENDER, LewisGame
from marlcomm.policies.candidates import CandidateHead
from marlcomm.policies.evaluation import evaluate, evaluate_script
from marlcomm.policies.records import Moment
from marlcomm.policies.rollout import Player, channel_noise
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ENVS, ConfigError

TINY = {"attributes": 4, "values": 3, "distractors": 5, "training_rounds": 300, "validation_rounds": 100}


def lewis(**settings):
    return LewisGame(LewisGameSettings(**settings))


def start(env, count, seed=0, episode=0, stream="train"):
    return env.reset(seed, torch.arange(count), torch.full((count,), episode), stream)


# --- symbols ---------------------------------------------------------------------------------------------------------


def slow_minimum(objects):
    """SolveMinSym as it is written: all sets of the target's values, the small ones first."""
    target, *distractors = objects.tolist()
    for size in range(1, len(target) + 1):
        for chosen in itertools.combinations(range(len(target)), size):
            if not any(all(one[place] == target[place] for place in chosen) for one in distractors):
                return size
    return 0


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    attributes=st.integers(1, 6),
    values=st.integers(2, 4),
    distractors=st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 130])),
)
def test_the_solver_finds_what_brute_force_finds(seed, attributes, values, distractors):
    rounds = draw(Game(1, attributes, values, distractors), seed, "test", 0, 12)
    expected = [slow_minimum(objects) for objects in rounds]
    assert minimum_symbols(rounds, attributes).tolist() == expected
    assert minimum_symbols(rounds, 2).tolist() == [size if size <= 2 else 0 for size in expected]


def test_minima_by_hand():
    target, same_first, same_rest, equal = [0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0]
    rounds = [[target, same_first, same_first], [target, same_first, same_rest], [target, same_rest, equal]]
    assert minimum_symbols(np.array(rounds, np.uint8), 3).tolist() == [1, 2, 0]
    assert minimum_symbols(np.zeros((0, 3, 3), np.uint8), 3).tolist() == []


def test_published_sizes_are_solved_too():
    rounds = draw(Game(3), 1, "test", 0, 150)
    assert minimum_symbols(rounds, 3).tolist() == [slow_minimum(objects) for objects in rounds]


# --- rounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", [Game(2), Game(3), Game(1, distractors=10), Game(2, 6, 3, 9)], ids=str)
def test_stored_rounds_need_what_was_asked_for(game):
    rounds = build_rounds(game, 300, 100, seed=4)
    assert rounds.training.shape == (300, game.candidates, game.attributes)
    assert rounds.validation.shape == (100, game.candidates, game.attributes)
    for objects in (rounds.training, rounds.validation):
        assert (minimum_symbols(objects, game.min_symbols + 1) == game.min_symbols).all()
        assert objects.max() == game.values - 1


def test_seeds_and_splits_are_told_apart_and_more_rounds_begin_with_the_same():
    few, many, other = (build_rounds(Game(2), count, 50, seed) for count, seed in ((60, 1), (150, 1), (60, 2)))
    assert np.array_equal(few.training, many.training[:60])
    assert np.array_equal(few.validation, many.validation)
    assert not np.array_equal(few.training[:50], few.validation)
    assert not np.array_equal(few.training, other.training)
    named = {objects.tobytes() for objects in np.concatenate([many.training, many.validation])}
    assert len(named) == 200


def test_rounds_do_not_depend_on_how_many_are_drawn_at_once():
    game = Game(2, 5, 3, 7)
    whole = draw(game, 3, "test", 0, 50)
    parts = [draw(game, 3, "test", first, count) for first, count in ((0, 1), (1, 30), (31, 19))]
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("values", [3, 4])
def test_values_are_alike_and_independent(values):
    rounds = draw(Game(2, values=values), 0, "test", 0, 2000)
    counts = np.bincount(rounds.ravel(), minlength=values)
    expected = rounds.size / values
    assert ((counts - expected) ** 2 / expected).sum() < values + 5 * (2 * values) ** 0.5  # chi-squared
    shared = (rounds[:, 1:] == rounds[:, :1]).mean()
    assert abs(shared - 1 / values) < 5 * (1 / values / (63 * 2000 * 20)) ** 0.5


def test_how_often_minima_occur():
    """Beside draws of another generator."""
    theirs = np.random.default_rng(0).integers(0, 4, (20_000, 64, 20), dtype=np.uint8)
    share = float((minimum_symbols(theirs, 3) == 3).mean())
    found = acceptance(Game(3))
    error = (share * (1 - share) * (1 / found.draws + 1 / len(theirs))) ** 0.5
    assert abs(found.share - share) < 4 * error
    assert abs(found.share + acceptance(Game(2)).share - 1) < 1e-9  # of the same draws
    assert found.accepted >= 200


@pytest.mark.parametrize(("minimum", "distractors"), [(1, 10), (4, 450)])
def test_other_minima_where_they_occur(minimum, distractors):
    assert refuse_rare(Game(minimum, distractors=distractors)).share > 0.2


@pytest.mark.parametrize(
    ("game", "low", "high", "words"),
    [
        (Game(1), 6, 16, r"less than 1 in 131,072 random rounds .* min_symbols may be 2 \(9\d%\) or 3 \(\d+%\)"),
        (Game(4), 300, 600, r"env\.min_symbols: got 4, wanted one that occurs: with 63 distractors"),
    ],
)
def test_rare_minima_are_refused_with_a_setting_that_works(game, low, high, words):
    with pytest.raises(ConfigError, match=words) as caught:
        lewis(min_symbols=game.min_symbols)
    nearest = int(re.search(r"nearest: distractors (\d+)", str(caught.value))[1])
    assert low <= nearest <= high
    assert refuse_rare(Game(game.min_symbols, distractors=nearest)).share > 0.3


def test_impossible_minima_are_refused():
    with pytest.raises(ConfigError, match="no number of distractors up to 1023 makes 7 frequent"):
        refuse_rare(Game(7, attributes=8))
    with pytest.raises(ConfigError, match="no round there can be solved"):
        refuse_rare(Game(1, attributes=1, values=2, distractors=40))


# --- files -----------------------------------------------------------------------------------------------------------


def tiny_rounds():
    return build_rounds(LewisGameSettings(**TINY).game, 30, 10, seed=3)


def test_what_is_written_is_read(tmp_path):
    rounds = tiny_rounds()
    assert write_npz(rounds, tmp_path / "rounds.npz") == [tmp_path / "rounds.npz"]
    again = read_npz(tmp_path / "rounds.npz", rounds.game)
    assert (again.seed, again.game) == (3, rounds.game)
    assert np.array_equal(again.training, rounds.training)
    assert np.array_equal(again.validation, rounds.validation)
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.npz"]
    env = lewis(**TINY, rounds=str(tmp_path / "rounds.npz"))
    start(env, 600)
    stored = {frozenset(map(bytes, objects)) for objects in rounds.training}
    assert {frozenset(map(bytes, objects.numpy())) for objects in env.candidates} == stored


def rewritten(file, **changes):
    with np.load(file) as stored:
        content = dict(stored)
    content["about"] = json.dumps(json.loads(str(content["about"])) | changes.pop("about", {}))
    np.savez(file, **(content | changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.write_bytes(b"no rounds"), "holds no rounds of the Lewis game"),
        (lambda file: file.write_bytes(file.read_bytes()[:300]), "holds no rounds of the Lewis game"),
        (lambda file: np.savez(file, rounds=np.zeros(3)), "holds no rounds of the Lewis game"),
        (lambda file: rewritten(file, about={"format": 9}), "is of format 9, wanted 1"),
        (lambda file: rewritten(file, about={"values": 4}), r"env\.values: got 3, but .* with 4 \(nearest: 4\)"),
        (lambda file: rewritten(file, training=np.full((5, 6, 4), 3, np.uint8)), "training in .* are not those"),
        (lambda file: rewritten(file, validation=np.zeros((5, 6, 5), np.uint8)), "validation in .* are not those"),
    ],
)
def test_other_files_are_refused(tmp_path, change, words):
    file = tmp_path / "rounds.npz"
    write_npz(tiny_rounds(), file)
    change(file)
    with pytest.raises(ConfigError, match=words):
        lewis(**TINY, rounds=str(file))


def read_as_egg_does(file):
    """Rounds as EGG's `AttValDiscriDataset` reads them: candidates [K, A], and the target's place."""
    for line in file.read_text().splitlines():
        *vectors, target = line.split(".")
        yield np.array([list(map(int, vector.split())) for vector in vectors]), int(target)


def test_egg_reads_the_same_rounds(tmp_path):
    rounds, places = tiny_rounds(), []
    written = write_egg(rounds, tmp_path / "rounds.txt")
    assert [file.name for file in written] == ["rounds.training.txt", "rounds.validation.txt"]
    for file, stored in zip(written, (rounds.training, rounds.validation), strict=True):
        read = list(read_as_egg_does(file))
        for (candidates, place), objects in zip(read, stored, strict=True):
            assert np.array_equal(candidates[place], objects[0])
            assert sorted(candidates.tolist()) == sorted(objects.tolist())
            places.append(place)
    assert set(places) == set(range(6))
    line = written[0].read_text().splitlines()[0]
    assert re.fullmatch(r"(\d( \d){3} \. ){6}\d", line)


def test_data_from_the_command_line(here, tmp_path):
    sizes = ["--attributes", 4, "--values", 3, "--distractors", 5, "--rounds", 40, "--validation", 10, "--seed", 3]
    said = here("data", "lewis_game", *sizes, "--out", "rounds.npz", cwd=tmp_path).stdout
    assert re.search(r"\d+\.\d\d% of random rounds need 2 symbols", said)
    assert "40 rounds" in said
    assert "written to rounds.npz" in said
    assert np.array_equal(read_npz(tmp_path / "rounds.npz", tiny_rounds().game).training, tiny_rounds().training)
    here("data", "lewis_game", *sizes, "--format", "egg", "--out", "rounds.txt", cwd=tmp_path)
    assert len(list(read_as_egg_does(tmp_path / "rounds.validation.txt"))) == 10
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "r.npz", "--min-symbols", 1], "nearest: distractors"),
        (["--out", "r.npz", "--min-symbols", 21], "--min-symbols: got 21, wanted at most attributes, 20"),
        (["--out", "none/r.npz"], "--out: no folder 'none'"),
        (["--out", "r.npz", "--format", "eg"], "--format: unknown 'eg'; did you mean 'egg'?"),
        (
            ["--out", "r.npz", "--rounds", 10, "--validation", 10],
            "--validation: got 10, wanted fewer than --rounds, 10",
        ),
        (["--out", "r.npz", "--values", 99], "--values: got 99, wanted less than or equal to 16"),
        (["--out", "."], "--out: '.' is a folder, wanted a file"),
    ],
)
def test_wrong_options_are_named(here, tmp_path, arguments, words):
    said = here("data", "lewis_game", *arguments, cwd=tmp_path, code=2).stderr
    assert words in re.sub(r"\s+", " ", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_", ["npz", "egg"])
def test_ctrl_c_leaves_nothing_half_written(here, tmp_path, monkeypatch, format_):
    real = {"npz": np.savez_compressed, "egg": files._lines}[format_]

    def interrupted(*arguments, **arrays):
        yield from itertools.islice(real(*arguments), 3)
        raise KeyboardInterrupt

    def interrupted_save(opened, **arrays):
        opened.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_lines", interrupted)
    monkeypatch.setattr(np, "savez_compressed", interrupted_save)
    sizes = ["--attributes", 4, "--values", 3, "--distractors", 5, "--rounds", 40]
    said = here("data", "lewis_game", *sizes, "--format", format_, "--out", "r.x", cwd=tmp_path, code=130).stdout
    assert "stopped; nothing was written" in said
    assert not list(tmp_path.iterdir())


# --- rules -----------------------------------------------------------------------------------------------------------


def objects_seen(env, now):
    """What both see as objects [B, N, K + 1, A], with V for hidden."""
    size = env.game.values + 1
    places = now.observations.view(env.num_worlds, 2, -1, env.game.attributes)
    return (places - torch.arange(env.game.attributes) * size).long()


@pytest.mark.parametrize("settings", [{}, {"min_symbols": 3, "steps": 3}, {**TINY, "steps": 2}], ids=str)
def test_the_sender_sees_the_target_and_the_receiver_chooses(settings):
    env = lewis(**settings)
    now = start(env, 50, seed=2)
    chosen = torch.stack([env.target, env.target], 1)
    chosen[25:, RECEIVER] = (env.target[25:] + 1) % env.game.candidates
    chosen[:, SENDER] = (chosen[:, SENDER] + 3) % env.game.candidates  # counts for nothing
    for time in range(env.spec.horizon):
        last = time + 1 == env.spec.horizon
        seen = objects_seen(env, now)
        assert torch.equal(seen[:, SENDER, 0], env.candidates[torch.arange(50), env.target].long())
        assert torch.equal(seen[:, RECEIVER, 1:], env.candidates.long())
        assert (seen[:, SENDER, 1:] == env.game.values).all()
        assert (seen[:, RECEIVER, 0] == env.game.values).all()
        assert not now.terminated.any()
        now = env.step(chosen if last else torch.zeros_like(chosen))
        expected = torch.tensor([1.0] * 25 + [0.0] * 25) * last
        assert torch.equal(now.info["success"], expected)
        assert torch.equal(now.rewards.sum(1), expected)
        assert torch.equal(now.rewards[:, 0], now.rewards[:, 1])
    assert now.terminated.all()
    assert not now.truncated.any()
    shared = (
        env.candidates[torch.arange(50), chosen[:, RECEIVER]] == env.candidates[torch.arange(50), env.target]
    ).sum(1)
    assert torch.equal(now.info["shared_attributes"], shared.float())
    assert (shared[:25] == env.game.attributes).all()
    assert (shared[25:] < env.game.attributes).all()


def test_candidates_are_put_in_another_order_whenever_a_round_is_played():
    env = lewis(**TINY | {"training_rounds": 1})
    start(env, 3000)
    counts = torch.bincount(env.target, minlength=6)
    assert float(((counts - 500) ** 2 / 500).sum()) < 5 + 5 * 10**0.5  # chi-squared
    first = env.candidates[0].sort(0).values
    assert all(torch.equal(candidates.sort(0).values, first) for candidates in env.candidates[:20])
    assert len({candidates.numpy().tobytes() for candidates in env.candidates[:20]}) > 10


def test_evaluations_play_rounds_that_nobody_learned_from():
    settings = TINY | {"attributes": 8, "training_rounds": 40, "validation_rounds": 30}
    env = lewis(**settings)
    rounds = build_rounds(env.game, 40, 30, 0)

    def played(env, stream):
        start(env, 600, stream=stream)
        return {frozenset(map(bytes, objects.numpy())) for objects in env.candidates}

    training, validation = (
        {frozenset(map(bytes, objects)) for objects in split} for split in (rounds.training, rounds.validation)
    )
    assert not training & validation
    for stream in ("train", "code", "calibration", "pettingzoo"):
        assert played(env, stream) == training
    for stream in ("evaluation", "card"):
        assert played(env, stream) == validation
    looked_at = [played(env, stream) for stream in ("tuning", "validation")]
    assert [len(rounds) for rounds in looked_at] == [30, 30]
    assert len(set.union(training, validation, *looked_at)) == 40 + 3 * 30
    assert played(lewis(**settings, split="validation"), "train") == validation
    assert played(lewis(**settings, split="training"), "evaluation") == training


@pytest.mark.parametrize(
    "settings", [TINY, TINY | {"observations": "dense", "steps": 3}, {"distractors": 10, "min_symbols": 1}], ids=str
)
def test_the_contract_is_kept(settings):
    problems = [finding for finding in check_env(lambda: lewis(**settings)) if finding.problem]
    assert problems == []


@hypothesis_settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_the_settings_rounds_stay_sane(data):
    settings = {
        "attributes": data.draw(st.integers(3, 6)),
        "values": data.draw(st.integers(2, 16)),
        "distractors": data.draw(st.integers(2, 5)),
        "min_symbols": 1,
        "steps": data.draw(st.integers(1, 3)),
        "observations": data.draw(st.sampled_from(["indices", "dense"])),
        "training_rounds": 20,
        "validation_rounds": 5,
    }
    env = lewis(**settings)
    now = start(env, 9, seed=data.draw(st.integers(0, 100)))
    low, high = env.spec.observation_bounds
    for time in range(env.spec.horizon):
        assert now.observations.shape == (9, 2, env.spec.observation_size)
        assert low <= now.observations.min()
        assert now.observations.max() <= high
        assert bool(now.terminated.any()) is False
        assert env.target.max() < env.game.candidates
        now = env.step(SCRIPTS[data.draw(st.sampled_from(["random", "silent", "one_token", "oracle"]))](env))
        assert ((now.rewards == 0) | (now.rewards == 0.5)).all()
        assert now.rewards.any().item() is False or time + 1 == env.spec.horizon
    assert now.terminated.all()


def test_indices_stand_for_the_dense_vector():
    indices, dense = (lewis(**TINY, observations=observations) for observations in ("indices", "dense"))
    seen, wanted = start(indices, 20).observations, start(dense, 20).observations
    long = indices.spec.candidates.indexed.dense(seen.unflatten(-1, (7, 4)))
    assert torch.equal(long.flatten(2), wanted)
    assert (wanted.unflatten(-1, (7, 4, 4)).sum(-1) == 1).all()  # every attribute has one value, or is hidden
    assert lewis(observations="dense").spec.observation_size == 65 * 20 * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_symbols": 0}, r"env\.min_symbols: got 0, wanted greater than or equal to 1"),
        ({"min_symbols": 5, "attributes": 4}, r"env\.min_symbols: got 5, wanted at most attributes, 4 \(nearest: 4\)"),
        ({"values": 1}, r"env\.values"),
        ({"distractors": 0}, r"env\.distractors"),
        ({"observations": "one_hot"}, r"env\.observations: got 'one_hot', wanted 'indices' or 'dense'"),
        ({"rounds": "no_such.npz"}, r"env\.rounds: no file 'no_such\.npz'; `marlcomm data lewis_game --out FILE`"),
        ({"split": "test"}, r"env\.split"),
        ({"min_symbol": 2}, "did you mean 'min_symbols'"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        ENVS.check("lewis_game", settings)


def test_settings_that_change_the_score_change_the_setting():
    names = [
        LewisGameSettings(**settings).setting
        for settings in ({}, {"min_symbols": 3}, {"values": 5}, {"attributes": 8}, {"distractors": 31})
    ]
    assert names[:3] == ["min2", "min3", "min2-20x5-63distractors"]
    assert len(set(names)) == len(names)
    assert LewisGameSettings(steps=3, observations="dense", rounds_seed=1).setting == "min2"


# --- candidates ------------------------------------------------------------------------------------------------------

POLICIES = {
    "ic3net": {"hidden_size": 16, "message_size": 4, "agent_identity": True},
    "commnet": {"hidden_size": 16},
    "transformer": {"hidden_size": 16, "width": 8, "message_size": 4, "agent_identity": True, "candidate_size": 12},
    "transformer-feedforward": {"hidden_size": 16, "width": 8, "message_size": 4, "recurrent": False},
}


def team(policy, channel="ddcl", channel_settings=None, **settings):
    settings = TINY | {"steps": 3} | settings
    names = TeamNames(
        "lewis_game", settings, policy.partition("-")[0], POLICIES[policy], channel, channel_settings or {}
    )
    env = names.make_env()
    return env, names.make_policy(env, seed=0)


def play(env, policy, worlds=30):
    return Player(env, policy, 0).play(torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64))


def moments(played, policy):
    draws = channel_noise(policy.channel, 0, "train", played.worlds, played.episodes, *played.acts.shape[1:])
    return Moment(played.observations, played.alive[:, :-1], played.spawned[:, :-1], played.gates, draws)


def other(moment, observations):
    return Moment(**(vars(moment) | {"observations": observations}))


@pytest.mark.parametrize("policy_name", POLICIES)
def test_another_order_of_candidates_is_another_order_of_logits(policy_name):
    env, policy = team(policy_name)
    whole = moments(play(env, policy), policy)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    seen = whole.observations.unflatten(-1, (7, 4))
    moved = torch.cat([seen[..., :1, :], seen[..., 1:, :][..., order, :]], -2).flatten(-2)
    with torch.no_grad():
        before, after = policy(whole), policy(other(whole, moved))
    assert torch.allclose(after.logits[:, :, RECEIVER], before.logits[:, :, RECEIVER][..., order], atol=1e-6)
    assert torch.equal(after.values, before.values)
    assert before.logits[:, :, RECEIVER].std(-1).min() > 1e-3
    assert (before.logits[:, :, SENDER, 1:] == -1e9).all()  # the sender only ever does nothing


@pytest.mark.parametrize("policy_name", POLICIES)
def test_one_team_sees_indices_and_the_dense_vector_alike(policy_name):
    (env, policy), (dense_env, dense_policy) = (
        team(policy_name, "continuous", observations=observations) for observations in ("indices", "dense")
    )
    weights, dense_weights = policy.state_dict(), dense_policy.state_dict()
    assert weights.keys() == dense_weights.keys()
    assert all(torch.equal(weights[name], dense_weights[name]) for name in weights)
    whole = moments(play(env, policy), policy)
    dense = env.spec.candidates.indexed.dense(whole.observations.unflatten(-1, (7, 4))).flatten(-2)
    assert dense.shape[-1] == dense_env.spec.observation_size
    with torch.no_grad():
        seen, seen_dense = policy(whole), dense_policy(other(whole, dense))
    assert torch.allclose(seen.logits, seen_dense.logits, atol=1e-5)
    assert torch.allclose(seen.values, seen_dense.values, atol=1e-5)


def test_logits_by_hand():
    spec = TeamSpec("x", 3, 8, 4, 1, "s", candidates=Candidates(2), actors=(True, False, True))
    head = CandidateHead(spec, 3)
    queries, candidates = torch.randn(5, 3, 3), torch.randn(5, 3, 8)
    logits = head(queries, candidates)
    for row, slot, place in itertools.product(range(5), (0, 2), range(4)):
        key = torch.tanh(head.embed(candidates[row, slot, 2 * place : 2 * place + 2]))
        assert torch.allclose(logits[row, slot, place], key @ queries[row, slot], atol=1e-6)
    assert not logits[:, 1].any()


def test_candidates_must_fit_what_is_observed():
    assert TeamSpec("x", 2, 11, 3, 5, "s", candidates=Candidates(3)).own_size == 2
    with pytest.raises(ValueError, match="observations end with them: these are only 8 wide"):
        TeamSpec("x", 2, 8, 3, 5, "s", candidates=Candidates(3))
    with pytest.raises(ValueError, match="or actions are of a box"):
        TeamSpec("x", 2, 11, 3, 5, "s", candidates=Candidates(3), action_bounds=(0, 1))
    with pytest.raises(ValueError, match="3 indices and 0 other numbers cannot be 2 wide"):
        TeamSpec("x", 2, 11, 3, 5, "s", candidates=Candidates(3), indexed=Indexed(9, 3, ()))


@pytest.mark.parametrize("policy_name", ["ic3net", "transformer"])
def test_the_learners_replay_is_the_rollout(policy_name):
    env, policy = team(policy_name)
    played = play(env, policy)
    decision = policy(moments(played, policy))
    assert torch.equal(decision.talk.symbols, played.talk.symbols)
    log_probs = decision.distribution.log_probs(decision.logits, played.actions)
    assert torch.allclose(log_probs[..., RECEIVER], played.log_probs[..., RECEIVER], atol=1e-5)
    decision.logits[:, :, RECEIVER].square().sum().backward()
    assert policy.candidate_head.embed.weight.grad.any()
    assert policy.get_parameter("action_head.weight").grad.any()


def test_what_was_heard_is_heard_again():
    """Candidates are kept for those who judge other messages (`daps` in mode task)."""
    env, policy = team("transformer-feedforward", "daps", {"mode": "task", "vocabulary": 5}, steps=1)
    whole = moments(play(env, policy), policy)
    decision = policy(whole)
    then = decision.talk.at(torch.ones(30, 1, dtype=torch.bool))
    received = policy.channel.decode(then.symbols)[:, SENDER].detach()
    again = policy.rehear(then, SENDER, received)
    assert torch.allclose(again.logits, decision.logits[:, 0], atol=1e-5)
    assert not torch.allclose(policy.rehear(then, SENDER, received + 1).logits, decision.logits[:, 0], atol=1e-3)


LEARNERS = {"continuous": ({}, 150, 0.95), "gumbel": ({"tokens": 2, "vocabulary": 9}, 300, 0.55)}


@pytest.mark.parametrize("channel", LEARNERS)
def test_a_team_learns_to_tell_the_target(channel):
    """The receiver's gradient reaches the candidates' embedding and, through messages, the sender."""
    channel_settings, updates, wanted = LEARNERS[channel]
    settings = {"recurrent": False, "hidden_size": 64, "width": 32, "message_size": 16, "candidate_size": 32}
    game = TINY | {"training_rounds": 2000}
    names = TeamNames("lewis_game", game, "transformer", settings, channel, channel_settings)
    env = names.make_env()
    policy = names.make_policy(env, seed=0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    worlds = torch.arange(128)
    for episode in range(updates):
        episodes = torch.full_like(worlds, episode)
        now = env.reset(0, worlds, episodes)
        draws = channel_noise(policy.channel, 0, "train", worlds, episodes, 1, 2)
        seen = [x.unsqueeze(1) for x in (now.observations, now.alive, now.spawned)]
        loss = torch.nn.functional.cross_entropy(policy(Moment(*seen, None, draws)).logits[:, 0, RECEIVER], env.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    figures = evaluate(env, policy, 0, 500, greedy=True)
    assert figures["success"] > wanted  # 1 / 6 by chance, and on rounds that were not learned from
    assert figures["shared_attributes"] > 4 * wanted


# --- silence and bits ------------------------------------------------------------------------------------------------


def test_the_receiver_does_not_see_which_one_it_is():
    env = lewis(**TINY)
    start(env, 100)
    seen = env._views()
    env._target = (env._target + 1) % 6
    again = env._views()
    assert torch.equal(seen[:, RECEIVER], again[:, RECEIVER])
    assert not torch.equal(seen[:, SENDER], again[:, SENDER])
    env._candidates = env._candidates.flip(1)
    env._target = 5 - env._target
    assert torch.equal(env._views()[:, SENDER], again[:, SENDER])  # the order of candidates tells it nothing


@pytest.mark.parametrize("policy_name", POLICIES)
def test_silence_is_silent(policy_name):
    """Under `silent` nothing that the receiver does changes with the target, bit for bit."""
    env, policy = team(policy_name, "silent")
    whole = moments(play(env, policy), policy)
    seen = whole.observations.clone()
    seen[:, :, SENDER] = seen[:, :, SENDER].flip(0)
    assert not torch.equal(seen, whole.observations)
    with torch.no_grad():
        before, after = policy(whole), policy(other(whole, seen))
    assert torch.equal(before.logits[:, :, RECEIVER], after.logits[:, :, RECEIVER])
    assert torch.equal(before.values[:, :, RECEIVER], after.values[:, :, RECEIVER])
    assert not torch.equal(before.values[:, :, SENDER], after.values[:, :, SENDER])


@pytest.mark.parametrize("channel", ["gumbel", "gr_mck", "daps"])
@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (3, 1), (1, 3)])
def test_exactly_so_many_tokens_cost_so_many_bits(channel, tokens, steps):
    """L tokens of 80 symbols are L log2 80 bits an episode, in one message or in L."""
    env, policy = team("transformer", channel, {"tokens": tokens, "vocabulary": 80}, steps=steps)
    figures = evaluate(env, policy, 0, 50)
    assert figures["messages_per_agent_step"] == 1  # the receiver has no right to speak, so none is counted
    assert figures["nominal_bits_per_message"] == pytest.approx(tokens * math.log2(80))
    assert figures["prefix_bits_per_episode"] / steps == figures["prefix_bits_per_message"]
    assert tokens * math.log2(80) <= figures["prefix_bits_per_message"] < tokens * math.log2(80) + 1
    assert figures["length"] == steps


def test_an_end_token_makes_messages_short():
    """Vocabulary 81: 80 symbols and the end."""
    channel = {"tokens": 3, "vocabulary": 81, "end_token": True, "eval_tokens": "sampled"}
    env, policy = team("transformer", "gumbel", channel, steps=1)
    with torch.no_grad():
        policy.channel.sender.to_logits.bias.view(3, 81)[:, 0] += 3.5
    symbols = play(env, policy, 200).talk.symbols[:, 0, SENDER]
    ended = (symbols == 0).int().argmax(1)
    sent = torch.where((symbols == 0).any(1), ended + 1, 3)
    assert set(sent.tolist()) == {1, 2, 3}
    figures = evaluate(env, policy, 0, 200)
    assert math.log2(81) < figures["nominal_bits_per_message"] < 3 * math.log2(81)


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimum", [2, 3])
def test_scripts_reach_what_codes_can(minimum):
    """(1 - (1 - p)^64) / (64 p) for a code of 1 / p equally likely classes, over all rounds of any minimum."""
    env = lewis(min_symbols=minimum, validation_rounds=4000)
    for script, classes in (("one_token", 80), ("two_tokens", 6400)):
        figures = evaluate_script(env, SCRIPTS[script], 1, 4000)
        ceiling = (1 - (1 - 1 / classes) ** 64) * classes / 64
        slack = 0.02 if minimum == 2 else 0.03  # given the minimum, candidates are not quite independent of the target
        assert abs(figures["success"] - ceiling) < slack + 4 * figures["success_standard_error"]
    assert evaluate_script(env, SCRIPTS["oracle"], 1, 100)["success"] == 1
    assert abs(evaluate_script(env, SCRIPTS["random"], 1, 4000)["success"] - 1 / 64) < 0.009


def test_silence_is_worth_one_over_those_that_could_be_it():
    env = lewis(**TINY | {"training_rounds": 3000}, steps=1)
    start(env, 3000)
    could_be = torch.tensor(
        [
            [slow_minimum(np.roll(objects, -place, axis=0)) == env.game.min_symbols for place in range(6)]
            for objects in env.candidates.numpy()
        ]
    )
    assert could_be[torch.arange(3000), env.target].all()
    chosen = SCRIPTS["silent"](env)
    assert torch.equal(chosen[:, RECEIVER], could_be.int().argmax(1))
    expected = (1 / could_be.sum(1)).mean()
    success = env.step(chosen).info["success"]
    assert abs(success.mean() - expected) < 4 * success.std() / 3000**0.5
    assert expected > 1.15 / 6


def test_the_silent_script_does_not_look_at_the_target():
    env = lewis(**TINY)
    start(env, 100)
    chosen = SCRIPTS["silent"](env)
    env._target = env._target.flip(0)
    assert torch.equal(SCRIPTS["silent"](env), chosen)


def test_the_card_is_measured():
    stored = cards("lewis_game")
    assert set(stored) == {LewisGameSettings(**settings).setting for settings in LewisGameSettings.card_settings}
    for card in stored.values():
        env = lewis(**card["settings"])
        assert env.spec.card == card
        for script in ("random", "one_token", "two_tokens", "oracle"):
            measured, figures = card["references"][script], evaluate_script(env, SCRIPTS[script], 5, 2000)
            error = (figures["return_standard_error"] ** 2 + measured["return_standard_error"] ** 2) ** 0.5
            assert abs(figures["return"] - measured["return"]) <= 4 * error + 1e-4
        low, silent, high = (card["references"][name]["return"] for name in ("random", "silent", "oracle"))
        assert (silent - low) / (high - low) < 0.4  # a world that needs talk
    assert stored["min3"]["references"]["silent"]["success"] > 0.15
    assert lewis(**TINY).spec.card is None


# --- faces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, TINY | {"steps": 3, "observations": "indices"}], ids=str)
def test_pettingzoo_accepts_it(settings, capsys):
    parallel_api_test(lewis_game_v0.parallel_env(**settings), num_cycles=20)
    parallel_seed_test(lambda: lewis_game_v0.parallel_env(**settings), num_cycles=10)
    api_test(lewis_game_v0.env(**settings), num_cycles=20)


def test_the_pettingzoo_face_is_the_same_world():
    face, env = lewis_game_v0.parallel_env(**TINY, steps=2), lewis(**TINY, steps=2, observations="dense")
    observations, infos = face.reset(seed=3)
    now = env.reset(3, torch.tensor([0]), torch.tensor([0]), stream="pettingzoo")
    while face.agents:
        assert np.array_equal(np.stack(list(observations.values())), now.observations[0].numpy())
        moves = SCRIPTS["oracle"](env)[0].tolist()
        observations, rewards, terminated, _, infos = face.step(dict(zip(face.agents, moves, strict=True)))
        now = env.step(torch.tensor([moves]))
        assert list(rewards.values()) == now.rewards[0].tolist()
    assert all(terminated.values())
    assert infos["agent_0"]["success"] == 1


def test_pictures_show_the_choice():
    env = lewis()
    start(env, 4)
    before = env.render(0)
    assert (before.dtype, before.shape) == (np.uint8, (764, 970, 3))
    assert not np.array_equal(before[:, :250], env.render(1)[:, :250])  # another target
    env.step(SCRIPTS["oracle"](env))
    right = env.render(0)
    start(env, 4)
    env.step((SCRIPTS["oracle"](env) + 1) % 64)
    wrong = env.render(0)
    for picture in (right, wrong):
        changed = (picture[:720] != before[:720]).any(-1)
        assert 0 < changed.mean() < 2.2 / 64  # one frame, or two
        assert not changed[:, :250].any()
    assert not np.array_equal(right, wrong)


@pytest.mark.parametrize("settings", [{"attributes": 2, "values": 16, "distractors": 1}, {"attributes": 24}], ids=str)
def test_pictures_of_other_sizes(settings):
    env = lewis(**settings, min_symbols=1 if "values" in settings else 2, training_rounds=4, validation_rounds=1)
    start(env, 3)
    assert env.render(0).shape == (764, 970, 3)
    assert not np.array_equal(env.render(0), env.render(1))


def test_the_config_is_valid(pytestconfig):
    data, notes = config.read(pytestconfig.rootpath / "configs/lewis_game.yaml")
    settings = config.experiment(data)
    assert not notes
    assert settings.env.settings.game == Game(2)
    assert (settings.channel.settings.tokens, settings.channel.settings.vocabulary) == (2, 80)
