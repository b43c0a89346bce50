"""Scalar and residual quantisers, and number formats: hand numbers, gradients, and the library that some stand on."""

import itertools
import math

import numpy as np
import pytest
import torch
import vector_quantize_pytorch as library
from torch.distributions import Categorical

from marlcomm.channels.casts import CastChannel, Int8Channel
from marlcomm.channels.fsq import FSQChannel
from marlcomm.channels.lfq import LFQChannel
from marlcomm.channels.projection import Projection
from marlcomm.channels.rvq import RVQChannel
from marlcomm.channels.settings import (
    BFloat16Settings,
    BSQSettings,
    Float16Settings,
    FSQSettings,
    Int8Settings,
    LFQSettings,
    RVQSettings,
    UniformSettings,
)
from marlcomm.channels.uniform import UniformChannel
from marlcomm.policies.team import make_channel
from marlcomm.registry import CHANNELS, ConfigError
from marlcomm.wire import Code, Packets, WireError


def bits_of(channel, symbols):
    """Bits of messages under the default code, [M]."""
    return Code(channel.alphabet()).lengths(symbols.numpy()).tolist()


def slope(channel, values, of=None):
    """The gradient of the sum of what is heard, to the messages or to a parameter."""
    messages = torch.tensor(values, requires_grad=True)
    (gradient,) = torch.autograd.grad(channel.transmit(messages).received.sum(), messages if of is None else of)
    return gradient


# --- a learned map to few numbers ------------------------------------------------------------------------------------


def test_a_projection_of_the_same_size_learns_nothing():
    projection = Projection(4, 4)
    points = torch.randn(3, 4)
    assert list(projection.parameters()) == []
    assert projection(points) is points
    assert projection.back(points) is points


def test_calibration_spreads_what_is_said():
    torch.manual_seed(0)
    projection = Projection(6, 2)
    messages = 5 + 0.1 * torch.randn(500, 6)
    projection.calibrate(messages)
    points = projection(messages)
    assert points.mean(0).abs().max() < 1e-3
    assert points.std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-3)
    projection.calibrate(torch.ones(500, 6))  # no spread at all: the gain stays finite
    assert torch.isfinite(projection(torch.ones(1, 6))).all()


@pytest.mark.parametrize("name", ["fsq", "lfq", "bsq"])
def test_the_way_back_learns_once_and_from_the_decoded_values(name):
    channel = make_channel(name, {"levels": [5, 5, 5]} if name == "fsq" else {"bits": 3}, 6)
    messages = torch.randn(7, 6, requires_grad=True)
    sent = channel.transmit(messages)
    weight = channel.projection.outwards.weight
    (gradient,) = torch.autograd.grad(sent.received.sum(), weight)
    heard = sent.received.detach() - channel.projection.outwards.bias.detach()
    assert torch.allclose((gradient * weight).sum(), heard.sum(), atol=1e-4)  # linear in the weight, and only once


# --- fsq -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[8, 6, 5], [7, 5, 5, 5, 5], [5], [2], [8, 5, 5, 5]])
def test_fsq_every_index_comes_back(levels):
    channel = FSQChannel(len(levels), FSQSettings(levels=levels))
    symbols = torch.tensor(list(itertools.product(*map(range, levels))), dtype=torch.int32)
    code = Code(channel.alphabet())
    assert np.array_equal(code.decode(code.encode(symbols.numpy())), symbols.numpy())
    values = channel.decode(symbols)
    assert len(torch.unique(values, dim=0)) == len(symbols) == math.prod(levels)
    assert values.abs().max() == 1
    # The points whose squashed values are the middles of the levels name those levels.
    points = torch.atanh((symbols - channel.middle) / channel.reach * (1 - 1e-6)) - channel.shift
    assert torch.equal(channel.encode(points), symbols)


def test_fsq_of_a_thousand_messages_costs_ten_bits():
    channel = FSQChannel(16)
    symbols = channel.encode(torch.randn(50, 16))
    assert channel.settings.levels == [8, 5, 5, 5]
    assert channel.alphabet().nominal_bits(symbols.numpy()) == pytest.approx(math.log2(1000))
    assert bits_of(channel, symbols) == [10] * 50


def test_fsq_by_hand():
    channel = FSQChannel(3, FSQSettings(levels=[8, 5, 2]))
    symbols = channel.encode(torch.tensor([[0.0, 0.5, 0.01], [9.0, -9.0, -0.01], [-9.0, 9.0, 9.0]]))
    # z = 0 sits on the level 0; tanh(0.5) 2.002 = 0.925 rounds to 1
    assert symbols.tolist() == [[4, 3, 1], [7, 0, 0], [0, 4, 1]]
    assert channel.decode(symbols).tolist() == [[0.0, 0.5, 1.0], [0.75, -1.0, -1.0], [-1.0, 1.0, 1.0]]


@pytest.mark.parametrize(("levels", "symmetric"), [([8, 6, 5], False), ([7, 5, 5, 5, 5], False), ([2, 2], True)])
def test_fsq_says_what_the_library_says(levels, symmetric):
    channel = FSQChannel(len(levels), FSQSettings(levels=levels))
    theirs = library.FSQ(levels, preserve_symmetry=symmetric)
    messages = 2 * torch.randn(1, 500, len(levels))
    values, indices = theirs(messages)
    assert torch.equal(channel.encode(messages), theirs.indices_to_level_indices(indices).to(torch.int32))
    assert torch.allclose(channel.transmit(messages).received, values, atol=1e-6)


def test_fsq_gradient_is_that_of_the_squashing():
    channel = FSQChannel(3, FSQSettings(levels=[8, 5, 2]))
    z = [[0.3, -0.7, 1.2]]
    reach, shift = 3.5 * 1.001, math.atanh(0.5 / (3.5 * 1.001))
    expected = [reach / 4 / math.cosh(0.3 + shift) ** 2, 2.002 / 2 / math.cosh(0.7) ** 2, 1 / math.cosh(1.2) ** 2]
    assert slope(channel, z)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_fsq_tells_the_messages_of_an_untrained_team_apart():
    torch.manual_seed(0)
    channel = FSQChannel(16, FSQSettings(levels=[5, 5]))
    messages = 0.5 + 0.05 * torch.randn(2000, 16)
    assert len(torch.unique(channel.encode(messages), dim=0)) < 5
    channel.calibrate(messages)
    for digits in channel.encode(messages).T:
        assert Categorical(digits.bincount(minlength=5).float()).entropy() > 1.5 * math.log(2)


# --- uniform ---------------------------------------------------------------------------------------------------------


def test_uniform_by_hand():
    channel = UniformChannel(5, UniformSettings(bits=3, step="fixed", low=-1.0, high=0.75))  # step 0.25, zero 4
    messages = torch.tensor([[0.0, 0.3, -0.4, 9.0, -9.0]])
    assert channel.encode(messages).tolist() == [[4, 5, 2, 7, 0]]
    assert channel.transmit(messages).received.tolist() == [[0.0, 0.25, -0.5, 0.75, -1.0]]
    assert slope(channel, messages.tolist()).tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]]
    assert list(channel.parameters()) == []
    assert bits_of(channel, channel.encode(messages)) == [15]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 0.0), (-0.1, 2.0), (-1.0, 0.3)])
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("step", ["learned", "fixed"])
def test_uniform_hears_silence_exactly_and_the_largest_numbers_as_the_last_value(low, high, bits, step):
    channel = UniformChannel(1, UniformSettings(bits=bits, step=step, low=low, high=high))
    heard = channel.transmit(torch.tensor([[0.0], [3e38], [-3e38], [1e30]])).received.flatten().tolist()
    half = (high - low) / (2**bits - 1) / 2 + 1e-6
    assert heard[0] == 0.0
    assert heard[1] == heard[3] == pytest.approx(high, abs=half)
    assert heard[2] == pytest.approx(low, abs=half)


def test_uniform_step_learns_by_lsq():
    channel = UniformChannel(4, UniformSettings(bits=3, low=-1.0, high=0.75))
    values, step = [[0.3, -0.4, 9.0, -9.0]], 0.25
    # round(v / s) - v / s inside, the clipped integer outside; Qp = 3, and every element has its own step
    expected = torch.tensor([1 - 0.3 / step, -2 + 0.4 / step, 3.0, -4.0]) / math.sqrt(3)
    assert torch.allclose(slope(channel, values, channel.log_step), step * expected, atol=1e-5)
    shared = UniformChannel(4, UniformSettings(bits=3, shared_step=True, low=-1.0, high=0.75))
    together = step * expected.sum() / math.sqrt(4)  # four elements share it
    assert torch.allclose(slope(shared, values, shared.log_step), together, atol=1e-5)


def test_uniform_step_starts_from_what_is_said():
    messages = torch.tensor([[0.2, 0.0, -6.0], [-0.4, 0.0, 2.0]])
    channel = UniformChannel(3, UniformSettings(bits=4))
    before = channel.steps()[1].item()
    channel.calibrate(messages)
    assert channel.steps().tolist() == pytest.approx([0.6 / math.sqrt(7), before, 8 / math.sqrt(7)])
    fixed = UniformChannel(3, UniformSettings(bits=4, step="fixed"))
    fixed.calibrate(messages)
    assert fixed.steps().tolist() == pytest.approx([2 / 15] * 3)


def test_uniform_step_finds_the_best_one():
    """For a Gaussian and 4 bits the least squares step is 0.335 (Max 1960)."""
    torch.manual_seed(0)
    channel = UniformChannel(1, UniformSettings(bits=4, low=-8.0, high=8.0))
    optimiser = torch.optim.Adam(channel.parameters(), 0.02)
    for _ in range(400):
        messages = torch.randn(2000, 1)
        optimiser.zero_grad()
        (channel.transmit(messages).received - messages).square().mean().backward()
        optimiser.step()
    assert channel.steps().item() == pytest.approx(0.335, rel=0.06)


# --- number formats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "dtype"), [(Float16Settings(), torch.float16), (BFloat16Settings(), torch.bfloat16)]
)
def test_casts_round_as_torch_does_and_cost_sixteen_bits_an_element(settings, dtype):
    channel = CastChannel(6, settings)
    messages = torch.randn(200, 6) * torch.logspace(-9, 4, 200).unsqueeze(-1)
    symbols = channel.encode(messages)
    assert torch.equal(channel.decode(symbols), messages.to(dtype).float())
    assert torch.equal(symbols, messages.to(dtype).view(torch.int16).int() & 0xFFFF)
    assert bits_of(channel, symbols) == [96] * 200


def test_every_finite_pattern_comes_back():
    for settings in (Float16Settings(), BFloat16Settings()):
        channel = CastChannel(1, settings)
        patterns = torch.arange(2**16, dtype=torch.int32).unsqueeze(-1)
        finite = torch.isfinite(patterns.to(torch.int16).view(channel.format)).flatten()
        assert torch.equal(channel.encode(channel.decode(patterns[finite])), patterns[finite])
        with pytest.raises(WireError, match=f"no finite {settings.number}"):
            channel.decode(patterns)


def test_casts_saturate():
    channel = CastChannel(3, Float16Settings())
    messages = [[3e38, -70000.0, 1.0]]
    assert channel.transmit(torch.tensor(messages)).received.tolist() == [[65504.0, -65504.0, 1.0]]
    assert slope(channel, messages).tolist() == [[0.0, 0.0, 1.0]]


def test_int8_by_hand_with_a_fixed_scale():
    channel = Int8Channel(5, Int8Settings(scale="fixed", limit=12.7))
    messages = torch.tensor([[0.0, 0.16, -5.0, 99.0, -3e38]])
    symbols = channel.encode(messages)
    assert symbols.tolist() == [[128, 130, 78, 255, 1]]
    assert channel.decode(symbols)[0].tolist() == pytest.approx([0.0, 0.2, -5.0, 12.7, -12.7])
    assert slope(channel, messages.tolist()).tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]]
    assert bits_of(channel, symbols) == [40]


def test_int8_sends_the_scale_of_a_message_and_counts_it():
    channel = Int8Channel(3)
    messages = torch.tensor([[127.0, -1.0, 0.6], [0.0, 0.0, 0.0], [1e-44, 0.0, 0.0], [2.54e30, 0.0, -1e30]])
    symbols = channel.encode(messages)
    assert symbols[0].tolist() == [0x3F80, 255, 127, 129]  # the scale 1 as bfloat16
    assert channel.decode(symbols)[:3].tolist() == [[127.0, -1.0, 1.0], [0.0] * 3, [0.0] * 3]
    assert channel.decode(symbols)[3].tolist() == pytest.approx([2.54e30, 0.0, -1e30], rel=0.01)
    assert bits_of(channel, symbols) == [3 * 8 + 15] * 4
    assert slope(channel, messages.tolist()).tolist() == [[1.0] * 3] * 4


def test_int8_is_within_half_a_step_and_its_scale():
    channel = Int8Channel(8)
    messages = torch.randn(500, 8) * torch.logspace(-20, 20, 500).unsqueeze(-1)
    largest = messages.abs().amax(-1, keepdim=True)
    error = (channel.transmit(messages).received - messages).abs() / largest
    assert error.max() < (0.5 + 0.25 + 1e-3) / 127 * (
        1 + 2**-8
    )  # rounding, and the scale's when the largest is clipped
    assert torch.isfinite(channel.transmit(torch.tensor([[3e38] + [0.0] * 7])).received).all()


def test_int8_refuses_a_scale_that_is_infinite():
    code = Code(Int8Channel(1).alphabet())  # 15 + 8 bits, the last bit of 3 bytes is padding
    with pytest.raises(WireError, match="outside its alphabet"):
        code.decode(Packets(b"\xff\xff\xfe", np.array([3]), np.array([23])))


# --- lfq and bsq -----------------------------------------------------------------------------------------------------

SIGNS = [(LFQSettings, False), (BSQSettings, True)]


@pytest.mark.parametrize(("settings", "spherical"), SIGNS)
@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_signs_say_what_the_library_says(settings, spherical, bits):
    channel = LFQChannel(bits, settings(bits=bits))
    theirs = library.LFQ(dim=bits, spherical=spherical).eval()
    messages = torch.randn(1, 300, bits)
    quantized, indices, _ = theirs(messages)
    sent = channel.transmit(messages)
    numbers = (sent.symbols << torch.arange(bits - 1, -1, -1)).sum(-1)  # the first bit is the highest
    assert torch.equal(numbers, indices)
    assert torch.equal(sent.received, quantized)
    assert torch.equal(channel.decode(sent.symbols), theirs.indices_to_codes(indices))
    assert torch.equal(sent.symbols > 0, messages > 0)
    assert bits_of(channel, sent.symbols[0]) == [bits] * 300


@pytest.mark.parametrize(("settings", "spherical"), SIGNS)
def test_sign_losses_are_the_librarys_message_by_message(settings, spherical):
    torch.manual_seed(0)
    weights = {"entropy_weight": 0.1, "diversity": 0.0, "inverse_temperature": 2.0}
    channel = LFQChannel(6, settings(bits=6, **weights))
    theirs = library.LFQ(dim=6, spherical=spherical, commitment_loss_weight=1.0)
    messages = torch.randn(200, 6)
    losses = channel.losses(messages, channel.encode(messages))
    alone = [theirs(row.view(1, 1, 6), inv_temperature=2.0, return_loss_breakdown=True)[1] for row in messages]
    entropy, _, commitment = (torch.stack(list(values)) for values in zip(*alone, strict=True))
    assert torch.allclose(losses["commitment"], commitment, atol=1e-5)
    assert torch.allclose(losses["entropy"], entropy, atol=2e-3)  # theirs clips probabilities at 1e-5
    assert channel.loss_weights() == {"commitment": 0.25, "entropy": 0.1, "usage": 1.0}


def test_sign_diversity_has_the_gradient_of_the_batchs_entropy():
    """With the usage at the messages' mean, the shares' mean is the bits' H(E[p]), in value and in gradient."""
    torch.manual_seed(0)
    channel = LFQChannel(4, LFQSettings(bits=4, entropy_weight=0.1, inverse_temperature=0.5))
    messages = (torch.randn(300, 4) + torch.tensor([0.0, 0.5, -1.0, 0.2])).requires_grad_()
    mean = torch.sigmoid(2 * messages).mean(0)
    with torch.no_grad():
        channel.usage.copy_(torch.logit(mean) / channel._USAGE_SCALE)
    whole = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).sum()
    with_share = channel.losses(messages, channel.encode(messages.detach()))
    without = LFQChannel(4, channel.settings.model_copy(update={"diversity": 0.0}))
    alone = without.losses(messages, channel.encode(messages.detach()))["entropy"]
    share = (alone - with_share["entropy"]).mean()
    assert share.item() == pytest.approx(whole.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(value, messages, retain_graph=True)[0] for value in (share, whole))
    assert torch.allclose(ours, theirs, atol=1e-7)
    (still,) = torch.autograd.grad(with_share["usage"].mean(), channel.usage)
    assert still.abs().max() < 1e-5  # the mean is where the usage rests


def test_sign_usage_finds_the_mean_and_moves_no_message():
    torch.manual_seed(0)
    channel = LFQChannel(3, LFQSettings(bits=3, entropy_weight=0.1))
    optimiser = torch.optim.Adam([channel.usage], 3e-3)
    for _ in range(300):
        messages = (torch.randn(256, 3) + torch.tensor([0.0, 1.0, -0.5])).requires_grad_()
        loss = channel.losses(messages, channel.encode(messages.detach()))["usage"].mean()
        assert torch.autograd.grad(loss, messages, retain_graph=True, allow_unused=True) == (None,)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shares = torch.sigmoid(channel._USAGE_SCALE * channel.usage).tolist()
    assert shares == pytest.approx([0.5, 0.841, 0.309], abs=0.03)  # of a normal distribution above 0


def test_sign_gradients_pass_straight_through():
    assert slope(LFQChannel(2, LFQSettings(bits=2)), [[0.3, -4.0]]).tolist() == [[1.0, 1.0]]
    # on the sphere, through x / |x|: (3, 4) / 5 has the Jacobian (I - u u') / 5
    expected = [(1 - 0.6 * (0.6 + 0.8)) / 5, (1 - 0.8 * (0.6 + 0.8)) / 5]
    channel = LFQChannel(2, BSQSettings(bits=2))
    assert slope(channel, [[3.0, 4.0]])[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert channel.transmit(torch.tensor([[3.0, -4.0]])).received[0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


# --- rvq -------------------------------------------------------------------------------------------------------------


def calibrated(size=12, messages=2000, **settings):
    torch.manual_seed(0)
    channel = RVQChannel(size, RVQSettings(**settings))
    said = torch.randn(messages, size)
    channel.calibrate(said)
    return channel, said


def test_rvq_says_what_the_library_says():
    channel, messages = calibrated(stages=3, codebook_size=7)
    normalised = torch.nn.functional.layer_norm(messages, (12,))
    quantized, indices, _ = channel.quantiser.eval()(normalised)
    sent = channel.transmit(messages)
    assert torch.equal(sent.symbols, indices.to(torch.int32))
    assert torch.equal(sent.received, channel.quantiser.get_output_from_indices(indices))
    assert torch.equal(sent.received, quantized)
    assert channel.alphabet().nominal_bits(sent.symbols.numpy()) == pytest.approx(3 * math.log2(7))


def test_rvq_names_the_nearest_codeword_of_what_is_left():
    channel, messages = calibrated(stages=3, codebook_size=7)
    left = torch.nn.functional.layer_norm(messages, (12,))
    for book, symbols in zip(channel.quantiser.codebooks, channel.encode(messages).T, strict=True):
        assert torch.equal(torch.cdist(left, book).argmin(-1), symbols.long())
        left = left - book[symbols.long()]


def test_rvq_prefixes_are_messages():
    channel, messages = calibrated(stages=4)
    whole = channel.encode(messages)
    errors = []
    for count in range(1, 5):
        part = RVQChannel(12, channel.settings.model_copy(update={"stages_sent": count}))
        part.load_state_dict(channel.state_dict())
        sent = part.transmit(messages)
        assert torch.equal(sent.symbols, whole[:, :count])
        dropped = torch.cat([whole[:, :count].long(), torch.full((2000, 4 - count), -1)], dim=-1)
        assert torch.equal(sent.received, channel.quantiser.get_output_from_indices(dropped))
        assert bits_of(part, sent.symbols) == [4 * count] * 2000
        errors.append((sent.received - channel.surrogate(messages)).square().mean().item())
    assert errors == sorted(errors, reverse=True)


def test_rvq_puts_the_number_of_stages_on_the_wire():
    channel, messages = calibrated(messages=400, stages=4, prefix="random")
    noise = torch.linspace(0.001, 0.999, 400).unsqueeze(-1)
    sent = channel.transmit(messages, noise)
    assert torch.equal(sent.symbols[:, 0], torch.arange(4, dtype=torch.int32).repeat_interleave(100))
    for message, count in ((0, 1), (100, 2), (200, 3), (399, 4)):
        assert not sent.symbols[message, 1 + count :].any()
        part = RVQChannel(12, RVQSettings(stages=4, stages_sent=count))
        part.load_state_dict(channel.state_dict())
        assert torch.equal(sent.received[message], part.transmit(messages[message]).received)
    assert channel.alphabet().nominal_bits(sent.symbols.numpy())[[0, 399]].tolist() == [2 + 4, 2 + 16]
    assert bits_of(channel, sent.symbols) == [2 + 4 * count for count in (1, 2, 3, 4) for _ in range(100)]
    with pytest.raises(ValueError, match="needs noise"):
        channel.encode(messages)


def test_rvq_losses_by_hand():
    channel = RVQChannel(2, RVQSettings(stages=2, codebook_size=2, prefix="random"))
    with torch.no_grad():
        for layer, book in zip(
            channel.quantiser.layers, ([[1.0, 0.0], [-9.0, 0.0]], [[0.0, 0.5], [9.0, 9.0]]), strict=True
        ):
            layer.codebook = torch.tensor(book)
    messages = torch.atanh(torch.tensor([[0.8, 0.4], [0.8, 0.4]])).requires_grad_()
    sent = channel.transmit(messages, torch.tensor([[0.2], [0.7]]))
    assert sent.symbols.tolist() == [[0, 0, 0], [1, 0, 0]]
    # left over: (-0.2, 0.4) after the first stage, then (-0.2, -0.1); the second message averages both
    first, second = (0.04 + 0.16) / 2, (0.04 + 0.01) / 2
    for values in sent.losses.values():
        assert values.tolist() == pytest.approx([first, (first + second) / 2])
    books = [layer._codebook.embed for layer in channel.quantiser.layers]
    moved = torch.autograd.grad(sent.losses["codebook"][1], books, retain_graph=True)
    assert moved[0][0, 0].tolist() == pytest.approx(
        [0.1, -0.2]
    )  # (e - residual) / 2 for two elements, halved: two stages
    assert moved[1][0, 0].tolist() == pytest.approx([0.1, 0.05])
    (pull,) = torch.autograd.grad(sent.losses["commitment"][1], messages)
    towards = torch.tensor([-0.2 - 0.2, 0.4 - 0.1]) / 2 * (1 - torch.tensor([0.8, 0.4]) ** 2)  # both stages, and tanh
    assert torch.allclose(pull[1], towards, atol=1e-6)


def test_rvq_starts_from_what_is_said():
    channel, messages = calibrated(stages=2, codebook_size=16)
    for symbols in channel.encode(messages).T:
        assert Categorical(symbols.bincount(minlength=16).float()).entropy() > 2.5 * math.log(2)


@pytest.mark.parametrize("name", ["lfq", "bsq", "rvq"])
@pytest.mark.parametrize("mode", [True, False])
def test_training_mode_changes_nothing(name, mode):
    channel = make_channel(name, {}, 8)
    messages = torch.randn(50, 8)
    before = {key: value.clone() for key, value in channel.state_dict().items()}
    first = channel.transmit(messages)
    channel.train(mode)
    second = channel.transmit(messages)
    assert channel.training is mode
    assert torch.equal(first.symbols, second.symbols)
    assert torch.equal(first.received, second.received)
    assert all(torch.equal(before[key], value) for key, value in channel.state_dict().items())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fsq", {"levels": [8, 1]}, r"channel.levels.1: got 1, wanted greater than or equal to 2"),
        ("fsq", {"levels": []}, r"channel.levels: got \[\], wanted"),
        ("uniform", {"bits": 1}, r"channel.bits: got 1, wanted greater than or equal to 2"),
        ("uniform", {"low": 0.0, "high": 0.0}, r"channel.high: got 0.0, wanted a number above low"),
        ("uniform", {"low": 0.5}, r"channel.low: got 0.5, wanted less than or equal to 0"),
        ("lfq", {"bits": 17}, r"channel.bits: got 17, wanted less than or equal to 16"),
        (
            "rvq",
            {"stages": 3, "stages_sent": 4},
            r"channel.stages_sent: got 4, wanted at most channel.stages \(nearest: 3\)",
        ),
        ("rvq", {"prefix": "some"}, r"channel.prefix: got 'some', wanted 'all' or 'random'"),
    ],
)
def test_wrong_settings_are_named(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        CHANNELS.check(name, settings)
