"""Benchmarks still run: they use parts of the library that nothing else does in this way."""

import pytest


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
