"""Number formats as channels: 16 or 8 bits an element, nothing learned. The cheap baselines of every comparison.

Elements beyond a format's largest number are sent as that number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import CastSettings, Int8Settings
from marlcomm.wire.alphabet import Alphabet
from marlcomm.wire.bits import WireError

_PATTERNS = 2**16
_SIGN_BIT = 2**15
_FINITE_SCALES = 0x7F80  # bfloat16 patterns of 0 and of the positive finite numbers


def _to_patterns(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Bit patterns 0 .. 2^16 - 1 (int32) of numbers rounded to a 16-bit format, at most its largest; 0 of NaN.

    A learner whose messages are NaN skips that update, and has to come to it: nothing raises on the way.
    """
    most = torch.finfo(dtype).max
    return numbers.nan_to_num(nan=0.0).clamp(-most, most).to(dtype).view(torch.int16).to(torch.int32) & (_PATTERNS - 1)


def _from_patterns(patterns: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers (float32) of bit patterns."""
    return ((patterns ^ _SIGN_BIT) - _SIGN_BIT).to(torch.int16).view(dtype).to(torch.float32)


class CastChannel(Channel):
    """Every element rounded to the nearest number of a 16-bit format (ties to even), 16 bits each.

    Shapes: messages [..., D] -> symbols [..., D], bit patterns 0 .. 2^16 - 1 -> received [..., D].
    The gradient is 1, and 0 beyond the format's largest number.
    """

    settings: CastSettings

    def __init__(self, message_size: int, settings: CastSettings) -> None:
        super().__init__(message_size, settings)
        self.format: torch.dtype = getattr(torch, settings.number)

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([_PATTERNS] * self.message_size)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return _to_patterns(messages, self.format)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        received = _from_patterns(symbols, self.format)
        if not torch.isfinite(received).all():
            raise WireError(f"a bit pattern is no finite {self.settings.number}: no sender can have sent it")
        return received

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        most = torch.finfo(self.format).max
        return messages.clamp(-most, most)


class Int8Channel(Channel):
    """Integers -127 .. 127 times a scale, 8 bits each.

    Shapes: messages v [..., D] -> symbols q = round(v / scale) + 128 [..., D] -> received (q - 128) scale [..., D].
    With ``scale: message`` the scale is max |v| / 127 of each message, rounded to bfloat16, and is the first symbol:
    8 D + 15 bits, since its sign is known. With ``scale: fixed`` both ends know it: 8 D bits.
    The gradient is 1, and 0 beyond a fixed range.
    """

    settings: Int8Settings

    def __init__(self, message_size: int, settings: Int8Settings | None = None) -> None:
        super().__init__(message_size, Int8Settings() if settings is None else settings)
        self._sends_scale = self.settings.scale == "message"

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([_FINITE_SCALES] * self._sends_scale + [256] * self.message_size)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        if not self._sends_scale:
            return self._to_bytes(messages, self.settings.limit / 127)
        largest = messages.abs().amax(-1, keepdim=True).clamp(max=torch.finfo(torch.float32).max)
        patterns = _to_patterns(largest / 127, torch.bfloat16)
        scales = _from_patterns(patterns, torch.bfloat16)
        # Of a message of zeros, or of numbers too small for any scale, nothing but zeros is left.
        return torch.cat([patterns, self._to_bytes(messages, scales.where(scales > 0, torch.inf))], dim=-1)

    def _to_bytes(self, messages: Tensor, scales: Tensor | float) -> Tensor:
        return (torch.round(messages / scales).clamp(-127, 127) + 128).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        if not self._sends_scale:
            return (symbols - 128).float() * (self.settings.limit / 127)
        return (symbols[..., 1:] - 128) * _from_patterns(symbols[..., :1], torch.bfloat16)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        limit = torch.finfo(torch.float32).max if self._sends_scale else self.settings.limit
        return messages.clamp(-limit, limit)
