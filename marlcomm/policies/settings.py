"""Settings of the built-in policies (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from marlcomm.channels.settings import ChannelSettings
from marlcomm.registry import ConfigError, Settings, turn_on


class PolicySettings(Settings):
    """What every policy's settings offer."""

    message_size: int | None = Field(8, ge=1, description="D, the width of the vector given to the channel")
    agent_identity: bool = Field(False, description="append the one-hot number of the agent slot to its observation")
    detach_every: int | None = Field(
        None, ge=1, description="cut the gradient through memory every so many steps; null: never"
    )
    parameters: Literal["shared", "per_agent", "per_group"] = Field(
        "shared",
        description="one network for all agents, one for each agent slot, or one for each of `groups`; the channel is "
        "always shared",
    )
    groups: tuple[tuple[Annotated[int, Field(strict=True, ge=0)], ...], ...] | None = Field(
        None, description="per_group: which agent slots share a network, each slot once, as in [[0, 1], [2]]"
    )
    candidate_size: int = Field(
        64, ge=1, description="E, width in which candidates are compared with what is looked for, where there are any"
    )

    @model_validator(mode="after")
    def _groups_are_groups(self) -> Self:
        if (self.groups is not None) != (self.parameters == "per_group"):
            wanted = "[[0, 1], [2]], say," if self.groups is None else "null"
            raise ValueError(f"groups: got {_as_lists(self.groups)}, wanted {wanted} with parameters {self.parameters}")
        slots = sorted(slot for group in self.groups or () for slot in group)
        if slots != list(range(len(slots))) or not all(self.groups or ()):
            raise ValueError(
                f"groups: got {_as_lists(self.groups)}, wanted every agent slot from 0 on in one group, none twice and "
                "no group empty"
            )
        return self

    def slot_groups(self, agents: int) -> list[list[int]]:
        """Which of N agent slots share a network; raises `ConfigError` where there are more or fewer than were said."""
        if self.parameters == "shared":
            return [list(range(agents))]
        if self.groups is None:
            return [[slot] for slot in range(agents)]
        said = sum(map(len, self.groups))
        if said != agents:
            raise ConfigError(
                f"policy.groups: got {_as_lists(self.groups)}, of {said} agent slots, wanted groups of the world's "
                f"{agents}, 0 to {agents - 1}"
            )
        return _as_lists(self.groups) or []

    @property
    def gated(self) -> bool:
        """Whether agents choose to speak."""
        return False

    @property
    def talks_per_step(self) -> int:
        """R, how often all talk at each step."""
        return 1

    @property
    def first_heard(self) -> int:
        """The first step of an episode, counted from 1, at which an agent hears of what another one saw."""
        return 1

    @property
    def message_width(self) -> int:
        """D, also where `message_size` is null."""
        if self.message_size is None:
            raise ConfigError("policy.message_size: got None, wanted a number: this policy has no size of its own")
        return self.message_size

    @property
    def readout_width(self) -> int:
        """W, the width of what a receiver gathers from all that it heard (see `TeamPolicy.gather`)."""
        raise ConfigError("channel.placement: got 'readout', wanted 'sender': this policy has no read-out")

    def channel_width(self, placement: str) -> int:
        """The width of the vectors that the channel quantises: of messages, or of what receivers gather."""
        return self.message_width if placement == "sender" else self.readout_width

    def check_channel(self, channel: ChannelSettings) -> None:
        """Raise `ConfigError` where agents of this policy cannot talk through a channel."""
        channel.fit(self.channel_width(channel.placement))
        if channel.wants_credit and self.talks_per_step > 1:
            raise ConfigError(
                f"policy.rounds: got {self.talks_per_step}, wanted 1: in channel.mode task a channel is credited with "
                "what a message is worth in the only round of a step"
            )

    def check_training(self, channel: ChannelSettings) -> None:
        """Raise `ConfigError` where agents of this policy have nothing to learn about talking through a channel."""
        if self.gated and not channel.carries:
            raise ConfigError(
                "policy.force_gate_open: got False, wanted True: where a channel carries nothing, nothing obeys a gate"
            )

    def check_horizon(self, steps: int | None, channel: ChannelSettings, key: str = "env.horizon") -> None:
        """Raise `ConfigError` where episodes are over before anything is heard; `steps` None: nobody knows yet."""
        if steps is not None and channel.carries and steps < self.first_heard:
            raise ConfigError(
                f"{key}: got {steps}, wanted {self.first_heard}: talk of this policy is heard from step "
                f"{self.first_heard} of an episode on, and never in a shorter one (policy.name=transformer is heard at "
                "once)"
            )


def _as_lists(groups: tuple[tuple[int, ...], ...] | None) -> list[list[int]] | None:
    return None if groups is None else [list(group) for group in groups]


class IC3NetSettings(PolicySettings):
    """IC3Net (Singh et al. 2019): an LSTM that hears the mean of the others' hidden states behind learned gates."""

    message_size: int | None = Field(
        None,
        ge=1,
        description="D, the width of a linear map of the hidden state; null: the hidden state itself is sent",
    )
    detach_every: int | None = Field(
        10, ge=1, description="cut the gradient through memory every so many steps; null: never"
    )
    hidden_size: int = Field(128, ge=1, description="H, width of the LSTM")
    core: Literal["lstm", "rnn", "feedforward"] = Field(
        "lstm",
        description="lstm; rnn: a tanh layer (the published IRIC's); feedforward: a tanh layer without memory (the "
        "published IC's), whose message is of the present observation",
    )
    rounds: int = Field(
        1, ge=1, description="R, how often all talk at each step: R messages, and the core runs R times (comm_passes)"
    )
    force_gate_open: bool = Field(
        False, description="everybody always speaks and no gate is learned, as in the published Traffic Junction runs"
    )
    train_forced_gate: bool = Field(
        False, description="as published: a gate that is forced open is drawn and trained all the same, to no effect"
    )
    deaf_when_silent: bool = Field(False, description="as published: whoever does not speak does not hear either")
    mean_of_living: bool = Field(
        False, description="as published: what is heard is divided by the living agents less one, not by who spoke"
    )
    empty_slots_run: bool = Field(
        False, description="as published: the memory of an empty slot goes on, with what it sees of nothing as input"
    )
    legacy: bool = Field(
        False, description="all that the published code does otherwise: turns on every setting that says 'as published'"
    )
    _published: ClassVar[tuple[str, ...]] = (
        "train_forced_gate",
        "deaf_when_silent",
        "mean_of_living",
        "empty_slots_run",
    )

    @model_validator(mode="after")
    def _legacy_is_all_of_it(self) -> Self:
        return turn_on(self, self._published) if self.legacy else self

    @model_validator(mode="after")
    def _living_are_known(self) -> Self:
        if self.mean_of_living and self.parameters != "shared":
            raise ValueError("mean_of_living wants parameters: shared; a network of some slots is not told who lives")
        return self

    @property
    def gated(self) -> bool:
        return not self.force_gate_open

    @property
    def message_width(self) -> int:
        return self.hidden_size if self.message_size is None else self.message_size

    @property
    def talks_per_step(self) -> int:
        return self.rounds

    @property
    def first_heard(self) -> int:
        """A gate opens for the next step, and a memory has nothing to tell before its first round is over."""
        return 2 if self.gated or (self.core != "feedforward" and self.rounds == 1) else 1

    @property
    def readout_width(self) -> int:
        _refuse_rounds_at_the_readout(self.rounds)
        if self.mean_of_living:
            raise ConfigError(
                "policy.mean_of_living: got True, wanted false at the read-out: a bottleneck knows only who was heard"
            )
        return self.message_width


class CommNetSettings(IC3NetSettings):
    """CommNet (Sukhbaatar et al. 2016) as a preset of IC3Net: open gates, and training on the team's mean return."""

    force_gate_open: bool = Field(True, description="everybody always speaks and no gate is learned")
    _published: ClassVar[tuple[str, ...]] = ("deaf_when_silent", "mean_of_living", "empty_slots_run")


class TarMACSettings(PolicySettings):
    """TarMAC (Das et al. 2019): messages are a key and a value, receivers attend to the keys that fit their query."""

    message_size: int | None = Field(
        None, ge=2, description="D, key and value together; null: key_size + hidden_size, as published"
    )
    detach_every: int | None = Field(
        10, ge=1, description="cut the gradient through memory every so many steps; null: never"
    )
    hidden_size: int = Field(128, ge=1, description="H, width of the LSTM")
    key_size: int = Field(16, ge=1, description="width of keys (the paper's signatures) and queries")
    rounds: int = Field(
        1, ge=1, description="R, how often all talk at each step: R messages, each round after hearing the one before"
    )

    @property
    def talks_per_step(self) -> int:
        return self.rounds

    @property
    def first_heard(self) -> int:
        """Whatever the rounds: all of a step talk from what was seen before it."""
        return 2

    @property
    def message_width(self) -> int:
        return self.key_size + self.hidden_size if self.message_size is None else self.message_size

    @property
    def value_size(self) -> int:
        """W, the width of values."""
        return self.message_width - self.key_size

    @property
    def readout_width(self) -> int:
        _refuse_rounds_at_the_readout(self.rounds)
        return self.value_size

    @model_validator(mode="after")
    def _value_has_room(self) -> TarMACSettings:
        if self.value_size < 1:
            raise ValueError(f"message_size {self.message_size} must be greater than key_size {self.key_size}")
        return self


def _refuse_rounds_at_the_readout(rounds: int) -> None:
    if rounds > 1:
        raise ConfigError(f"policy.rounds: got {rounds}, wanted 1 at the read-out: a bottleneck reads once a step")


class TransformerSettings(PolicySettings):
    """Each agent attends over its own state and the vectors it received, then remembers and acts."""

    width: int = Field(64, ge=1, description="width of the tokens")
    heads: int = Field(4, ge=1, description="attention heads")
    layers: int = Field(1, ge=1, description="attention layers of each agent's own stack")
    recurrent: bool = Field(True, description="an LSTM after the stack; without it the policy has no memory")
    hidden_size: int = Field(128, ge=1, description="H, width of the observation features and of the LSTM")
    knows_senders: bool = Field(
        False, description="receivers tell senders apart by their slots, which stand in the header of every packet"
    )
    slot_bias: bool = Field(
        False,
        description="a learned bias of attention scores by the slots of receiver and sender, whatever is said: where "
        "one sender in particular matters, it is soon found",
    )

    @property
    def readout_width(self) -> int:
        return self.width

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerSettings:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.message_size is None:
            raise ValueError("message_size must be a number for the transformer policy")
        return self
