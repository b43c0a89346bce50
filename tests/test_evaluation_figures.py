"""What evaluations do and say: tokens without chance, streams, entropies, a learned prior; the tutorial."""

import itertools
import re
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from alphabets import two_samples
from hypothesis import given, settings

from marlcomm import checkpoint
from marlcomm.analysis import evaluation as final
from marlcomm.analysis import report
from marlcomm.analysis.trace import prove, record
from marlcomm.config import experiment, merge
from marlcomm.glossary import BANDWIDTH, CODED, DIAGNOSTICS, ENV_STATISTICS, EPISODE, ERRORS, WIRE
from marlcomm.policies import coding, diagnostics, evaluation
from marlcomm.policies.coding import frozen_code, shortest_tables
from marlcomm.policies.diagnostics import links
from marlcomm.policies.evaluation import evaluate
from marlcomm.policies.rollout import Player
from marlcomm.policies.team import TeamNames, make_channel
from marlcomm.wire import (
    STREAM_HEADER_BYTES,
    Alphabet,
    BandwidthMeter,
    BitCounts,
    Code,
    Tables,
    WireError,
    entropy,
    learned_tables,
    read_stream,
    write_stream,
)
from marlcomm.wire.conditional import ConditionalTables
from marlcomm.wire.entropy import MOST_DIFFERENT, Tally, before_each, entropies
from marlcomm.wire.prior import _Mixture

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
    relaxed = torch.softmax(channel.sender.to_logits(messages) / 0.7, -1) @ channel.reader.embedding[0]
    weights = torch.randn_like(relaxed)
    gradients = [torch.autograd.grad((heard * weights).sum(), messages)[0] for heard in (surrogate, relaxed)]
    torch.testing.assert_close(*gradients)


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


# --- streams of links, and entropies ---------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "width": 8, "message_size": 4}
NAMED = {**EPISODE, **ENV_STATISTICS["traffic_junction"], **BANDWIDTH, **WIRE, **CODED, **DIAGNOSTICS, **ERRORS}


def team(channel="vq", settings=None, policy="transformer", policy_config=SMALL):
    names = TeamNames("traffic_junction", {"add_rate": 0.5}, policy, policy_config, channel, settings or {})
    world = names.make_env(final=True)
    return world, names.make_policy(world, seed=0)


def said(env, policy, episodes):
    """Symbols [B, T, N, S], who sent them and who acts [B, T, N] in an evaluation."""
    with policy.channel.evaluation():
        worlds = torch.arange(episodes)
        rollout = Player(env, policy, 0, "evaluation").play(worlds, torch.zeros_like(worlds))
    acts = rollout.acts.numpy()
    return rollout.talk.symbols.numpy(), rollout.talk.spoke.numpy() & acts, acts


def test_links_by_hand():
    sent = np.array([[[1, 1], [0, 1], [1, 0]], [[0, 0], [0, 1], [0, 1]]], bool)  # [B=2, T=3, N=2]
    # numbered: (0,0,0) 0, (0,0,1) 1, (0,1,1) 2, (0,2,0) 3, (1,1,1) 4, (1,2,1) 5
    assert [link.tolist() for link in links(sent)] == [[0, 3], [1, 2], [4, 5]]
    assert list(links(sent[:0])) == list(links(sent & False)) == []


@pytest.mark.parametrize(("channel", "settings"), [("vq", {}), ("gumbel", {"tokens": 2, "end_token": True})])
def test_a_stream_for_each_link_of_each_episode(channel, settings):
    env, policy = team(channel, settings)
    code = frozen_code(env, policy, 0, 60)
    figures = evaluate(env, policy, 0, 30, code=code)
    symbols, sent, acts = said(env, policy, 30)
    size = 0
    for episode, sender in itertools.product(range(30), range(sent.shape[2])):
        own = symbols[episode, sent[episode, :, sender], sender]
        size += len(write_stream(code.links.tables, own)) - STREAM_HEADER_BYTES if len(own) else 0
    assert figures["stream_bits_per_agent_step"] == pytest.approx(8 * size / acts.sum())
    assert figures["stream_bits_per_episode"] == pytest.approx(8 * size / 30)
    assert size % 4 == 0 < size


def test_streams_know_the_dither_where_that_is_shorter():
    env, policy = team("ddcl", {"dither_levels": 64, "code": "dither_conditional", "delta": 0.5})
    code = frozen_code(env, policy, 0, 60)
    assert isinstance(code.links.tables, ConditionalTables)
    figures = evaluate(env, policy, 0, 20, code=code)
    symbols, sent, acts = said(env, policy, 20)
    marginal = shortest_tables(policy.channel.alphabet(), *np.array_split(symbols[sent], 2))
    assert figures["stream_bits_per_agent_step"] < marginal.ideal_bits(symbols[sent]).sum() / acts.sum()


def test_a_stream_that_is_not_read_back_is_an_error(monkeypatch):
    env, policy = team()
    code = frozen_code(env, policy, 0, 20)
    monkeypatch.setattr(coding, "read_stream", lambda tables, data: read_stream(tables, data) + 1)
    with pytest.raises(WireError, match="messages of a link were not decoded"):
        evaluate(env, policy, 0, 5, code=code)


def test_long_evaluations_stream_their_first_episodes(monkeypatch):
    env, policy = team()
    code = frozen_code(env, policy, 0, 20)
    few = evaluate(env, policy, 0, 7, code=code)
    monkeypatch.setattr(diagnostics, "STREAMED_EPISODES", 7)
    whole = evaluate(env, policy, 0, 20, code=code)
    monkeypatch.setattr(evaluation, "_WORLDS_AT_ONCE", 3)
    assert evaluate(env, policy, 0, 20, code=code) == pytest.approx(whole)
    assert whole["stream_bits_per_agent_step"] == few["stream_bits_per_agent_step"]


def test_a_gate_pays_for_presence_in_streams_too():
    env, policy = team("vq", {"codebook_size": 2}, "ic3net", {"hidden_size": 16, "message_size": 4})
    figures = evaluate(env, policy, 0, 20, code=frozen_code(env, policy, 0, 10))
    assert figures["stream_bits_per_agent_step"] > 1


def test_entropies_are_those_of_all_messages_by_the_rule():
    env, policy = team("vq", {"codebook_size": 2, "segments": 2})
    figures = evaluate(env, policy, 0, 60, code=frozen_code(env, policy, 0, 20))
    symbols, sent, _ = said(env, policy, 60)
    wanted = entropies(policy.channel.alphabet(), symbols[sent], before_each(sent))
    assert wanted.keys() >= {"factored_entropy_bits_per_message", "conditional_entropy_bits_per_message"}
    assert {name: figures[name] for name in wanted} == pytest.approx(wanted)
    assert figures.keys() <= NAMED.keys()
    joint, factored = (figures[f"{name}_entropy_bits_per_message"] for name in ("joint", "factored"))
    assert joint <= factored <= figures["nominal_bits_per_message"]


def test_what_cannot_be_estimated_is_left_out_and_said():
    env, policy = team("ddcl", {"delta": 0.01})
    figures = evaluate(env, policy, 0, 10, code=frozen_code(env, policy, 0, 10))
    assert not any("entropy" in name for name in figures)
    assert figures["missing_mass"] > 0.01
    summary = {f"evaluation/{name}": value for name, value in figures.items()}
    assert report._diagnostics(summary)[1] == (
        "entropy of messages, plug-in, bits/message: not estimable; slot by slot not estimable; "
        "given the last not estimable"
    )


@pytest.mark.parametrize(("channel", "settings"), [("continuous", {}), ("dvq", {"continuous": True})])
def test_floats_have_no_diagnostics(channel, settings):
    env, policy = team(channel, settings)
    code = frozen_code(env, policy, 0, 10)
    figures = evaluate(env, policy, 0, 10, code=code)
    assert code.links is None
    assert not figures.keys() & DIAGNOSTICS.keys()
    assert report._diagnostics({f"evaluation/{name}": value for name, value in figures.items()}) == []


def test_silence_streams_nothing():
    env, policy = team("silent")
    figures = evaluate(env, policy, 0, 10, code=frozen_code(env, policy, 0, 10))
    assert figures["stream_bits_per_agent_step"] == 0


def test_short_evaluations_leave_diagnostics_out():
    env, policy = team()
    assert not evaluate(env, policy, 0, 10).keys() & DIAGNOSTICS.keys()


def test_slots_of_too_many_values_have_no_figures(monkeypatch):
    monkeypatch.setattr(entropy, "MOST_DIFFERENT", 5)
    tally = Tally(Alphabet.fixed([9]))
    tally.add(np.repeat(np.arange(5, dtype=np.int32), 20)[:, None])
    assert tally.figures().keys() == {"adaptive_bits_per_message", "factored_entropy_bits_per_message"}
    tally.add(np.repeat(np.arange(4, 6, dtype=np.int32), 20)[:, None])
    assert tally.figures() == {}


def test_a_selector_has_an_entropy_of_its_own():
    either = Alphabet.choice([Alphabet.fixed([2]), Alphabet.fixed([2, 2])])
    assert either.has_selector
    assert not any(one.has_selector for one in (Alphabet(()), Alphabet.fixed([2, 2]), Alphabet.until_end(3, 2)))
    tally = Tally(either)
    chosen = np.arange(400, dtype=np.int32) % 4 == 0
    tally.add(np.stack([chosen, np.zeros(400), np.zeros(400)], 1).astype(np.int32))
    wanted = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    assert tally.figures()["selector_entropy_bits_per_message"] == pytest.approx(wanted)


# --- a learned prior -------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(two_samples())
def test_learned_tables_bring_every_message_back(case):
    alphabet, training, later = case
    tables = learned_tables(alphabet, training)
    assert tables.digest == learned_tables(alphabet, training).digest == Tables.from_state(tables.state()).digest
    assert np.array_equal(read_stream(tables, write_stream(tables, later)), later)
    code = Code.fit(alphabet, training, "learned")
    assert np.array_equal(Code.from_state(code.state()).decode(code.encode(later)), later)
    assert np.array_equal(code.lengths(later), Code.on_tables(tables).lengths(later))
    if len(training):  # on what it was fitted on, too, no prefix code is below the source's entropy
        assert code.lengths(training).sum() >= len(training) * entropy.factored_entropy(alphabet, training) - 1e-6


@pytest.mark.parametrize(("samples", "worst", "gain"), [(30, 0.5, 0.3), (100, 0.2, 0.1), (1000, 0.03, 0.02)])
def test_a_learned_prior_needs_few_messages(samples, worst, gain):
    """Laplace integers of scale 3: -sum p log2 p is 4.0297 bits. Means over eight samples of the training time."""
    rng, alphabet = np.random.default_rng(0), Alphabet.signed(1)
    training = np.rint(rng.laplace(0, 3, (8, samples, 1))).astype(np.int32)
    later = np.rint(rng.laplace(0, 3, (100_000, 1))).astype(np.int32)
    learned, plain = (
        np.mean([fit(alphabet, part).ideal_bits(later).mean() for part in training])
        for fit in (learned_tables, Tables.fit)
    )
    assert learned < 4.0297 + worst
    assert learned < plain - gain


def test_with_many_messages_a_learned_prior_is_as_good_as_the_frequencies():
    rng, alphabet = np.random.default_rng(0), Alphabet.signed(1)
    training, later = np.rint(rng.laplace(0, 3, (2, 100_000, 1))).astype(np.int32)
    assert learned_tables(alphabet, training).ideal_bits(later).mean() == pytest.approx(4.0297, abs=0.01)
    # Six far numbers that nothing smooth explains, and tokens without an order.
    six = np.array([0, 17, -30, 55, 200, -120], np.int32)
    law = np.array([200, 100, 50, 25, 12, 1]) / 388
    goals = rng.choice(six, (2, 5000, 1), p=law)
    assert learned_tables(alphabet, goals[0]).ideal_bits(goals[1]).mean() == pytest.approx(
        Tables.fit(alphabet, goals[0]).ideal_bits(goals[1]).mean(), abs=0.01
    )


def test_the_components_of_the_prior_are_distributions():
    slot = Alphabet.signed(1, limit=4000).slots[0]
    mixture = _Mixture(slot, np.array([-40, 0, 3]), np.array([5, 20, 5]))
    everything = np.arange(-4000, 4001)
    assert np.allclose(mixture._smooth(everything).sum(axis=0), 1)
    assert mixture._shares(everything).sum() == pytest.approx(1)
    assert mixture._weights.min() >= 0
    values, shares = mixture.listed()
    assert {-40, 0, 3} <= set(values.tolist())
    assert 0.98 < shares.sum() <= 1


def test_the_weights_of_the_prior_are_the_likeliest():
    """At the maximum over mixtures no component explains the messages better than the mixture (Lindsay 1983)."""
    rng = np.random.default_rng(0)
    seen, counts = np.unique(np.rint(rng.laplace(0, 3, 20_000)).astype(np.int64), return_counts=True)
    mixture = _Mixture(Alphabet.signed(1).slots[0], seen, counts)
    shares = np.column_stack([mixture._smooth(seen), (counts - 1) / (counts.sum() - 1)])
    gains = (counts / counts.sum()) @ (shares / (shares @ mixture._weights)[:, None])
    assert gains.max() < 1.01
    assert gains @ mixture._weights == pytest.approx(1, abs=1e-3)


def test_values_never_seen_escape():
    alphabet = Alphabet.signed(1, limit=2**30)
    tables = learned_tables(alphabet, np.array([[0], [1], [-2]] * 50, np.int32))
    far = np.array([[2**30], [-(2**30)], [5000], [0]], np.int32)
    assert np.array_equal(read_stream(tables, write_stream(tables, far)), far)
    bits = tables.ideal_bits(far)
    assert bits[3] < 2 < 30 < bits[0]


def test_the_frozen_code_may_be_a_learned_one():
    env, policy = team("ddcl", {"delta": 0.05})
    plain = frozen_code(env, policy, 0, 4)
    code = frozen_code(env, policy, 0, 4, learned_prior=True)
    assert {part["code"] for part in code.state()["tables"]["parts"]} == {"learned"}
    assert code.links.tables.messages is None
    assert code.digest == frozen_code(env, policy, 0, 4, learned_prior=True).digest != plain.digest
    figures = [evaluate(env, policy, 0, 20, code=one) for one in (code, plain)]
    for name in ("coded_bits_per_message", "stream_bits_per_agent_step"):
        assert figures[0][name] < figures[1][name]
    prove(env, policy, record(env, policy, 0, 10, code))


@pytest.fixture
def summarise(monkeypatch, tmp_path):
    """Evaluates a team as if a run had trained it, under changes of settings."""

    def evaluated(env, policy, *words):
        monkeypatch.setattr(final, "load_team", lambda settings, folder, trained: (env, policy))
        counters = dict.fromkeys(("env_steps", "seconds", "core_seconds"), 0)
        monkeypatch.setattr(checkpoint, "read", lambda folder: SimpleNamespace(counters=counters))
        run = SimpleNamespace(last_checkpoint=lambda: tmp_path, origin=dict, experiment=lambda: experiment({}))
        return final.evaluate_run(run, experiment(merge({}, words)[0]))

    return evaluated


def test_the_setting_chooses_among_the_learned_ones_too(summarise):
    env, policy = team("ddcl", {"delta": 0.05})
    codes = []
    for learned in ("true", "false"):
        words = [f"evaluation.learned_prior={learned}", "evaluation.episodes=2", "evaluation.code_episodes=4"]
        summary = summarise(env, policy, *words)
        codes.append((summary["code"], summary["stream_tables"]))
    learned = frozen_code(env, policy, 0, 4, learned_prior=True)
    assert codes[0] == (learned.digest, learned.links.tables.digest)
    assert codes[0][0] != codes[1][0]
    assert codes[0][1] != codes[1][1]


def test_all_of_a_summary_is_played_on_the_stream_of_the_settings(summarise, resets):
    env, policy = team("ddcl")
    words = ["evaluation.stream=tuning", "evaluation.episodes=4", "evaluation.code_episodes=4"]
    summary = summarise(env, policy, *words)
    assert [stream for stream, _ in resets] == ["code", *["tuning"] * 5]  # sampled, greedy, shuffled, floor, ceiling
    greedy = evaluate(env, policy, 0, 4, stream="tuning", greedy=True)
    assert summary["greedy/return"] == greedy["return"] != summary["evaluation/return"]


# --- the tutorial ----------------------------------------------------------------------------------------------------


def test_the_tutorials_channel_takes_settings_as_written(pytestconfig, tmp_path):
    """Under the command that the page gives. (Without settings it is the channel that the tests of the CLI train.)"""
    section = (pytestconfig.rootpath / "docs/channels.md").read_text(encoding="utf-8").partition("## `continuous`")[0]
    channel, settings = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    changes = {
        '@register_channel("sign")': re.search(r"`(@register_channel.*?)`", section)[1],
        "2.0 * symbols - 1.0": re.search(r"would return\s+`(.*?)`", section)[1],
    }
    for before, after in changes.items():
        assert before in channel
        channel = channel.replace(before, after)
    (tmp_path / "my_channels.py").write_text(settings + channel, encoding="utf-8")
    words = next(line.split() for line in section.splitlines() if line.startswith("marlcomm check"))
    program = [sys.executable, "-m", "marlcomm.cli", *words[1:], "channel.scale=3.0"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "channel sign keeps all" in done.stdout
