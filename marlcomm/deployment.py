"""A trained team to take along: its weights and what they mean, in two files that load without Ray and without pickle.

``policy.safetensors`` holds weights and buffers, ``policy.yaml`` the settings of policy and channel and the widths of
the world, so that the world itself is not needed.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from omegaconf import OmegaConf
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import marlcomm
from marlcomm import config
from marlcomm.checkpoint import sha256
from marlcomm.config import Experiment
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.records import Moment, Talk
from marlcomm.policies.rollout import Actor
from marlcomm.policies.team import TeamNames
from marlcomm.registry import ConfigError

FORMAT = 2  # 1: positions in what ghost_run shows stood for other things
WEIGHTS, ABOUT = "policy.safetensors", "policy.yaml"


def export(policy: TeamPolicy, spec: TeamSpec, settings: Experiment, origin: dict[str, Any], folder: Path) -> None:
    """Write a trained policy for worlds of a spec; `origin` is told in ``policy.yaml``, for the record."""
    blob = save({name: value.contiguous() for name, value in policy.state_dict().items()})
    world = {key: value for key, value in asdict(spec).items() if key != "card"}
    about = {
        "format": FORMAT,
        "marlcomm": marlcomm.__version__,
        "origin": origin,
        "imports": list(settings.imports),
        "seed": settings.seed,
        "policy": settings.policy.as_data(),
        "channel": settings.channel.as_data(),
        "world": world,
        "sha256": sha256(blob),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(blob)
        (folder / ABOUT).write_text(OmegaConf.to_yaml(OmegaConf.create(about)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: cannot write {str(folder)!r}: {error.strerror}") from None


def load_policy(folder: Path | str) -> Team:
    """The team that `export` wrote. No code is loaded: where it needs a module of yours, import that first.

    Raises:
        ConfigError: the files are missing, damaged, of a newer format, or need what nobody registered.
    """
    folder = Path(folder)
    about = config.load(folder / ABOUT, "policy")
    found = about.get("format")
    if found != FORMAT:
        raise ConfigError(
            f"{folder / ABOUT}: got format {found!r}, of marlcomm {about.get('marlcomm')}; marlcomm "
            f"{marlcomm.__version__} reads format {FORMAT}"
        )
    try:
        unknown = [module for module in about["imports"] if module not in sys.modules]
        if unknown:
            raise ConfigError(f"{folder}: the team needs {', '.join(unknown)}: import it first, if you trust it")
        blob = (folder / WEIGHTS).read_bytes()
        if sha256(blob) != about["sha256"]:
            raise ConfigError(f"{folder / WEIGHTS}: not the file that belongs to {ABOUT}: its SHA-256 is another")
        spec = TypeAdapter(TeamSpec).validate_python(about["world"])
        named = [about[kind].pop("name") for kind in ("policy", "channel")]
        policy = TeamNames(spec.name, {}, named[0], about["policy"], named[1], about["channel"]).build(spec)
        policy.load_state_dict(load(blob))
    except ConfigError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split("\n\t")[:2])  # torch has a line for every weight that does not fit
        raise ConfigError(f"{folder}: this is no exported policy: {said}") from None
    return Team(policy, spec, int(about["seed"]))


class Team:
    """A trained team of B worlds, which acts step by step on what its agents see; B is what `reset` was told.

    Attributes:
        spec: of the world that it was trained in.
        policy: the network.
        talk: what was said at the last step; None before the first.
    """

    def __init__(self, policy: TeamPolicy, spec: TeamSpec, seed: int = 0) -> None:
        self.policy, self.spec = policy.eval(), spec
        self.talk: Talk | None = None
        self._actor = Actor(spec, policy, seed, stream="deployment")
        self.reset()

    def reset(self, worlds: int = 1, episode: int = 0) -> None:
        """Begin an episode of B worlds; draws of actions and channel are keyed by seed, world and episode."""
        numbers = torch.arange(worlds)
        self._draws = self._actor.draws(numbers, torch.full_like(numbers, episode))
        self._memory = self.policy.begin(worlds)
        self._gates = torch.zeros(worlds, self.spec.num_agents, dtype=torch.bool)
        self._time, self.talk = 0, None

    @torch.no_grad()
    def act(
        self,
        observations: ArrayLike | Tensor,
        alive: ArrayLike | Tensor | None = None,
        spawned: ArrayLike | Tensor | None = None,
        greedy: bool = False,
    ) -> NDArray[Any]:
        """Everybody sees, talks, hears and acts: actions [B, N], or [B, N, A] where they are points of a box.

        Args:
            observations: [B, N, O].
            alive: [B, N], whose slots are taken; None: all.
            spawned: [B, N], who is new in its slot; None: nobody.
            greedy: take the likeliest actions, instead of drawing them.

        Raises:
            ValueError: the shape is another, or the episode is over.
        """
        slots = (len(self._gates), self.spec.num_agents)
        seen = torch.as_tensor(np.asarray(observations), dtype=torch.float32)
        if seen.shape != (*slots, self.spec.observation_size):
            wanted = (*slots, self.spec.observation_size)
            raise ValueError(f"observations: got shape {tuple(seen.shape)}, wanted {wanted}; reset(worlds=B) says B")
        if self._time == self.spec.horizon:
            raise ValueError(f"an episode has {self.spec.horizon} steps, and this one is over: call reset")
        there, new = _flags(alive, True, slots), _flags(spawned, False, slots)
        gates = self._actor.still_open(self._gates, there, new) if self.policy.gated else None
        draws = None if self._draws.channel is None else self._draws.channel[:, self._time]
        with self.policy.channel.evaluation():
            decision, self._memory = self.policy.step(Moment(seen, there, new, gates, draws), self._memory)
        actions, choices = self._actor.choose(decision, self._draws, self._time, greedy)
        if gates is not None and choices is not None:
            self._gates = choices
        self._time, self.talk = self._time + 1, decision.talk
        return decision.distribution.to_world(actions).numpy()


def _flags(given: ArrayLike | Tensor | None, default: bool, slots: tuple[int, int]) -> Tensor:
    """Flags [B, N]."""
    if given is None:
        return torch.full(slots, default)
    flags = torch.as_tensor(np.asarray(given), dtype=torch.bool)
    if flags.shape != slots:
        raise ValueError(f"alive and spawned: got shape {tuple(flags.shape)}, wanted {slots}")
    return flags
