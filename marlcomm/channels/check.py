"""The contract of a channel, checked: for the built-in ones in the tests, for yours by ``marlcomm check channel``."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from marlcomm.channels.base import Channel, Peers, Transmission
from marlcomm.channels.readout import ReadoutChannel
from marlcomm.contract import Finding, examine
from marlcomm.wire.bits import WireError
from marlcomm.wire.codes import Code

_MESSAGES = (64, 3)


def check_channel(build: Callable[[], Channel], seed: int = 0) -> list[Finding]:
    """Check every promise on a channel that `build` makes anew; nothing is raised."""

    def case() -> _Case:
        torch.manual_seed(seed)
        return _Case(build())

    return examine(_CHECKS, case)


class _Case:
    """A fresh channel with messages, noise and what it makes of them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.messages = 2 * torch.randn(*_MESSAGES, channel.message_size)
        self.noise = torch.rand(*_MESSAGES, channel.noise_size).clamp(1e-6, 1 - 1e-6) if channel.noise_size else None

    def symbols(self) -> Tensor:
        with torch.no_grad():
            return self.channel.encode(self.messages, self.noise)


def _symbols_fit_the_alphabet(case: _Case) -> str | None:
    alphabet, symbols = case.channel.alphabet(), case.symbols()
    if symbols.dtype != torch.int32:
        return f"encode returns {symbols.dtype}, wanted torch.int32"
    if symbols.shape != (*_MESSAGES, alphabet.columns):
        return f"encode returns shape {tuple(symbols.shape)}, wanted {(*_MESSAGES, alphabet.columns)} (S columns)"
    try:
        alphabet.check(symbols.flatten(0, 1).numpy())
    except WireError as error:
        return str(error)
    return None


def _decode_gives_vectors(case: _Case) -> str | None:
    with torch.no_grad():
        decoded = case.channel.decode(case.symbols(), case.noise)
    if decoded.shape != case.messages.shape:
        return f"decode returns shape {tuple(decoded.shape)}, wanted {tuple(case.messages.shape)}"
    if decoded.dtype != torch.float32:
        return f"decode returns {decoded.dtype}, wanted torch.float32"
    return None if torch.isfinite(decoded).all() else "decode returns numbers that are infinite or NaN"


def _receivers_hear_what_was_decoded(case: _Case) -> str | None:
    sent = case.channel.transmit(case.messages.requires_grad_(), case.noise)
    decoded = case.channel.decode(sent.symbols, case.noise)
    if not torch.equal(sent.received, decoded):
        return "transmit's received differs from decode(symbols): the gradient path changed the value"
    if not torch.equal(sent.symbols, case.symbols()):
        return "transmit sends other symbols than encode makes: encode_with_surrogate must make the same"
    return None


def _bytes_round_trip(case: _Case) -> str | None:
    symbols = case.symbols()
    code = Code(case.channel.alphabet())
    flat = symbols.flatten(0, 1).numpy()
    packets = code.encode(flat)
    if not np.array_equal(packets.bits, code.lengths(flat)):
        return "the length of the code differs from the bits it wrote"
    returned = torch.from_numpy(code.decode(packets)).view_as(symbols)
    with torch.no_grad():
        same = torch.equal(case.channel.decode(returned, case.noise), case.channel.decode(symbols, case.noise))
    return None if torch.equal(returned, symbols) and same else "symbols change on their way through bytes"


def _same_input_same_symbols(case: _Case) -> str | None:
    first, second = case.symbols(), case.symbols()
    if not torch.equal(first, second):
        return "encode gives other symbols for the same messages and noise: draw from the noise argument only"
    half = None if case.noise is None else case.noise[:32]
    with torch.no_grad():
        part = case.channel.encode(case.messages[:32], half)
    changed = float((part != first[:32]).double().mean()) if part.numel() else 0.0
    return None if changed < 1e-3 else "a message's symbols depend on the other messages of the batch"


def _sampling_changes_nothing(case: _Case) -> str | None:
    before = {name: value.clone() for name, value in case.channel.state_dict().items()}
    with torch.no_grad():
        case.channel.transmit(case.messages, case.noise)
    for name, value in case.channel.state_dict().items():
        if not torch.equal(before[name], value):
            return f"{name} changed while sampling; state may change in absorb and after_update only"
    return None


def _gradient_reaches_the_sender(case: _Case) -> str | None:
    if not case.channel.carries:
        return None
    messages = case.messages.requires_grad_()
    sent = case.channel.transmit(messages, case.noise)
    gradient = _gradient(sent.received.square().sum(), messages)
    if gradient is not None and not torch.isfinite(gradient).all():
        return "the sender's gradient is infinite or NaN"
    if not case.channel.differentiable:
        return _own_losses_reach_the_sender(sent, messages, gradient)
    if gradient is None or not gradient.abs().sum() > 0:
        return "no gradient reaches the sender from the receiver's loss: surrogate must depend on the messages"
    return None


def _own_losses_reach_the_sender(sent: Transmission, messages: Tensor, gradient: Tensor | None) -> str | None:
    """What a channel with differentiable = False promises instead."""
    if gradient is not None and gradient.any():
        return "the receiver's loss has a gradient for the sender in a channel with differentiable = False"
    found = [_gradient(values.sum(), messages) for values in sent.losses.values()]
    if not any(gradient is not None and gradient.abs().sum() > 0 for gradient in found):
        return "no gradient reaches the sender: with differentiable = False, one of the losses must have one"
    return None


def _gradient(value: Tensor, messages: Tensor) -> Tensor | None:
    """The messages' gradient of a number, None where there is no way from one to the other."""
    if not value.requires_grad:
        return None
    return torch.autograd.grad(value, messages, allow_unused=True, retain_graph=True)[0]


def _silence_carries_nothing(case: _Case) -> str | None:
    if case.channel.carries:
        return None
    if case.channel.alphabet().columns:
        return "a channel with carries = False has symbols on the wire"
    sent = case.channel.transmit(case.messages.requires_grad_(), case.noise)
    return None if not sent.received.any() else "a channel with carries = False lets something through"


def _losses_have_gradients(case: _Case) -> str | None:
    messages = case.messages.requires_grad_()
    losses = case.channel.transmit(messages, case.noise).losses
    weights = case.channel.loss_weights()
    if losses.keys() != weights.keys():
        return f"losses are {sorted(losses)}, loss_weights are {sorted(weights)}: wanted the same names"
    learning = [messages, *case.channel.parameters()]
    for name, values in losses.items():
        if values.shape != _MESSAGES:
            return f"loss {name!r} has shape {tuple(values.shape)}, wanted one value per message {_MESSAGES}"
        if not values.requires_grad:
            return f"loss {name!r} has no gradient"
        gradients = torch.autograd.grad(values.sum(), learning, allow_unused=True, retain_graph=True)
        if not any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients):
            return f"loss {name!r} moves neither messages nor parameters"
    return None


def _credit_is_weighed(case: _Case) -> str | None:
    if not case.channel.wants_credit:
        return None
    sent = case.channel.transmit(case.messages.requires_grad_(), case.noise)
    if sent.search is None:
        return "wants credit, but transmit found nothing to be judged"
    samples = sent.search.received
    if samples.dim() != len(_MESSAGES) + 2 or samples.shape[::3] != (_MESSAGES[0], case.channel.message_size):
        return f"samples have shape {tuple(samples.shape)}, wanted {_MESSAGES} x K x {case.channel.message_size}"
    if samples.requires_grad:
        return "samples carry a gradient: they are judged, not trained"
    credited = case.channel.credited_losses(sent.search, torch.randn(samples.shape[:-1]))
    if credited.keys() != sent.losses.keys():
        return f"with credit, losses are {sorted(credited)}, without {sorted(sent.losses)}: wanted the same names"
    if any(values.shape != _MESSAGES for values in credited.values()):
        return f"with credit, a loss is not one value per message {_MESSAGES}"
    same = all(torch.equal(values, sent.losses[name]) for name, values in credited.items())
    return "credit changes no loss" if same else None


def _unheard_senders_contribute_nothing(case: _Case) -> str | None:
    heard = torch.zeros(_MESSAGES, dtype=torch.bool)
    heard[: _MESSAGES[0] // 2] = True
    parameters = list(case.channel.parameters())

    def gradients(messages: Tensor) -> list[Tensor]:
        sent = case.channel.transmit(messages.requires_grad_(), case.noise)
        cost = sent.received.square().sum(-1) + sum(sent.losses.values())
        if not cost.requires_grad:
            return []
        found = torch.autograd.grad(cost[heard].sum(), [messages, *parameters], allow_unused=True)
        return [torch.zeros(()) if gradient is None else gradient for gradient in found]

    others = torch.where(heard.unsqueeze(-1), case.messages, 3 * torch.randn_like(case.messages))
    first, second = gradients(case.messages), gradients(others)
    if first and first[0].dim() and first[0][~heard].any():
        return "a message that nobody heard gets a gradient from the heard ones"
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(first[1:], second[1:], strict=True)):
        return "the parameters' gradient depends on messages that nobody heard: losses are one value per message"
    return None


def _evaluations_decode(case: _Case) -> str | None:
    with case.channel.evaluation():
        problem = _symbols_fit_the_alphabet(case) or _bytes_round_trip(case) or _receivers_hear_what_was_decoded(case)
    if case.channel.evaluating:
        return "evaluating is still True after evaluation()"
    return problem and f"in an evaluation: {problem}"


def _absorbing_leaves_a_channel(case: _Case) -> str | None:
    if not case.channel.absorbs:
        return None
    for messages in (case.messages.flatten(0, 1), case.messages.flatten(0, 1)[:0]):
        case.channel.absorb(messages, 1000, Peers())
        for name, value in case.channel.state_dict().items():
            if not torch.isfinite(value).all():
                return f"{name} is infinite or NaN after absorb with {len(messages)} messages"
    problem = _symbols_fit_the_alphabet(case) or _decode_gives_vectors(case)
    return problem and f"after absorb: {problem}"


def _bottleneck_keeps_the_contract(case: _Case) -> str | None:
    if not isinstance(case.channel, ReadoutChannel):
        return None
    for promise, check in _CHECKS.items():
        problem = check(_Case(copy.deepcopy(case.channel.bottleneck)))
        if problem is not None:
            return f"{promise}: {problem}"
    return None


def _dtype_is_kept(case: _Case) -> str | None:
    for dtype in (torch.float64, torch.bfloat16):
        received = case.channel.transmit(case.messages.to(dtype), case.noise).received
        if received.dtype != dtype:
            return f"messages of {dtype} come back as {received.dtype}"
    return None


_CHECKS: dict[str, Callable[[_Case], str | None]] = {
    "symbols are int32 and fit the alphabet": _symbols_fit_the_alphabet,
    "decode gives finite vectors of the message's shape": _decode_gives_vectors,
    "receivers hear the decoded symbols, bit for bit": _receivers_hear_what_was_decoded,
    "symbols survive the way through bytes": _bytes_round_trip,
    "the same messages and noise give the same symbols": _same_input_same_symbols,
    "sampling changes no state": _sampling_changes_nothing,
    "the receiver's loss, or the channel's own, has a gradient for the sender": _gradient_reaches_the_sender,
    "a channel that carries nothing is silent": _silence_carries_nothing,
    "every loss has a weight and a gradient": _losses_have_gradients,
    "credit changes the losses of a channel that wants it": _credit_is_weighed,
    "what nobody hears moves nothing": _unheard_senders_contribute_nothing,
    "what evaluations send is decoded": _evaluations_decode,
    "what is absorbed leaves a working channel": _absorbing_leaves_a_channel,
    "the dtype of messages is kept": _dtype_is_kept,
    "a bottleneck at the read-out keeps all of these": _bottleneck_keeps_the_contract,
}
