"""The contract of a channel: vectors to symbols to vectors, with a gradient for the sender."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marlcomm.wire.alphabet import Alphabet


@dataclass(frozen=True)
class Transmission:
    """What one talk through a channel yields.

    Attributes:
        received: [..., D] what the receivers hear: the decoded symbols, with the sender's gradient attached.
        symbols: [..., S] int32, what is on the wire.
        losses: named losses, one value per message [...], unweighted; empty where no gradient is wanted.
    """

    received: Tensor
    symbols: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class Channel(nn.Module, ABC):
    """One link from a sender to whoever hears it.

    A subclass says what is on the wire (`alphabet`), and how vectors become symbols (`encode`), symbols vectors
    (`decode`), and what the gradient sees (`surrogate`). `transmit` composes them once for all:
    ``decode(symbols) + (surrogate - surrogate.detach())``, so the receiver's value is the decoded one bit for
    bit, and its gradient is the surrogate's. Gradients also reach parameters that `decode` uses; a subclass
    detaches what should not learn that way.

    Channels compute in float32 and return the dtype they were given. State that must travel (schedules,
    statistics) lives in buffers, and changes only in `after_update`.

    Attributes:
        noise_size: how many uniform draws in (0, 1) a message needs; both ends are given the same ones.
        carries: whether anything is transmitted at all; where False, receivers mask every sender.
        differentiable: whether the receivers' loss has a gradient for the sender. Where False, the sender learns from
            the channel's own losses instead, and one of them must have a gradient for the messages.
    """

    noise_size: int = 0
    carries: ClassVar[bool] = True
    differentiable: bool = True

    def __init__(self, message_size: int, settings: Any = None) -> None:
        super().__init__()
        self.message_size = message_size
        self.settings = settings

    @abstractmethod
    def alphabet(self) -> Alphabet:
        """The symbols of a message."""

    @abstractmethod
    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        """Symbols [..., S] int32 of messages [..., D] float32, given noise [..., noise_size]."""

    @abstractmethod
    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        """Vectors [..., D] of symbols [..., S] and the same noise."""

    @abstractmethod
    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        """The differentiable stand-in [..., D] for decode(encode(messages)): only its gradient counts."""

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Named losses [...], one value per message, unweighted."""
        return {}

    def loss_weights(self) -> dict[str, float]:
        """The present weight of each loss."""
        return {}

    def calibrate(self, messages: Tensor) -> None:
        """Choose what training starts from by what an untrained team says, messages [M, D]; called once, if overridden.

        Draws come from torch's global generator, which is seeded by the run.
        """

    def after_update(self, env_steps: int) -> None:
        """Advance schedules; called once after each update with the env steps sampled so far."""

    def transmit(self, messages: Tensor, noise: Tensor | None = None) -> Transmission:
        """Send messages [..., D] (any float dtype) through the channel."""
        if messages.shape[-1] != self.message_size:
            raise ValueError(
                f"{type(self).__name__} was built for messages of size {self.message_size}, got {messages.shape[-1]}"
            )
        messages, dtype = messages.float(), messages.dtype
        symbols = self.encode(messages.detach(), noise)
        decoded = self.decode(symbols, noise)
        if not torch.is_grad_enabled():
            return Transmission(decoded.to(dtype), symbols)
        surrogate = self.surrogate(messages, noise)
        received = decoded + (surrogate - surrogate.detach())
        return Transmission(received.to(dtype), symbols, self.losses(messages, symbols, noise))
