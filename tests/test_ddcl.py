"""The dithered channel: its identities, its learned step, and the code that knows the dither."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from marlcomm import noise
from marlcomm.channels import check_channel
from marlcomm.channels.ddcl import DDCLChannel
from marlcomm.channels.settings import DDCLSettings
from marlcomm.registry import CHANNELS, ConfigError
from marlcomm.wire import Alphabet, BandwidthMeter, Packets, WireError
from marlcomm.wire.conditional import MOST_EXEMPLARS, TOTAL, WIDEST, ConditionalTables, entropies_given_dither
from marlcomm.wire.conditional_codes import ConditionalCode, Prefixes, read_stream, write_stream
from marlcomm.wire.entropy import plug_in_entropy
from marlcomm.wire.published import paper_bits

SAMPLES = 400_000
DELTA = 0.2
SIGNALS = [0.0, 0.25, -0.25, 0.5, 1.0, -3.3, 17.6]  # in steps
GOALS = np.array([200, 100, 50, 25, 12, 1])  # how often each of the six goals of the DDCL paper comes


def uniforms(seed, size=1, samples=SAMPLES):
    keys = noise.world_keys(seed, "t", torch.arange(samples), torch.zeros(samples, dtype=torch.int64))
    return noise.uniform(keys, size)


def send(z, channel, draws, receivers_draws=None):
    """Signals z [M] through a channel of one element: symbols and errors, in float64."""
    symbols = channel.encode(z[:, None], draws)
    received = channel.decode(symbols, draws if receivers_draws is None else receivers_draws)
    return symbols[:, 0].double(), (received[:, 0] - z).double()


def ddcl(size=1, **settings):
    return DDCLChannel(size, DDCLSettings(**{"delta": DELTA} | settings))


def constant(steps):
    return torch.full((SAMPLES,), steps * DELTA)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


# --- shared dither ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", SIGNALS)
def test_errors_are_uniform_whatever_the_signal(steps):
    _, error = send(constant(steps), ddcl(), uniforms(0))
    assert abs(float(error.mean())) < 4 * DELTA / math.sqrt(12 * SAMPLES)
    assert float(error.var()) == pytest.approx(DELTA**2 / 12, rel=0.01)
    assert float(error.abs().max()) <= DELTA / 2 * (1 + 1e-4)
    assert kstest((error / DELTA + 0.5).numpy(), "uniform").statistic < 2 / math.sqrt(SAMPLES)  # p about 0.0007


def test_errors_know_nothing_of_the_signal():
    z = 4 * torch.rand(SAMPLES, generator=torch.Generator().manual_seed(0)) - 2
    _, error = send(z, ddcl(), uniforms(0))
    assert abs(correlation(error, z)) < 4 / math.sqrt(SAMPLES)
    assert abs(correlation(error.square(), z.square())) < 4 / math.sqrt(SAMPLES)


@pytest.mark.parametrize("steps", SIGNALS)
def test_symbols_are_as_large_as_the_signal_on_average(steps):
    """Mid-tread: E|m| = |z| / delta, so silence is the symbol 0."""
    symbols, _ = send(constant(steps), ddcl(), uniforms(0))
    spread = float(symbols.abs().std()) / math.sqrt(SAMPLES)
    assert abs(float(symbols.abs().mean()) - abs(steps)) < 4 * spread + 1e-5


def test_the_centre_of_another_convention_is_half_a_step_off():
    """Bins around the integers with centres at (m + 1/2) delta, as published here and there, mix two conventions."""
    channel, draws, z = ddcl(), uniforms(0), constant(-3.3)
    symbols = channel.encode(z[:, None], draws)[:, 0].double()
    dither = ((draws - 0.5) * DELTA)[:, 0].double()
    mixed = (symbols + 0.5) * DELTA - dither - z.double()
    assert float(mixed.mean()) == pytest.approx(DELTA / 2, abs=4 * DELTA / math.sqrt(12 * SAMPLES))


def test_ends_with_different_dither_lose_precision_only():
    z = 4 * torch.rand(SAMPLES, generator=torch.Generator().manual_seed(0))
    _, error = send(z, ddcl(), uniforms(0), uniforms(1))
    assert abs(float(error.mean())) < 4 * DELTA / math.sqrt(4 * SAMPLES)
    assert abs(correlation(error, z)) < 4 / math.sqrt(SAMPLES)
    # given z, rounding with one dither and subtracting another: d^2 / 6 on average, and d^2 / 12
    assert float(error.var()) == pytest.approx(DELTA**2 / 4, rel=0.01)


def test_gradients_by_hand():
    channel = ddcl(3, delta=0.5)
    z = torch.tensor([[0.3, -1.0, 0.0]], requires_grad=True)
    sent = channel.transmit(z, torch.rand(1, 3))
    (slope,) = torch.autograd.grad(sent.received.sum(), z, retain_graph=True)
    assert torch.equal(slope, torch.ones_like(z))
    (pull,) = torch.autograd.grad(sent.losses["rate"].sum(), z)
    assert torch.allclose(pull, 2 * z.sign() / (math.log(2) * (2 * z.abs() + 0.5)), atol=1e-6)
    assert pull[0, 2] == 0
    assert sent.losses["rate"].item() == pytest.approx(math.log2(2.2) + math.log2(5.0) + 0.0, rel=1e-6)


def test_the_rate_warms_up_after_updates_only():
    channel = ddcl(2, rate_weight=0.4, rate_warmup=1000)
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


def test_it_clips_and_the_meter_sees_it():
    channel = ddcl(2, delta=1.0, limit=3)
    symbols = channel.encode(torch.tensor([[100.0, 0.0], [-100.0, 1.0]]), torch.full((2, 2), 0.5))
    assert symbols.tolist() == [[3, 0], [-3, 1]]
    meter, everybody = BandwidthMeter(channel.alphabet()), np.ones((1, 2), bool)
    counts = meter.count(symbols[None].numpy(), everybody, everybody, 1, 1)
    assert (counts.signed_symbols, counts.clipped_symbols) == (4, 2)
    assert meter.report(counts + counts)["clipped_symbols"] == 0.5
    tokens = BandwidthMeter(Alphabet.fixed([4, 4]))
    zeros = np.zeros((1, 2, 2), np.int32)
    assert "clipped_symbols" not in tokens.report(tokens.count(zeros, everybody, everybody, 1, 1))


def test_it_needs_noise():
    for settings in ({}, {"dither": "triangular"}, {"dither_levels": 8}):
        with pytest.raises(ValueError, match="ddcl needs noise"):
            ddcl(**settings).encode(torch.zeros(1, 1))


# --- without shared dither, and dither on levels ---------------------------------------------------------------------


@pytest.mark.parametrize("steps", SIGNALS)
def test_triangular_noise_is_unbiased_without_being_shared(steps):
    channel = ddcl(dither="triangular")
    assert channel.noise_size == 2
    _, error = send(constant(steps), channel, uniforms(0, 2), receivers_draws=uniforms(1, 2))
    assert abs(float(error.mean())) < 4 * DELTA / math.sqrt(4 * SAMPLES)
    assert float(error.var()) == pytest.approx(DELTA**2 / 4, rel=0.01)


@pytest.mark.parametrize("levels", [2, 5, 64])
@pytest.mark.parametrize("within", [-0.5, -0.2, 0.0, 0.4])
def test_dither_on_levels_is_exact_on_its_grid(levels, within):
    """Over all L levels the error takes each value of a grid of spacing delta / L once.

    The grid is centred at minus the signal's distance to the nearest multiple of delta / L, `within` in cells.
    """
    channel = ddcl(delta=1.0, dither_levels=levels)
    draws = ((torch.arange(levels, dtype=torch.float64) + 0.5) / levels).float()[:, None]
    z = torch.full((levels,), (-7 * levels + 3 + within + 1e-4) / levels)
    _, error = send(z, channel, draws)
    grid = (np.arange(levels) - (levels - 1) / 2 - within) / levels
    assert np.allclose(np.sort(error.numpy()), grid, atol=1e-3 / levels)
    assert float(error.var(correction=0)) == pytest.approx((1 - levels**-2) / 12, rel=1e-2)


def test_levels_are_cells_of_the_uniform_draw():
    channel = ddcl(2, dither_levels=64, code="dither_conditional")
    levels = channel.context(uniforms(0, 2, 64_000))
    assert levels.shape == (64_000, 2)
    assert (levels.min(), levels.max()) == (0, 63)
    assert float((levels.flatten().bincount() / 2000 - 1).abs().max()) < 0.15
    assert ddcl(dither_levels=64).context(torch.rand(3, 1)) is None


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dither", ["shared", "triangular"])
def test_evaluation_may_leave_the_dither_out(dither):
    channel = ddcl(3, eval_dither="none", dither=dither, delta=0.5)
    z = torch.tensor([0.6, -0.2, 1.3]).expand(50, 3)
    draws, rounded = uniforms(2, channel.noise_size, 50), torch.tensor([0.5, 0.0, 1.5])
    assert not torch.equal(channel.transmit(z, draws).received, rounded.expand(50, 3))
    channel.evaluating = True
    sent = channel.transmit(z, draws)
    assert torch.equal(sent.symbols, torch.tensor([1, 0, 3], dtype=torch.int32).expand(50, 3))
    assert torch.equal(sent.received, rounded.expand(50, 3))
    assert [finding for finding in check_channel(lambda: DDCLChannel(8, channel.settings)) if finding.problem] == []


def evaluating(settings):
    channel = DDCLChannel(8, settings)
    channel.evaluating = True
    return channel


def test_evaluation_keeps_the_dither_unless_told():
    z, draws = torch.randn(100, 4), uniforms(0, 4, 100)
    assert torch.equal(ddcl(4).encode(z, draws), evaluating(DDCLSettings(delta=DELTA)).encode(z, draws))


# --- the learned step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dither", "variance"), [("shared", 1 / 12), ("triangular", 1 / 4)])
def test_the_step_learns_by_the_true_slope_of_the_receivers_loss(dither, variance):
    """E received^2 = z^2 + variance delta^2, whose slope in log delta is 2 variance delta^2."""
    channel = ddcl(2, learn_step=True, delta=0.5, dither=dither)
    z = torch.tensor([0.13, -2.2]).expand(SAMPLES, 2)
    received = channel.transmit(z, uniforms(0, channel.noise_size)).received
    (slope,) = torch.autograd.grad(received.square().mean(0).sum(), channel.log_step)
    assert slope.tolist() == pytest.approx([2 * variance * 0.25] * 2, rel=0.05)


def test_the_rate_widens_the_step():
    channel = ddcl(2, learn_step=True, delta=0.5)
    z = torch.tensor([[0.3, -1.0]])
    (slope,) = torch.autograd.grad(channel.losses(z, torch.zeros(1, 2))["rate"].sum(), channel.log_step)
    # d/d(ln delta) of log2(2 |z| / delta + 1)
    assert torch.allclose(slope, -2 * z[0].abs() / (math.log(2) * (2 * z[0].abs() + 0.5)))


def test_steps_of_elements_settle_where_precision_is_worth_its_bits():
    """Minimise weight * error^2 + rate for two elements: the one whose error costs more gets the finer step."""
    torch.manual_seed(0)
    channel, price = ddcl(2, learn_step=True, delta=0.5), torch.tensor([400.0, 4.0])
    optimiser = torch.optim.Adam(channel.parameters(), lr=0.05)
    for _ in range(400):
        z = torch.randn(256, 2)
        sent = channel.transmit(z, torch.rand(256, 2))
        loss = (price * (sent.received - z).square()).sum(-1).mean() + sent.losses["rate"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # The minimum of price delta^2 / 12 + E log2(2 |z| / delta + 1) over delta, by quadrature.
    steps, z = torch.linspace(0.02, 3, 3000)[:, None], torch.linspace(-6, 6, 2001)
    law = torch.exp(-z.square() / 2) / torch.exp(-z.square() / 2).sum()
    rate = (torch.log2(2 * z.abs() / steps + 1) * law).sum(-1)
    best = [float(steps[(weight * steps[:, 0] ** 2 / 12 + rate).argmin()]) for weight in price.tolist()]
    assert channel.step().tolist() == pytest.approx(best, rel=0.1)
    assert best[0] < 0.5 < best[1]


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dither": "triangular", "dither_levels": 64}, r"dither_levels: got 64, wanted null with dither 'triangular'"),
        ({"code": "dither_conditional"}, r"nearest: dither_levels 64"),
        ({"code": "dither_conditional", "dither": "triangular"}, r"nearest: code 'marginal'"),
        (
            {"code": "dither_conditional", "dither_levels": 64, "eval_dither": "none"},
            r"eval_dither: got 'none', wanted 'shared'",
        ),
        ({"dither": "uniform"}, r"channel.dither: got 'uniform', wanted 'shared' or 'triangular'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        CHANNELS.check("ddcl", settings)


# --- what the paper counts -------------------------------------------------------------------------------------------


def test_paper_bits_are_no_code_length():
    symbols = np.array([[0], [-1], [1]], np.int32)
    assert (2.0 ** -paper_bits(symbols)).sum() == pytest.approx(1 + 2 / 3)  # Kraft allows 1
    sums = [(2.0 ** -paper_bits(np.arange(-m, m + 1)[:, None])).sum() for m in (10, 100, 1000, 10_000)]
    assert np.allclose(np.diff(sums), math.log(10), atol=0.15)  # and it grows without end, as ln m
    six = np.array([0, 1, -1, 2, -2, 3])[:, None]  # the paper's own example, against an entropy of 1.81 bits
    assert np.average(paper_bits(six), weights=GOALS) == pytest.approx(0.84, abs=0.005)
    assert plug_in_entropy(GOALS) == pytest.approx(1.81, abs=0.005)
    assert paper_bits(np.array([[1, -3, 0]], np.int32)) == pytest.approx(math.log2(3) + math.log2(7))


# --- the code that knows the dither ----------------------------------------------------------------------------------

LEVELS = 64
# A point for each goal, in steps: any two are more than a step apart, few lie at the centre of a bin.
POINTS = np.array([[0.5, 0.5], [-0.9, 0.4], [0.6, -1.3], [2.4, 0.6], [-1.6, -0.8], [-1.4, 1.6]])


def speaker(samples, seed, points=POINTS):
    """A deterministic speaker, which names each goal by its point: signals [M, 2] in steps, and the goals [M]."""
    goals = np.random.default_rng(seed).choice(len(GOALS), samples, p=GOALS / GOALS.sum())
    return points[goals], goals


def dithered(signals, seed):
    """Symbols and levels [M, D] of signals in steps."""
    channel = ddcl(signals.shape[1], delta=1.0, dither_levels=LEVELS, code="dither_conditional")
    draws = uniforms(seed, signals.shape[1], len(signals))
    symbols = channel.encode(torch.from_numpy(signals).float(), draws)
    return symbols.numpy(), channel.context(draws).numpy()


def entropy(symbols):
    return plug_in_entropy(np.unique(symbols, axis=0, return_counts=True)[1])


def test_tables_are_differences_of_the_distribution_function():
    signals = np.random.default_rng(0).normal(1.3, 2.0, (20_000, 1))
    tables = ConditionalTables.fit(signals)
    table, ordered = tables.tables[0], np.sort(signals[:, 0])
    symbols = np.arange(table.low, table.low + table.size)
    for level in (0, 17, 63):
        dither = (level + 0.5) / LEVELS - 0.5
        below = [np.searchsorted(ordered, symbols + half - dither) / len(ordered) for half in (-0.5, 0.5)]
        assert np.allclose(table.frequencies[level, 1:] / TOTAL, below[1] - below[0], atol=2e-3)
    assert (table.frequencies.sum(axis=1) == TOTAL).all()
    assert table.frequencies.min() >= 1


def test_symbols_of_cells_are_those_of_the_channel():
    signals = np.random.default_rng(1).normal(0, 5, (50_000, 2))
    symbols, levels = dithered(signals, 3)
    cells = np.floor(LEVELS * signals.astype(np.float32).astype(np.float64) + 0.5).astype(np.int64)
    assert ((cells + levels) // LEVELS == symbols).mean() > 0.9999  # float32 decides ties its own way


def test_one_signal_is_expected_in_its_own_cell_and_half_as_much_in_the_next():
    tables = ConditionalTables.fit(np.array([[0.25]]))  # cell 16: under level 47 the symbol 0, but 1 from cell 17 on
    bits = tables.ideal_bits(np.array([[0], [1], [2]], np.int32), np.full((3, 1), 47))
    # a quarter, a half, a quarter for the cells 15, 16 and 17, and half an observation for 0, 1 and the escape
    assert bits == pytest.approx(-np.log2(np.array([3 + 2, 1 + 2, 2]) / 10) + [0, 0, 1], abs=1e-3)


def random_dithers(count):
    return np.random.default_rng(1).uniform(-0.5, 0.5, (count, 2))


def test_knowing_the_dither_a_speaker_tells_no_more_than_its_goals():
    """Six goals in two dimensions: H(m) is about twice H(goal), but H(m | eps) is never above it."""
    signals, goals = speaker(200_000, 0)
    sent = plug_in_entropy(np.bincount(goals))
    assert sent == pytest.approx(1.81, abs=0.01)
    symbols, _ = dithered(signals, 0)
    assert entropy(symbols) == pytest.approx(3.5, abs=0.1)
    assert np.allclose(entropies_given_dither(signals, random_dithers(400)), sent)
    # The same from what is on the wire: all that is sent under one dither.
    channel = ddcl(2, delta=1.0, dither_levels=LEVELS)
    for level in (0, 31, 50):
        draws = torch.full((len(signals), 2), (level + 0.5) / LEVELS)
        one = channel.encode(torch.from_numpy(signals).float(), draws)
        assert entropy(one.numpy()) <= sent + 1e-9


def test_crowded_points_are_told_apart_only_under_some_dithers():
    signals, goals = speaker(50_000, 0, POINTS / 4)
    given = entropies_given_dither(signals, random_dithers(400))
    assert (given <= plug_in_entropy(np.bincount(goals)) + 1e-9).all()
    assert given.min() < given.max() - 0.5


def test_the_conditional_code_is_shorter_on_held_out_messages():
    tables = ConditionalTables.fit(speaker(20_000, 0)[0])
    signals, _ = speaker(20_000, 1)
    symbols, levels = dithered(signals, 1)
    lengths, ideal = ConditionalCode(tables).lengths(symbols, levels), tables.ideal_bits(symbols, levels)
    # No code of one dimension after the other that knows no dither can be below this, even fitted on the sample.
    marginal = sum(entropy(column[:, None]) for column in symbols.T)
    assert ideal.mean() <= lengths.mean() < marginal
    assert ideal.mean() < marginal - 1
    # And none that knows it can be below this.
    every = ((np.arange(LEVELS) + 0.5) / LEVELS - 0.5)[:, None]
    least = sum(entropies_given_dither(signals[:, [d]], every).mean() for d in range(2))
    assert least - 0.01 <= ideal.mean() <= least + 0.02


def test_whole_messages_cost_no_more_than_the_goals():
    tables = ConditionalTables.fit(speaker(20_000, 0)[0], joint=True)
    signals, goals = speaker(20_000, 1)
    symbols, levels = dithered(signals, 1)
    sent = plug_in_entropy(np.bincount(goals))
    assert sent - 0.01 <= tables.ideal_bits(symbols, levels).mean() <= sent + 0.01
    # Huffman's redundancy for these six weights is 0.03 bits.
    assert ConditionalCode(tables).lengths(symbols, levels).mean() == pytest.approx(1.84, abs=0.03)
    assert entropy(symbols) > 3.4  # what a code of whole messages needs that does not look at the dither
    assert 8 * len(write_stream(tables, symbols, levels)) / len(symbols) == pytest.approx(sent, abs=0.01)


def test_whole_messages_are_known_only_where_they_repeat():
    rng = np.random.default_rng(0)
    assert ConditionalTables.fit(rng.normal(size=(5000, 2)), joint=True).exemplars is None
    repeated = np.repeat(rng.normal(size=(40, 2)), 100, axis=0)
    whole = ConditionalTables.fit(np.concatenate([repeated, rng.normal(size=(3000, 2))]), joint=True).exemplars
    assert len(whole) == MOST_EXEMPLARS
    assert np.isin(100, whole.counts)
    assert whole.counts.sum() + whole.others == 7000


def test_exemplars_that_a_dither_merges_are_one_message():
    signals = np.array([[0.25, 0.0], [0.25, 0.0], [0.4, 0.0], [0.4, 3.0]])
    whole = ConditionalTables.fit(signals, joint=True).exemplars
    assert whole.cells.tolist() == [[16, 0], [26, 0], [26, 192]]
    frequencies, which = whole.groups(np.array([[0, 0], [63, 0], [40, 0], [0, 0]]))
    # floor((16 + k) / 64) and floor((26 + k) / 64): equal at k = 0 and k = 63, 0 and 1 at k = 40
    assert frequencies[which].tolist() == [[8, 0, 3, 5], [8, 0, 3, 5], [5, 3, 3, 5], [8, 0, 3, 5]]
    values = np.array([[0, 0], [1, 3], [1, 0], [7, 7]])
    assert whole.entries(values, np.array([[0, 0], [63, 0], [40, 0], [0, 0]])).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 30.0])
def test_every_message_comes_back(scale, joint):
    rng = np.random.default_rng(0)
    said = scale * rng.normal(size=(40, 3))
    tables = ConditionalTables.fit(said[rng.integers(40, size=3000)], joint=joint)
    signals = np.concatenate([said[rng.integers(40, size=1000)], 3 * scale * rng.standard_t(2, size=(1000, 3))])
    symbols, levels = dithered(signals, 5)
    code = ConditionalCode(tables)
    packets = code.encode(symbols, levels)
    assert (tables.exemplars is not None) == joint
    assert np.array_equal(code.decode(packets, levels), symbols)
    assert np.array_equal(packets.bits, code.lengths(symbols, levels))
    stream = write_stream(tables, symbols, levels)
    assert np.array_equal(read_stream(tables, stream, levels), symbols)
    again = ConditionalTables.from_state(json.loads(json.dumps(tables.state())))
    assert again.digest == tables.digest
    assert ConditionalCode(again).encode(symbols, levels).data == packets.data


def test_a_stream_is_as_long_as_the_tables_say():
    rng = np.random.default_rng(0)
    tables = ConditionalTables.fit(2 * rng.normal(size=(20_000, 4)))
    symbols, levels = dithered(2 * rng.normal(size=(20_000, 4)), 5)
    bits = 8 * len(write_stream(tables, symbols, levels))
    assert bits == pytest.approx(tables.ideal_bits(symbols, levels).sum(), rel=2e-3)


def test_extreme_symbols_escape_and_come_back():
    limit = 2**30
    tables = ConditionalTables.fit(np.zeros((100, 2)), limit=limit)
    symbols = np.array([[limit, -limit], [2, -2], [0, 0]], np.int32)
    levels = np.zeros((3, 2), np.int64)
    code = ConditionalCode(tables)
    assert np.array_equal(code.decode(code.encode(symbols, levels), levels), symbols)
    assert np.array_equal(read_stream(tables, write_stream(tables, symbols, levels), levels), symbols)


def test_clipped_signals_are_expected_at_the_limit():
    signals = np.full((1000, 1), 50.0)
    tables = ConditionalTables.fit(signals, limit=3)
    levels = np.arange(LEVELS)[:, None]
    assert tables.ideal_bits(np.full((LEVELS, 1), 3, np.int32), levels).max() < 0.01


def test_wide_signals_keep_small_tables():
    signals = 2000 * np.random.default_rng(0).normal(size=(5000, 1))
    tables = ConditionalTables.fit(signals)
    assert tables.tables[0].frequencies.shape == (LEVELS, WIDEST + 1)
    symbols, levels = dithered(signals, 0)
    code = ConditionalCode(tables)
    assert np.array_equal(code.decode(code.encode(symbols, levels), levels), symbols)


def test_prefixes_are_complete_and_near_the_entropy():
    frequencies = ConditionalTables.fit(np.random.default_rng(0).normal(size=(5000, 1))).tables[0].frequencies
    prefixes = Prefixes(frequencies)
    assert ((2.0**-prefixes.widths).sum(axis=1) == 1).all()
    for row, widths, words in zip(frequencies, prefixes.widths, prefixes.words, strict=True):
        codes = {format(word, f"0{width}b") for word, width in zip(words, widths, strict=True)}
        assert not any(a != b and b.startswith(a) for a in codes for b in codes)
        assert plug_in_entropy(row) <= (row * widths).sum() / TOTAL < plug_in_entropy(row) + 1


def test_a_digest_knows_its_tables():
    signals = speaker(5000, 0)[0]
    first, same = ConditionalTables.fit(signals), ConditionalTables.fit(signals)
    assert first.digest == same.digest
    others = [ConditionalTables.fit(signals[1:]), ConditionalTables.fit(signals, joint=True)]
    assert len({first.digest, *(other.digest for other in others)}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"cells": []},
        {"cells": [[3, 2]], "counts": [[1, 1]]},
        {"cells": [[1]], "counts": [[0]]},
        {"cells": [[1]], "counts": [[True]]},
        {"cells": [[1.0]], "counts": [[1]]},
        {"cells": [[1]], "counts": [[1, 2]]},
        {"cells": [[10**9]], "counts": [[1]]},
        {"levels": 0},
        {"limit": "3"},
        {"exemplars": {"cells": [[1, 2]], "counts": [1], "others": 0}},
        {"exemplars": {"cells": [[1]], "counts": [1], "others": -1}},
        {"exemplars": {"cells": [[1], [1]], "counts": [1, 1], "others": 0}},
        {"exemplars": {"cells": [[10**9]], "counts": [1], "others": 0}},
    ],
)
def test_foreign_states_are_refused(change):
    state = {"levels": 64, "limit": 7, "cells": [[1]], "counts": [[5]], "exemplars": None}
    ConditionalTables.from_state(state)
    with pytest.raises(WireError, match="not the state of conditional tables"):
        ConditionalTables.from_state(state | change)
    with pytest.raises(WireError, match="not the state"):
        ConditionalTables.from_state({name: value for name, value in state.items() if name != "counts"})


@pytest.mark.parametrize("joint", [False, True])
def test_what_nobody_can_have_sent_is_refused(joint):
    rng = np.random.default_rng(1)
    said = rng.normal(size=(50, 2))
    tables = ConditionalTables.fit(said[rng.integers(20, size=1000)], limit=9, joint=joint)
    symbols, levels = dithered(said, 0)
    code = ConditionalCode(tables)
    packets = code.encode(symbols, levels)
    with pytest.raises(WireError, match="symbol 10 in slot 0"):
        code.encode(np.full((1, 2), 10, np.int32), levels[:1])
    with pytest.raises(WireError, match=r"level is not in 0\.\.63"):
        code.encode(symbols, levels + 64)
    with pytest.raises(WireError, match=r"levels must be integers of shape \[50, 2\]"):
        code.decode(packets, levels[:, :1])
    with pytest.raises(WireError, match="goes on after its last symbol"):
        code.decode(Packets(packets.data + b"\0", packets.sizes + (np.arange(50) == 49), packets.bits), levels)
    with pytest.raises(WireError, match="ends too early"):
        code.decode(Packets(b"", np.zeros(50, np.int64), packets.bits), levels)
    with pytest.raises(WireError, match="finite signals"):
        ConditionalTables.fit(np.array([[np.nan]]))
    stream = write_stream(tables, symbols, levels)
    with pytest.raises(WireError, match="whole words"):
        read_stream(tables, stream[:-1], levels)
    with pytest.raises(WireError, match="goes on"):
        read_stream(tables, stream + bytes(8), levels)
    rng = np.random.default_rng(2)
    for _ in range(200):  # bits turned over: refused, or symbols of the alphabet, never anything else
        damaged = bytearray(packets.data)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            decoded = code.decode(Packets(bytes(damaged), packets.sizes, packets.bits), levels)
        except WireError:
            continue
        assert np.abs(decoded).max() <= 9
