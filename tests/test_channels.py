"""The contract over the whole table, and the identities of each channel."""

import math
import re

import pytest
import third_party
import torch
from torch.distributions import Categorical

from marlcomm import noise
from marlcomm.channels import check_channel
from marlcomm.channels.ddcl import DDCLChannel
from marlcomm.channels.plain import ContinuousChannel, SilentChannel
from marlcomm.channels.settings import DDCLSettings, VQSettings
from marlcomm.channels.vq import VQChannel
from marlcomm.objectives.base import channel_loss
from marlcomm.policies.base import Talk
from marlcomm.policies.team import make_channel
from marlcomm.registry import CHANNELS, ConfigError

VARIANTS = {
    "ddcl": [{}, {"delta": 1.0, "rate_warmup": 1000}, {"limit": 3}],
    "vq": [{}, {"segments": 4, "codebook_size": 5}, {"segments": 8}, {"segments": 2, "shared_codebook": True}],
    "gumbel": [
        {},
        {"tokens": 3, "vocabulary": 7, "temperature": 0.3},
        {"tokens": 4, "end_token": True, "length_weight": 0.01},
        {"tokens": 3, "sender": "autoregressive", "end_token": True, "temperature_schedule": "exponential"},
    ],
    "daps": [
        {},
        {"tokens": 2, "sender": "factorised", "samples": 4, "beta_schedule": "linear"},
        {"tokens": 3, "vocabulary": 5, "end_token": True, "bit_cost": 0.02},
        {"tokens": 2, "end_token": True, "encoder_loss": "ppo"},
        {"st_bypass": True},
    ],
    "gr_mck": [{}, {"tokens": 3, "sender": "autoregressive", "samples": 4}, {"tokens": 2, "end_token": True}],
}
CASES = [(name, settings) for name in CHANNELS.rows for settings in VARIANTS.get(name, [{}])]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("message_size", [8, 16])
def test_every_channel_keeps_the_contract(name, settings, message_size):
    findings = check_channel(lambda: make_channel(name, settings, message_size))
    assert [finding for finding in findings if finding.problem] == []
    assert len(findings) >= 10


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
        (Broken, "raised KeyError: 'codebook'"),
    ],
)
def test_the_checker_says_what_is_wrong(channel, words):
    problems = [finding.problem for finding in check_channel(lambda: channel(8)) if finding.problem]
    assert any(re.search(words, problem) for problem in problems), problems


# --- identities ------------------------------------------------------------------------------------------------------

SAMPLES = 400_000


def uniforms(seed):
    return noise.uniform(noise.world_keys(seed, "t", torch.arange(SAMPLES), torch.zeros(SAMPLES, dtype=torch.int64)), 1)


def errors(z, delta=0.2, receivers_noise=None):
    """DDCL on signals z [M]: symbols and errors."""
    channel = DDCLChannel(1, DDCLSettings(delta=delta))
    symbols = channel.encode(z[:, None], uniforms(0))
    received = channel.decode(symbols, uniforms(0) if receivers_noise is None else receivers_noise)
    return symbols.double()[:, 0], received.double()[:, 0] - z.double()


@pytest.mark.parametrize("steps", [0.0, 0.25, -0.25, 0.5, 1.0, -3.3, 17.6])
def test_ddcl_errors_are_uniform_and_know_nothing_of_the_signal(steps):
    delta = 0.2
    symbols, error = errors(torch.full((SAMPLES,), steps * delta), delta)
    assert abs(float(error.mean())) < 4 * delta / math.sqrt(12 * SAMPLES)
    assert float(error.var()) == pytest.approx(delta**2 / 12, rel=0.01)
    assert float(error.abs().max()) <= delta / 2 * (1 + 1e-4)
    spread = math.sqrt(max(float(symbols.abs().var()), 1e-12) / SAMPLES)
    assert abs(float(symbols.abs().mean()) - abs(steps)) < 4 * spread + 1e-5  # E|m| = |z| / delta, mid-tread


def test_ddcl_without_shared_dither_degrades_gracefully():
    z = 4 * torch.rand(SAMPLES)
    _, error = errors(z, 0.2, receivers_noise=uniforms(1))
    assert abs(float(error.mean())) < 1e-3
    assert abs(float(torch.corrcoef(torch.stack([error, z.double()]))[0, 1])) < 0.01
    # given z, rounding with one dither and subtracting another: d^2 / 6 on average, and d^2 / 12
    assert float(error.var()) == pytest.approx(0.2**2 / 4, rel=0.01)


def test_ddcl_gradients():
    channel = DDCLChannel(3, DDCLSettings(delta=0.5))
    z = torch.tensor([[0.3, -1.0, 0.0]], requires_grad=True)
    sent = channel.transmit(z, torch.rand(1, 3))
    (slope,) = torch.autograd.grad(sent.received.sum(), z, retain_graph=True)
    assert torch.equal(slope, torch.ones_like(z))
    (pull,) = torch.autograd.grad(sent.losses["rate"].sum(), z)
    expected = 2 * z.sign() / (math.log(2) * (2 * z.abs() + 0.5))
    assert torch.allclose(pull, expected, atol=1e-6)
    assert sent.losses["rate"].item() == pytest.approx(math.log2(2.2) + math.log2(5.0) + 0.0, rel=1e-6)


def test_ddcl_warms_its_rate_up_after_updates_only():
    channel = DDCLChannel(2, DDCLSettings(rate_weight=0.4, rate_warmup=1000))
    assert channel.loss_weights()["rate"] == 0
    channel.transmit(torch.randn(4, 2), torch.rand(4, 2))
    assert channel.loss_weights()["rate"] == 0
    channel.after_update(250)
    assert channel.loss_weights()["rate"] == pytest.approx(0.1)
    copy = DDCLChannel(2, channel.settings)
    copy.load_state_dict(channel.state_dict())  # the schedule travels with the weights
    assert copy.loss_weights()["rate"] == pytest.approx(0.1)
    channel.after_update(5000)
    assert channel.loss_weights()["rate"] == pytest.approx(0.4)


def test_ddcl_clips_and_needs_noise():
    channel = DDCLChannel(1, DDCLSettings(delta=1.0, limit=3))
    assert channel.encode(torch.tensor([[100.0], [-100.0]]), torch.full((2, 1), 0.5)).flatten().tolist() == [3, -3]
    with pytest.raises(ValueError, match="ddcl needs noise"):
        channel.encode(torch.zeros(1, 1))


def test_continuous_symbols_are_the_floats_themselves():
    channel = ContinuousChannel(4)
    messages = torch.randn(5, 4)
    symbols = channel.encode(messages)
    assert torch.equal(symbols.view(torch.float32), messages)
    assert channel.alphabet().nominal_bits(symbols.numpy()).tolist() == [128] * 5


def test_silence_sends_nothing():
    channel = SilentChannel(4)
    sent = channel.transmit(torch.randn(5, 4))
    assert sent.symbols.shape == (5, 0)
    assert not sent.received.any()
    assert channel.alphabet().nominal_bits(sent.symbols.numpy()).tolist() == [0] * 5


def test_vq_names_the_nearest_codeword_of_each_segment():
    channel = VQChannel(6, VQSettings(segments=2, codebook_size=9))
    messages = torch.randn(200, 6)
    symbols = channel.encode(messages)
    segments = torch.nn.functional.layer_norm(messages, (6,)).view(200, 2, 3)
    for segment in range(2):
        distances = torch.cdist(segments[:, segment], channel.codebook[segment])
        assert torch.equal(symbols[:, segment].long(), distances.argmin(-1))
        decoded = channel.decode(symbols).view(200, 2, 3)[:, segment]
        assert torch.equal(decoded, channel.codebook[segment][symbols[:, segment].long()].detach())
    assert channel.alphabet().nominal_bits(symbols.numpy()) == pytest.approx(2 * math.log2(9))


def test_vq_losses_by_hand():
    channel = VQChannel(4, VQSettings(codebook_size=2))
    with torch.no_grad():
        channel.codebook.copy_(torch.tensor([[[1.0, 0.0, 1.0, 0.0], [-3.0] * 4]]))
    # layer norm of (5, 1, 5, 1) is (1, -1, 1, -1), up to its epsilon; the nearest codeword is (1, 0, 1, 0)
    sent = channel.transmit(torch.tensor([[5.0, 1.0, 5.0, 1.0]], requires_grad=True))
    assert sent.symbols.tolist() == [[0]]
    assert sent.losses["codebook"].item() == pytest.approx(0.5, abs=1e-4)
    assert sent.losses["commitment"].item() == pytest.approx(0.5, abs=1e-4)
    assert channel.loss_weights() == {"codebook": 1.0, "commitment": 0.25}
    sent.losses["codebook"].sum().backward()
    towards = torch.tensor([0.0, 0.5, 0.0, 0.5])  # by -grad, to (1, -1, 1, -1)
    assert torch.allclose(channel.codebook.grad[0, 0], towards, atol=1e-3)
    assert not channel.codebook.grad[0, 1].any()


@pytest.mark.parametrize(("size", "segments"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 4)])
def test_vq_tells_messages_apart_whatever_their_segments(size, segments):
    torch.manual_seed(0)
    channel = VQChannel(size, VQSettings(segments=segments, codebook_size=16))
    messages = torch.randn(4000, size, requires_grad=True)
    channel.calibrate(messages.detach())
    sent = channel.transmit(messages)
    for symbols in sent.symbols.T:
        assert Categorical(symbols.bincount(minlength=16).float()).entropy() > 2 * math.log(2)  # more than two bits
    (gradient,) = torch.autograd.grad(sent.received.square().sum(), messages)
    assert gradient.norm(dim=-1).median() > 0.01


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
    with pytest.raises(
        ConfigError, match=r"channel.segments: got 3, wanted a divisor of policy.message_size 8 \(nearest: 2\)"
    ):
        make_channel("vq", {"segments": 3}, 8)
    with pytest.raises(ValueError, match="built for messages of size 8, got 7"):
        ContinuousChannel(8).transmit(torch.zeros(2, 7))
