"""What a sweep tries: lists and ranges of values, as they are given on the command line."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from marlcomm.registry import ConfigError, Settings

if TYPE_CHECKING:
    from marlcomm.rllib.tuning import Range

_LONGEST_LABEL = 100
_MOST_POINTS = 10_000
_WHOLE = r"[+-]?\d+"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WHOLE_RANGE = re.compile(rf"({_WHOLE})\.\.({_WHOLE})")
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")


class SweepSettings(Settings):
    """What is tried, and how."""

    command: tuple[str, ...] = Field(description="words of the command that began the sweep")
    config: dict[str, Any] = Field(description="config of all trials, as its file has it")
    changes: tuple[str, ...] = Field((), description="KEY=VALUE of all trials")
    swept: dict[str, str] = Field(min_length=1, description="key -> values or a range, as on the command line")
    jobs: int = Field(ge=1, description="trials at a time")
    scheduler: Literal["none", "asha"] = Field("none", description="what stops trials early")
    metric: str = Field("validation/success", description="figure of a round that decides what goes on")
    mode: Literal["max", "min"] = Field("max", description="whether more or less of it is better")
    grace: int = Field(100_000, ge=1, description="env steps before a trial may be stopped")
    factor: int = Field(3, ge=2, description="of so many trials the best one goes on, for so many times the env steps")
    search: Literal["grid", "optuna"] = Field("grid", description="what chooses the settings of trials")
    trials: int = Field(20, ge=1, description="how many a search tries")

    @field_validator("swept")
    @classmethod
    def _folders_have_one_name(cls, swept: dict[str, str]) -> dict[str, str]:
        if "name" in swept:
            raise ValueError("other keys: a sweep has one name, and its trials are named after their settings")
        return swept

    @model_validator(mode="after")
    def _one_seed_in_a_search(self) -> SweepSettings:
        if self.search == "optuna" and "seed" in self.swept:
            raise ValueError("seed: a search would choose the luckiest one; give one, as in seed=0")
        return self

    @property
    def decides(self) -> bool:
        """Whether anything depends on the figures of trials that run."""
        return self.scheduler != "none" or self.search != "grid"


def values(text: str) -> list[str]:
    """The values of a list ``a,b,c`` in which ``2..5`` stands for 2,3,4,5; what is in brackets or quotes is one value.

    >>> values("0.1,0.2"), values("0..2,7"), values("[[0,1],[9,2]],3")
    (['0.1', '0.2'], ['0', '1', '2', '7'], ['[[0,1],[9,2]]', '3'])
    """
    found = []
    for part in parts(text):
        if not part:
            raise ConfigError(f"got {text!r}, wanted values between commas, as in 1,2,3")
        ends = _WHOLE_RANGE.fullmatch(part)
        if ends is None:
            found.append(part)
            continue
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise ConfigError(f"got {part!r}, wanted a range that rises, as in {last}..{first}")
        if last - first >= _MOST_POINTS:
            raise ConfigError(f"got {part!r}, wanted at most {_MOST_POINTS:,} values, as in {first}..{first + 9}")
        found += [str(number) for number in range(first, last + 1)]
    return list(dict.fromkeys(found))


def parts(text: str) -> list[str]:
    """Parts between those commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def is_swept(text: str) -> bool:
    """Whether a value stands for several."""
    return len(parts(text)) > 1 or _RANGE.fullmatch(text) is not None


def points(swept: Mapping[str, str]) -> list[dict[str, str]]:
    """Every combination of the values of each key; the last key changes first."""
    columns = []
    for key, text in swept.items():
        found = _values_of(key, text)
        strange = next((one for one in found if _RANGE.fullmatch(one)), None)
        if strange is not None:
            raise ConfigError(
                f"{key}: got {strange!r}, a range that only a search can try: give values, as in 0.1,0.2, or "
                "--search optuna"
            )
        columns.append(found)
    trials = math.prod(map(len, columns))
    if trials > _MOST_POINTS:
        raise ConfigError(
            f"sweep: got {trials:,} combinations of {', '.join(swept)}, wanted at most {_MOST_POINTS:,} (--search "
            "optuna tries as many as --trials says)"
        )
    return [dict(zip(swept, row, strict=True)) for row in itertools.product(*columns)]


def space(swept: Mapping[str, str]) -> dict[str, list[str] | Range]:
    """What a search chooses from: key -> values, or a range of numbers."""
    return {key: _range(key, text) or _values_of(key, text) for key, text in swept.items()}


def ends(swept: Mapping[str, str]) -> list[dict[str, str]]:
    """Settings that a search may suggest, the ends of its ranges and all of its values among them."""
    columns = {
        key: wanted if isinstance(wanted, list) else [str(wanted.low), str(wanted.high)]
        for key, wanted in space(swept).items()
    }
    rows = max(map(len, columns.values()))
    return [{key: column[min(row, len(column) - 1)] for key, column in columns.items()} for row in range(rows)]


def _range(key: str, text: str) -> Range | None:
    from marlcomm.rllib.tuning import Range

    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    low, high = (int(end) if re.fullmatch(_WHOLE, end) else float(end) for end in match.groups()[1:])
    log = match[1] is not None
    if not low < high or (log and low <= 0):
        raise ConfigError(f"{key}: got {text!r}, wanted a range that rises{', from above 0' if log else ''}")
    return Range(low, high, log)


def _values_of(key: str, text: str) -> list[str]:
    try:
        return values(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def label(point: Mapping[str, Any]) -> str:
    """The name of a trial, which is that of its folder."""
    wanted = "_".join(f"{key}-{value}" for key, value in point.items())
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted)
    if plain == wanted and len(plain) <= _LONGEST_LABEL:
        return plain
    return f"{plain[:_LONGEST_LABEL]}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
