"""What evaluations do and say beyond those of training: tokens without chance, entropies, streams, a learned prior."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from marlcomm.policies.team import make_channel
from marlcomm.wire import Alphabet, BandwidthMeter, BitCounts, entropy
from marlcomm.wire.entropy import MOST_DIFFERENT

SENDERS = ["factorised", "autoregressive"]
TOKENS = {"vocabulary": 5, "tokens": 3, "end_token": True}


def draws(channel, count, seed):
    return torch.rand(count, channel.noise_size, generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)


# --- tokens without chance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "default"), [("gumbel", "argmax"), ("gr_mck", "argmax"), ("daps", "sampled")])
def test_each_sender_is_evaluated_as_its_published_code_does(name, default):
    assert make_channel(name, {}, 4).settings.eval_tokens == default


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("name", ["gumbel", "gr_mck", "daps"])
def test_draws_do_not_matter_in_evaluations_and_nothing_changes_outside(name, sender):
    torch.manual_seed(0)
    channel = make_channel(name, TOKENS | {"sender": sender, "eval_tokens": "argmax"}, 4)
    sampled = make_channel(name, TOKENS | {"sender": sender, "eval_tokens": "sampled"}, 4)
    sampled.load_state_dict(channel.state_dict())
    messages, (first, second) = torch.randn(200, 4), (draws(channel, 200, seed) for seed in (1, 2))
    outside = channel.encode(messages, first)
    with channel.evaluation(), sampled.evaluation():
        certain = channel.encode(messages, first)
        assert torch.equal(certain, channel.encode(messages, second))
        assert torch.equal(sampled.encode(messages, first), outside)
        sent = channel.transmit(messages.requires_grad_(), first)
    assert torch.equal(sent.symbols, certain)
    assert torch.equal(sent.received, channel.decode(certain, second))
    assert torch.equal(channel.encode(messages, first), outside)
    assert not torch.equal(certain, outside)


@pytest.mark.parametrize("name", ["gumbel", "daps"])
def test_an_autoregressive_sender_reads_the_likeliest_token_it_has_said(name):
    """Each token is the most frequent one of samples that begin with those before it."""
    torch.manual_seed(3)
    settings = {"vocabulary": 3, "tokens": 3, "sender": "autoregressive", "eval_tokens": "argmax"}
    channel, message = make_channel(name, settings, 4), torch.randn(1, 4)
    channel.sender.to_logits.weight.data *= 8  # no ties
    samples = channel.encode(message.expand(30_000, 4), draws(channel, 30_000, 0)).long()
    with channel.evaluation():
        likeliest = channel.encode(message, draws(channel, 1, 1))[0].long()
    for place in range(3):
        follows = (samples[:, :place] == likeliest[:place]).all(-1)
        assert torch.bincount(samples[follows, place], minlength=3).argmax() == likeliest[place]


def test_the_gradient_in_evaluations_is_that_of_the_choice_without_noise():
    torch.manual_seed(0)
    channel = make_channel("gumbel", {"vocabulary": 4, "temperature": 0.7}, 3)
    messages = torch.randn(50, 3, requires_grad=True)
    with channel.evaluation():
        surrogate = channel.surrogate(messages, draws(channel, 50, 0))
    logits = channel.sender.to_logits(messages)
    assert torch.allclose(surrogate, torch.softmax(logits / 0.7, -1) @ channel.reader.embedding[0])


# --- histograms that stay small --------------------------------------------------------------------------------------


def everybody(symbols):
    """Counts of symbols [B, T, N, S], all of them sent."""
    present = np.ones(symbols.shape[:3], bool)
    meter = BandwidthMeter(Alphabet.fixed([2**16] * symbols.shape[-1]))
    return meter, meter.count(symbols, present, present, symbols.shape[0] * symbols.shape[1], symbols.shape[0])


def test_wide_casts_do_not_fill_the_memory():
    """Hardly two messages of 16-bit numbers are equal: what would be kept of each is dropped once it is too much."""
    rng = np.random.default_rng(0)
    rounds = [rng.integers(0, 2**16, (10, 200, 10, 4), dtype=np.int32) for _ in range(6)]  # 20,000 messages each
    tracemalloc.start()
    total = BitCounts()
    for played in rounds:
        meter, counts = everybody(played)
        total = total + counts
        assert total.histogram is None or len(total.histogram) <= MOST_DIFFERENT
    del counts
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert total.messages == 120_000
    assert kept < 2**20
    report = meter.report(total)
    assert report["prefix_bits_per_message"] == 64
    assert not {"distinct_messages", "missing_mass", "joint_entropy_bits_per_message"} & report.keys()


def test_what_is_dropped_does_not_depend_on_the_order(monkeypatch):
    monkeypatch.setattr(entropy, "MOST_DIFFERENT", 5)
    few, many = (everybody(np.arange(n, dtype=np.int32).reshape(1, n, 1, 1))[1] for n in (4, 6))
    others = everybody(np.arange(3, 6, dtype=np.int32).reshape(1, 3, 1, 1))[1]
    assert many.histogram is None
    assert sum([few, others], BitCounts()).histogram is None  # four and three, six in all
    assert sum([few, few], BitCounts()).histogram.total() == 8
    for order in itertools.permutations([few, few, many, others]):
        assert sum(order, BitCounts()) == sum([many, few, others, few], BitCounts())


def test_counts_of_no_more_than_fit_are_all_kept():
    meter, counts = everybody(np.arange(2**16, dtype=np.int32).reshape(1, -1, 1, 1))
    assert meter.report(counts)["distinct_messages"] == 2**16
    _, more = everybody(np.array([7, 8], np.int32).reshape(1, 1, 1, 2))
    assert (counts + more).histogram is None
