"""The contract over the whole table, and the identities of each channel."""

import re

import pytest
import third_party
import torch

from marlcomm.channels import Search, check_channel
from marlcomm.channels.ddcl import DDCLChannel
from marlcomm.channels.plain import ContinuousChannel, SilentChannel
from marlcomm.channels.post_training import PostTrainingChannel
from marlcomm.channels.settings import DDCLSettings, PostTrainingSettings
from marlcomm.objectives.base import channel_loss
from marlcomm.policies.records import Talk
from marlcomm.policies.team import make_channel
from marlcomm.registry import CHANNELS
from marlcomm.wire import WireError

VARIANTS = {
    "post_training": [{}, {"bits": 2}, {"bits": 16}],
    "fsq": [{}, {"levels": [2]}, {"levels": [8, 6, 5]}, {"levels": [3, 2, 4, 5, 7, 9, 256, 255]}],
    "uniform": [{}, {"bits": 2, "shared_step": True}, {"bits": 8, "step": "fixed", "low": 0.0}, {"bits": 16}],
    "int8": [{}, {"scale": "fixed", "limit": 3.0}],
    "lfq": [
        {},
        {"bits": 16},
        {"entropy_weight": 0.1, "inverse_temperature": 3.0},
        {"bits": 3, "commitment_weight": 0.0},
    ],
    "bsq": [{}, {"bits": 16}, {"entropy_weight": 0.1, "diversity": 0.5}, {"bits": 2}],
    "rvq": [{}, {"prefix": "random"}, {"stages": 3, "stages_sent": 2, "codebook_size": 5}, {"stages": 1}],
    "gumbel": [
        {},
        {"tokens": 3, "vocabulary": 7, "temperature": 0.3},
        {"tokens": 4, "end_token": True, "length_weight": 0.01},
        {"tokens": 3, "sender": "autoregressive", "end_token": True, "temperature_schedule": "exponential"},
        {"tokens": 2, "eval_tokens": "sampled"},
    ],
    "daps": [
        {},
        {"tokens": 2, "sender": "factorised", "samples": 4, "beta_schedule": "linear"},
        {"tokens": 3, "vocabulary": 5, "end_token": True, "bit_cost": 0.02},
        {"tokens": 2, "end_token": True, "encoder_loss": "ppo"},
        {"st_bypass": True},
        {"mode": "task", "tokens": 2, "samples": 4},
        {"mode": "task", "fit_weight": 0.0, "encoder_loss": "ppo", "end_token": True, "tokens": 2, "bit_cost": 0.01},
        {"tokens": 2, "end_token": True, "eval_tokens": "argmax"},
    ],
    "gr_mck": [{}, {"tokens": 3, "sender": "autoregressive", "samples": 4}, {"tokens": 2, "end_token": True}],
    "vq": [
        {},
        {"segments": 4, "codebook_size": 5},
        {"segments": 8},
        {"segments": 2, "shared_codebook": True},
        {"segments": 2, "update": "ema", "replace_after": 1, "normalization": "running"},
        {"segments": 4, "shared_codebook": True, "init": "kmeans", "normalization": "none"},
    ],
    "dvq": [
        {},
        {"structure": "hierarchical", "continuous": True, "capacity_choice": "one_hot", "normalization": "running"},
        {"pool": [[2, 3], [1, 5]], "structure": "hierarchical", "penalty": "legacy_code", "evaluate": "sampled"},
        {"pool": [[1, 7]], "continuous": True, "penalty": "legacy_paper", "train_unselected": 0, "balance_steps": 0},
        {"selector": "random", "continuous": True},
        {"selector": "constant", "constant_member": 3},
        {"update": "ema", "replace_after": 1, "structure": "hierarchical", "continuous": True},
    ],
    "ddcl": [
        {},
        {"delta": 1.0, "rate_warmup": 1000},
        {"limit": 3},
        {"dither": "triangular"},
        {"dither": "triangular", "learn_step": True, "eval_dither": "none"},
        {"learn_step": True, "limit": 5},
        {"dither_levels": 64, "code": "dither_conditional"},
    ],
}
CASES = [(name, settings) for name in CHANNELS.rows for settings in VARIANTS.get(name, [{}])]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("message_size", [8, 16])
def test_every_channel_keeps_the_contract(name, settings, message_size):
    findings = check_channel(lambda: make_channel(name, settings, message_size))
    assert [finding for finding in findings if finding.problem] == []
    assert len(findings) >= 10


@pytest.mark.parametrize("name", CHANNELS.rows)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_messages_that_are_no_numbers_are_refused(name, wrong):
    channel = make_channel(name, {}, 8)
    messages = torch.zeros(5, 8)
    messages[3, 2] = wrong
    with torch.no_grad(), pytest.raises(WireError, match="1 messages hold NaN or infinity"):
        channel.transmit(messages, torch.full((5, channel.noise_size), 0.5))


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_a_learner_comes_through_messages_that_are_no_numbers(name, settings):
    channel = make_channel(name, settings, 8)
    messages = torch.randn(5, 8)
    messages[3, 2] = torch.nan
    messages.requires_grad_()
    sent = channel.transmit(messages, torch.full((5, channel.noise_size), 0.5))  # its update is skipped, not stopped
    assert sent.received.shape == messages.shape


@pytest.mark.parametrize("leading", [(), (0,), (0, 3), (2, 3, 4)])
@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_messages_come_in_any_number_of_axes(name, settings, leading):
    channel = make_channel(name, settings, 8)
    messages = torch.randn(*leading, 8, requires_grad=True)
    sent = channel.transmit(messages, torch.full((*leading, channel.noise_size), 0.5))
    assert sent.received.shape == messages.shape
    assert sent.symbols.shape == (*leading, channel.alphabet().columns)
    assert all(loss.shape == leading for loss in sent.losses.values())


def test_third_party_channel_is_short():
    with open(third_party.__file__, encoding="utf-8") as file:
        assert sum(1 for _ in file) < 40


# --- what the checker catches ----------------------------------------------------------------------------------------


class Leaky(third_party.SignChannel):
    """Lets the receiver hear the unquantised value."""

    def transmit(self, messages, noise=None):
        sent = super().transmit(messages, noise)
        return type(sent)(messages, sent.symbols, sent.losses)


class NoGradient(third_party.SignChannel):
    def surrogate(self, messages, noise=None):
        return messages.detach()


class OneWay(third_party.SignChannel):
    """Says that no gradient comes back, and is right, but learns from nothing else."""

    differentiable = False

    def surrogate(self, messages, noise=None):
        return messages.detach()


class NotOneWay(third_party.SignChannel):
    differentiable = False


class Floats(third_party.SignChannel):
    def encode(self, messages, noise=None):
        return messages.sign()


class TooLarge(third_party.SignChannel):
    def encode(self, messages, noise=None):
        return super().encode(messages) + 1


class Random(third_party.SignChannel):
    def encode(self, messages, noise=None):
        return torch.randint_like(messages, 2).to(torch.int32)


class BatchNormed(third_party.SignChannel):
    def encode(self, messages, noise=None):
        return super().encode(messages - messages.mean())


class Counting(third_party.SignChannel):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("calls", torch.zeros(()))

    def encode(self, messages, noise=None):
        self.calls += 1
        return super().encode(messages)


class DetachedLoss(third_party.SignChannel):
    def losses(self, messages, symbols, noise=None):
        return {"rate": messages.detach().abs().sum(-1)}

    def loss_weights(self):
        return {"rate": 1.0}


class Crowded(third_party.SignChannel):
    def losses(self, messages, symbols, noise=None):
        return {"rate": (messages - messages.mean((0, 1))).square().sum(-1)}

    def loss_weights(self):
        return {"rate": 1.0}


class Unweighted(third_party.SignChannel):
    def losses(self, messages, symbols, noise=None):
        return {"rate": messages.abs().sum(-1)}


class Unsearched(third_party.SignChannel):
    wants_credit = True


class Deaf(third_party.SignChannel):
    """Asks for credit and does not listen."""

    wants_credit = True

    def search(self, messages, symbols, noise=None):
        return Search(torch.randn(*messages.shape[:-1], 4, self.message_size), {"size": messages.abs().sum(-1)})

    def credited_losses(self, search, credit=None):
        return dict(search.terms)

    def loss_weights(self):
        return {"size": 1.0}


class Trained(Deaf):
    def search(self, messages, symbols, noise=None):
        return Search(messages.unsqueeze(-2), {"size": messages.abs().sum(-1)})


class Flat(third_party.SignChannel):
    def decode(self, symbols, noise=None):
        return super().decode(symbols).sum(-1)


class Double(third_party.SignChannel):
    def decode(self, symbols, noise=None):
        return super().decode(symbols).double()


class Boundless(third_party.SignChannel):
    def decode(self, symbols, noise=None):
        return super().decode(symbols) / 0.0


class TwoMinded(third_party.SignChannel):
    """Learns from other symbols than it sends."""

    def encode_with_surrogate(self, messages, noise=None):
        return 1 - self.encode(messages), self.surrogate(messages)


class Steep(third_party.SignChannel):
    def surrogate(self, messages, noise=None):
        return (messages - messages.detach()).sqrt()


class Whispering(third_party.SignChannel):
    carries = False


class Total(Unweighted):
    def losses(self, messages, symbols, noise=None):
        return {"rate": messages.abs().sum()}

    def loss_weights(self):
        return {"rate": 1.0}


class Idle(DetachedLoss):
    def losses(self, messages, symbols, noise=None):
        return {"rate": 0.0 * messages.sum(-1)}


class Pooled(third_party.SignChannel):
    """Its parameter learns from the mean over all messages, heard or not."""

    def __init__(self, *args):
        super().__init__(*args)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def losses(self, messages, symbols, noise=None):
        return {"rate": (self.scale * messages.detach().mean()).square().expand(messages.shape[:-1])}

    def loss_weights(self):
        return {"rate": 1.0}


class Wild(third_party.SignChannel):
    """Keeps to its alphabet in training only."""

    def encode(self, messages, noise=None):
        return super().encode(messages) + self.evaluating


class Absorbing(third_party.SignChannel):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("mean", torch.zeros(()))

    def absorb(self, messages, env_steps, peers):
        self.mean.copy_(messages.mean())  # of nothing: NaN


class Drifting(Absorbing):
    def absorb(self, messages, env_steps, peers):
        self.mean.add_(1)

    def encode(self, messages, noise=None):
        return super().encode(messages) + self.mean.int()


class Narrow(third_party.SignChannel):
    def transmit(self, messages, noise=None):
        return super().transmit(messages.float(), noise)


class Renamed(Deaf):
    def credited_losses(self, search, credit=None):
        return {"size" if credit is None else "worth": search.terms["size"]}


class Broken(third_party.SignChannel):
    def decode(self, symbols, noise=None):
        raise KeyError("codebook")


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        (Leaky, "received differs from decode"),
        (NoGradient, "no gradient reaches the sender"),
        (OneWay, "with differentiable = False, one of the losses must have one"),
        (NotOneWay, "has a gradient for the sender in a channel with differentiable = False"),
        (Floats, "wanted torch.int32"),
        (TooLarge, r"not in 0\.\.1"),
        (Random, "other symbols for the same messages"),
        (Crowded, "a message that nobody heard gets a gradient"),
        (BatchNormed, "depend on the other messages of the batch"),
        (Counting, "calls changed while sampling"),
        (DetachedLoss, "loss 'rate' has no gradient"),
        (Unweighted, "wanted the same names"),
        (Unsearched, "Unsearched wants credit, and has no samples"),
        (Deaf, "credit changes no loss"),
        (Trained, "samples carry a gradient"),
        (Flat, r"decode returns shape \(64, 3\), wanted \(64, 3, 8\)"),
        (Double, "decode returns torch.float64"),
        (Boundless, "decode returns numbers that are infinite or NaN"),
        (TwoMinded, "encode_with_surrogate must make the same"),
        (Steep, "the sender's gradient is infinite or NaN"),
        (Whispering, "carries = False has symbols on the wire"),
        (Total, r"loss 'rate' has shape \(\), wanted one value per message"),
        (Idle, "loss 'rate' moves neither messages nor parameters"),
        (Pooled, "the parameters' gradient depends on messages that nobody heard"),
        (Wild, r"in an evaluation: symbol 2 .* not in 0\.\.1"),
        (Absorbing, "mean is infinite or NaN after absorb with 0 messages"),
        (Drifting, r"after absorb: symbol \d in slot"),
        (Narrow, "messages of torch.float64 come back as torch.float32"),
        (Renamed, r"with credit, losses are \['worth'\], without \['size'\]"),
        (Broken, "raised KeyError: 'codebook'"),
    ],
)
def test_the_checker_says_what_is_wrong(channel, words):
    problems = [finding.problem for finding in check_channel(lambda: channel(8)) if finding.problem]
    assert any(re.search(words, problem) for problem in problems), problems


# --- identities ------------------------------------------------------------------------------------------------------


def test_continuous_symbols_are_the_floats_themselves():
    channel = ContinuousChannel(4)
    messages = torch.randn(5, 4)
    symbols = channel.encode(messages)
    assert torch.equal(symbols.view(torch.float32), messages)
    assert channel.alphabet().nominal_bits(symbols.numpy()).tolist() == [128] * 5


def test_quantising_afterwards_covers_what_the_team_says():
    channel = PostTrainingChannel(3, PostTrainingSettings(bits=2, clipped_share=0.0))
    messages = torch.rand(500, 3) * torch.tensor([3.0, 6.0, 0.0]) + torch.tensor([-3.0, 0.0, 7.0])
    messages[0], messages[1] = torch.tensor([-3.0, 0.0, 7.0]), torch.tensor([0.0, 6.0, 7.0])
    channel.calibrate(messages)
    wanted = torch.tensor([[0, 0, 0], [1, 1, 0], [3, 3, 3]], dtype=torch.int32)
    spoken = torch.tensor([[-9.0, -1.0, 6.9], [-2.1, 2.5, 7.0], [0.2, 9.0, 7.1]])
    assert torch.equal(channel.encode(spoken)[:, :2], wanted[:, :2])
    assert channel.decode(wanted)[:, :2].flatten().tolist() == pytest.approx([-3, 0, -2, 2, 0, 6])
    error = (channel.decode(channel.encode(messages)) - messages).abs().max(0).values
    assert (error <= torch.tensor([0.5, 1.0, 1e-6]) + 1e-6).all()


def test_a_clipped_share_lies_half_on_each_side():
    channel = PostTrainingChannel(1, PostTrainingSettings(bits=2, clipped_share=0.2))
    channel.calibrate(torch.arange(101.0).flip(0).unsqueeze(-1))
    assert (channel.low.item(), channel.step.item()) == (10, pytest.approx(80 / 3))
    assert channel.encode(torch.tensor([[0.0], [10.0], [90.0], [100.0]])).tolist() == [[0], [0], [3], [3]]
    channel.calibrate(torch.full((5, 1), 7.0))
    channel.alphabet().check(channel.encode(torch.tensor([[6.9], [7.0], [7.1]])).numpy())


def test_silence_sends_nothing():
    channel = SilentChannel(4)
    sent = channel.transmit(torch.randn(5, 4))
    assert sent.symbols.shape == (5, 0)
    assert not sent.received.any()
    assert channel.alphabet().nominal_bits(sent.symbols.numpy()).tolist() == [0] * 5


# --- use -------------------------------------------------------------------------------------------------------------


def test_unheard_senders_pay_and_learn_nothing():
    channel = DDCLChannel(2, DDCLSettings(rate_weight=1.0))
    messages = torch.randn(1, 1, 3, 2, requires_grad=True)
    sent = channel.transmit(messages, torch.rand(1, 1, 3, 2))
    acts = torch.tensor([[[True, True, False]]])
    spoke = torch.tensor([[[True, False, True]]])
    loss = channel_loss(channel, Talk(sent.symbols, spoke, sent.losses), acts, torch.tensor(1.0))
    assert loss.total.item() == pytest.approx(sent.losses["rate"][0, 0, 0].item())
    loss.total.backward()
    assert messages.grad[0, 0, 0].abs().sum() > 0
    assert not messages.grad[0, 0, 1:].any()


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="built for messages of size 8, got 7"):
        ContinuousChannel(8).transmit(torch.zeros(2, 7))
