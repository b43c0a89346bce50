"""Keyed noise: the same draw whatever the batch, the order or the process."""

import subprocess
import sys

import pytest
import torch

from marlcomm import noise

MASK = (1 << 64) - 1


def mix_by_hand(x: int) -> int:
    """The finaliser of SplitMix64 on Python's unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


@pytest.mark.parametrize("word", [0, 1, 12345, (1 << 63) - 1, 1 << 63, MASK])
def test_the_mixer_is_splitmix64(word):
    assert int(noise.mix(torch.tensor([signed(word)]))) == signed(mix_by_hand(word))


def test_a_draw_is_the_hash_of_all_its_counters():
    world, episode, step, slot = 7, 3, 5, 2
    key = 11
    for counter in (noise.stream_number("dither"), world, episode, step, slot):
        key = mix_by_hand((key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK)
    keys = noise.world_keys(11, "dither", torch.tensor([world]), torch.tensor([episode]))
    assert int(noise.words(keys, 6, 4)[0, step, slot]) == signed(key)


def test_a_world_draws_the_same_in_any_batch():
    worlds = torch.arange(40)
    whole = noise.uniform(noise.world_keys(1, "s", worlds, torch.zeros_like(worlds)), 9, 3)
    shuffled = noise.permutation(40, 0, "test")
    part = noise.uniform(noise.world_keys(1, "s", worlds[shuffled], torch.zeros_like(worlds)), 9, 3)
    assert torch.equal(part, whole[shuffled])


def test_a_slice_of_steps_can_be_drawn_alone():
    keys = noise.world_keys(1, "s", torch.arange(4), torch.arange(4))
    assert torch.equal(noise.uniform(keys, 2, 3, first=5), noise.uniform(keys, 9, 3)[:, 5:7])


def test_another_process_draws_the_same():
    script = (
        "import torch; from marlcomm import noise;"
        "print(noise.words(noise.world_keys(5, 'x', torch.arange(3), torch.arange(3)), 2).flatten().tolist())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = noise.words(noise.world_keys(5, "x", torch.arange(3), torch.arange(3)), 2).flatten().tolist()
    assert other.strip() == str(here)


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "other"}, {"world": 1}, {"episode": 1}])
def test_every_part_of_the_key_matters(change):
    def draws(seed=0, stream="s", world=0, episode=0):
        return noise.uniform(noise.world_keys(seed, stream, torch.tensor([world]), torch.tensor([episode])), 1000)

    a, b = draws().flatten(), draws(**change).flatten()
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.15


def test_uniforms_are_uniform_and_open():
    u = noise.uniform(noise.world_keys(0, "s", torch.arange(200), torch.zeros(200, dtype=torch.int64)), 1000).double()
    assert u.min() > 0
    assert u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 4 / (12 * u.numel()) ** 0.5
    assert abs(float(u.var()) * 12 - 1) < 0.02
    extreme = noise.to_uniform(torch.tensor([0, -1]))
    assert extreme[0] > 0
    assert extreme[1] < 1
    assert float(extreme.double().sum()) == 1.0  # symmetric


def test_categorical_samples_have_the_right_law():
    logits = torch.tensor([0.3, -1.0, 1.2])
    u = noise.uniform(noise.world_keys(0, "s", torch.arange(100), torch.zeros(100, dtype=torch.int64)), 2000)
    samples = noise.categorical(logits.expand(*u.shape, 3), u)
    shares = torch.bincount(samples.flatten(), minlength=3) / samples.numel()
    assert torch.allclose(shares, torch.softmax(logits, 0), atol=5e-3)


def test_permutations_are_permutations_and_differ():
    first, second = noise.permutation(64, 0, "m", 1, 0), noise.permutation(64, 0, "m", 1, 1)
    assert torch.equal(first.sort().values, torch.arange(64))
    assert not torch.equal(first, second)
    assert torch.equal(first, noise.permutation(64, 0, "m", 1, 0))
