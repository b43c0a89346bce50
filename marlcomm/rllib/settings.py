"""Settings that every algorithm has, by RLlib's names where RLlib has one (no ray here)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from marlcomm.registry import Settings


def _rising(points: float | list[tuple[float, float]]) -> float | list[tuple[float, float]]:
    if isinstance(points, list):
        steps = [step for step, _ in points]
        if len(steps) < 2 or steps[0] != 0 or steps != sorted(steps):
            raise ValueError("a schedule: a number, or at least two [env steps, value] with rising env steps from 0")
    return points


Scheduled = Annotated[float | list[tuple[float, float]], AfterValidator(_rising)]


class Training(Settings):
    """What every algorithm's settings offer."""

    optimizer: Literal["adam", "rmsprop", "sgd"] = Field("adam", description="adam, rmsprop or sgd")
    rmsprop_alpha: float = Field(0.97, ge=0, lt=1, description="smoothing of rmsprop")
    rmsprop_eps: float = Field(1e-6, gt=0, description="term that keeps rmsprop's divisor from zero")
    lr: Scheduled = Field(1e-3, description="learning rate: a number, or [[env steps, value], ...] from env step 0")
    gamma: float = Field(0.99, ge=0, le=1, description="discount")
    reward_scale: float = Field(1.0, gt=0, description="rewards are multiplied by this in training only")
    entropy_coeff: Scheduled = Field(
        0.0, description="weight of the entropy bonus: a number, or [[env steps, value], ...]"
    )
    vf_loss_coeff: float = Field(0.5, ge=0, description="weight of the value loss")
    grad_clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient; null: not clipped")
    num_epochs: int = Field(1, ge=1, description="passes over each round of episodes")
    num_minibatches: int = Field(1, ge=1, description="into how many equal groups of worlds a pass is cut")
