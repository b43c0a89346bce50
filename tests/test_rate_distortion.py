"""Shannon's bound against hand values, and that no channel is measured below it."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from marlcomm.analysis import rate_distortion
from marlcomm.analysis.pictures import draw_rate_distortion
from marlcomm.analysis.rate_distortion import gaussian_rate, hear, measure, sweep, train
from marlcomm.analysis.rate_distortion_settings import SETTINGS, TARGETS
from marlcomm.analysis.shannon import SOURCES, Source, gap, water_level, white
from marlcomm.cli import app
from marlcomm.registry import CHANNELS, ConfigError
from marlcomm.wire import measure as bits_of
from marlcomm.wire.published import paper_bits

STEPS, SAMPLES = 5, 10_000


def setting(name, part="linear", target=16):
    return next(one for one in SETTINGS[part] if one.channel == name and one.target_bits == target)


# --- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 4, 16, 32, 200])
def test_the_bound_of_a_white_source(bits):
    assert white().least_mse(bits) == pytest.approx(2 ** (-2 * bits / 16))


def test_reverse_water_filling_by_hand():
    source = Source("two", np.diag([4.0, 1.0]))
    # Up to 1 bit only the first component is described: 4 * 2^-2 = 1 reaches the second one's variance.
    assert source.least_mse(0) == pytest.approx(2.5)
    assert source.least_mse(0.5) == pytest.approx((4 / 2 + 1) / 2)
    assert source.least_mse(1) == pytest.approx(1.0)
    assert source.least_mse(3) == pytest.approx(0.25)  # two more bits, one for each component
    assert water_level(source.variances, 0.5) == pytest.approx(2.0)


def test_the_parametric_form_gives_the_same_curve():
    variances = SOURCES["correlated"].variances
    for level in (2.0, 0.5, 0.1, 0.01):
        bits = 0.5 * np.log2(np.maximum(variances / level, 1)).sum()
        assert SOURCES["correlated"].least_mse(bits) == pytest.approx(np.minimum(variances, level).mean())


def test_the_slope_is_the_derivative():
    for source in SOURCES.values():
        for bits in (3.0, 17.0):
            wanted = (source.least_mse(bits - 1e-4) - source.least_mse(bits + 1e-4)) / 2e-4
            assert source.slope(bits) == pytest.approx(wanted, rel=1e-4)


def test_samples_have_the_covariance():
    for source in SOURCES.values():
        vectors = source.sample(200_000, torch.Generator().manual_seed(1)).double()
        assert np.allclose(torch.cov(vectors.T).numpy(), source.covariance, atol=0.02)


def test_the_error_of_a_gap_is_its_spread_over_samples():
    """A sign for each element: 16 bits, and the error 1 - 2 / pi when heard as the mean of its half."""
    source, gaps = white(), []
    for seed in range(200):
        vectors = source.sample(500, torch.Generator().manual_seed(seed))
        heard = vectors.sign() * math.sqrt(2 / math.pi)
        gaps.append(gap(source, np.full(500, 16.0), (heard - vectors).square().mean(-1).double().numpy()))
    found = np.array([one.decibels for one in gaps])
    assert found.mean() == pytest.approx(10 * math.log10((1 - 2 / math.pi) / 0.25), abs=0.02)
    assert found.std() == pytest.approx(np.mean([one.error for one in gaps]), rel=0.2)


def test_the_price_is_the_entropy_of_rounded_gaussians():
    messages = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0])
    rounded = torch.round(messages).long().numpy()
    wanted = 0.0
    for column in rounded.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        wanted -= (share * np.log2(share)).sum()
    assert float(gaussian_rate(messages, 1.0)) == pytest.approx(wanted, abs=0.01)


# --- channels --------------------------------------------------------------------------------------------------------


def test_every_channel_that_quantises_has_settings():
    built_in = {name for name, row in CHANNELS.rows.items() if isinstance(row.target, str)}
    for part in SETTINGS.values():
        assert {one.channel for one in part} == built_in - {"continuous", "silent"}


@pytest.fixture(scope="module")
def points():
    """A fast sweep: hardly trained, so bits and errors are bad but must be honest."""
    return sweep(["vq", "uniform", "ddcl", "bsq"], steps=STEPS, samples=SAMPLES)


def test_no_point_lies_below_the_bound(points):
    assert len(points) > 40
    assert [point for point in points if point.impossible] == []
    assert all(point.packet_bits >= point.bits - 0.05 for point in points)


def test_the_range_coder_reaches_the_bits_of_the_tables(points):
    written = [point for point in points if point.stream_bits is not None]
    assert written
    for point in written:  # at most a header of 12 bytes and two words more
        assert -1e-3 <= point.stream_bits - point.bits <= 8 * 20 / SAMPLES + 1e-3


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_a_code_that_counts_too_few_bits_is_found_out(source):
    """DDCL's published figure is no code length: with it a channel seems to beat Shannon."""
    rounded = next(one for one in SETTINGS["linear"] if one.label == "ddcl, rounded" and one.target_bits == 16)
    link = train(rounded, "linear", source, seed=0, steps=100)
    assert not measure(link, rounded, "linear", source, seed=0, samples=SAMPLES).impossible
    heard = hear(link, source, 0, "held out", SAMPLES)
    assert not gap(source, bits_of(heard.symbols).astype(float), heard.squared_errors).impossible
    assert gap(source, paper_bits(heard.symbols), heard.squared_errors).impossible


@pytest.mark.parametrize("name", ["vq", "fsq", "uniform"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_a_trained_channel_comes_near_the_bound(name, source):
    link = train(setting(name), "linear", source, seed=0, steps=100)
    point = measure(link, setting(name), "linear", source, seed=0, samples=SAMPLES)
    assert abs(point.bits - 16) < 2
    assert 0 < point.gap_db < 2


def test_nothing_depends_on_torchs_global_generator():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(asdict(sweep(["lfq"], steps=3, samples=2000)[-1]))
    assert found[0] == found[1]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_points_and_a_picture(tmp_path):
    files = tmp_path / "a" / "points.json", tmp_path / "points.png"
    options = ["--channels", "bsq,int8", "--steps", "2", "--out", str(files[0]), "--picture", str(files[1])]
    result = CliRunner().invoke(app, ["bench", "rate-distortion", *options])
    assert result.exit_code == 0, result.output
    written = json.loads(files[0].read_text())
    assert {point["channel"] for point in written["points"]} == {"bsq", "int8"}
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_the_command_fails_where_a_point_is_below_the_bound(monkeypatch, points):
    from dataclasses import replace

    below = replace(points[0], impossible=True)
    monkeypatch.setattr(rate_distortion, "sweep", lambda *args, **options: [below])
    result = CliRunner().invoke(app, ["bench", "rate-distortion"])
    assert result.exit_code == 1
    assert "below Shannon's bound" in result.output


def test_a_picture_of_few_points_has_all_panels(tmp_path, points):
    draw_rate_distortion([point for point in points if point.target_bits in TARGETS[:1]], tmp_path / "few.png")
    assert (tmp_path / "few.png").stat().st_size > 10_000


def test_unknown_channels_are_named():
    with pytest.raises(ConfigError, match="no rate-distortion settings for 'vqq'; did you mean 'vq'"):
        sweep(["vqq"])
