"""Nothing grows: the short version of benchmarks/soak.py, and what its verdicts rest on."""

import os
import time

import numpy as np
import pytest
from commands import wait_for

from marlcomm.algorithms import MAPPOConfig
from marlcomm.rllib.checkpoint import save

MINUTES = np.arange(600) / 12


@pytest.fixture
def soak(benchmark):
    return benchmark("soak")


def noisy(slope, seed, follows=0.9):
    """A series with a slope, whose errors follow each other as those of real memory do."""
    noise = np.random.default_rng(seed).normal(size=len(MINUTES))
    for step in range(1, len(noise)):
        noise[step] += follows * noise[step - 1]
    return 500 + slope * MINUTES + noise


@pytest.mark.parametrize("seed", range(3))
def test_a_slope_is_found_within_its_interval(soak, seed):
    for true in (0.0, 0.3, 1.5):
        found = soak.slope(MINUTES, noisy(true, seed))
        assert found.low < true < found.high
        assert found.high - found.low < 0.3


def test_what_leaks_is_named_and_what_is_flat_is_not(soak):
    def sample(minutes, leaked):
        flat = {"rss_mb": 400.0, "uss_mb": 300.0, "descriptors": 50}
        runner = {"rss_mb": 400 + 2 * minutes, "uss_mb": 300.0, "descriptors": 50 + leaked}
        store = {"object_store_mb": 5.0 + leaked % 3}
        come_and_gone = {("IDLE", 9): flat} if minutes < 40 else {}
        return soak.Sample(minutes, {("driver", 1): flat, ("runner", 2): runner, ("store", 0): store} | come_and_gone)

    found = soak.judge([sample(minutes, place // 10) for place, minutes in enumerate(MINUTES)], warm_up=10)
    assert found.keys() == {"driver 1", "runner 2", "store"}
    grows = {(name, figure) for name, figures in found.items() for figure, one in figures.items() if not one["flat"]}
    assert grows == {("runner 2", "rss_mb"), ("runner 2", "descriptors")}
    assert found["runner 2"]["rss_mb"]["per_minute"] == pytest.approx(2)


def test_a_few_rounds_leave_no_descriptor_and_no_object_behind(soak, cluster, built, tmp_path):
    team = built(
        MAPPOConfig()
        .environment("relay")
        .communication(policy_config={"hidden_size": 8, "message_size": 4}, imports=["tiny_world"])
        .env_runners(num_env_runners=1, num_envs_per_env_runner=512)
        .evaluation(evaluation_interval=1, evaluation_duration=8)
    )
    (runner,) = team.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)

    def rounds(number):
        for _ in range(number):
            team.train()
            save(team, tmp_path / "checkpoint")
        looks = {
            name: soak.look(soak.psutil.Process(pid)) for name, pid in (("driver", os.getpid()), ("runner", runner))
        }
        return {name: seen["descriptors"] for name, seen in looks.items()}

    open_before = rounds(3)
    time.sleep(2)  # Ray frees the last round a moment after it was dropped
    store_before = soak.object_store_mb()
    open_after = rounds(6)
    assert open_after == open_before
    # a round that stays is far more; rounds differ a little
    wait_for(lambda: soak.object_store_mb() < 1.05 * store_before)
