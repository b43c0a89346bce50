"""Settings of third-party PettingZoo environments."""

from __future__ import annotations

import json
import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from marlcomm.envs.settings import EnvSettings


class PettingZooSettings(EnvSettings):
    """Any PettingZoo environment, by the function that makes it."""

    card_settings = ()  # who brings the environment says which one is to be measured

    maker: str = Field(description='function that makes the environment, as "package.module:function"')
    kwargs: dict[str, Any] = Field(default_factory=dict, description="what that function is called with")
    horizon: int | None = Field(
        None, ge=1, le=100_000, description="steps of an episode; null: `max_cycles` of the environment"
    )
    copies: int = Field(64, ge=1, description="copies of the environment; more worlds than that are played in turns")
    processes: int = Field(0, ge=0, description="worker processes that step the copies; 0: the process that plays")
    strip_comm: bool = Field(
        False, description="take away the words that the environment's own actions say; channel `silent` always does"
    )
    message_actions: dict[str, int] | None = Field(
        None, description="agent: how many words its actions say; null: found, in MPE's environments"
    )
    message_observations: dict[str, tuple[int, int]] | None = Field(
        None, description="agent: the first of its observation's numbers that are words, and the last + 1; null: found"
    )
    speakers: tuple[str, ...] | None = Field(
        None, description="agents that may use our channel; null: all, or those whose own words were taken away"
    )
    success_return: float | None = Field(
        None, description="an episode of at least this return is a success; null: what infos say under `success`"
    )

    floor: str | None = Field(
        None,
        description='script of the best that silence can do, as "package.module:function", from this world (its '
        "`observations`, [B, N, O]) to actions [B, N]; null: random actions",
    )
    ceiling: str | None = Field(None, description="script that knows everything, likewise; null: none")

    @property
    def third_parties(self) -> tuple[str, ...]:
        return self.maker.partition(":")[0].partition(".")[0], "supersuit"

    @field_validator("kwargs")
    @classmethod
    def _are_kept_as_they_are(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            kept = json.loads(json.dumps(kwargs, allow_nan=False)) == kwargs
        except (TypeError, ValueError):
            kept = False
        if not kept:
            raise ValueError("what a config can hold: finite numbers, texts, lists, and groups whose keys are texts")
        return kwargs

    @field_validator("maker", "floor", "ceiling")
    @classmethod
    def _names_a_function(cls, function: str | None) -> str | None:
        name = r"[A-Za-z_]\w*"
        if function is not None and re.fullmatch(rf"{name}(\.{name})*:{name}(\.{name})*", function) is None:
            raise ValueError('"package.module:function", as in mpe2.simple_reference_v3:parallel_env')
        return function

    @model_validator(mode="after")
    def _words_are_counted(self) -> Self:
        for agent, words in (self.message_actions or {}).items():
            if words < 2:
                raise ValueError(f"message_actions: got {words} words of {agent}, wanted 2 or more, or no entry")
        for agent, (first, last) in (self.message_observations or {}).items():
            if not 0 <= first < last:
                raise ValueError(
                    f"message_observations: got {first}, {last} of {agent}, wanted the first number and the last + 1"
                )
        return self

    def silenced(self) -> Self:
        return self.model_copy(update={"strip_comm": True})
