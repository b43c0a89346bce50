"""Settings of the Lewis game, with the published values as defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings


@dataclass(frozen=True)
class Game:
    """What rounds are made of.

    Attributes:
        min_symbols: the fewest attribute values that tell the target from all distractors.
        attributes: A, of an object.
        values: V, of an attribute.
        distractors: the candidates besides the target.
    """

    min_symbols: int
    attributes: int = 20
    values: int = 4
    distractors: int = 63

    @property
    def candidates(self) -> int:
        """K, the target among them."""
        return self.distractors + 1


class LewisGameSettings(EnvSettings):
    """A sender sees one object and speaks; a receiver finds it among others that differ in few attributes."""

    card_settings = ({"min_symbols": 2}, {"min_symbols": 3})
    horizon_key = "steps"

    min_symbols: int = Field(
        2,
        ge=1,
        description="the fewest attribute values that tell the target from all others; rare numbers are refused",
    )
    attributes: int = Field(20, ge=1, le=24, description="A, attributes of an object")
    values: int = Field(4, ge=2, le=16, description="V, values of an attribute")
    distractors: int = Field(63, ge=1, le=1023, description="candidates besides the target")
    steps: int = Field(
        1, ge=1, le=100, description="messages of a round, one a step; the choice at the last one counts"
    )
    observations: Literal["indices", "dense"] = Field(
        "indices", description="indices: an attribute is one number; dense: it is a one-hot vector"
    )
    rounds: str | None = Field(
        None, description="file of rounds, as `marlcomm data lewis_game` writes them; null: made from `rounds_seed`"
    )
    rounds_seed: int = Field(0, ge=0, lt=2**31, description="seed of the rounds (not of the run)")
    training_rounds: int = Field(8000, ge=1, le=10**6, description="how many are made to train on")
    validation_rounds: int = Field(2000, ge=1, le=10**6, description="how many others there are to evaluate on")
    split: Literal["by_stream", "training", "validation"] = Field(
        "by_stream", description="rounds that are played; by_stream: in evaluations such as nobody learns from"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.min_symbols > self.attributes:
            raise ValueError(
                f"min_symbols: got {self.min_symbols}, wanted at most attributes, {self.attributes} "
                f"(nearest: {self.attributes})"
            )
        if self.rounds is not None and not os.path.isfile(self.rounds):
            raise ValueError(f"rounds: no file {self.rounds!r}; `marlcomm data lewis_game --out FILE` makes one")
        return self

    @property
    def game(self) -> Game:
        return Game(self.min_symbols, self.attributes, self.values, self.distractors)

    @property
    def setting(self) -> str:
        """What makes scores comparable, in a word: not how a message is cut into steps."""
        sizes = f"{self.attributes}x{self.values}-{self.distractors}distractors"
        usual = self.game == Game(self.min_symbols)
        return f"min{self.min_symbols}" if usual else f"min{self.min_symbols}-{sizes}"
