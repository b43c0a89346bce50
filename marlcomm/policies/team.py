"""A team from names and settings: the world, and the policy with its channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamEnv
from marlcomm.envs.settings import EnvSettings
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.memory import Memory
from marlcomm.policies.rollout import Player, Rollout
from marlcomm.registry import CHANNELS, ENVS, POLICIES, ConfigError
from marlcomm.wire.meter import BandwidthMeter

_CALIBRATION_WORLDS = 64
_CHANNEL = "channel."  # the prefix of its weights in a policy


@dataclass(frozen=True)
class TeamNames:
    """Names and plain settings of a team's parts."""

    env: str
    env_config: dict[str, Any]
    policy: str
    policy_config: dict[str, Any]
    channel: str
    channel_config: dict[str, Any]

    def check(self) -> None:
        """Raise `ConfigError` where a part is unknown, a setting wrong, or the parts do not fit together."""
        ENVS.check(self.env, self.env_config)
        policy = POLICIES.check(self.policy, self.policy_config)
        channel = CHANNELS.check(self.channel, self.channel_config)
        channel.fit(policy.message_width)  # type: ignore[attr-defined]

    def make_env(self, device: torch.device | str = "cpu", *, final: bool = False) -> TeamEnv:
        """The world; `final` for its last difficulty, which evaluations are played at."""
        settings = cast(EnvSettings, ENVS.check(self.env, self.env_config))
        return cast(TeamEnv, ENVS.row(self.env).load()(settings.final() if final else settings, device))

    def make_channel(self, message_size: int) -> Channel:
        return make_channel(self.channel, self.channel_config, message_size)

    def make_policy(self, env: TeamEnv, seed: int, start: Mapping[str, np.ndarray] | None = None) -> TeamPolicy:
        """The policy for a world, untrained or with the weights of `start` wherever name and shape are the same.

        All other weights depend on names, settings and `seed` alone.
        """
        settings: Any = POLICIES.check(self.policy, self.policy_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channel = self.make_channel(settings.message_width)
            policy = cast(TeamPolicy, POLICIES.row(self.policy).load()(env.spec, settings, channel))
            fitting = what_fits(policy, start or {})
            policy.load_state_dict(fitting, strict=False)
            trained = all(f"{_CHANNEL}{name}" in fitting for name in channel.state_dict())
            if type(channel).calibrate is not Channel.calibrate and not trained:
                home = env if env.device.type == "cpu" else self.make_env()  # where an untrained policy is
                channel.calibrate(_first_words(home, policy, seed))
            return policy


def what_fits(policy: TeamPolicy, weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The weights and buffers whose name and shape are those of the policy; raises `ConfigError` if there are none."""
    known = policy.state_dict()
    fitting = {
        name: torch.as_tensor(value)
        for name, value in weights.items()
        if name in known and known[name].shape == value.shape
    }
    if weights and not fitting:
        raise ConfigError("init_from: nothing in this checkpoint has the name and shape of a weight of the new team")
    return fitting


def _first_words(env: TeamEnv, policy: TeamPolicy, seed: int) -> Tensor:
    """What a team gives to its channel before it is trained on: messages [M, D] of a few episodes."""
    rollout, messages = overhear(Player(env, policy, seed, stream="calibration"), torch.arange(_CALIBRATION_WORLDS))
    return messages[rollout.talk.spoke & rollout.acts]


def overhear(player: Player, worlds: Tensor) -> tuple[Rollout, Tensor]:
    """One episode of every world, and the vectors [B, T, N, D] that were given to the channel."""
    policy, said = player.policy, list[Tensor]()
    say = policy.say

    def overheard(features: Tensor, memory: Memory) -> Tensor:
        said.append(say(features, memory))
        return said[-1]

    policy.say = overheard  # type: ignore[method-assign]
    try:
        rollout = player.play(worlds, torch.zeros_like(worlds))
    finally:
        del policy.say
    return rollout, torch.stack(said[: player.env.spec.horizon], dim=1)


def make_channel(name: str, settings: dict[str, Any], message_size: int) -> Channel:
    """A channel of the table for messages of a size."""
    checked = CHANNELS.check(name, settings)
    channel = CHANNELS.row(name).load()(message_size, checked)
    if not isinstance(channel, Channel):
        raise ConfigError(f"channel.name: {name!r} is registered but is no marlcomm.channels.Channel")
    return channel


def make_meter(policy: TeamPolicy) -> BandwidthMeter:
    """The meter that fits a policy: its channel's alphabet, presence bits where it has a gate, and who may speak."""
    gated = policy.gated and policy.channel.carries
    return BandwidthMeter(policy.channel.alphabet(), gated=gated, speakers=policy.spec.speakers)
