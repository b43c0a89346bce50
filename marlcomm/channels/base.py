"""The contract of a channel: vectors to symbols to vectors, with a gradient for the sender."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marlcomm.wire.alphabet import Alphabet, Symbols
from marlcomm.wire.bits import WireError
from marlcomm.wire.conditional import ConditionalTables


@dataclass(frozen=True)
class Search:
    """What a sender that is trained by policy search might have sent instead: K samples for each message.

    Attributes:
        received: [..., K, D] what the receivers would hear of each sample, without gradient.
        terms: what `Channel.credited_losses` needs besides, name -> [...] or [..., K].
    """

    received: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Transmission:
    """What one talk through a channel yields.

    Attributes:
        received: [..., D] what the receivers hear: the decoded symbols, with the sender's gradient attached.
        symbols: [..., S] int32, what is on the wire.
        losses: named losses, one value per message [...], unweighted; empty where no gradient is wanted.
        search: samples to be judged; None where no gradient is wanted, or no credit.
    """

    received: Tensor
    symbols: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    search: Search | None = None


class Peers:
    """The learners that share an update, as one of them sees them; this one is alone.

    Every learner of an update makes the same calls in the same order.

    Attributes:
        rank: which learner this is.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def sum(self, part: Tensor) -> Tensor:
        """The sum of every learner's tensor, the same for all of them; all have the same shape."""
        return part

    def gather(self, part: Tensor) -> Tensor:
        """Every learner's rows [M_r, ...] one after the other, by rank; learners may have different numbers of rows."""
        return part


class Channel(nn.Module, ABC):
    """One link from a sender to whoever hears it.

    A subclass says what is on the wire (`alphabet`), and how vectors become symbols (`encode`), symbols vectors
    (`decode`), and what the gradient sees (`surrogate`). `transmit` composes them once for all:
    ``decode(symbols) + (surrogate - surrogate.detach())``, so the receiver's value is the decoded one bit for
    bit, and its gradient is the surrogate's. Gradients also reach parameters that `decode` uses; a subclass
    detaches what should not learn that way.

    Channels compute in float32 and return the dtype they were given. State that must travel (schedules,
    statistics) lives in buffers, and changes only in `absorb` and `after_update`.

    Attributes:
        noise_size: how many uniform draws in (0, 1) a message needs; both ends are given the same ones.
        carries: whether anything is transmitted at all; where False, receivers mask every sender.
        evaluating: whether what is sent now is part of an evaluation (see `evaluation`).
        differentiable: whether the receivers' loss has a gradient for the sender. Where False, the sender learns from
            the channel's own losses instead, and one of them must have a gradient for the messages.
        keeps_scale: whether what it has learned means the same under other settings of its own, and what another
            channel has learned under the same names.
        stands_in: whether it is put in place of the numbers of a trained team: while it takes its range from what that
            says, that is heard as it is; an untrained team has nothing to say that it could take.
        wants_credit: whether a learner is to tell the channel what other messages would have been worth to those who
            heard (see `search`). It costs as many passes of the receivers as there are samples of all senders.
    """

    noise_size: int = 0
    carries: ClassVar[bool] = True
    keeps_scale: ClassVar[bool] = True
    stands_in: ClassVar[bool] = False
    evaluating: bool = False
    differentiable: bool = True
    wants_credit: bool = False

    def __init__(self, message_size: int, settings: Any = None) -> None:
        super().__init__()
        self.message_size = message_size
        self.settings = settings

    @property
    def parameter_count(self) -> int:
        """How many numbers training sets; codewords that no optimiser moves are among them, statistics are not."""
        return sum(parameter.numel() for parameter in self.parameters())

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

    def encode_with_surrogate(self, messages: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`encode` and `surrogate` of messages with a gradient; overridden where both come of the same numbers."""
        return self.encode(messages.detach(), noise), self.surrogate(messages, noise)

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Named losses [...], one value per message, unweighted."""
        return {}

    def search(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> Search:
        """Samples to be judged, of messages [..., D]; a channel that `wants_credit` has this instead of `losses`."""
        raise NotImplementedError(f"{type(self).__name__} wants credit, and has no samples to be given it")

    def credited_losses(self, search: Search, credit: Tensor | None = None) -> dict[str, Tensor]:
        """All named losses [...] of a search whose samples are worth credit [..., K] to those who would have heard.

        Without credit they must be losses too: not everybody who sends can judge.
        """
        raise NotImplementedError(f"{type(self).__name__} wants credit, and has no losses that it would change")

    def loss_weights(self) -> dict[str, float]:
        """The present weight of each loss."""
        return {}

    def adopt(self, loaded: Collection[str]) -> bool:
        """Go on from state of another training, loaded under these names; True if nothing is left to `calibrate`."""
        return self.state_dict().keys() <= set(loaded)

    def calibrate(self, messages: Tensor) -> None:
        """Choose what training starts from by what an untrained team says, messages [M, D]; called once, if overridden.

        Draws come from torch's global generator, which is seeded by the run.
        """

    @property
    def absorbs(self) -> bool:
        """Whether `absorb` is to be called; where False, no learner keeps messages for it."""
        return type(self).absorb is not Channel.absorb

    def absorb(self, messages: Tensor, env_steps: int, peers: Peers) -> None:
        """Learn from the statistics of what was said, outside the gradient.

        Called once after each update's last epoch, just before `after_update`; never while sampling. Statistics that
        belong to all learners go through `peers`, so that every learner ends up with the same state.

        Args:
            messages: [M, D] float32, this learner's share of what was given to the channel by living agents that spoke,
                as the learner's replay of the update's first epoch saw it (finite ones; M may be 0).
            env_steps: sampled so far.
            peers: the learners of this update.
        """

    def after_update(self, env_steps: int) -> None:
        """Advance schedules; called once after each update with the env steps sampled so far."""

    @property
    def context_levels(self) -> int | None:
        """L, where both ends know something before a message that its code may use; None where that is nothing."""
        return None

    def context(self, noise: Tensor | None) -> Tensor | None:
        """What both ends know before a message, [..., D] int64 in 0 .. L - 1; None where that is nothing."""
        return None

    def conditional_tables(self, messages: Tensor) -> ConditionalTables | None:
        """Code tables for each context, fitted on training-time messages [M, D]; None where the context is none."""
        return None

    def paper_bits(self, symbols: Symbols) -> NDArray[np.float64] | None:
        """Bits of messages [M, S] as the channel's paper counts them, [M]; None where it counts as everybody does."""
        return None

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """While open, what is sent counts for an evaluation.

        A channel that samples in training may then do without (`evaluating` is True), as its settings say; encode and
        decode must still fit each other. Rollouts for training and the learner's replay of them are never inside, so
        they agree on every symbol. (`training` of torch tells neither: runners sample in eval mode.)
        """
        before, self.evaluating = self.evaluating, True
        try:
            yield
        finally:
            self.evaluating = before

    def transmit(self, messages: Tensor, noise: Tensor | None = None) -> Transmission:
        """Send messages [..., D] (any float dtype) through the channel.

        Raises:
            ValueError: messages of another size.
            WireError: messages with elements that are infinite or NaN (where no gradient is wanted).
        """
        if messages.shape[-1] != self.message_size:
            raise ValueError(
                f"{type(self).__name__} was built for messages of size {self.message_size}, got {messages.shape[-1]}"
            )
        messages, dtype = messages.float(), messages.dtype
        # A learner's replay sends nothing: it skips what is not finite, and counts how often.
        if not torch.is_grad_enabled() and not torch.isfinite(messages).all():
            wrong = int((~torch.isfinite(messages).all(-1)).sum())
            raise WireError(f"{type(self).__name__}: {wrong} messages hold NaN or infinity; no symbol stands for that")
        if not torch.is_grad_enabled():
            symbols = self.encode(messages, noise)
            return Transmission(self.decode(symbols, noise).to(dtype), symbols)
        symbols, surrogate = self.encode_with_surrogate(messages, noise)
        decoded = self.decode(symbols, noise)
        received = decoded + (surrogate - surrogate.detach())
        if not self.wants_credit:
            return Transmission(received.to(dtype), symbols, self.losses(messages, symbols, noise))
        search = self.search(messages, symbols, noise)
        return Transmission(received.to(dtype), symbols, self.credited_losses(search), search)
