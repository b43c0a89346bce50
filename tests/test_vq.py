"""Quantisers with codebooks: what they send, what they learn from statistics, and what a choice between them costs."""

import copy
import math
import threading

import numpy as np
import pytest
import tiny_world
import torch
from torch.distributions import Categorical

from marlcomm import noise
from marlcomm.channels import Peers
from marlcomm.channels.codebooks import Normalizer, drawn, k_means
from marlcomm.channels.dvq import DVQChannel
from marlcomm.channels.plain import ContinuousChannel
from marlcomm.channels.settings import DVQSettings, VQSettings
from marlcomm.channels.vq import VQChannel
from marlcomm.objectives.base import sent_messages
from marlcomm.policies.evaluation import evaluate
from marlcomm.policies.records import Moment, Talk
from marlcomm.policies.team import TeamNames, make_channel
from marlcomm.registry import ConfigError

# --- vq --------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("normalization", ["layer", "running", "none"])
def test_normalisation_is_a_switch(normalization):
    channel = VQChannel(4, VQSettings(normalization=normalization))
    messages = 3 + 5 * torch.randn(1000, 4)
    channel.calibrate(messages)
    expected = {
        "layer": torch.nn.functional.layer_norm(messages, (4,)),
        "running": (messages - messages.mean(0)) / (messages.var(0, correction=0) + 1e-5).sqrt(),
        "none": messages,
    }[normalization]
    assert torch.allclose(channel.surrogate(messages), expected, atol=1e-5)


def test_running_standardisation_by_hand():
    normalizer = Normalizer(1, "running")
    normalizer.absorb(torch.tensor([[1.0], [3.0], [5.0], [7.0]]), 0.75, Peers())
    assert normalizer.mean.item() == pytest.approx(0.25 * 4)  # from mean 0 and variance 1, a quarter of the way
    assert normalizer.variance.item() == pytest.approx(0.75 + 0.25 * 5)
    normalizer.absorb(torch.zeros(0, 1), 0.75, Peers())
    assert normalizer.mean.item() == pytest.approx(1)
    assert normalizer(torch.tensor([[3.0]])).item() == pytest.approx(2 / math.sqrt(2), rel=1e-4)


def test_ema_follows_the_formula():
    size, decay, smoothing = 3, 0.6, 0.05
    channel = VQChannel(
        2, VQSettings(codebook_size=size, update="ema", decay=decay, smoothing=smoothing, normalization="none")
    )
    assert "codebook" not in dict(channel.named_parameters())
    assert (
        channel.losses(torch.zeros(1, 2), torch.zeros(1, 1)).keys() == channel.loss_weights().keys() == {"commitment"}
    )
    codes = channel.codebook[0].numpy().astype(float)
    counts, totals = np.ones(size), codes.copy()
    for seed in range(3):
        said = np.random.default_rng(seed).normal(size=(50, 2)) * [1, 2]
        chosen = ((said[:, None] - codes) ** 2).sum(-1).argmin(-1)
        for code in range(size):
            mine = said[chosen == code]
            counts[code] = decay * counts[code] + (1 - decay) * len(mine)
            totals[code] = decay * totals[code] + (1 - decay) * mine.sum(0)
        smoothed = (counts + smoothing) / (counts.sum() + size * smoothing) * counts.sum()
        codes = totals / smoothed[:, None]
        channel.absorb(torch.tensor(said, dtype=torch.float32), 0, Peers())
        assert channel.codebook[0].numpy() == pytest.approx(codes, rel=1e-4, abs=1e-5)


def blobs(count=300, seed=0):
    """Messages [M, 2] around three points, and the means of those near each."""
    torch.manual_seed(seed)
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    labels = torch.arange(count) % 3
    messages = points[labels] + 0.5 * torch.randn(count, 2)
    return messages, torch.stack([messages[labels == label].mean(0) for label in range(3)])


def test_k_means_finds_the_centres():
    messages, means = blobs()
    start = torch.zeros(1, 3, 2)
    found = 0
    for key in range(5):  # Lloyd's rounds may stay where two centres share a blob
        centres, counts = k_means(messages.unsqueeze(0), start, torch.tensor(key), Peers())
        assert counts.sum() == 300
        distances = torch.cdist(centres[0].double(), means.double())
        found += bool((distances.min(0).values < 1e-5).all())
    assert found >= 2


def test_k_means_waits_for_its_env_steps_and_runs_once():
    messages, _ = blobs()
    channel = VQChannel(2, VQSettings(codebook_size=3, init="kmeans", init_after=1000, normalization="none"))
    channel.calibrate(messages)
    calibrated = channel.codebook.detach().clone()
    channel.absorb(messages, 999, Peers())
    assert torch.equal(channel.codebook, calibrated)
    channel.absorb(messages, 1000, Peers())
    clustered = channel.codebook.detach().clone()
    assert not torch.equal(clustered, calibrated)
    centres = torch.stack([messages[channel.encode(messages)[:, 0] == code].mean(0) for code in range(3)])
    assert torch.allclose(clustered[0], centres, atol=1e-4)  # each is the mean of those it stands for
    channel.absorb(messages + 1, 2000, Peers())
    assert torch.equal(channel.codebook, clustered)


def test_running_means_go_on_from_k_means():
    """Each centre as the mean of those that chose it; one that nobody chose stays, and counts as one message."""
    settings = VQSettings(codebook_size=3, init="kmeans", update="ema", normalization="none")
    channel = VQChannel(1, settings)
    messages = torch.tensor([[3.0]] * 6 + [[9.0]] * 2)  # two values for three centres
    channel.absorb(messages, 100, Peers())
    assert set(channel.codebook.flatten().tolist()) == {3.0, 9.0}
    assert sorted(channel.usage[0].tolist()) == [1, 2, 6]
    assert torch.equal(channel.totals, channel.codebook * channel.usage.unsqueeze(-1))
    resumed = VQChannel(1, settings)
    resumed.load_state_dict(channel.state_dict())
    for one in (channel, resumed):
        one.absorb(messages + 1, 200, Peers())
    assert torch.equal(resumed.codebook, channel.codebook)


@pytest.mark.parametrize("name", ["vq", "dvq", "rvq", "fsq", "lfq"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_few_messages_are_enough_to_start_from(name, count):
    channel = make_channel(name, {}, 8)
    channel.calibrate(torch.randn(count, 8))
    for key, value in channel.state_dict().items():
        assert torch.isfinite(value).all(), key


def test_codewords_and_shares_are_of_the_coordinates_in_which_the_next_round_speaks():
    settings = {"normalization": "running", "decay": 0.0}
    channel = VQChannel(1, VQSettings(codebook_size=2, update="ema", **settings))
    channel.upkeep.begin(channel.codebook, torch.tensor([[[-0.5], [0.5]]]))
    channel.absorb(torch.tensor([[10.0], [20.0]]), 0, Peers())
    assert channel.codebook.flatten().tolist() == pytest.approx([-1, 1], abs=1e-3)  # mean 15, deviation 5
    pool, messages = DVQChannel(8, DVQSettings(**settings)), 3 + 2 * torch.randn(50, 8)
    pool.absorb(messages, 0, Peers())
    shares = torch.softmax(pool._logits(pool.normalize(messages)), -1).mean(0)
    assert pool.share.tolist() == pytest.approx(shares.tolist(), abs=1e-5)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_idle_codewords_become_messages(update):
    channel = VQChannel(2, VQSettings(codebook_size=4, update=update, replace_after=2, normalization="none", decay=0.5))
    far = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [1e3, 1e3]]])
    with torch.no_grad():
        channel.upkeep.begin(channel.codebook, far)
    messages, _ = blobs()
    channel.absorb(messages, 100, Peers())
    assert channel.idle.tolist() == [[0, 0, 0, 1]]
    if update == "loss":
        assert torch.equal(channel.codebook, far)
    before = copy.deepcopy(channel)
    channel.absorb(messages, 200, Peers())
    assert channel.idle.tolist() == [[0, 0, 0, 0]]
    assert (channel.codebook[0, 3] == messages).all(-1).any()
    if update == "ema":  # it goes on from there as the mean of one message
        assert (channel.usage[0, 3], channel.totals[0, 3].tolist()) == (1.0, channel.codebook[0, 3].tolist())
    resumed = VQChannel(2, channel.settings)
    resumed.load_state_dict(before.state_dict())
    resumed.absorb(messages, 200, Peers())
    assert all(torch.equal(value, channel.state_dict()[name]) for name, value in resumed.state_dict().items())
    before.absorb(messages, 201, Peers())  # other draws at another point of the training
    assert not torch.equal(before.codebook[0, 3], channel.codebook[0, 3])
    quiet = copy.deepcopy(channel)
    for _ in range(3):  # where nobody speaks, nothing is idle
        quiet.absorb(messages[:0], 300, Peers())
    assert torch.equal(quiet.codebook, channel.codebook)


def test_new_codewords_have_not_been_idle():
    settings = VQSettings(codebook_size=4, init="kmeans", init_after=300, replace_after=3, normalization="none")
    channel, (messages, _) = VQChannel(2, settings), blobs()
    with torch.no_grad():
        channel.upkeep.begin(channel.codebook, torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [1e3, 1e3]]]))
    for env_steps, oldest in ((100, 1), (200, 2), (300, 0)):
        channel.absorb(messages, env_steps, Peers())
        assert channel.idle.max() == oldest


def test_draws_do_not_depend_on_the_order_of_messages():
    messages, key = torch.randn(500, 3), torch.tensor(5)
    mixed = messages[torch.randperm(500)]
    assert torch.equal(drawn(messages, 7, key), drawn(mixed, 7, key))
    assert not torch.equal(drawn(messages, 7, key), drawn(messages, 7, torch.tensor(6)))
    assert len(torch.unique(drawn(messages, 100, key), dim=0)) == 100
    assert torch.unique(drawn(messages[:3], 9, key), dim=0).shape == (3, 3)


class Rank(Peers):
    """One of several learners in threads of this process."""

    def __init__(self, rank, table, barrier):
        self.rank, self.size, self._table, self._barrier = rank, len(table), table, barrier

    def _all(self, part):
        self._table[self.rank] = part
        self._barrier.wait(10)
        parts = list(self._table)
        self._barrier.wait(10)
        return parts

    def sum(self, part):
        return sum(self._all(part))

    def gather(self, part):
        return torch.cat(self._all(part))


def absorb_together(channels, parts, env_steps):
    """Let each channel absorb its part, at the same time."""
    table, barrier = [None] * len(parts), threading.Barrier(len(parts))
    threads = [
        threading.Thread(target=channel.absorb, args=(part, env_steps, Rank(rank, table, barrier)))
        for rank, (channel, part) in enumerate(zip(channels, parts, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vq", {"update": "ema", "codebook_size": 5}),
        ("vq", {"update": "ema", "replace_after": 1, "codebook_size": 40, "segments": 2}),
        ("vq", {"normalization": "running", "init": "kmeans", "init_after": 150, "replace_after": 1}),
        ("vq", {"shared_codebook": True, "segments": 4, "update": "ema", "init": "kmeans"}),
        ("dvq", {"normalization": "running"}),
        ("dvq", {"update": "ema", "replace_after": 1, "structure": "hierarchical", "pool": [[1, 40], [2, 5]]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("cut", [100, 37, 0])
def test_parts_of_learners_merge_to_the_whole(name, settings, cut):
    torch.manual_seed(3)
    alone = make_channel(name, settings, 8)
    team = [copy.deepcopy(alone), copy.deepcopy(alone)]
    start = copy.deepcopy(alone.state_dict())
    for env_steps in (100, 200, 300):
        messages = torch.randn(200, 8)
        alone.absorb(messages, env_steps, Peers())
        absorb_together(team, [messages[cut:], messages[:cut]], env_steps)
    changed = 0
    for learned, other, whole, before in zip(
        *(c.state_dict().values() for c in (*team, alone)), start.values(), strict=True
    ):
        assert torch.equal(learned, other)
        assert torch.allclose(learned.double(), whole.double(), rtol=1e-5, atol=1e-5)
        changed += not torch.equal(whole, before)
    assert changed


# --- who absorbs what ------------------------------------------------------------------------------------------------


def test_only_channels_with_statistics_absorb():
    assert not ContinuousChannel(4).absorbs
    assert not VQChannel(4).absorbs
    for settings in ({"update": "ema"}, {"init": "kmeans"}, {"replace_after": 3}, {"normalization": "running"}):
        assert VQChannel(4, VQSettings(**settings)).absorbs
    assert DVQChannel(4).absorbs
    assert not DVQChannel(4, DVQSettings(balance_weight=0)).absorbs


@pytest.mark.parametrize("settings", [{"update": "ema"}, {"replace_after": 3}, {"normalization": "running"}], ids=str)
def test_a_pool_that_is_not_balanced_absorbs_for_its_other_statistics(settings):
    assert DVQChannel(4, DVQSettings(balance_weight=0, **settings)).absorbs


def relay(channel, settings):
    assert tiny_world.Relay  # registered by its import
    names = TeamNames("relay", {}, "transformer", {"message_size": 8, "hidden_size": 16}, channel, settings)
    env = names.make_env()
    return env, names.make_policy(env, 0)


@pytest.mark.parametrize(("settings", "kept"), [({}, False), ({"update": "ema"}, True)], ids=str)
def test_messages_are_kept_in_the_learners_pass_for_those_who_absorb_them(settings, kept):
    env, policy = relay("vq", settings)
    alive = torch.ones(3, 4, 2, dtype=torch.bool)
    moment = Moment(torch.randn(3, 4, 2, 3), alive, torch.zeros_like(alive))
    messages = policy(moment).talk.messages
    assert (messages is not None) == kept
    with torch.no_grad():
        assert policy(moment).talk.messages is None
    if messages is not None:
        assert messages.shape == (3, 4, 2, 8)
        assert not messages.requires_grad
        assert torch.equal(policy.channel.encode(messages), policy(moment).talk.symbols)


def test_absorbed_are_the_finite_messages_that_were_sent():
    spoke = torch.tensor([[True, True], [False, True], [True, True]])
    acts = torch.tensor([[True, False], [True, True], [True, True]])
    messages = torch.arange(12.0).view(3, 2, 2)
    messages[2, 1, 0] = math.inf
    talk = Talk(torch.zeros(3, 2, 1), spoke, {}, messages)
    assert sent_messages(talk, acts).tolist() == [[0, 1], [6, 7], [8, 9]]
    assert sent_messages(Talk(torch.zeros(3, 2, 1), spoke), acts) is None


def test_evaluations_are_told_to_the_channel_and_training_is_not():
    env, policy = relay("dvq", {})
    seen = []
    encode = policy.channel.encode
    policy.channel.encode = lambda *arguments: (seen.append(policy.channel.evaluating), encode(*arguments))[1]
    evaluate(env, policy, 0, 4)
    assert seen
    assert all(seen)
    assert not policy.channel.evaluating
    with pytest.raises(KeyError), policy.channel.evaluation():
        raise KeyError
    assert not policy.channel.evaluating


# --- dvq -------------------------------------------------------------------------------------------------------------

PAPER_POOL = [(g, size) for g in (1, 2, 4) for size in (16, 64, 256)]


def draws(count, channel, seed=0):
    keys = noise.world_keys(seed, "dvq", torch.arange(count), torch.zeros(count, dtype=torch.int64))
    return noise.uniform(keys, channel.noise_size)


def test_what_a_choice_costs_by_hand():
    def costs(**settings):
        return DVQChannel(32, DVQSettings(pool=PAPER_POOL, **settings)).costs.tolist()

    bits = [4, 6, 8, 8, 12, 16, 16, 24, 32]
    assert costs() == pytest.approx([b + math.log2(9) for b in bits])
    assert costs(continuous=True) == pytest.approx([b + math.log2(10) for b in [*bits, 1024]])
    assert costs(penalty="legacy_paper", continuous=True) == pytest.approx(
        [b * math.log(2) for b in bits] + [32 * math.log(1e9)], rel=1e-5
    )
    assert costs(penalty="legacy_code", continuous=True) == pytest.approx(
        [g + math.log(size) for g, size in PAPER_POOL] + [32 + math.log(9999)], rel=1e-5
    )


def test_the_wire_costs_what_the_penalty_says():
    channel = DVQChannel(8, DVQSettings(pool=[(1, 16), (4, 3)], continuous=True))
    messages = torch.randn(500, 8)
    symbols = channel.encode(messages, draws(500, channel))
    chosen = symbols[:, 0].long()
    assert chosen.unique().tolist() == [0, 1, 2]
    assert channel.alphabet().nominal_bits(symbols.numpy()) == pytest.approx(channel.costs[chosen].numpy(), rel=1e-6)
    # and the continuous member is heard as it was
    h = torch.nn.functional.layer_norm(messages, (8,))
    assert torch.equal(channel.decode(symbols)[chosen == 2], h[chosen == 2])


def steer(channel, logits):
    """Give the learned selector the same logits whatever is said."""
    with torch.no_grad():
        channel.query.weight.zero_()
        channel.query.bias.zero_()
        channel.query.bias[0] = 1.0
        channel.keys.zero_()
        channel.keys[:, 0] = torch.tensor(logits) * math.sqrt(channel.settings.key_size)


def test_capacity_by_hand():
    settings = {"pool": [(1, 4), (2, 4)], "balance_weight": 0.0}
    channel = DVQChannel(8, DVQSettings(**settings))
    steer(channel, [math.log(3), 0.0])
    messages, uniforms = torch.randn(40_000, 8), draws(40_000, channel)
    sent = channel.transmit(messages.requires_grad_(), uniforms)
    assert sent.losses["capacity"].tolist() == pytest.approx([0.75 * 3 + 0.25 * 5] * 40_000)  # one selector bit each
    assert float((sent.symbols[:, 0] == 0).double().mean()) == pytest.approx(0.75, abs=0.01)
    one_hot = DVQChannel(8, DVQSettings(**settings, capacity_choice="one_hot"))
    one_hot.load_state_dict(channel.state_dict())
    hard = one_hot.transmit(messages, uniforms)
    assert torch.equal(hard.losses["capacity"], one_hot.costs[hard.symbols[:, 0].long()])
    # Its gradient is that of the relaxed choice, at the noise of the rollout.
    (found,) = torch.autograd.grad(hard.losses["capacity"].sum(), one_hot.keys)
    perturbed = one_hot._logits(one_hot.normalize(messages)) + noise.gumbel(uniforms)
    (expected,) = torch.autograd.grad((torch.softmax(perturbed, -1) @ one_hot.costs).sum(), one_hot.keys)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_probabilities_as_logits_cap_the_choice():
    """The published code: softmax of a softmax. With ten members none is chosen more often than e / (e + 9)."""
    settings = {"pool": PAPER_POOL, "continuous": True, "balance_weight": 0.0}
    certain = [0.0] * 9 + [50.0]
    count = 40_000
    messages = torch.randn(count, 8)
    shares = {}
    for penalty in ("bits", "legacy_code"):
        channel = DVQChannel(8, DVQSettings(penalty=penalty, **settings))
        steer(channel, certain)
        chosen = channel.encode(messages, draws(count, channel))[:, 0]
        shares[penalty] = float((chosen == 9).double().mean())
    assert shares["bits"] == 1
    assert shares["legacy_code"] == pytest.approx(math.e / (math.e + 9), abs=0.01) == pytest.approx(0.232, abs=0.01)


@pytest.mark.parametrize(("penalty", "order"), [("bits", [2, 1, 0, 3]), ("legacy_code", [3, 0, 1, 2])])
def test_a_hierarchy_quantises_what_the_stage_before_made(penalty, order):
    pool = [(1, 9), (2, 3), (4, 5), (1, 4)]
    channel = DVQChannel(8, DVQSettings(pool=pool, structure="hierarchical", penalty=penalty))
    messages = torch.randn(64, 8)
    heard = torch.nn.functional.layer_norm(messages, (8,))
    for place in order:
        steer(channel, [30.0 * (place == other) for other in range(4)])
        g, _ = pool[place]
        segments = heard.view(64, g, 8 // g).transpose(0, 1)
        indices = torch.cdist(segments, channel.books[place]).argmin(-1)  # [G, M]
        heard = torch.stack([channel.books[place][k][indices[k]] for k in range(g)], 1).flatten(1).detach()
        with channel.evaluation():
            if penalty == "bits":
                symbols = channel.encode(messages)
                assert (symbols[:, 0] == place).all()
            else:  # its choice is never certain
                symbols = torch.zeros(64, 5, dtype=torch.int32)
                symbols[:, 0] = place
                symbols[:, 1 : 1 + g] = channel._read(messages).indices[:, sum(g for g, _ in pool[:place]) :][:, :g]
        assert torch.equal(symbols[:, 1 : 1 + g].long(), indices.T)
        assert not symbols[:, 1 + g :].any()
        assert torch.equal(channel.decode(symbols), heard)  # no other stage's indices are needed


@pytest.mark.parametrize("structure", ["flat", "hierarchical"])
def test_the_gradient_is_that_of_the_straight_through_choice(structure):
    channel = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 3)], continuous=True, structure=structure, temperature=0.7))
    messages, uniforms = torch.randn(20, 8, requires_grad=True), draws(20, channel)
    weights = torch.randn(20, 8)
    sent = channel.transmit(messages, uniforms)
    learning = [messages, channel.keys, channel.query.weight]
    found = torch.autograd.grad((sent.received * weights).sum(), learning)

    h = channel.normalize(messages)
    outputs = []
    for place in [1, 0] if structure == "hierarchical" else [0, 1]:
        heard = outputs[-1] if outputs and structure == "hierarchical" else h
        outputs.append(heard + (channel._read(messages).answers[:, place] - heard).detach())
    outputs = torch.stack([*(outputs[::-1] if structure == "hierarchical" else outputs), h], 1)
    relaxed = torch.softmax((channel._logits(h) + noise.gumbel(uniforms)) / 0.7, -1)
    choice = torch.nn.functional.one_hot(sent.symbols[:, 0].long(), 3) + (relaxed - relaxed.detach())
    heard = (choice.unsqueeze(-1) * outputs).sum(1)
    assert torch.allclose(heard, sent.received, atol=1e-6)
    # The continuous answer's own slope is 1, once: through the choice it is a constant like the others.
    expected = torch.autograd.grad((heard * weights).sum(), learning)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_evaluations_take_the_likeliest_member_or_sample():
    messages = torch.randn(4000, 8)
    for way in ("argmax", "sampled"):
        channel = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 4)], evaluate=way))
        steer(channel, [0.0, 0.5])
        uniforms = draws(4000, channel)
        training = channel.encode(messages, uniforms)
        assert 0.3 < float((training[:, 0] == 0).double().mean()) < 0.45
        with channel.evaluation():
            symbols = channel.encode(messages, uniforms)
        if way == "sampled":
            assert torch.equal(symbols, training)
        else:
            assert (symbols[:, 0] == 1).all()
        assert torch.equal(channel.encode(messages, uniforms), training)


def test_selectors_without_learning():
    messages = torch.randn(9000, 8)
    by_chance = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 4), (4, 4)], selector="random"))
    shares = by_chance.encode(messages, draws(9000, by_chance))[:, 0].bincount(minlength=3) / 9000
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    constant = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 4)], selector="constant", constant_member=1))
    assert constant.noise_size == 0
    assert (constant.encode(messages)[:, 0] == 1).all()
    assert constant.loss_weights().keys() == {"codebook", "commitment"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vq", {}), ("dvq", {}), ("dvq", {"structure": "hierarchical"}), ("rvq", {}), ("rvq", {"prefix": "random"})],
    ids=str,
)
def test_codewords_learn_by_their_own_loss_alone(name, settings):
    channel = make_channel(name, settings, 8)
    messages = torch.randn(50, 8, requires_grad=True)
    sent = channel.transmit(messages, torch.rand(50, channel.noise_size))
    codewords = [value for key, value in channel.named_parameters() if "book" in key]
    assert codewords

    def moves(value, what):
        found = torch.autograd.grad(value, what, allow_unused=True, retain_graph=True)
        return [gradient is not None and bool(gradient.any()) for gradient in found]

    assert not any(moves(sent.received.square().sum(), codewords))
    assert not any(moves(sent.losses["commitment"].sum(), codewords))
    assert all(moves(sent.losses["codebook"].sum(), codewords))
    assert moves(sent.losses["codebook"].sum(), [messages]) == [False]


@pytest.mark.parametrize("train_unselected", [0.0, 0.25, 1.0])
def test_codebooks_by_hand(train_unselected):
    channel = DVQChannel(4, DVQSettings(pool=[(1, 2), (2, 2)], train_unselected=train_unselected, normalization="none"))
    with torch.no_grad():
        channel.books[0].copy_(torch.tensor([[[1.0, 1, 1, 1], [50.0] * 4]]))
        channel.books[1].copy_(torch.tensor([[[2.0, 2], [50.0] * 2]] * 2))
    steer(channel, [30.0, 0.0])
    message = torch.zeros(1, 4, requires_grad=True)
    sent = channel.transmit(message, torch.full((1, 2), 0.5))
    assert sent.received.tolist() == [[1, 1, 1, 1]]
    assert sent.losses["codebook"].item() == pytest.approx(1 + train_unselected * 4)
    assert sent.losses["commitment"].item() == pytest.approx(1)
    first, second = torch.autograd.grad(sent.losses["codebook"].sum(), list(channel.books), retain_graph=True)
    assert first[0, 0].tolist() == pytest.approx([0.5] * 4)
    assert second[:, 0].flatten().tolist() == pytest.approx([train_unselected * 1.0] * 4)
    (pull,) = torch.autograd.grad(sent.losses["commitment"].sum(), message)
    assert pull.tolist() == [[-0.5] * 4]


def test_balance_draws_to_the_members_that_were_rare():
    channel = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 4)], balance_steps=1000))
    steer(channel, [math.log(3), 0.0])
    channel.absorb(torch.randn(10, 8), 100, Peers())
    assert channel.share.tolist() == pytest.approx([0.75, 0.25])
    sent = channel.transmit(torch.randn(1, 8, requires_grad=True), torch.full((1, 2), 0.5))
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert sent.losses["balance"].item() == pytest.approx(by_hand, rel=1e-5)  # log 2 minus the entropy of the choice
    (slope,) = torch.autograd.grad(sent.losses["balance"].sum(), channel.keys)
    assert slope[0, 0] > 0 > slope[1, 0]
    assert channel.loss_weights()["balance"] == pytest.approx(0.01)
    channel.after_update(999)
    assert channel.loss_weights()["balance"] == pytest.approx(0.01)
    channel.after_update(1000)
    assert channel.loss_weights()["balance"] == 0


def test_balance_is_finite_where_a_member_is_never_chosen():
    channel = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 4)]))
    steer(channel, [0.0, -200.0])
    channel.absorb(torch.randn(10, 8), 100, Peers())
    assert channel.share.tolist() == [1, 0]
    steer(channel, [math.log(3), 0.0])
    loss = channel.transmit(torch.randn(1, 8, requires_grad=True), torch.full((1, 2), 0.5)).losses["balance"]
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(2e-3), rel=1e-5)


def test_what_a_pool_knows_of_the_team_travels_with_its_weights():
    settings = DVQSettings(normalization="running", balance_steps=100)
    channel, copied = DVQChannel(8, settings), DVQChannel(8, settings)
    messages, uniforms = 3 + 2 * torch.randn(50, 8), draws(50, channel)
    channel.absorb(messages, 100, Peers())
    channel.after_update(100)
    copied.load_state_dict(channel.state_dict())
    assert copied.loss_weights() == channel.loss_weights()
    ours, theirs = (one.transmit(messages, uniforms) for one in (channel, copied))
    assert torch.equal(ours.symbols, theirs.symbols)
    assert all(torch.equal(value, theirs.losses[name]) for name, value in ours.losses.items())


def test_the_temperature_falls_with_the_env_steps():
    channel = DVQChannel(8, DVQSettings(temperature_steps=1000))
    for env_steps, temperature in ((0, 1.0), (500, 0.75), (1000, 0.5), (9000, 0.5)):
        channel.after_update(env_steps)
        assert channel.state_dict()["temperature"].item() == pytest.approx(temperature)
    constant = DVQChannel(8)
    constant.temperature.fill_(0.5)  # a parent's, where it had fallen
    constant.after_update(9000)
    assert constant.temperature.item() == 1


def test_calibration_lets_every_member_tell_messages_apart():
    torch.manual_seed(0)
    channel = DVQChannel(8, DVQSettings(structure="hierarchical"))
    messages = 5 + 0.01 * torch.randn(4000, 8)
    channel.calibrate(messages)
    for indices in channel._read(messages).indices.T:
        assert Categorical(indices.bincount(minlength=16).float()).entropy() > math.log(2)
    logits = channel._logits(channel.normalize(messages))
    assert torch.allclose(channel.share, torch.softmax(logits, -1).mean(0), atol=1e-5)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_a_pool_that_always_chooses_the_same_is_a_vq(update):
    dvq = DVQChannel(8, DVQSettings(pool=[(1, 5), (2, 6)], selector="constant", constant_member=1, update=update))
    vq = VQChannel(8, VQSettings(segments=2, codebook_size=6, update=update))
    vq.upkeep.begin(vq.codebook, dvq.books[1].detach())
    messages, gradients = torch.randn(20, 8), []
    for channel in (vq, dvq):
        own = messages.clone().requires_grad_()
        sent, weights = channel.transmit(own), channel.loss_weights()
        assert torch.equal(sent.received, vq.decode(vq.encode(messages)))
        assert weights == vq.loss_weights()
        total = (sent.received * messages.flip(0)).sum() + sum(
            weights[name] * sent.losses[name].sum() for name in weights
        )
        total.backward()
        gradients.append(own.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    if update == "loss":
        assert torch.allclose(vq.codebook.grad, dvq.books[1].grad, atol=1e-6)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_codewords_of_every_member_move_as_those_of_a_vq_would(update):
    """Flat, each member hears the messages; in a hierarchy, the codewords of the one before it."""
    pool, kept = [(2, 40), (1, 50)], {"update": update, "replace_after": 3, "decay": 0.5}  # not after two updates
    for structure in ("flat", "hierarchical"):
        dvq = DVQChannel(8, DVQSettings(pool=pool, structure=structure, **kept))
        heard = ["layer", "layer" if structure == "flat" else "none"]
        alone = [
            VQChannel(8, VQSettings(segments=g, codebook_size=size, normalization=kind, **kept))
            for (g, size), kind in zip(pool, heard, strict=True)
        ]
        dvq.calibrate(torch.randn(100, 8))
        for vq, book in zip(alone, dvq.books, strict=True):
            vq.upkeep.begin(vq.codebook, book.detach())
        for env_steps in (100, 200):
            messages = torch.randn(30, 8)
            second = messages if structure == "flat" else alone[0].decode(alone[0].encode(messages))
            alone[0].absorb(messages, env_steps, Peers())
            alone[1].absorb(second, env_steps, Peers())
            dvq.absorb(messages, env_steps, Peers())
            for vq, book, counts in zip(alone, dvq.books, dvq.counts, strict=True):
                assert torch.allclose(vq.codebook, book, atol=1e-6)
                assert torch.equal(vq.idle, counts.idle)
                assert vq.idle.any()


def test_running_means_and_replaced_codewords_of_a_pool():
    channel = DVQChannel(8, DVQSettings(pool=[(1, 4), (2, 3)], update="ema", replace_after=1))
    assert not [name for name, _ in channel.named_parameters() if name.startswith("books")]
    noise_of = torch.rand(50, 2)
    losses = channel.losses(torch.randn(50, 8), channel.encode(torch.randn(50, 8), noise_of), noise_of)
    assert losses.keys() == channel.loss_weights().keys()
    assert "codebook" not in losses
    messages = torch.randn(50, 8)
    with torch.no_grad():
        channel.books[1][1, 2] = 1e3  # nobody's
    channel.absorb(messages, 0, Peers())
    heard = channel.normalize(messages)[:, 4:]
    assert (channel.books[1][1, 2] == heard).all(-1).any()


def test_codewords_count_as_parameters_however_they_learn():
    for update in ("loss", "ema"):
        assert VQChannel(8, VQSettings(codebook_size=5, segments=2, update=update)).parameter_count == 5 * 8
        pool = DVQSettings(pool=[(2, 5), (1, 3)], update=update, key_size=4, normalization="running", replace_after=2)
        assert DVQChannel(8, pool).parameter_count == (5 + 3) * 8 + 2 * 4 + (8 * 4 + 4)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "vq",
            {"segments": 3},
            r"channel.segments: got 3, wanted a divisor of policy.message_size 8 \(nearest: 2\)",
        ),
        ("vq", {"init_after": 5}, "init_after 5 is for init: kmeans; with init: calibrate leave it at 0"),
        (
            "dvq",
            {"pool": [[1, 4], [3, 4]]},
            r"channel.pool.1: got G = 3, wanted a divisor of policy.message_size 8 \(nearest: 2\)",
        ),
        ("dvq", {"pool": [[1, 1]]}, r"channel.pool.0.1: got 1, wanted greater than or equal to 2"),
        ("dvq", {"pool": [["1", 16]]}, r"channel.pool.0.0: got '1', wanted a valid integer"),
        ("dvq", {"pool": []}, r"channel.pool: got \[\], wanted "),
        ("dvq", {"update": "ema", "train_unselected": 0.5}, "train_unselected: got 0.5, wanted 1 with update: ema"),
        ("dvq", {"constant_member": 6}, "constant_member 6 is not in the pool: wanted 0 to 5"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        make_channel(name, settings, 8)


def test_dvq_needs_noise():
    with pytest.raises(ValueError, match=r"dvq needs noise: pass uniform draws of shape \[\.\.\., N\]"):
        DVQChannel(8).encode(torch.zeros(1, 8))
