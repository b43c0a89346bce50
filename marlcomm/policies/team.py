"""A team from names and settings: the world, and the policy with its channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from marlcomm import checkpoint
from marlcomm.channels.base import Channel, Transmission
from marlcomm.channels.readout import ReadoutChannel
from marlcomm.channels.settings import ChannelSettings
from marlcomm.envs.base import TeamEnv, TeamSpec
from marlcomm.envs.settings import EnvSettings
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.per_group import PerGroup
from marlcomm.policies.records import each_talk
from marlcomm.policies.rollout import Player, Rollout, join_rollouts
from marlcomm.policies.settings import PolicySettings
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
        env = cast(EnvSettings, ENVS.check(self.env, self.env_config))
        policy = cast(PolicySettings, POLICIES.check(self.policy, self.policy_config))
        channel = cast(ChannelSettings, CHANNELS.check(self.channel, self.channel_config))
        policy.check_channel(channel)
        policy.check_horizon(env.told_horizon, channel, f"env.{env.horizon_key}")

    def make_env(self, device: torch.device | str = "cpu", *, final: bool = False) -> TeamEnv:
        """The world; `final` for its last difficulty, which evaluations are played at.

        Under a channel that carries nothing, its agents may not talk by its own actions either.
        """
        settings = cast(EnvSettings, ENVS.check(self.env, self.env_config))
        if not getattr(CHANNELS.row(self.channel).load(), "carries", True):
            settings = settings.silenced()
        return cast(TeamEnv, ENVS.row(self.env).load()(settings.final() if final else settings, device))

    def make_channel(self, policy: PolicySettings) -> Channel:
        """The channel for a policy of these settings."""
        channel = cast(ChannelSettings, CHANNELS.check(self.channel, self.channel_config))
        width = policy.channel_width(channel.placement)
        return make_channel(self.channel, self.channel_config, policy.message_width, width)

    def make_policy(self, env: TeamEnv, seed: int, start: Mapping[str, np.ndarray] | None = None) -> TeamPolicy:
        """The policy for a world, untrained or with the weights of `start` wherever name and shape are the same.

        All other weights depend on names, settings and `seed` alone.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            policy = self.build(env.spec)
            fitting = what_fits(policy, start or {})
            policy.load_state_dict(fitting, strict=False)
            quantiser = policy.quantiser
            calibrates = type(quantiser).calibrate is not Channel.calibrate and not (quantiser.stands_in and not start)
            if calibrates and not quantiser.adopt(_loaded_by_the_quantiser(policy, fitting)):
                home = env if env.device.type == "cpu" else self.make_env()  # where an untrained policy is
                quantiser.calibrate(_first_words(home, policy, seed))
            return policy

    def start(self, stored: checkpoint.Checkpoint) -> dict[str, np.ndarray]:
        """The weights of a checkpoint that mean the same in this team.

        What another channel has learned, or the same under other settings, is not among them for a channel without
        `Channel.keeps_scale`.
        """
        weights, settings = stored.policy(), dict((stored.settings or {}).get("channel", {}))
        row = CHANNELS.row(self.channel)
        if row.load().keeps_scale:
            return weights
        same = settings.pop("name", None) == self.channel
        if same and row.settings_model()(**settings) == CHANNELS.check(self.channel, self.channel_config):
            return weights
        return {name: value for name, value in weights.items() if not name.startswith(_CHANNEL)}

    def build(self, spec: TeamSpec) -> TeamPolicy:
        """The policy for worlds of a spec, with weights by torch's generator and no calibration.

        Raises `ConfigError` where their episodes are over before anything is heard.
        """
        settings: Any = POLICIES.check(self.policy, self.policy_config)
        settings.check_horizon(spec.horizon, CHANNELS.check(self.channel, self.channel_config))
        channel, kind = self.make_channel(settings), POLICIES.row(self.policy).load()
        if settings.parameters == "shared":
            return cast(TeamPolicy, kind(spec, settings, channel))
        return PerGroup(spec, settings, channel, kind)


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


def _loaded_by_the_quantiser(policy: TeamPolicy, fitting: Collection[str]) -> set[str]:
    """The names of the quantiser's own state among those that were loaded into its policy."""
    place = next(name for name, module in policy.channel.named_modules() if module is policy.quantiser)
    prefix = f"{_CHANNEL}{place}." if place else _CHANNEL
    return {name.removeprefix(prefix) for name in fitting if name.startswith(prefix)}


def _first_words(env: TeamEnv, policy: TeamPolicy, seed: int) -> Tensor:
    """What a team gives to its channel before it is trained on: messages [M, D] of a few episodes."""
    player, exactly = Player(env, policy, seed, stream="calibration"), policy.quantiser.stands_in
    rollout, messages = overhear(player, torch.arange(_CALIBRATION_WORLDS), exactly)
    spoke = rollout.talk.quantised.spoke
    return messages[spoke & each_talk(rollout.acts, spoke)]


def overhear(player: Player, worlds: Tensor, exactly: bool = False) -> tuple[Rollout, Tensor]:
    """One episode of every world, and the vectors [B, T R, N, D] that were given to the channel, wherever it is.

    With `exactly`, they are also what is heard, whatever the channel would make of them.
    """
    rollouts, messages = zip(*(_overhear(player, some, exactly) for some in player.turns(worlds)), strict=True)
    return join_rollouts(rollouts), torch.cat(messages)


def _overhear(player: Player, worlds: Tensor, exactly: bool) -> tuple[Rollout, Tensor]:
    policy, said = player.policy, list[Tensor]()
    channel, transmit = policy.quantiser, policy.quantiser.transmit

    def overheard(messages: Tensor, noise: Tensor | None = None) -> Transmission:
        said.append(messages)
        sent = transmit(messages, noise)
        return replace(sent, received=messages) if exactly else sent

    channel.transmit = overheard  # type: ignore[method-assign]
    try:
        rollout = player.play(worlds, torch.zeros_like(worlds))
    finally:
        del channel.transmit
    return rollout, torch.stack(said[: player.env.spec.horizon * policy.rounds], dim=1)


def make_channel(name: str, settings: dict[str, Any], message_size: int, width: int | None = None) -> Channel:
    """A channel of the table for messages of a size; `width` is that of the read-out, if not the same."""
    checked = cast(ChannelSettings, CHANNELS.check(name, settings))
    if checked.placement == "sender":
        return _build(name, checked, message_size)
    bottleneck = _build(name, checked, message_size if width is None else width)
    if not bottleneck.carries:
        raise ConfigError(f"channel.placement: got 'readout', wanted 'sender': {name} carries nothing")
    return ReadoutChannel(message_size, bottleneck)


def _build(name: str, settings: ChannelSettings, size: int) -> Channel:
    channel = CHANNELS.row(name).load()(size, settings)
    if not isinstance(channel, Channel):
        raise ConfigError(f"channel.name: {name!r} is registered but is no marlcomm.channels.Channel")
    return channel


def make_meter(policy: TeamPolicy) -> BandwidthMeter:
    """The meter that fits a policy: its channel's alphabet, presence bits where it has a gate, and who may speak."""
    gated = policy.gated and policy.channel.carries
    return BandwidthMeter(policy.channel.alphabet(), gated=gated, speakers=policy.spec.speakers)


def make_bottleneck_meter(policy: TeamPolicy) -> BandwidthMeter | None:
    """The meter of what passes the bottleneck at the read-out, where it is there.

    Its messages are what receivers read, its agent steps the living agents' rights to hear; where there is a gate,
    whether anybody was heard is worth a presence bit.
    """
    if policy.bottleneck is None:
        return None
    return BandwidthMeter(policy.bottleneck.alphabet(), gated=policy.gated, speakers=_hearers(policy.spec))


def _hearers(spec: TeamSpec) -> tuple[bool, ...] | None:
    """Which agents another one may speak to; None: all."""
    if spec.speakers is None:
        return None
    return tuple(sum(spec.speakers) > speaks for speaks in spec.speakers)
