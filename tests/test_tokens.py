"""Channels of tokens: what is sampled, what the gradient is, and where a message ends."""

import math

import pytest
import torch

from marlcomm import noise
from marlcomm.channels.daps import LOG_ETA_RANGE, DAPSChannel, Standard, clipped_search, search_weights
from marlcomm.channels.gumbel import GRMCKChannel, GumbelChannel, conditional_gumbels
from marlcomm.channels.settings import DAPSSettings, GRMCKSettings, GumbelSettings
from marlcomm.channels.tokens import TokenReader, one_hot, spoken, to_symbols
from marlcomm.policies.team import make_channel
from marlcomm.registry import ConfigError
from marlcomm.wire import Code


def keys(count, seed=0):
    return noise.world_keys(seed, "t", torch.arange(count), torch.zeros(count, dtype=torch.int64))


def uniforms(count, *shape, seed=0):
    """Draws [count, *shape]."""
    return noise.uniform(keys(count, seed), *shape)


SENDERS = ["factorised", "autoregressive"]


# --- draws -----------------------------------------------------------------------------------------------------------


def test_keys_of_draws_differ_where_the_draws_differ_in_value_or_place():
    draws = uniforms(1000, 8)
    swapped = draws[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    changed = draws.clone()
    changed[:, -1] += 2.0**-23  # the smallest step of a draw
    assert len(torch.cat([noise.keys_of(x) for x in (draws, swapped, changed)]).unique()) == 3000
    assert torch.equal(noise.keys_of(draws[:10]), noise.keys_of(draws)[:10])


def test_many_draws_are_uniform_and_independent():
    draws = noise.many_uniform(keys(20_000), 7).double()
    assert draws.shape == (20_000, 7)
    assert 0 < draws.min() < draws.max() < 1
    assert abs(float(draws.mean()) - 0.5) < 4 / math.sqrt(12 * draws.numel())
    assert float(draws.var()) == pytest.approx(1 / 12, rel=0.01)
    assert (torch.corrcoef(draws.T) - torch.eye(7)).abs().max() < 4.5 / math.sqrt(20_000)


# --- gumbel ----------------------------------------------------------------------------------------------------------


def test_gumbel_tokens_follow_the_softmax():
    channel = GumbelChannel(3, GumbelSettings(vocabulary=5, tokens=2))
    message = torch.randn(3)
    symbols = channel.encode(message.expand(50_000, 3), uniforms(50_000, 10))
    law = torch.softmax(channel.sender.to_logits(message).view(2, 5), -1)
    for token in range(2):
        shares = torch.bincount(symbols[:, token].long(), minlength=5) / 50_000
        assert torch.allclose(shares, law[token], atol=0.01)


def test_gumbel_gradient_is_that_of_the_relaxed_sample():
    channel = GumbelChannel(3, GumbelSettings(vocabulary=4, temperature=0.7))
    message = torch.randn(2, 3, requires_grad=True)
    draws = torch.rand(2, 4).clamp(1e-3, 1 - 1e-3)
    sent = channel.transmit(message, draws)
    (gradient,) = torch.autograd.grad(sent.received.sum(), message)
    table = channel.reader.embedding
    soft = torch.softmax((channel.sender.to_logits(message) + noise.gumbel(draws)) / 0.7, -1) @ table[0]
    (expected,) = torch.autograd.grad(soft.sum(), message)
    assert torch.allclose(gradient, expected, atol=1e-6)
    # and the embedding of the token that was heard learns from the receiver's loss
    (learned,) = torch.autograd.grad(channel.transmit(message, draws).received.sum(), table)
    assert learned[0].abs().sum() == pytest.approx(2 * 3)


def test_an_autoregressive_sender_follows_what_it_has_said():
    """The law of the second token, counted given each first one, is the softmax of the GRU stepped by hand."""
    torch.manual_seed(0)
    channel = GumbelChannel(3, GumbelSettings(vocabulary=3, tokens=2, sender="autoregressive", sender_size=8))
    sender, message = channel.sender, torch.randn(1, 3)
    with torch.no_grad():  # so that it matters what was said
        sender.embedding.mul_(5)
        sender.to_logits.weight.mul_(5)
    symbols = channel.encode(message.expand(60_000, 3), uniforms(60_000, 6)).long()
    first = sender.cell(torch.zeros(1, 8), torch.tanh(sender.to_state(message)))
    assert torch.allclose(shares(symbols[:, 0]), law(sender, first), atol=0.01)
    laws = []
    for said in range(3):
        then = sender.cell(sender.embedding[said : said + 1], first)
        laws.append(law(sender, then))
        assert torch.allclose(shares(symbols[symbols[:, 0] == said, 1]), laws[-1], atol=0.015)
    assert (laws[0] - laws[1]).abs().max() > 0.1


def shares(values):
    return torch.bincount(values, minlength=3) / len(values)


def law(sender, state):
    return torch.softmax(sender.to_logits(state), -1)[0]


def test_an_autoregressive_token_learns_from_those_that_follow_it():
    torch.manual_seed(0)
    channel = GumbelChannel(3, GumbelSettings(vocabulary=3, tokens=2, sender="autoregressive", sender_size=8))
    message, draws = torch.randn(50, 3), uniforms(50, 6)
    with torch.no_grad():
        channel.reader.embedding[0] = 0  # the receiver hears the second token only
    (gradient,) = torch.autograd.grad(
        channel.transmit(message, draws).received.square().sum(), channel.sender.embedding
    )
    assert gradient.abs().sum() > 0.1  # by way of the embedding of the first


@pytest.mark.parametrize("sender", SENDERS)
def test_the_temperature_changes_the_gradient_and_never_the_tokens(sender):
    settings = {"tokens": 3, "vocabulary": 6, "sender": sender}
    hot, cold = GumbelChannel(4, GumbelSettings(**settings)), GumbelChannel(4, GumbelSettings(**settings))
    cold.load_state_dict(hot.state_dict())
    cold.temperature.fill_(0.2)
    messages, draws = torch.randn(200, 4, requires_grad=True), uniforms(200, 18)
    first, second = hot.transmit(messages, draws), cold.transmit(messages, draws)
    assert torch.equal(first.symbols, second.symbols)
    assert torch.equal(first.received, second.received)
    gradients = [torch.autograd.grad(sent.received.square().sum(), messages)[0] for sent in (first, second)]
    assert not torch.allclose(*gradients, rtol=0.1)


@pytest.mark.parametrize(("schedule", "halfway"), [("constant", 1.0), ("linear", 0.625), ("exponential", 0.5)])
def test_the_temperature_falls_after_updates_only(schedule, halfway):
    channel = GumbelChannel(
        4, GumbelSettings(temperature_schedule=schedule, temperature_end=0.25, temperature_steps=1000)
    )
    channel.transmit(torch.randn(5, 4), torch.rand(5, 16))
    assert float(channel.temperature) == 1
    channel.after_update(500)
    assert float(channel.temperature) == pytest.approx(halfway)
    copy = GumbelChannel(4, channel.settings)
    copy.load_state_dict(channel.state_dict())  # the schedule travels with the weights
    assert float(copy.temperature) == pytest.approx(halfway)
    channel.after_update(7000)
    assert float(channel.temperature) == pytest.approx(1.0 if schedule == "constant" else 0.25)


# --- the end of a message --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", SENDERS)
def test_what_follows_the_end_is_neither_sent_nor_heard(sender):
    torch.manual_seed(0)
    channel = GumbelChannel(4, GumbelSettings(vocabulary=3, tokens=4, end_token=True, sender=sender))
    symbols = channel.encode(torch.randn(300, 4), uniforms(300, 12))
    lengths = 1 + (symbols[:, :-1] != 0).cumprod(-1).sum(-1)
    assert set(lengths.tolist()) == {1, 2, 3, 4}
    after = torch.arange(4) >= lengths[:, None]
    assert not symbols[after].any()
    assert torch.equal(channel.decode(symbols), channel.decode(torch.where(after, 2, symbols)))
    one = symbols[lengths == 2][0]
    table = channel.reader.embedding
    assert torch.allclose(channel.decode(one), table[0, one[0].long()] + table[1, 0])
    bits = Code(channel.alphabet()).encode(symbols.numpy()).bits
    assert (bits == 2 * lengths.numpy()).all()  # two bits for each of three values


def test_tokens_after_the_end_get_no_gradient_and_the_end_gets_that_of_the_rest():
    values = torch.tensor([[2, 0, 1, 1], [1, 2, 1, 0]])
    tokens = one_hot(values, 3).requires_grad_()
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    sent = spoken(tokens, end_token=True)
    assert sent.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    (gradient,) = torch.autograd.grad((sent * weights).sum(), tokens)
    assert not gradient[..., 1:].any()  # only the choice of token 0 matters
    # the first message ends at its second token: going on would have let the third and fourth be heard
    assert gradient[0, :, 0].tolist() == [-10, -1100, 0, 0]
    assert gradient[1, :, 0].tolist() == [-1110, -1100, -1000, 0]


@pytest.mark.parametrize("name", ["gumbel", "gr_mck"])
@pytest.mark.parametrize("sender", SENDERS)
def test_a_cost_of_length_makes_messages_short(name, sender):
    torch.manual_seed(0)
    settings = {"vocabulary": 4, "tokens": 5, "end_token": True, "length_weight": 1.0, "sender": sender}
    channel = make_channel(name, settings, 4)
    optimizer = torch.optim.Adam(channel.parameters(), lr=0.01)
    lengths = []
    for step in range(150):
        losses = channel.transmit(torch.randn(64, 4), uniforms(64, 20, seed=step)).losses
        lengths.append(losses["length"].mean().item())
        optimizer.zero_grad()
        losses["length"].mean().backward()
        optimizer.step()
    assert lengths[0] > 2.5
    assert sum(lengths[-5:]) / 5 < 1.6


# --- gr_mck ----------------------------------------------------------------------------------------------------------


def quadratic():
    """An 8-way categorical and a random quadratic loss of its token, as of the published estimator's tests."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, generator=generator)
    root, shift = torch.randn(8, 8, generator=generator), torch.randn(8, generator=generator)

    def gradients(noises, hard, temperature):
        """The straight-through gradients [M, 8] of (token - shift)' root'root (token - shift)."""
        leaf = logits.expand_as(hard).clone().requires_grad_()
        soft = torch.softmax((leaf.unsqueeze(-2) + noises) / temperature, -1).mean(-2)
        tokens = hard + (soft - soft.detach())
        loss = ((tokens - shift) @ root.T).square().sum()
        return torch.autograd.grad(loss, leaf)[0].double()

    return logits, gradients


def draw(logits, count, samples):
    """Sampled tokens [M, 8], their Gumbels [M, 1, 8], and conditional ones [M, K, 8]."""
    drawn = uniforms(count, 8)
    hard = one_hot((logits + noise.gumbel(drawn)).argmax(-1), 8)
    more = noise.many_uniform(noise.keys_of(drawn), samples * 8).view(count, samples, 8)
    return hard, noise.gumbel(drawn).unsqueeze(-2), conditional_gumbels(logits.expand_as(hard), hard, more)


def test_conditional_noise_always_leads_to_the_given_token():
    logits, _ = quadratic()
    for scale in (1.0, 20.0):  # also where all but one token are all but impossible
        hard, _, conditional = draw(scale * logits, 2000, 50)
        perturbed = torch.log_softmax(scale * logits, -1) + conditional
        best = perturbed.max(-1, keepdim=True).values
        assert torch.isfinite(perturbed).all()
        assert torch.allclose((perturbed * hard.unsqueeze(-2)).sum(-1, keepdim=True), best, atol=1e-4)


def test_conditional_noise_over_sampled_tokens_is_gumbel_noise():
    """A token drawn first and its noise then is noise drawn at once: mean 0.5772, variance pi^2 / 6, no correlation."""
    logits, _ = quadratic()
    _, _, conditional = draw(logits, 200_000, 1)
    # up to the log of the softmax's sum, which the conditional noise of log p leaves out
    found = conditional.squeeze(-2).double()
    assert torch.allclose(found.mean(0), torch.full((8,), 0.57722, dtype=torch.float64), atol=0.012)
    assert torch.allclose(found.var(0), torch.full((8,), math.pi**2 / 6, dtype=torch.float64), rtol=0.02)
    assert (torch.corrcoef(found.T) - torch.eye(8)).abs().max() < 4.5 / math.sqrt(200_000)


def test_the_exponentials_of_the_sampled_gumbels_give_them_back():
    logits, _ = quadratic()
    hard, gumbels, _ = draw(logits, 500, 1)
    log_p = torch.log_softmax(logits, -1)
    rates = torch.exp(-(log_p + gumbels.squeeze(-2)))  # exp(-perturbed): E_i at the token, E_j / p_j + E_i elsewhere
    first = (rates * hard).sum(-1, keepdim=True)
    exponentials = torch.where(hard.bool(), first, (rates - first) * log_p.exp())
    again = conditional_gumbels(logits.expand_as(hard), hard, torch.exp(-exponentials).unsqueeze(-2))
    usual = (exponentials > 1e-3) & (exponentials < 8)  # float32 keeps little of a uniform draw next to 0 or 1
    assert usual.double().mean() > 0.95
    assert torch.allclose(again.squeeze(-2)[usual], gumbels.squeeze(-2)[usual], atol=1e-2)


@pytest.mark.parametrize("sender", SENDERS)
def test_one_sample_of_the_drawn_noise_is_the_straight_through_gradient(sender, monkeypatch):
    settings = {"vocabulary": 6, "tokens": 3, "sender": sender, "temperature": 0.4}
    plain, averaged = (
        GumbelChannel(4, GumbelSettings(**settings)),
        GRMCKChannel(4, GRMCKSettings(**settings, samples=1)),
    )
    averaged.load_state_dict(plain.state_dict())
    messages, draws = torch.randn(100, 4, requires_grad=True), uniforms(100, 18)

    def gradient(channel):
        return torch.autograd.grad(channel.transmit(messages, draws).received.square().sum(), messages)[0]

    assert torch.equal(plain.encode(messages, draws), averaged.encode(messages, draws))
    assert not torch.allclose(gradient(plain), gradient(averaged))
    monkeypatch.setattr(averaged, "_noises", lambda logits, gumbels, uniforms: gumbels.unsqueeze(-2))
    assert torch.equal(gradient(plain), gradient(averaged))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_averaging_keeps_the_mean_of_the_gradient(temperature):
    logits, gradients = quadratic()
    hard, gumbels, conditional = draw(logits, 20_000, 100)
    straight = gradients(gumbels, hard, temperature)
    for samples in (1, 10, 100):
        averaged = gradients(conditional[:, :samples], hard, temperature)
        difference = averaged - straight  # paired: the same tokens
        error = difference.std(0) / math.sqrt(len(difference))
        assert (difference.mean(0).abs() < 4 * error).all(), samples


def test_averaging_lowers_the_variance_at_a_low_temperature():
    logits, gradients = quadratic()
    hard, _, conditional = draw(logits, 20_000, 100)
    one, many = (gradients(conditional[:, :samples], hard, 0.1).var(0).sum() for samples in (1, 100))
    assert many <= 0.25 * one


def test_gr_mck_draws_by_the_message_alone():
    channel = GRMCKChannel(4, GRMCKSettings(vocabulary=5, tokens=2))
    assert channel.noise_size == 10
    messages, draws = torch.randn(30, 4), uniforms(30, 10)

    def gradient(part):
        leaf = messages[part].clone().requires_grad_()
        return torch.autograd.grad(channel.transmit(leaf, draws[part]).received.square().sum(), leaf)[0]

    everything = slice(None)
    assert torch.equal(gradient(everything), gradient(everything))
    assert torch.allclose(gradient(everything)[:7], gradient(slice(7)), atol=1e-5)


# --- daps ------------------------------------------------------------------------------------------------------------


class Game(DAPSChannel):
    """The sender's search alone: every message has a reward of its own, drawn once, and nothing is reconstructed."""

    def __init__(self, settings):
        super().__init__(1, settings)
        shape = settings.tokens * [settings.vocabulary]
        self.prizes = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        # every message there is, as rows of symbols with zeros after its end
        every = torch.cartesian_prod(*[torch.arange(settings.vocabulary)] * settings.tokens).view(-1, settings.tokens)
        self.every = to_symbols(one_hot(every, settings.vocabulary), settings.end_token).unique(dim=0).long()

    def rewards(self, fit, tokens):
        return self.prizes[to_symbols(tokens, self.settings.end_token).long().unbind(-1)]

    def play(self, steps, lr, batch):
        """Train the sender, and return the law of messages [Z] that it ends with, a mean over its last steps."""
        optimizer = torch.optim.Adam(self.sender.parameters(), lr=lr)
        fall = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        laws = []
        for step in range(steps):
            draws = uniforms(batch, self.noise_size, seed=step)
            loss = self.transmit(torch.zeros(batch, 1), draws).losses["search"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            fall.step()
            self.after_update(step)
            if step >= 0.6 * steps:
                laws.append(self.law())
        return torch.stack(laws).mean(0)

    @torch.no_grad()
    def law(self):
        """q of every message [Z], by forcing the sender to say it."""
        tokens = one_hot(self.every, self.settings.vocabulary)
        _, logits = self.sender(torch.zeros(len(tokens), 1), tokens, lambda logits, said: said)
        sent = spoken(tokens, self.settings.end_token)
        return ((torch.log_softmax(logits, -1) * tokens).sum(-1) * sent).sum(-1).exp()

    def target(self):
        """softmax(R / beta) [Z]."""
        return torch.softmax(self.prizes[self.every.unbind(-1)] / self.settings.beta, 0)


SEARCHES = [
    (8, {"vocabulary": 8, "samples": 4, "sender": "factorised"}),
    (9, {"vocabulary": 3, "tokens": 2, "samples": 4, "sender_size": 16}),
    (7, {"vocabulary": 3, "tokens": 2, "samples": 4, "sender_size": 16, "end_token": True}),
]


@pytest.mark.parametrize(
    ("messages", "settings", "loss"),
    [
        *((*search, loss) for search in SEARCHES for loss in ("daps", "ppo")),
        (8, {"vocabulary": 8, "samples": 8, "sender": "factorised", "eta": 3.0}, "daps"),  # ppo has no eta
    ],
    ids=str,
)
def test_the_sender_ends_at_the_softmax_of_its_rewards(messages, settings, loss):
    """softmax(R / beta) over whole messages, whatever K, eta, the sender and the length of messages."""
    torch.manual_seed(0)
    game = Game(DAPSSettings(**settings, beta=0.5, encoder_loss=loss, decoder_size=8))
    assert game.law().sum().item() == pytest.approx(1, abs=1e-5)
    assert len(game.law()) == messages
    assert (game.law() - game.target()).abs().sum() / 2 > 0.05
    how = {"lr": 0.02, "batch": 512} if "tokens" in settings else {"lr": 0.03, "batch": 2048}
    law = game.play(steps=300, **how)
    assert (law - game.target()).abs().sum() / 2 < 0.01


def test_a_baseline_cancels_in_the_weights():
    rewards, log_q = torch.randn(50, 8), -3 * torch.rand(50, 8)
    mean, best = rewards.mean(-1, keepdim=True), torch.logsumexp(rewards, -1, keepdim=True)
    eta, beta = torch.tensor(0.7), torch.tensor(0.3)
    weights = [search_weights(rewards - baseline, log_q, eta, beta) for baseline in (0, mean, best)]
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert torch.allclose(weights[0], weights[2], atol=1e-6)


def test_weights_by_hand():
    rewards, log_q = torch.tensor([[1.0, 0.0]]), torch.log(torch.tensor([[0.5, 0.25]]))
    weights = search_weights(rewards, log_q, torch.tensor(0.5), torch.tensor(0.5))
    # exp(R) q^-1/2: e * sqrt 2 against 2
    assert weights[0].tolist() == pytest.approx([math.e * 2**0.5 / (math.e * 2**0.5 + 2), 2 / (math.e * 2**0.5 + 2)])


def test_the_clipped_loss_by_hand():
    rewards = torch.tensor([[1.0, 0.0]])  # advantages over the other sample: 1 and -1
    log_q = torch.log(torch.tensor([[1.5, 0.5]])).requires_grad_()  # ratios, as the old log q is 0
    loss = clipped_search(rewards, log_q, torch.zeros(1, 2), clip=0.2)
    assert loss.item() == pytest.approx(-(1.2 - 0.8) / 2)
    loss.sum().backward()
    assert log_q.grad.tolist() == [[0, 0]]  # both have gone far enough


def daps(**settings):
    torch.manual_seed(0)
    return DAPSChannel(4, DAPSSettings(**{"vocabulary": 6, "tokens": 2, "samples": 4, "decoder_size": 16} | settings))


def parts(channel, value, messages):
    """What a number moves: the channel's parts by name, and the messages."""
    learning = dict(channel.named_parameters()) | {"messages": messages}
    found = torch.autograd.grad(value, list(learning.values()), allow_unused=True, retain_graph=True)
    moved = {name.split(".")[0] for name, g in zip(learning, found, strict=True) if g is not None and g.any()}
    return sorted(moved)


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("loss", ["daps", "ppo"])
def test_gradients_go_only_where_they_should(sender, loss):
    channel = daps(sender=sender, encoder_loss=loss, bit_cost=0.1)
    messages = torch.randn(50, 4, requires_grad=True)
    sent = channel.transmit(messages, uniforms(50, 2))
    moved = {name: parts(channel, values.sum(), messages) for name, values in sent.losses.items()}
    expected = {
        "search": ["messages", "sender"],
        "reconstruction": ["decoder"],
        "scale": ["standard"],
        "trust": ["slow_log_eta"],
        "table": ["table"],
    }
    assert moved == {name: where for name, where in expected.items() if name != "trust" or loss == "daps"}
    assert parts(channel, sent.received.square().sum(), messages) == ["decoder"]
    bypassed = daps(st_bypass=True)
    assert bypassed.differentiable
    received = bypassed.transmit(messages, uniforms(50, 2)).received
    assert parts(bypassed, received.square().sum(), messages) == ["decoder", "messages"]


@pytest.mark.parametrize("loss", ["daps", "ppo"])
def test_the_first_sample_is_the_one_on_the_wire(loss):
    channel = daps(encoder_loss=loss, samples=8, end_token=True)
    messages, draws = torch.randn(200, 4), uniforms(200, 2)
    tokens, log_q, old_log_q = channel._samples(channel.standard(messages), draws)
    symbols = to_symbols(tokens, True)
    assert torch.equal(symbols[:, 0], channel.encode(messages, draws))
    assert torch.allclose(log_q, old_log_q, atol=1e-5)
    assert (symbols != symbols[:, :1]).any(-1).double().mean() > 0.5
    # all of them are of the sender's law: a first token's share over samples is its mean chance
    _, logits = channel.sender(channel.standard(messages), draws.unsqueeze(-1), channel._choose)
    chance = torch.softmax(logits[:, 0], -1).mean(0)
    counted = torch.bincount(symbols[..., 0].flatten().long(), minlength=6) / (200 * 8)
    assert torch.allclose(counted, chance, atol=4 * math.sqrt(0.25 / 1600))


def test_the_ppo_sender_that_samples_is_that_of_the_last_round():
    channel = daps(encoder_loss="ppo")
    messages, draws = torch.randn(100, 4), uniforms(100, 2)
    with torch.no_grad():
        for weight in channel.sender.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    assert not (set(channel.old_sender.state_dict()) & {name for name, _ in channel.old_sender.named_parameters()})
    _, log_q, old_log_q = channel._samples(channel.standard(messages), draws)
    assert not torch.allclose(log_q, old_log_q, atol=0.05)
    channel.after_update(0)
    _, log_q, old_log_q = channel._samples(channel.standard(messages), draws)
    assert torch.allclose(log_q, old_log_q, atol=1e-5)


@pytest.mark.parametrize("loss", ["daps", "ppo"])
def test_the_channel_learns_to_autoencode(loss):
    """Of a Gaussian in 4 dimensions, 4 bits cannot leave less than 2^-2 of the variance; an idle channel leaves all."""
    channel = daps(vocabulary=4, samples=8, sender="factorised", encoder_loss=loss)
    center = torch.tensor([3.0, 0.0, -1.0, 0.0])

    def source(seed):
        return center + 0.1 * torch.erfinv(2 * uniforms(256, 4, seed=10_000 + seed) - 1) * math.sqrt(2)

    channel.calibrate(source(0))
    optimizer = torch.optim.Adam(channel.parameters(), lr=0.01)
    weights = channel.loss_weights()
    for step in range(500):
        losses = channel.transmit(source(step), uniforms(256, 2, seed=step)).losses
        if step == 0:
            first = losses["reconstruction"].mean().item()
        optimizer.zero_grad()
        sum(weights[name] * values.mean() for name, values in losses.items()).backward()
        optimizer.step()
        channel.after_update(step)
    fresh = source(1000)
    with torch.no_grad():
        heard = channel.decode(channel.encode(fresh, uniforms(256, 2, seed=1000)))
    last = losses["reconstruction"].mean().item()
    idle = 0.5 * math.log(2 * math.pi * math.e)  # the best that can be done without a message
    assert last < idle - 0.2 < first
    assert 0.25 < (heard - fresh).square().mean().item() / 0.1**2 < 0.6


def test_the_reward_may_hold_any_cost():
    """Where all messages reconstruct equally well, the cheap ones are left: those that end at once."""
    channel = daps(vocabulary=4, tokens=4, end_token=True, bit_cost=0.3, samples=8)
    fit = channel.rewards(torch.zeros(()), one_hot(torch.tensor([[[0, 1, 2, 3], [1, 2, 0, 1], [1, 1, 1, 1]]]), 4))
    assert torch.allclose(fit, -0.3 * 2 * torch.tensor([[1.0, 3.0, 4.0]]))  # at first every token costs two bits
    optimizer = torch.optim.Adam([*channel.sender.parameters(), channel.table], lr=0.01)
    bits = []
    for step in range(200):
        channel.rewards = lambda fit, tokens: DAPSChannel.rewards(channel, torch.zeros_like(fit), tokens)
        losses = channel.transmit(torch.randn(64, 4), uniforms(64, 4, seed=step)).losses
        bits.append(losses["table"].mean().item())
        optimizer.zero_grad()
        (losses["search"] + losses["table"]).mean().backward()
        optimizer.step()
    assert bits[0] > 5
    assert bits[-1] < 1


def test_the_effective_share_leads_eta():
    greedy, even = torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 4), 0.25)
    channel = daps(effective_share=0.5)
    for weights, share, falls in ((greedy, 0.25, False), (even, 1.0, True)):
        loss = channel._trust(weights)
        assert loss.item() == pytest.approx(share)
        (gradient,) = torch.autograd.grad(loss.sum(), channel.slow_log_eta)
        assert gradient.item() == pytest.approx(share - 0.5)
        assert (gradient > 0) == falls
    for beyond, bound in zip((-1e6, 1e6), LOG_ETA_RANGE, strict=True):
        with torch.no_grad():
            channel.slow_log_eta.fill_(beyond)
        assert channel.log_eta.item() == bound
        channel.after_update(0)
        assert channel.slow_log_eta.item() == pytest.approx(bound / 10)  # so that it can come back at once


def test_the_standard_follows_the_messages():
    channel = daps()
    messages = 5 + 0.2 * torch.randn(4000, 4)
    channel.calibrate(messages)
    assert channel.standard(messages).mean(0).abs().max() < 1e-3
    assert torch.allclose(channel.standard(messages).std(0), torch.ones(4), atol=1e-3)
    moved = 5.3 + 0.8 * torch.randn(4000, 4)
    optimizer = torch.optim.Adam(channel.standard.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        channel.standard.loss(moved).mean().backward()
        optimizer.step()
    assert channel.standard(moved).mean(0).abs().max() < 0.05
    assert torch.allclose(channel.standard(moved).std(0), torch.ones(4), atol=0.05)
    assert torch.allclose(channel.standard.undo(channel.standard(moved)), moved, atol=1e-5)


def test_an_outlier_pulls_no_further_than_three_spreads():
    standard = Standard(1)
    loss = standard.loss(torch.tensor([[1000.0]]))
    assert loss.item() == 1e6
    centre, spread = torch.autograd.grad(loss.sum(), [standard.center, standard.slow_log_spread])
    assert (centre.item(), spread.item()) == (-3, 1 - 9)


def test_the_spread_of_messages_that_do_not_differ_is_bounded():
    channel = daps()
    channel.calibrate(torch.ones(10, 4))
    assert torch.isfinite(channel.standard(torch.randn(10, 4))).all()


@pytest.mark.parametrize(("schedule", "halfway"), [("constant", 0.4), ("linear", 0.22), ("exponential", 0.126491)])
def test_beta_falls_after_updates_only(schedule, halfway):
    channel = daps(beta=0.4, beta_schedule=schedule, beta_end=0.04, beta_steps=1000)
    channel.transmit(torch.randn(5, 4), uniforms(5, 2))
    assert float(channel.beta) == pytest.approx(0.4)
    channel.after_update(500)
    assert float(channel.beta) == pytest.approx(halfway)
    copy = DAPSChannel(4, channel.settings)
    copy.load_state_dict(channel.state_dict())
    assert float(copy.beta) == pytest.approx(halfway)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"end_token": True}, r"channel.end_token: got True, wanted false where channel.tokens is 1 .*tokens=2"),
        ({"length_weight": 0.5}, r"channel.length_weight: got 0.5, wanted 0.0 where channel.end_token is false"),
        (
            {"temperature_schedule": "linear", "temperature_end": 3.0},
            r"channel.temperature_end: got 3.0, wanted at most channel.temperature, 1, .*nearest: 1",
        ),
        ({"sender": "recurrent"}, r"channel.sender: got 'recurrent', wanted 'factorised' or 'autoregressive'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_channel("gumbel", settings, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 3}, r"channel.effective_share: got 0.33, wanted more than 1 / channel.samples, 0.333333 .*0.37"),
        ({"beta_schedule": "linear", "beta_end": 0.1}, "channel.beta_end: got 0.1, wanted at most channel.beta, 0.05"),
    ],
)
def test_a_search_that_cannot_be_is_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_channel("daps", settings, 8)


@pytest.mark.parametrize("channel", [GumbelChannel, GRMCKChannel, DAPSChannel])
def test_tokens_need_noise(channel):
    with pytest.raises(ValueError, match="tokens need noise"):
        channel(2).encode(torch.zeros(1, 2))


@pytest.mark.parametrize("end_token", [False, True])
def test_the_gradient_of_the_reader_is_that_of_a_product_with_hard_tokens(end_token):
    settings = GumbelSettings(vocabulary=5, tokens=3, end_token=end_token)
    reader = TokenReader(4, settings)
    symbols = torch.randint(0, 5, (7, 2, 3), dtype=torch.int32)
    tokens = one_hot(symbols, 5)
    sent = tokens * spoken(tokens, end_token).unsqueeze(-1)
    weights = torch.randn(7, 2, 4)
    (reader(symbols) * weights).sum().backward()
    expected = torch.einsum("bmtv,bmw->tvw", sent, weights)
    torch.testing.assert_close(reader.embedding.grad, expected)
