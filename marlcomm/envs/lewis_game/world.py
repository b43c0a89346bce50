"""The Lewis game with rounds that need a known number of symbols (SolveMinSym; "SMS paper", after Lewis 1969).

Objects, rounds and their minima as published. What the paper leaves open is chosen here: candidates are in another
order whenever a round is played, and evaluations play rounds that nobody has learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import NO_LABEL, Candidates, Indexed, Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import card
from marlcomm.envs.lewis_game.files import read_npz
from marlcomm.envs.lewis_game.rounds import Rounds, accepted, build_rounds
from marlcomm.envs.lewis_game.settings import Game, LewisGameSettings

SENDER, RECEIVER = 0, 1
# Streams that play rounds which nobody learns from, and which ones. Results are of the rounds for validation, which
# files hold too; whoever looks before, to choose settings or to see how training goes, is shown others.
HELD_OUT = {"evaluation": "validation", "card": "validation", "tuning": "tuning", "validation": "short evaluations"}


class LewisGame(TeamEnv):
    """B batched rounds. Slot 0 sends: it sees the target. Slot 1 receives: it sees all candidates and chooses one.

    Actions: the place of a candidate; those of the sender are ignored, and those of the receiver before the last step.
    Choosing the target there is a success and worth 1, half of it for each slot, so that a team's return is its
    success. The world ends with the choice, and says before it which one is right.

    An observation is K + 1 objects: the target, then the candidates, each of them "hidden" to who cannot see it. As
    indices, an object is A numbers, the places of the ones in a vector of A (V + 1): one for each value of each
    attribute, and for "hidden". Dense, it is that vector.
    """

    labelled = True

    def __init__(self, settings: LewisGameSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings, self.game = settings, settings.game
        self._rounds = _rounds(settings)
        self._splits = dict[str, Tensor]()
        size = self.game.values + 1
        self._indexed = Indexed(self.game.attributes * size, self.game.attributes, ())
        self._first_places = torch.arange(self.game.attributes, dtype=torch.float32, device=self.device) * size
        dense = settings.observations == "dense"
        width = self._indexed.width if dense else self.game.attributes
        indexed = None if dense else self._indexed
        self.spec = TeamSpec(
            name="lewis_game",
            num_agents=2,
            observation_size=(self.game.candidates + 1) * width,
            num_actions=self.game.candidates,
            horizon=settings.steps,
            setting=settings.setting,
            observation_bounds=(0, 1 if dense else self._indexed.width - 1),
            indexed=indexed,
            candidates=Candidates(width, indexed),
            speakers=(True, False),
            actors=(False, True),
            floor="silent",
            ceiling="oracle",
            card=card("lewis_game", settings.setting),
        )

    def reset(self, seed: int, worlds: Tensor, episodes: Tensor, stream: str = "train") -> TeamStep:
        split: str = self.settings.split
        if split == "by_stream":
            split = HELD_OUT.get(stream, "training")
        self._objects = self._played(split)
        return super().reset(seed, worlds, episodes, stream)

    def _played(self, split: str) -> Tensor:
        """The rounds of a split [R, K, A], made when they are first played if they are not stored."""
        if split not in self._splits:
            rounds = getattr(self._rounds, split, None)
            if rounds is None:
                rounds = _others(self.game, len(self._rounds.validation), self._rounds.seed, split)
            self._splits[split] = torch.as_tensor(rounds, device=self.device)
        return self._splits[split]

    def _begin(self, episodes: Tensor) -> TeamStep:
        number = noise.choice(noise.uniform(self.keys, 1), len(self._objects))
        keys = noise.absorb(self.keys, noise.stream_number("order"))
        order = noise.words(keys, self.game.candidates).argsort(1)
        self._candidates = self._objects[number, order]
        self._target = order.argmin(1)  # a stored round has it first
        self._chosen: Tensor | None = None
        self._seen = self._views()
        return self._now(torch.zeros(self.num_worlds, device=self.device))

    def _advance(self, actions: Tensor) -> TeamStep:
        if self.time < self.spec.horizon:
            return self._now(torch.zeros(self.num_worlds, device=self.device))
        self._chosen = actions[:, RECEIVER].clone()
        return self._now((self._chosen == self._target).to(torch.float32))

    def _views(self) -> Tensor:
        """Observations [B, N, O], the same at every step."""
        places = self._candidates.to(torch.float32) + self._first_places
        hidden = self._first_places + self.game.values
        shape = (self.num_worlds, 2, self.game.candidates + 1, self.game.attributes)
        seen = hidden.expand(shape).clone()
        seen[:, SENDER, 0] = places[torch.arange(self.num_worlds, device=self.device), self._target]
        seen[:, RECEIVER, 1:] = places
        return (seen if self.spec.indexed is not None else self._indexed.dense(seen)).flatten(2)

    def _now(self, success: Tensor) -> TeamStep:
        everybody = torch.ones((self.num_worlds, 2), dtype=torch.bool, device=self.device)
        return TeamStep(
            observations=self._seen,
            rewards=(success / 2).unsqueeze(1).expand(-1, 2),
            alive=everybody,
            spawned=~everybody,
            terminated=self._at_horizon(),
            truncated=torch.zeros_like(everybody[:, 0]),
            info={"success": success, "shared_attributes": self._shared()},
            labels=self._labels(),
        )

    def _labels(self) -> Tensor:
        """[B, N], the target's place for the receiver where its next choice counts."""
        labels = torch.full((self.num_worlds, self.spec.num_agents), NO_LABEL, device=self.device)
        if self.time == self.spec.horizon - 1:
            labels[:, RECEIVER] = self._target
        return labels

    def _shared(self) -> Tensor:
        """[B], how many attributes of the object that was chosen are those of the target; 0 before the choice."""
        if self._chosen is None:
            return torch.zeros(self.num_worlds, device=self.device)
        worlds = torch.arange(self.num_worlds, device=self.device)
        same = self._candidates[worlds, self._chosen] == self._candidates[worlds, self._target]
        return same.sum(1).to(torch.float32)

    @property
    def candidates(self) -> Tensor:
        """[B, K, A] uint8, the objects that the receiver sees."""
        return self._candidates

    @property
    def target(self) -> Tensor:
        """[B], the place of the target among them."""
        return self._target

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.lewis_game.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.lewis_game.picture import draw

        return draw(
            self.game,
            self._candidates[world].tolist(),
            target=int(self._target[world]),
            chosen=None if self._chosen is None else int(self._chosen[world]),
            step=f"message {min(self.time + 1, self.spec.horizon)} of {self.spec.horizon}",
        )


def _rounds(settings: LewisGameSettings) -> Rounds:
    if settings.rounds is not None:
        return read_npz(Path(settings.rounds), settings.game)
    return _made(settings.game, settings.training_rounds, settings.validation_rounds, settings.rounds_seed)


@functools.lru_cache(maxsize=4)  # worlds of one process play the same rounds
def _made(game: Game, training: int, validation: int, seed: int) -> Rounds:
    return build_rounds(game, training, validation, seed)


_others = functools.lru_cache(maxsize=4)(accepted)
