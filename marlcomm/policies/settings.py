"""Settings of the built-in policies (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from marlcomm.registry import ConfigError, Settings


class PolicySettings(Settings):
    """What every policy's settings offer."""

    message_size: int | None = Field(8, ge=1, description="D, the width of the vector given to the channel")
    agent_identity: bool = Field(False, description="append the one-hot number of the agent slot to its observation")
    detach_every: int | None = Field(
        None, ge=1, description="cut the gradient through memory every so many steps; null: never"
    )
    parameters: Literal["shared", "per_agent"] = Field(
        "shared", description="one network for all agents, or one for each agent slot; the channel is always shared"
    )

    candidate_size: int = Field(
        64, ge=1, description="E, width in which candidates are compared with what is looked for, where there are any"
    )

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
    force_gate_open: bool = Field(
        False, description="everybody always speaks and no gate is learned, as in the published Traffic Junction runs"
    )

    @property
    def message_width(self) -> int:
        return self.hidden_size if self.message_size is None else self.message_size

    @property
    def readout_width(self) -> int:
        return self.message_width


class CommNetSettings(IC3NetSettings):
    """CommNet (Sukhbaatar et al. 2016) as a preset of IC3Net: open gates, and training on the team's mean return."""

    force_gate_open: bool = Field(True, description="everybody always speaks and no gate is learned")


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
