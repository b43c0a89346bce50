"""Settings of the algorithms, by RLlib's names where RLlib has one (no ray here)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from marlcomm.registry import turn_on
from marlcomm.rllib.settings import MINIBATCHES, OnPolicyTraining, RewardTraining, RoundTraining, Scheduled


class MAPPOTraining(OnPolicyTraining):
    """PPO for each agent with shared parameters, judged by a local critic or by one that sees the whole team."""

    stands_lag: ClassVar[bool] = True  # ratios begin at the probabilities that actions were drawn with
    reward_scale: float = Field(0.1, gt=0, description="rewards are multiplied by this in training only")
    entropy_coeff: Scheduled = Field(
        [(0.0, 0.2), (600_000.0, 0.05), (1_000_000.0, 0.002)],
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
    num_minibatches: int = Field(2, ge=1, description=MINIBATCHES)
    critic: Literal["local", "central", "central_with_messages"] = Field(
        "local",
        description="local: values what an agent itself sees, remembers and heard; central: a network, in training "
        "only, that sees all living agents' observations; central_with_messages: and the messages of the step",
    )
    critic_size: int = Field(128, ge=1, description="width of the central critic's layers")
    critic_rewards: bool = Field(
        False,
        description="whether the central critic is told what each agent's last step was paid: in worlds that pay for "
        "what agents meet, a good guess at what comes next",
    )
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
    def _a_network_is_told(self) -> MAPPOTraining:
        if self.critic_rewards and self.critic == "local":
            raise ValueError("critic_rewards wants critic=central or central_with_messages: local is the policy's own")
        return self

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


class IC3NetTraining(OnPolicyTraining):
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


class SupervisedTraining(RoundTraining):
    """Cross-entropy with the actions that a labelled world says are right; rewards teach nothing."""

    stands_lag: ClassVar[bool] = True  # a label is right whoever played
    num_minibatches: int = Field(8, ge=1, description=MINIBATCHES)


class MADDPGTraining(RewardTraining):
    """Deterministic policy gradients from critics that see all observations and actions, learned from a replay."""

    stands_lag: ClassVar[bool] = True  # a replay is of older policies anyway
    lr: Scheduled = Field(
        1e-2, description="learning rate of the actors: a number, or [[env steps, value], ...] from env step 0"
    )
    critic_lr: Scheduled = Field(1e-2, description="learning rate of the critics, likewise")
    gamma: float = Field(0.95, ge=0, le=1, description="discount")
    grad_clip: float | None = Field(
        0.5, gt=0, description="largest norm of the actors' gradient, and of the critics'; null: not clipped"
    )
    mean_ratio: float = Field(0.0, ge=0, le=1, description="share of the team's mean reward in each agent's own")
    parameters: Literal["shared", "per_agent"] = Field(
        "shared", description="one critic for all, to which each agent comes first; or one for each agent slot"
    )
    critic_size: int = Field(64, ge=1, description="width of the critics' two hidden layers")
    twin: bool = Field(False, description="two critics, the lower of whose targets is believed")
    value_rescaling: bool = Field(
        False,
        description="critics learn h(Q), h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000 (Pohlen et al. 2018), which "
        "tells small values apart, with a `reward_scale` that makes these larger than 1",
    )
    tau: float = Field(0.01, gt=0, le=1, description="how far the targets follow after each update")
    actions: Literal["hard", "soft"] = Field(
        "hard",
        description="what the critics are asked about discrete actions that are drawn anew: hard, one-hot with the "
        "gradient of the relaxed sample; soft, the relaxed sample itself",
    )
    temperature: float = Field(1.0, gt=0, description="of the relaxed sample")
    others: Literal["replayed", "current"] = Field(
        "replayed", description="what the others did, where an actor's action is judged: as recorded, or as now drawn"
    )
    regularizer: float = Field(
        1e-3, ge=0, description="weight of the mean square of the actors' logits, or of the means of box actions"
    )
    epsilon: Scheduled = Field(
        0.0, description="exploration: share of discrete actions that are drawn uniformly, or [[env steps, value], ...]"
    )
    action_noise: Scheduled = Field(
        0.2,
        description="exploration: standard deviation of the noise on box actions, in units of half the box, or "
        "[[env steps, value], ...]",
    )
    target_noise: float = Field(
        0.0, ge=0, description="standard deviation of the noise on the targets' box actions, in the same units"
    )
    batch_size: int = Field(1024, ge=1, description="env steps of an update, drawn uniformly from the replay")
    sequence_length: int | None = Field(
        None,
        ge=1,
        description="env steps of a replayed sequence where the policy has memory; null: whole episodes",
    )
    burn_in: int = Field(
        0, ge=0, description="env steps before a sequence from which its first memory is computed, without gradient"
    )
    learning_starts: int = Field(25_600, ge=0, description="env steps before the first update")
    env_steps_per_update: int = Field(
        100, ge=1, description="an update is due after so many env steps; those of a round are made at its end"
    )
    replay_env_steps: int = Field(1_000_000, ge=1, description="env steps that the replay holds at most")
    replay_bytes: int = Field(2**30, ge=1, description="memory that it takes at most, in bytes")

    def at_its_dearest(self) -> Self:
        return self.model_copy(update={"learning_starts": 0})  # rounds that only fill the replay are cheap
