"""Rows on their way between processes, and rounds that are played while others are learned."""

import json
import os
import signal

import numpy as np
import pytest
import ray
from learning import weights
from test_faults import in_runner

from marlcomm.algorithms import IC3NetConfig, MADDPGConfig, MAPPOConfig
from marlcomm.registry import ConfigError
from marlcomm.rllib import checkpoint
from marlcomm.rllib.ahead import RoundAhead
from marlcomm.rllib.errors import TrainingError
from marlcomm.rllib.parcels import Parcel, Shipment, fetch
from marlcomm.rllib.runner import Sample

pytestmark = pytest.mark.usefixtures("cluster")

WORLDS = 8
SMALL = {"hidden_size": 8, "message_size": 4}


def config(kind=MAPPOConfig, *, runners=0, learners=0, sampling="synchronous", channel="ddcl", **training):
    return (
        kind()
        .environment("relay")
        .communication(policy_config=SMALL, channel=channel, imports=["third_party", "tiny_world"])
        .training(**training)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=WORLDS // max(runners, 1), sampling=sampling)
        .learners(num_learners=learners)
        .debugging(seed=7)
    )


REPLAY = {"kind": MADDPGConfig, "batch_size": 16, "env_steps_per_update": 16, "learning_starts": 0, "epsilon": 0.3}


# --- where rows go ----------------------------------------------------------------------------------------------------


def test_one_process_puts_nothing_into_the_object_store(built, monkeypatch):
    algorithm = built(config())
    monkeypatch.setattr(ray, "put", refuse)
    algorithm.train()
    algorithm.evaluate()
    assert algorithm.figures["transfer/bytes_per_env_step"] == 0
    assert algorithm.figures["policy/lag"] == 0


def refuse(*arguments, **settings):
    raise AssertionError("nothing is to be put into the object store")


def test_rows_are_stored_once_and_the_driver_never_reads_them(built, monkeypatch):
    algorithm = built(config(runners=1, learners=2, num_epochs=3))
    opened = []
    monkeypatch.setattr(Parcel, "open", lambda parcel: opened.append(parcel))
    samples = []
    sample = algorithm._sample
    monkeypatch.setattr(algorithm, "_sample", lambda: samples.extend(sample()) or samples)
    algorithm.train()
    assert not opened
    assert [type(sample.batch) for sample in samples] == [Shipment]
    env_steps = sum(sample.env_steps for sample in samples)
    moved = algorithm.figures["transfer/bytes_per_env_step"] * env_steps
    assert moved == pytest.approx(sum(sample.batch.bytes for sample in samples))  # however many epochs
    monkeypatch.undo()
    raw = sum(column.nbytes for part in fetch([sample.batch for sample in samples]) for column in part.values())
    assert moved < raw / 2


def test_rows_that_are_lost_are_told(monkeypatch):
    shipment = Shipment.of({"world": np.arange(3)})

    def lost(references):
        raise ray.exceptions.OwnerDiedError("00", None, "")

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(TrainingError, match="rows are lost with the process that played them"):
        fetch([shipment])


def test_a_replay_learns_the_same_through_the_object_store(built):
    here, there = built(config(**REPLAY)), built(config(**REPLAY, runners=2, learners=1))
    for team in (here, there):
        for _ in range(2):
            team.train()
    assert there.figures["transfer/bytes_per_env_step"] > 0
    assert here.updates == there.updates > 0
    for name, value in weights(here).items():
        assert np.allclose(weights(there)[name], value, atol=1e-4), name


# --- asynchronous sampling --------------------------------------------------------------------------------------------


def test_asynchronous_rounds_are_played_with_the_weights_before_the_last_update(built):
    ahead = built(config(sampling="asynchronous", runners=1, channel="silent"))
    behind = built(config(channel="silent"))  # the ratio is compared where no symbol flips
    before = weights(ahead)
    for team in (ahead, behind):
        team.train()
    assert ahead.figures["policy/lag"] == behind.figures["policy/lag"] == 0
    assert same(weights(ahead), weights(behind))  # nothing was to be waited for in the first round
    assert same(played_with(ahead), before)
    first = weights(ahead)
    ahead.train()
    assert ahead.figures["policy/lag"] == 1
    assert ahead.figures["replay/ratio_error"] > 1e-4  # the ratio begins at what the older weights thought
    assert same(played_with(ahead), first)
    behind.train()
    assert behind.figures["replay/ratio_error"] < 1e-4
    in_runner(ahead, 1, count_questions)
    ahead.train()
    assert in_runner(ahead, 1, lambda runner: runner.asked) == 0  # RLlib's own would wait for the round to be played
    module = ahead.get_module()
    learned = weights(ahead)
    assert all(np.array_equal(value.detach(), learned[name]) for name, value in module.named_parameters())


def count_questions(runner):
    """Count in a runner how often it is asked for its state."""
    get_state, runner.asked = runner.get_state, 0

    def counted(*arguments, **settings):
        runner.asked += 1
        return get_state(*arguments, **settings)

    runner.get_state = counted


def played_with(algorithm):
    """The weights of the round that is being played."""
    state = ray.get(algorithm._ahead.state["rl_module"])
    return {name: np.asarray(value) for name, value in state["default_policy"].items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def two_rounds(team):
    """Weights and figures after two more rounds."""
    for _ in range(2):
        team.train()
    unequal = ("time/", "runners/")
    return weights(team), {name: value for name, value in team.figures.items() if not name.startswith(unequal)}


def check_same(now, then):
    assert same(now[0], then[0])
    assert now[1] == then[1]


def test_an_asynchronous_run_continues_exactly(built, tmp_path, monkeypatch):
    """From a checkpoint of either kind, which holds the round in flight; and where a runner dies."""
    whole = built(config(runners=2, sampling="asynchronous", channel="vq", entropy_coeff=[[0, 0.1], [300, 0.0]]))
    two_rounds(whole)
    checkpoint.save(whole, tmp_path / "000002")
    assert (tmp_path / "000002" / "ahead.safetensors").is_file()
    whole.save_to_path(tmp_path / "rllib")
    undisturbed = two_rounds(whole)
    checkpoint.restore(whole, tmp_path / "000002")  # a later round is in flight, and is dropped
    check_same(two_rounds(whole), undisturbed)
    second = type(whole).from_checkpoint(str(tmp_path / "rllib"))
    check_same(two_rounds(second), undisturbed)
    second.stop()
    # A runner dies after it has answered, and its rows with it.
    checkpoint.restore(whole, tmp_path / "000002")
    answers = RoundAhead.answers

    def and_dies(ahead, *arguments):
        monkeypatch.undo()
        answered = answers(ahead, *arguments)
        os.kill(in_runner(whole, 1, lambda runner: os.getpid()), signal.SIGKILL)
        assert [type(answer) for answer in answered.values()] == [Sample, Sample]
        return answered

    monkeypatch.setattr(RoundAhead, "answers", and_dies)
    check_same(two_rounds(whole), undisturbed)


def test_an_asynchronous_replay_continues_exactly(built, tmp_path):
    whole = built(config(**REPLAY, runners=1, sampling="asynchronous"))
    two_rounds(whole)
    checkpoint.save(whole, tmp_path / "000002")
    undisturbed = two_rounds(whole)
    checkpoint.restore(whole, tmp_path / "000002")
    check_same(two_rounds(whole), undisturbed)


@pytest.mark.parametrize(
    ("kind", "runners", "words"),
    [
        (MAPPOConfig, 0, "sampling: got 'asynchronous', wanted 'synchronous', or num_env_runners of at least 1"),
        (IC3NetConfig, 1, "sampling: got 'asynchronous', wanted 'synchronous': algorithm IC3Net takes every row"),
    ],
)
def test_asynchronous_sampling_is_refused_with_its_reason(kind, runners, words):
    with pytest.raises(ConfigError, match=words):
        config(kind, runners=runners, sampling="asynchronous").validate()


def test_sampling_is_one_of_two():
    with pytest.raises(ConfigError, match=r"env_runners\.sampling: got 'async', wanted"):
        config(runners=1, sampling="async").validate()


def test_asynchronous_training_by_the_command(trains_here, tmp_path):
    words = ["run.worlds=8", "run.env_steps=64", "run.evaluate_every=null", "resources.num_env_runners=1"]
    told = ["train", "env.name=lewis_game", "algorithm.name=mappo", *words, "--no-evaluate"]
    refused = trains_here(*told, "run.sampling=asynchronous", "resources.num_env_runners=0", cwd=tmp_path, code=2)
    assert "wanted 'synchronous', or num_env_runners of at least 1" in refused.stderr
    trains_here(*told, "run.sampling=asynchronous", cwd=tmp_path)
    (lines,) = tmp_path.glob("runs/run/*/metrics.jsonl")
    lags = [json.loads(line)["policy/lag"] for line in lines.read_text().splitlines()]
    assert lags[:2] == [0, 1]
