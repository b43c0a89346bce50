"""Benchmarks still run: they use parts of the library that nothing else does in this way."""

import pytest
from small_teams import team


@pytest.mark.parametrize("channel", ["continuous", "vq", "daps"])
def test_a_training_step_is_timed(benchmark, channel):
    channels = benchmark("channels")
    step = channels.training_step(channel, {}, worlds=2)
    assert channels.seconds_of(step) > 0


def test_a_bare_loop_learns(benchmark, tmp_path):
    training = benchmark("training")
    config = training.IC3NetConfig().environment("traffic_junction").logging(log_dir=str(tmp_path))
    loop = training.BareLoop(config.env_runners(num_envs_per_env_runner=2))
    before = [weights.clone() for weights in loop.policy.parameters()]
    loop.train()
    assert any(not weights.equal(old) for weights, old in zip(loop.policy.parameters(), before, strict=True))


def test_worlds_are_timed(benchmark):
    worlds, peers = benchmark("worlds"), benchmark("peers")
    assert worlds.measure("particle_spread", {"horizon": 3}, worlds=2) > 0
    figures = peers.beside({2: peers.ours("particle_spread", 2)}, {1: peers.mpe2_spread()})
    assert figures["ratio"] > 0
    assert figures["worlds"] == 2


@pytest.mark.parametrize("algorithm", ["mappo", "maddpg"])
def test_saves_are_timed(benchmark, tmp_path, monkeypatch, algorithm):
    monkeypatch.setattr("ray.put", lambda value: value)
    steps = {"learning_starts": 0, "env_steps_per_update": 64, "replay_env_steps": 256} if algorithm == "maddpg" else {}
    data = team() | {"algorithm": {"name": algorithm, **steps}}
    figures = benchmark("checkpoints").measure(data, 2, tmp_path)
    assert 0 < figures["share_of_a_minute"] < 1
    assert figures.get("replay_rounds") == (4 if algorithm == "maddpg" else None)
    assert figures["mebibytes_written"] > 0


def test_random_configs_are_refused_with_words_or_can_be_built(benchmark):
    """As `python benchmarks/fuzz.py`, which takes a minute, with fewer."""
    figures, broken = benchmark("fuzz").fuzz(seed=1, configs=150, builds=15)
    assert broken == []
    assert figures["built"] > 5
    assert figures["refused"] > 50
