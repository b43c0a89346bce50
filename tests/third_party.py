"""A channel as a user would write it, in a module of their own (the one of docs/channels.md)."""

import torch
from torch import Tensor

from marlcomm.channels import Channel, register_channel
from marlcomm.wire import Alphabet


@register_channel("sign")
class SignChannel(Channel):
    """One bit per dimension: the receiver hears the sign of every element.

    Shapes: messages [..., D] -> symbols [..., D] in {0, 1} -> received [..., D] in {-1, +1}.
    The gradient passes straight through inside [-1, 1] and is zero outside.
    """

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([2] * self.message_size)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return (messages >= 0).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return 2.0 * symbols - 1.0

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages.clamp(-1.0, 1.0)
