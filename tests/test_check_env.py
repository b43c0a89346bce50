"""`check_env`: every world keeps the contract, and each way to break it is told in a sentence."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from box_world import Reach, ReachSettings
from torch import Tensor

from marlcomm import noise
from marlcomm.contract import Finding
from marlcomm.envs import TeamEnv, TeamSpec, TeamStep, check_env, register_env
from marlcomm.registry import ENVS

SLOTS, HORIZON = 3, 6


class Ponds(TeamEnv):
    """Frogs come to empty lilies and leave them (action 1); one that stays is paid its lily's number.

    A world is over for good where a frog has left a lily with a number above 0.95; slot 2 is obeyed by nobody.
    """

    def __init__(self) -> None:
        super().__init__("cpu")
        self.spec = TeamSpec(
            "ponds",
            num_agents=SLOTS,
            observation_size=2,
            num_actions=2,
            horizon=HORIZON,
            setting="ponds",
            observation_bounds=(0, 1),
            actors=(True, True, False),
            floor="stay",
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        self.lilies = noise.uniform(self.keys, SLOTS)
        self.frogs = self.lilies < 0.7
        self.over = torch.zeros_like(self.keys, dtype=torch.bool)
        return self.now(torch.zeros_like(self.lilies), torch.zeros_like(self.frogs))

    def _advance(self, actions: Tensor) -> TeamStep:
        obeyed = torch.arange(SLOTS, device=self.device) < 2
        left = (actions == 1) & self.frogs & obeyed
        self.over = self.over | (left & (self.lilies > 0.65)).any(1)
        came = ~self.frogs & (self.draw() < 0.4)
        self.frogs = (self.frogs & ~left) | came
        return self.now(self.lilies * self.frogs, came)

    def draw(self) -> Tensor:
        return noise.uniform(noise.absorb(self.keys, self.time), SLOTS)

    def now(self, rewards: Tensor, spawned: Tensor) -> TeamStep:
        seen = torch.stack([self.lilies, torch.full_like(self.lilies, self.time / HORIZON)], dim=-1)
        return TeamStep(
            observations=seen * self.frogs.unsqueeze(-1),
            rewards=rewards,
            alive=self.frogs,
            spawned=spawned,
            terminated=self.over,
            truncated=self._at_horizon() & ~self.over,
            info={"success": self.frogs.all(1).float(), "frogs": self.frogs.sum(1).float()},
        )

    def scripts(self):
        return {"stay": lambda env: torch.zeros_like(env.frogs, dtype=torch.int64)}

    def render(self, world: int = 0) -> np.ndarray:
        return np.zeros((8, 8 * SLOTS, 3), np.uint8) + self.frogs[world].numpy().repeat(8)[:, None].astype(np.uint8)


def changed(**fields):
    """A `now` with these fields in place of Ponds' own, each made of the world and the moment."""

    def now(self, rewards: Tensor, spawned: Tensor) -> TeamStep:
        moment = Ponds.now(self, rewards, spawned)
        return TeamStep(**(vars(moment) | {name: make(self, moment) for name, make in fields.items()}))

    return {"now": now}


def specified(**fields):
    """A constructor that changes the spec."""

    def init(self) -> None:
        Ponds.__init__(self)
        self.spec = dataclasses.replace(self.spec, **fields)

    return {"__init__": init}


def generator_draw(self):
    generator = torch.Generator().manual_seed(int(self.keys[0]) % 2**31 + self.time)
    return torch.rand(self.num_worlds, SLOTS, generator=generator)


def positions_draw(self):
    numbers = torch.arange(self.num_worlds)
    return noise.uniform(noise.absorb(self.keys, self.time) * 0 + noise.absorb(numbers, self.time), SLOTS)


def remembering_draw(self):
    self.played = getattr(self, "played", 0) + 1
    return noise.uniform(noise.absorb(self.keys, self.played), SLOTS)


def in_place(self, rewards, spawned):
    self.board = getattr(self, "board", None)
    if self.board is None or len(self.board) != len(rewards):
        self.board = torch.zeros_like(rewards)
    self.board.copy_(rewards)
    return Ponds.now(self, self.board, spawned)


def scribbling(self, actions):
    now = Ponds._advance(self, actions)
    actions.zero_()
    return now


def unkeyed(*kept):
    """A `reset` that forgets some of what the key is made of."""

    def reset(self, seed, worlds, episodes, stream="train"):
        given = {"seed": seed, "worlds": worlds, "episodes": episodes, "stream": stream}
        fixed = {"seed": 0, "worlds": worlds * 0, "episodes": episodes * 0, "stream": "fixed"}
        return TeamEnv.reset(self, **(fixed | {name: given[name] for name in kept}))

    return {"reset": reset}


def vectorised(self, actions):
    now = Ponds._advance(self, actions)
    return self._begin(torch.zeros_like(self.keys)) if self.time == HORIZON else now


def restarting(self, actions):
    was_over = self.over
    now = Ponds._advance(self, actions)
    self.over = self.over & ~was_over
    return TeamStep(**(vars(now) | {"terminated": self.over}))


def home_again(self, actions):
    """Goes back to the first moment by itself, and returns that at the horizon."""
    now = Ponds._advance(self, actions)
    if self.time < HORIZON:
        return now
    first = (self.lilies < 0.7).unsqueeze(-1)
    seen = torch.stack([self.lilies, torch.zeros_like(self.lilies)], dim=-1) * first
    return TeamStep(
        **(vars(now) | {"observations": seen, "alive": first[..., 0], "rewards": now.rewards * first[..., 0]})
    )


def lenient(self, actions):
    """Refuses wrong shapes and numbers, and takes numbers of any type."""
    return TeamEnv.step(self, actions.to(torch.int64))


BROKEN = {
    "no spec": ({"__init__": lambda self: TeamEnv.__init__(self)}, "must set self.spec"),
    "no step": ({"_advance": lambda self, actions: None}, "must return a TeamStep, got NoneType"),
    "no script": (specified(ceiling="best"), "spec.ceiling is 'best', which is none of its scripts \\(stay\\)"),
    "horizon": (specified(horizon=0), "spec.horizon is 0, wanted an integer of at least 1"),
    "float64": (
        changed(rewards=lambda self, now: now.rewards.double()),
        r"rewards at the reset is torch.float64 of shape \(1, 3\), wanted torch.float32 of shape \(1, 3\)",
    ),
    "wide": (
        changed(observations=lambda self, now: now.observations.repeat(1, 1, 2)),
        r"observations at the reset is torch.float32 of shape \(1, 3, 4\), wanted .* \(1, 3, 2\) for 1 worlds",
    ),
    "whole info": (
        changed(info=lambda self, now: now.info | {"frogs": self.frogs.sum()}),
        r"info\['frogs'\] at the reset is torch.int64 of shape \(\), wanted torch.float32 of shape \(1,\)",
    ),
    "bounds": (
        specified(observation_bounds=(0, 0.5)),
        r"observes 0\.\d+ \(number 0\) at the reset, wanted .* \[0, 0.5\]",
    ),
    "NaN seen": (
        changed(observations=lambda self, now: now.observations / now.alive.unsqueeze(-1)),
        r"observes nan .* wanted finite numbers",
    ),
    "paid early": (
        changed(rewards=lambda self, now: now.rewards + self.frogs),
        "the reward of slot \\d of world \\d at the reset is 1, wanted 0",
    ),
    "infinite": (
        changed(rewards=lambda self, now: now.rewards if self.time < 2 else now.rewards / 0.0),
        "at step 2 is (inf|nan), wanted a finite number",
    ),
    "no success": (
        changed(info=lambda self, now: {"frogs": now.info["frogs"]}),
        "'success' is not in info at the reset",
    ),
    "late info": (
        changed(info=lambda self, now: now.info | ({"late": now.info["frogs"]} if self.time else {})),
        "wanted the same names",
    ),
    "many successes": (changed(info=lambda self, now: {"success": now.info["frogs"]}), "leaves 0..1"),
    "dead see": (
        changed(observations=lambda self, now: now.observations + 0.25 * ~now.alive.unsqueeze(-1)),
        r"is empty \(not alive\) and observes 0.25, wanted zeros",
    ),
    "dead are paid": (
        changed(rewards=lambda self, now: now.rewards + ~now.alive * (self.time > 0)),
        r"is empty \(not alive\) and is paid 1, wanted zeros",
    ),
    "silent newcomers": (
        changed(spawned=lambda self, now: torch.zeros_like(now.alive)),
        "was empty before and is alive, and is not in spawned",
    ),
    "ghosts": (changed(spawned=lambda self, now: ~now.alive), "has spawned and is empty"),
    "dead act": (
        {"_advance": lambda self, actions: Ponds._advance(self, actions * 0 + (actions == 1).any(1, keepdim=True))},
        "other actions in slots that are empty, or no actors, make a difference",
    ),
    "others act": (
        specified(actors=(True, False, False)),
        "other actions in slots that are empty, or no actors, make a difference",
    ),
    "early": (
        changed(truncated=lambda self, now: self._at_horizon() | (now.truncated | (self.time == 4))),
        f"is truncated at step 4, wanted at the horizon, {HORIZON}",
    ),
    "endless": (changed(truncated=lambda self, now: torch.zeros_like(now.truncated)), "goes on at the horizon, step 6"),
    "over at once": (changed(terminated=lambda self, now: torch.ones_like(now.truncated)), "over at its reset"),
    "resets": ({"_advance": vectorised}, "step calls _begin"),
    "runs again": ({"_advance": restarting}, r"had ended before step \d and runs again"),
    "home again": ({"_advance": home_again}, "at the horizon all worlds observe the start of an episode"),
    "takes all": ({"step": lenient}, "an action of another type is taken without a word"),
    "one buffer": ({"now": in_place}, "rewards of the reset is written over later"),
    "scribbles": ({"_advance": scribbling}, "step 1 writes into the actions"),
    "generator": ({"draw": generator_draw}, "played among 16 and alone, .* key every draw by self.keys"),
    "positions": ({"draw": positions_draw}, "played among 16 and alone"),
    "remembers": ({"draw": remembering_draw}, "again after other episodes, .*_begin must reset all"),
    "global": ({"draw": lambda self: torch.rand(self.num_worlds, SLOTS)}, "played twice from one seed, .* is"),
    "one seed": (unkeyed("worlds", "episodes", "stream"), "^another seed plays the same episodes"),
    "one stream": (unkeyed("seed", "worlds", "episodes"), "^another stream plays"),
    "one episode": (unkeyed("seed", "worlds", "stream"), "^another episode plays"),
    "one world": (unkeyed("seed", "episodes", "stream"), "^another world plays"),
    "wrong script": (
        {"scripts": lambda self: {"stay": lambda env: torch.full_like(env.frogs, 2, dtype=torch.int64)}},
        r"script 'stay' at step 1: action 2 is not in 0\.\.1",
    ),
    "random script": (
        {"scripts": lambda self: {"stay": lambda env: torch.randint(2, env.frogs.shape)}},
        "script 'stay' at step 1: asked twice, it chooses other actions",
    ),
    "gray": ({"render": lambda self, world=0: np.zeros((8, 8), np.uint8)}, r"render returns uint8 of shape \(8, 8\)"),
    "no picture": ({"render": lambda self, world=0: None}, "render returns NoneType, wanted a numpy array"),
    "anywhere": (
        changed(rewards=lambda self, now: now.rewards + torch.zeros(SLOTS)),
        "a tensor is made without device=self.device",
    ),
    "somewhere": (
        changed(info=lambda self, now: now.info | {"time": torch.full((self.num_worlds,), float(self.time))}),
        r"info\['time'\] at the reset is on meta, the world on cpu: it is made without device=self.device",
    ),
}


def problems(build) -> list[str]:
    return [finding.problem for finding in check_env(build) if finding.problem]


@pytest.mark.parametrize("name", BROKEN)
def test_the_checker_says_what_is_wrong(name):
    body, words = BROKEN[name]
    found = problems(type("Broken", (Ponds,), body))
    assert any(re.search(words, problem) for problem in found), found


def test_a_good_world_is_checked_wholly():
    findings = check_env(Ponds)
    assert [finding for finding in findings if finding.problem] == []
    (left,) = [finding for finding in findings if finding.unchecked]
    assert left.promise == "all tensors are on the world's device"
    assert "--device cuda" in left.unchecked


def test_what_cannot_be_built_is_not_checked_further():
    def build():
        raise KeyError("map")

    first, *others = check_env(build)
    assert first == Finding("its spec says what it is", "raised KeyError: 'map'")
    assert all(finding.problem or finding.unchecked for finding in others)


def test_the_name_is_the_registered_one(monkeypatch):
    monkeypatch.setattr(ENVS, "rows", dict(ENVS.rows))
    world = register_env("lilies")(type("Lilies", (Ponds,), {}))
    assert problems(world) == ["spec.name is 'ponds', but the world is registered as 'lilies'"]


def test_box_actions_are_checked_too():
    class Gullible(Reach):
        def step(self, actions):
            return super().step(actions.float().nan_to_num())

    def promises(world):
        found = {finding.promise: finding for finding in check_env(lambda: world(ReachSettings(led=True, horizon=3)))}
        return found["wrong actions are refused"], found["scripts choose valid actions"]

    assert [finding.problem for finding in promises(Reach)] == [None, None]
    assert promises(Gullible)[0].problem == "an action of another type is taken without a word, wanted a ValueError"


WORLDS = {
    "pettingzoo": [{"maker": "foreign_worlds:Leavers"}],
    "traffic_junction": [{}, {"vision": 1, "legacy": True}],
    "communicating_goal": [{}],
    "particle_spread": [{}, {"view": "other_landmark", "agents": 2}, {"actions": "continuous", "view": "radius"}],
    "ghost_run": [{}, {"mode": "legacy", "drones": 1, "observations": "dense"}, {"map": "train", "screen": "own"}],
}
CASES = [
    (name, settings)
    for name, row in ENVS.rows.items()
    if isinstance(row.target, str)  # built in, not registered by another test
    for settings in WORLDS.get(name, [{}])
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_every_world_keeps_the_contract(name, settings):
    assert problems(lambda: ENVS.row(name).load()(ENVS.check(name, settings))) == []


def test_the_tutorials_world_keeps_it_and_a_broken_one_is_told(here, pytestconfig, tmp_path):
    page = (pytestconfig.rootpath / "docs/worlds.md").read_text(encoding="utf-8")
    section = page.partition("## A world of your own")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert code.count("\n") < 55
    (tmp_path / "my_worlds.py").write_text(code, encoding="utf-8")
    command = re.search(r"^marlcomm (check env .*)$", section, re.MULTILINE)[1].split()
    out = here(*command, cwd=tmp_path).stdout
    assert re.search(r"env neighbour keeps all \d+ promises; 5 could not be checked", out)
    assert "no slot was ever empty" in out
    assert "pictures are uint8 [height, width, 3]" in out
    broken = code.replace('"neighbour"', '"ruled"').replace("terminated=nowhere", "terminated=~nowhere")
    (tmp_path / "my_ruled_worlds.py").write_text(broken, encoding="utf-8")
    out = here("check", "env", "ruled", "--import", "my_ruled_worlds", cwd=tmp_path, code=1).stdout
    assert "a world is over at its reset, before anybody has acted" in out


def test_wrong_settings_of_a_checked_world_are_named(here):
    assert "did you mean 'vision'" in here("check", "env", "traffic_junction", "visio=1", code=2).stderr
    assert "the env to check is" in here("check", "env", "traffic_junction", "name=relay", code=2).stderr
