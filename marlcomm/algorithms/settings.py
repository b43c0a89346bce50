"""Settings of the algorithms, by RLlib's names where RLlib has one (no ray here)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from marlcomm.registry import turn_on
from marlcomm.rllib.settings import Scheduled, Training


class MAPPOTraining(Training):
    """PPO for each agent with shared parameters. The critic is local: it values what the agent itself knows."""

    reward_scale: float = Field(0.1, gt=0, description="rewards are multiplied by this in training only")
    entropy_coeff: Scheduled = Field(
        [(0.0, 0.2), (1_350_000.0, 0.05), (2_200_000.0, 0.002)],
        description="weight of the entropy bonus: a number, or [[env steps, value], ...]",
    )
    vf_loss_coeff: float = Field(
        3.0, ge=0, description="weight of the value loss; large, because scaled rewards make values small"
    )
    lambda_: float = Field(0.95, ge=0, le=1, description="decay of generalised advantage estimation")
    mean_ratio: float = Field(1.0, ge=0, le=1, description="share of the team's mean reward in each agent's own")
    clip_param: float = Field(0.2, gt=0, description="how far the ratio of action probabilities may leave 1")
    grad_clip: float | None = Field(0.5, gt=0, description="largest norm of the whole gradient; null: not clipped")
    num_epochs: int = Field(4, ge=1, description="passes over each round of episodes")
    num_minibatches: int = Field(2, ge=1, description="into how many equal groups of worlds a pass is cut")


class IC3NetTraining(Training):
    """REINFORCE with a value baseline by RMSprop, as published with IC3Net."""

    optimizer: Literal["adam", "rmsprop", "sgd"] = Field("rmsprop", description="adam, rmsprop or sgd")
    gamma: float = Field(1.0, ge=0, le=1, description="discount")
    vf_loss_coeff: float = Field(0.01, ge=0, description="weight of the value loss")
    mean_ratio: float | None = Field(
        None, ge=0, le=1, description="share of the team's mean return; null: 1 under policy commnet, else 0"
    )
    normalize_rewards: bool = Field(
        False,
        description="the published flag (off in its runs): advantages of all slots, empty ones too, are centred and "
        "divided by their standard deviation",
    )
    slot_returns: bool = Field(
        False,
        description="as published: own returns are cut where an agent leaves, not where one enters; what a newcomer "
        "earns counts for what its slot did before",
    )
    post_step_mask: bool = Field(
        False,
        description="as published: the loss is of slots alive after an action, not before it: an agent's last action "
        "teaches nothing, and the one drawn for its slot before it entered does",
    )
    legacy: bool = Field(
        False, description="all that the published code does otherwise: turns on every setting that says 'as published'"
    )

    @model_validator(mode="after")
    def _legacy_is_all_of_it(self) -> Self:
        return turn_on(self, ("slot_returns", "post_step_mask")) if self.legacy else self
