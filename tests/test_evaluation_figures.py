"""What evaluations do and say beyond those of training: tokens without chance, entropies, streams, a learned prior."""

import pytest
import torch

from marlcomm.policies.team import make_channel

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
