"""A run that goes on from a checkpoint is the run that never stopped, bit for bit: from the tables, in one process.

Fresh processes: `test_cli.py`; remote runners and learners: `test_rllib.py`.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from learning import weights
from small_teams import RELAY, WORLDS, built_in, choice, team

from marlcomm import checkpoint
from marlcomm.config import experiment
from marlcomm.registry import ALGORITHMS, CHANNELS, POLICIES, TABLES
from marlcomm.rllib.checkpoint import restore, save

ROUND = WORLDS * 4  # env steps
POLICY = {"ic3net": "ic3net", "mappo": "transformer", "maddpg": "tarmac", "supervised": "commnet"}
# What has a state of its own beyond weights; schedules move in every round, and end in none that is played.
STATE = {"normalization": "running", "update": "ema", "init": "kmeans", "replace_after": 1, "init_after": 0}
MOVING = [[0, 0.1], [5 * ROUND, 0.0]]


def stateful(kind, name):
    """A thing of a table in which everything moves that can."""
    fields = TABLES[kind].row(name).settings_model().model_fields
    given = {key: value for key, value in STATE.items() if key in fields and kind == "channel"}
    given |= {key: 5 * ROUND for key in fields if key.endswith(("_steps", "_warmup")) and kind == "channel"}
    if kind == "algorithm":
        given |= {key: MOVING for key in ("lr", "critic_lr", "entropy_coeff", "epsilon") if key in fields}
        given |= {key: 2 * ROUND for key in ("replay_env_steps",) if key in fields}  # the oldest rounds are gone
    return choice(kind, name, **given)


def drawn(algorithm, channel):
    gate = {"force_gate_open": True} if (POLICY[algorithm], channel) == ("ic3net", "silent") else {}
    data = team(policy={"name": POLICY[algorithm]} | gate)
    return data | {"algorithm": stateful("algorithm", algorithm), "channel": stateful("channel", channel)}


TRAFFIC = {"name": "traffic_junction", "add_rate": 0.3}
CURRICULUM = {"first_rate": 0.1, "start_epoch": 1, "end_epoch": 4, "rounds_per_epoch": 1}
SPREAD = {"name": "particle_spread", "horizon": 4, "actions": "continuous"}
ELSE = {
    "everything of mappo, in a curriculum": {
        "env": TRAFFIC | {"curriculum": CURRICULUM},
        "algorithm": {"name": "mappo", "critic": "central_with_messages", "critic_size": 8, "num_epochs": 2}
        | {
            "critic_rewards": True,
            "value_normalization": "popart",
            "value_clip": 0.2,
            "target_entropy": [[0, 0.9], [3000, 0.5]],
        },
    },
    "rounds that grow": {"algorithm": stateful("algorithm", "mappo") | {"episodes": [[0, 1], [4 * ROUND, 5]]}},
    "a box": {"env": SPREAD, "channel": stateful("channel", "vq")},
    "a replay of a box": {"env": SPREAD, "algorithm": stateful("algorithm", "maddpg") | {"action_noise": MOVING}},
    "critics of their own": {
        "algorithm": stateful("algorithm", "maddpg")
        | {"parameters": "per_agent", "others": "current", "twin": True, "learning_starts": 3 * ROUND}
    },
    "at the read-out": {"channel": stateful("channel", "dvq") | {"placement": "readout"}},
    "policies of their own": {"policy": choice("policy", "ic3net", parameters="per_agent")},
}


def assert_resumes(start, folder, data):
    """Two rounds, a checkpoint and two more in a fresh algorithm are four: all that a checkpoint holds, and figures."""
    settings = experiment(data)
    whole = start(settings)
    for _ in range(2):
        whole.training_step()
    save(whole, folder / "000002")
    second = start(replace(settings, init_from=None))
    restore(second, folder / "000002")
    ends = []
    for algorithm in (whole, second):
        for _ in range(2):
            algorithm.training_step()
        save(algorithm, folder / str(len(ends)))
        ends.append(checkpoint.read(folder / str(len(ends))))
    half = checkpoint.read(folder / "000002")
    assert ends[0].parts == ends[1].parts  # SHA-256 of every file
    assert all(ends[0].parts[name] != half.parts[name] for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER))
    counters = [{k: v for k, v in end.counters.items() if "seconds" not in k} for end in ends]
    assert counters[0] == counters[1]
    assert counters[0]["round"] == 4
    figures = [{k: v for k, v in one.figures.items() if not k.startswith("time/")} for one in (whole, second)]
    assert figures[0] == figures[1]
    return whole, half


def test_every_trainer_and_policy_is_resumed():
    assert list(POLICY) == built_in(ALGORITHMS)
    assert set(POLICY.values()) == set(built_in(POLICIES))


@pytest.mark.parametrize(("algorithm", "channel"), list(product(POLICY, built_in(CHANNELS))))
def test_every_trainer_goes_on_with_every_channel(start, tmp_path, algorithm, channel):
    assert_resumes(start, tmp_path, drawn(algorithm, channel))


def assert_goes_on_without(start, folder, monkeypatch, data, counter):
    """A checkpoint of a marlcomm that did not count this goes on as the run does; returns what both count then."""
    settings = experiment(data)
    whole, second = start(settings), start(settings)
    for _ in range(2):
        whole.training_step()
    counted = {name: value for name, value in whole.counters().items() if name != counter}
    with monkeypatch.context() as patch:
        patch.setattr(whole, "counters", lambda: counted)
        save(whole, folder / "000002")
    restore(second, folder / "000002")
    ends = []
    for algorithm in (whole, second):
        algorithm.training_step()
        save(algorithm, folder / str(len(ends)))
        ends.append(checkpoint.read(folder / str(len(ends))))
    assert ends[0].parts == ends[1].parts
    assert ends[0].counters[counter] == ends[1].counters[counter]
    return ends[0].counters[counter]


def test_a_checkpoint_that_counts_no_episodes_goes_on(start, tmp_path, monkeypatch):
    """They were not counted where every round had one of each world."""
    assert assert_goes_on_without(start, tmp_path, monkeypatch, team(), "episodes") == 3


UNEVEN = {"env_steps_per_update": ROUND - 15, "learning_starts": 10}


def test_a_checkpoint_that_counts_no_waiting_env_steps_goes_on(start, tmp_path, monkeypatch):
    """They were what the updates so far had left."""
    data = team(RELAY, algorithm={"name": "maddpg"} | UNEVEN)
    waiting = (3 * ROUND - 10) % (ROUND - 15)
    assert assert_goes_on_without(start, tmp_path, monkeypatch, data, "waiting_env_steps") == waiting


@pytest.mark.parametrize(
    ("changed", "updates"),
    [
        ({"env_steps_per_update": ROUND // 4}, 2 + 4),
        ({"env_steps_per_update": 2 * ROUND}, 2 + 0),
        ({"learning_starts": 10**6}, 2 + 0),
        ({"learning_starts": 0}, 2 + 1),
    ],
)
def test_updates_are_due_by_the_settings_of_each_round(start, tmp_path, changed, updates):
    """Where they change, by --force, none are made up for, and none are left out."""
    given = {"name": "maddpg", "env_steps_per_update": ROUND, "learning_starts": ROUND}
    first, second = (start(experiment(team(RELAY, algorithm=given | change))) for change in ({}, changed))
    for _ in range(3):
        first.training_step()
    assert first.updates == 2
    save(first, tmp_path / "000003")
    restore(second, tmp_path / "000003")
    second.training_step()
    assert second.updates == updates


def resumed(start, folder, algorithm, changed):
    """A run of one round under settings of its algorithm, and the one that goes on with others."""
    first, second = (start(experiment(team(algorithm=algorithm | change))) for change in ({}, changed))
    first.training_step()
    save(first, folder / "000001")
    restore(second, folder / "000001")
    second.training_step()
    return first, second


def test_without_a_target_entropy_weighs_what_the_settings_say(start, tmp_path):
    given = {"name": "mappo", "target_entropy": 0.5, "entropy_coeff": 0.02}
    followed, free = resumed(start, tmp_path, given, {"target_entropy": None})
    assert followed.entropy_weight.present != 0.02
    assert free.entropy_weight is None
    assert "entropy_weight" not in free.counters()


@pytest.mark.parametrize(
    ("given", "changed", "settings"),
    [
        ("adam", {"optimizer": "rmsprop", "rmsprop_alpha": 0.5}, {"alpha": 0.5}),
        ("rmsprop", {"rmsprop_alpha": 0.5, "rmsprop_eps": 1e-3}, {"alpha": 0.5, "eps": 1e-3}),
        ("sgd", {"optimizer": "adam"}, {"betas": (0.9, 0.999)}),
    ],
)
def test_an_optimiser_is_that_of_the_settings(start, tmp_path, given, changed, settings):
    first, second = resumed(start, tmp_path, {"name": "mappo", "optimizer": given}, changed)
    (optimizer,) = second.learner_group._learner._named_optimizers.values()
    assert settings.items() <= optimizer.param_groups[0].items()
    before, after = weights(first), weights(second)
    assert any(not np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ELSE)
def test_everything_else_that_moves_goes_on(start, tmp_path, name):
    whole, half = assert_resumes(start, tmp_path, team(RELAY) | ELSE[name])
    if whole.config.env == "traffic_junction":
        assert whole.entropy_weight != whole.entropy_target.start()
        assert {"policy.", "team_values.critic", "team_values.norm"} <= {
            prefix
            for prefix in ("policy.", "team_values.critic", "team_values.norm")
            if any(key.startswith(prefix) for key in half.read(checkpoint.WEIGHTS))
        }


@pytest.mark.parametrize("trainer", ["mappo", "maddpg"])
def test_an_algorithm_goes_back_to_a_state_of_its_own(start, trainer):
    """And more than once. The ring of the replay is full: each round that follows overwrites one of the state's."""
    algorithm, ends = start(experiment(drawn(trainer, "vq"))), []
    for _ in range(2):
        algorithm.training_step()
    state = algorithm.get_state()
    for _ in range(2):
        for _ in range(2):
            algorithm.training_step()
        ends.append(weights(algorithm) | {"return": np.asarray(algorithm.figures["train/return"])})
        algorithm.set_state(state)
    assert all(np.array_equal(value, ends[1][name]) for name, value in ends[0].items())


def test_what_began_with_a_trained_team_goes_on_without_it(start, tmp_path):
    save(start(experiment(team())), tmp_path / "parent")
    data = team(RELAY, channel={"name": "vq", "codebook_size": 4}) | {"init_from": str(tmp_path / "parent")}
    assert_resumes(start, tmp_path, data)


@pytest.mark.parametrize(
    ("channel", "schedule"),
    [
        ({"name": "ddcl", "rate_warmup": 10}, "rate_scale"),
        ({"name": "gumbel", "temperature_schedule": "linear", "temperature_steps": 10}, "temperature"),
        ({"name": "dvq", "pool": [[1, 4], [2, 4]], "temperature_steps": 10}, "temperature"),
    ],
)
def test_schedules_of_what_began_with_a_trained_team_begin_anew(start, tmp_path, channel, schedule):
    data = team(channel=channel)
    parent = start(experiment(data))
    (name,) = (name for name in weights(parent) if name.endswith(f"channel.{schedule}"))
    first = weights(parent)[name]
    parent.training_step()
    assert weights(parent)[name] != first
    save(parent, tmp_path / "parent")
    child = start(experiment(data | {"init_from": str(tmp_path / "parent")}))
    assert weights(child)[name] == first


def test_a_price_that_does_not_rise_is_the_whole_one_whatever_the_parents_was(start, tmp_path):
    parent = start(experiment(team(channel={"name": "ddcl", "rate_warmup": 100 * ROUND})))
    parent.training_step()
    save(parent, tmp_path / "parent")
    child = start(experiment(team(channel={"name": "ddcl"}) | {"init_from": str(tmp_path / "parent")}))
    (scale,) = (value for name, value in weights(child).items() if name.endswith("channel.rate_scale"))
    assert scale == 1


@pytest.mark.parametrize("parent_channel", [{"name": "ddcl", "learn_step": True}, {"name": "uniform", "bits": 2}])
def test_learned_steps_are_not_those_of_another_channel(start, tmp_path, parent_channel):
    parent = start(experiment(team(channel=parent_channel)))
    (step,) = (name for name in weights(parent) if name.endswith("channel.log_step"))
    save(parent, tmp_path / "parent")
    data = team(channel={"name": "uniform", "bits": 6})
    child = weights(start(experiment(data | {"init_from": str(tmp_path / "parent")})))
    assert not np.array_equal(child[step], weights(parent)[step])
    same = [name for name, value in weights(parent).items() if name in child and np.array_equal(value, child[name])]
    assert len(same) > len(child) / 2


def test_a_channel_of_ones_own_goes_on(start, tmp_path):
    assert_resumes(start, tmp_path, team() | {"channel": {"name": "sign"}, "imports": ["tiny_world", "third_party"]})
