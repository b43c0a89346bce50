"""Settings that every algorithm has, by RLlib's names where RLlib has one (no ray here)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from marlcomm.objectives.schedule import Schedule
from marlcomm.registry import ConfigError, Settings, check_multiple

_POINTS = TypeAdapter(list[tuple[float, float]])


def _scheduled(value: Any) -> Any:
    """A number as it is, or points in rising order from 0; one sentence about anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        points = [(0.0, float(value)), (1.0, float(value))]
    else:
        try:
            points = _POINTS.validate_python(value)
        except ValidationError:
            points = []
    steps = [step for step, _ in points]
    numbers = [number for point in points for number in point]
    if len(steps) < 2 or steps[0] != 0 or steps != sorted(set(steps)) or not all(0 <= n < math.inf for n in numbers):
        raise ValueError(
            "a number of at least 0, or at least two points [env steps, value] with rising env steps from 0, "
            "as in [[0, 0.2], [1000000, 0.005]]"
        )
    return value


def _scheduled_count(value: Any) -> Any:
    """A whole number as it is, or points that hold such; one sentence about anything else."""
    value = _scheduled(value)
    numbers = [number for _, number in value] if isinstance(value, list) else [value]
    if not all(number >= 1 and number == int(number) for number in numbers):
        raise ValueError("whole numbers of at least 1, as in 4 or [[0, 1], [400000, 4]]")
    return value


Scheduled = Annotated[float | list[tuple[float, float]], BeforeValidator(_scheduled)]
ScheduledCount = Annotated[int | list[tuple[float, int]], BeforeValidator(_scheduled_count)]


class Training(Settings):
    """What every algorithm's settings offer.

    Attributes:
        stands_lag: whether what a slightly older policy played may be learned from as it is.
    """

    stands_lag: ClassVar[bool] = False

    def check_sampling(self, sampling: str, num_env_runners: int, name: str, key: str = "sampling") -> None:
        """Raise `ConfigError` where asynchronous sampling makes no sense."""
        if sampling == "synchronous":
            return
        wanted = f"{key}: got {sampling!r}, wanted 'synchronous'"
        if not self.stands_lag:
            raise ConfigError(
                f"{wanted}: algorithm {name} takes every row for the present policy's own, and has no ratio that "
                "corrects those of an older one"
            )
        if not num_env_runners:
            raise ConfigError(
                f"{wanted}, or num_env_runners of at least 1: without remote runners the process that learns plays, "
                "and cannot do both at once"
            )

    def check_rows(self, worlds: int, num_learners: int, key: str) -> None:
        """Raise `ConfigError` where learners cannot share what is learned from a round of worlds."""

    def at_its_dearest(self) -> Self:
        """The settings, of a round that takes as much time and memory as any; see a dry run."""
        return self

    def episodes_at(self, env_steps: float) -> int:
        """Episodes of every world in a round that begins after so many env steps."""
        return 1

    optimizer: Literal["adam", "rmsprop", "sgd"] = Field("adam", description="adam, rmsprop or sgd")
    rmsprop_alpha: float = Field(0.97, ge=0, lt=1, description="smoothing of rmsprop")
    rmsprop_eps: float = Field(1e-6, gt=0, description="term that keeps rmsprop's divisor from zero")
    lr: Scheduled = Field(1e-3, description="learning rate: a number, or [[env steps, value], ...] from env step 0")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient; null: not clipped")
    max_skipped: int = Field(
        10, ge=1, description="stop after so many updates in a row that were skipped: infinite or NaN loss or gradient"
    )


class RewardTraining(Training):
    """What algorithms offer that learn from rewards."""

    gamma: float = Field(0.99, ge=0, le=1, description="discount")
    reward_scale: float = Field(1.0, gt=0, description="rewards are multiplied by this in training only")


MINIBATCHES = "into how many groups of worlds a pass over one episode of each is cut, equally large ones"


class RoundTraining(Training):
    """What algorithms offer that learn from each round of episodes and then forget it."""

    num_epochs: int = Field(1, ge=1, description="passes over each round of episodes")
    num_minibatches: int = Field(1, ge=1, description=MINIBATCHES)
    episodes: ScheduledCount = Field(
        1,
        description="episodes of every world in a round, which are learned from together, in so many times the "
        "minibatches: a number, or [[env steps, value], ...], rounded; more of them later keep updates from wavering",
    )

    def check_rows(self, worlds: int, num_learners: int, key: str) -> None:
        learners = max(num_learners, 1)
        reason = f"learners ({learners}) x algorithm.num_minibatches ({self.num_minibatches})"
        check_multiple(key, worlds, learners * self.num_minibatches, reason)

    def episodes_at(self, env_steps: float) -> int:
        return round(Schedule.of(self.episodes).at(env_steps))

    def at_its_dearest(self) -> Self:
        numbers = [self.episodes] if isinstance(self.episodes, int) else [number for _, number in self.episodes]
        return self.model_copy(update={"episodes": max(numbers)})


class OnPolicyTraining(RewardTraining, RoundTraining):
    """What algorithms offer that learn from the rewards of each round what to do and what to expect."""

    entropy_coeff: Scheduled = Field(
        0.0, description="weight of the entropy bonus: a number, or [[env steps, value], ...]"
    )
    vf_loss_coeff: float = Field(0.5, ge=0, description="weight of the value loss")
