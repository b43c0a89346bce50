"""Settings of the algorithms, by RLlib's names where RLlib has one (no ray here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from marlcomm.rllib.settings import Scheduled, Training


class MAPPOTraining(Training):
    """PPO for each agent with shared parameters, judged by a local critic or by one that sees the whole team."""

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
    critic: Literal["local", "central", "central_with_messages"] = Field(
        "local",
        description="local: values what an agent itself sees, remembers and heard; central: a network, in training "
        "only, that sees all living agents' observations; central_with_messages: and the messages of the step",
    )
    critic_size: int = Field(128, ge=1, description="width of the central critic's layers")
    value_normalization: Literal["none", "running", "popart"] = Field(
        "none",
        description="running: values are learned in units of the running mean and deviation of their targets; popart: "
        "and the last layer is changed with them, so that values stay what they were",
    )
    value_norm_decay: float = Field(0.99, ge=0, lt=1, description="share of those statistics that each round keeps")
    value_loss: Literal["squared", "huber"] = Field("squared", description="squared (half of it), or huber")
    huber_delta: float = Field(
        10.0, gt=0, description="error from which Huber's loss is linear, in units of what values are learned in"
    )
    value_clip: float | None = Field(
        None,
        gt=0,
        description="how far a value can move from the rollout's, in the same units, before it gains nothing more; "
        "null: at will",
    )
    target_entropy: Scheduled | None = Field(
        None,
        description="wanted entropy, as a share of the highest possible (of box actions: of the way from the lowest to "
        "the highest): a number, or [[env steps, value], ...]; the weight of the bonus follows, from `entropy_coeff` "
        "at env step 0; null: `entropy_coeff` is the weight",
    )
    target_entropy_rate: float = Field(
        1.0, gt=0, description="each round, the logarithm of a multiplier moves by this times what the share lacks"
    )
    target_entropy_gain: float = Field(
        10.0,
        ge=0,
        description="the logarithm of the weight is that of the multiplier plus this times what the share lacks; it "
        "keeps the two from swinging",
    )

    @model_validator(mode="after")
    def _entropy_can_follow(self) -> MAPPOTraining:
        if self.target_entropy is None:
            return self
        if max(_numbers(self.target_entropy)) > 1:
            raise ValueError(f"target_entropy is a share of the highest entropy: at most 1, got {self.target_entropy}")
        if not _numbers(self.entropy_coeff)[0]:
            raise ValueError("entropy_coeff must begin above 0 where the weight is to follow target_entropy")
        return self


def _numbers(scheduled: float | list[tuple[float, float]]) -> list[float]:
    """The values that a schedule goes through."""
    return [value for _, value in scheduled] if isinstance(scheduled, list) else [scheduled]


class IC3NetTraining(Training):
    """REINFORCE with a value baseline by RMSprop, as published with IC3Net."""

    optimizer: Literal["adam", "rmsprop", "sgd"] = Field("rmsprop", description="adam, rmsprop or sgd")
    gamma: float = Field(1.0, ge=0, le=1, description="discount")
    vf_loss_coeff: float = Field(0.01, ge=0, description="weight of the value loss")
    mean_ratio: float | None = Field(
        None, ge=0, le=1, description="share of the team's mean return; null: 1 under policy commnet, else 0"
    )
