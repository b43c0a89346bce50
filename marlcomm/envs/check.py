"""The contract of a batched world, checked: for the built-in ones in the tests, for yours by ``marlcomm check env``."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.contract import Finding, UncheckedError, examine
from marlcomm.envs.base import NO_LABEL, TeamEnv, TeamSpec, TeamStep
from marlcomm.registry import ENVS, ConfigError

_SEED, _STREAM = 5, "check"
_WORLDS = 16
_BATCHES = (1, 2, 7)
_STEPS = 100  # of an episode, for checks that play many
_TOLERANCE = 1e-4  # sums may be rounded otherwise in a batch of another size


def check_env(build: Callable[[], TeamEnv]) -> list[Finding]:
    """Check every promise on worlds that `build` makes anew, on one device.

    A world that cannot be built or stepped is not checked further. Raises `ConfigError` where it plays fewer worlds at
    once than are needed, and nothing else.
    """
    at_once = None
    with contextlib.suppress(Exception):  # what is raised here is found again below
        at_once = build().worlds_at_once
    if at_once is not None and at_once < _WORLDS:
        raise ConfigError(f"check: the env plays {at_once} worlds at once, wanted at least {_WORLDS}")
    watched = functools.cache(lambda: _Case(build, watched).play())

    def case() -> _Case:
        return _Case(build, watched)

    findings = examine(_FIRST, case)
    if any(finding.problem for finding in findings):
        return findings + [Finding(promise, unchecked="the promises above come first") for promise in _CHECKS]
    return findings + examine(_CHECKS, case)


Moment = dict[str, Tensor]  # a `TeamStep` by name, statistics as info[...]


@dataclass(frozen=True)
class _Played:
    """The first steps of one episode of each world [B].

    Attributes:
        worlds: their numbers.
        moments: of the reset and after every step, as they were then.
        running: [B] bool for each moment: who had not ended before it.
        returned: the very tensors that the world returned.
    """

    worlds: list[int]
    moments: list[Moment] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)
    returned: list[Moment] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[int, Moment, Tensor]]:
        """(time, moment, running) of the reset and of every step."""
        return iter(zip(range(len(self.moments)), self.moments, self.running, strict=True))


Choose = Callable[[int, Moment, Tensor], Tensor]


class _Case:
    """A way to make the world anew, one of it, and what another one played first (for all checks that only watch)."""

    def __init__(self, build: Callable[[], TeamEnv], watched: Callable[[], _Played]) -> None:
        self.build = build
        self.env = build()
        self.watched = watched

    @property
    def spec(self) -> TeamSpec:
        return self.env.spec

    def numbers(self, values: int | list[int]) -> Tensor:
        """World or episode numbers [B]."""
        return torch.tensor(list(range(values)) if isinstance(values, int) else values, device=self.env.device)

    def actions(self, worlds: Tensor, time: int) -> Tensor:
        """Random actions [B, N, ...] that depend on the worlds' numbers and the time only."""
        keys = noise.absorb(noise.world_keys(_SEED, "checked actions", worlds, torch.zeros_like(worlds)), time)
        return self.spec.actions.random(noise.uniform(keys, self.spec.num_agents, *self.spec.actions.shape))

    def play(
        self,
        worlds: int | list[int] = _WORLDS,
        *,
        seed: int = _SEED,
        stream: str = _STREAM,
        episode: int = 0,
        steps: int = _STEPS,
        env: TeamEnv | None = None,
        acting: Tensor | None = None,
        choose: Choose | None = None,
    ) -> _Played:
        """Play worlds by the random actions of the worlds `acting` (the same), or by what `choose` makes of them."""
        env, numbers = self.env if env is None else env, self.numbers(worlds)
        acting = numbers if acting is None else acting
        played = _Played(numbers.tolist())
        now = _named(env.reset(seed, numbers, torch.full_like(numbers, episode), stream))
        running = torch.ones(len(numbers), dtype=torch.bool, device=env.device)
        for time in range(min(steps, self.spec.horizon) + 1):
            if time:
                actions = self.actions(acting, time)
                now = _named(env.step(actions if choose is None else choose(time, now, actions)))
            played.returned.append(now)
            played.moments.append({name: value.clone() for name, value in now.items()})
            played.running.append(running)
            running = running & ~(now["terminated"] | now["truncated"])
        return played


def _named(now: object) -> Moment:
    if not isinstance(now, TeamStep):
        raise TypeError(f"reset and step must return a TeamStep, got {type(now).__name__}")
    named = {name: value for name, value in vars(now).items() if name != "info" and value is not None}
    return named | {f"info[{name!r}]": value for name, value in now.info.items()}


# --- what comes first ------------------------------------------------------------------------------------------------


def _says_what_it_is(case: _Case) -> str | None:
    env: object = case.env
    if not isinstance(env, TeamEnv):
        return f"{type(env).__name__} is no subclass of marlcomm.envs.TeamEnv"
    if not isinstance(getattr(env, "spec", None), TeamSpec):
        return "the constructor must set self.spec to a TeamSpec"
    for name in ("num_agents", "observation_size", "num_actions", "horizon"):
        value = getattr(env.spec, name)
        if not isinstance(value, int) or value < 1:
            return f"spec.{name} is {value!r}, wanted an integer of at least 1"
    names = [row.name for row in ENVS.rows.values() if row.target is type(env)]
    if names and env.spec.name not in names:
        return f"spec.name is {env.spec.name!r}, but the world is registered as {names[0]!r}"
    for name in ("floor", "ceiling"):
        script = getattr(env.spec, name)
        if script is not None and script not in env.scripts():
            return f"spec.{name} is {script!r}, which is none of its scripts ({', '.join(env.scripts()) or 'none'})"
    return None


def _tensors_have_their_shapes(case: _Case) -> str | None:
    for size in _BATCHES:
        for time, now, _ in case.play(size):
            for name, value in now.items():
                shape, dtype = _wanted(case.spec, size, name)
                if value.shape != shape or value.dtype != dtype:
                    found = f"{value.dtype} of shape {tuple(value.shape)}"
                    return f"{name} at {_when(time)} is {found}, wanted {dtype} of shape {shape} for {size} worlds"
    return None


def _wanted(spec: TeamSpec, size: int, name: str) -> tuple[tuple[int, ...], torch.dtype]:
    if name == "observations":
        return (size, spec.num_agents, spec.observation_size), torch.float32
    if name == "rewards":
        return (size, spec.num_agents), torch.float32
    if name in ("alive", "spawned"):
        return (size, spec.num_agents), torch.bool
    if name == "labels":
        return (size, spec.num_agents), torch.int64
    return (size,), torch.bool if name in ("terminated", "truncated") else torch.float32


def _when(time: int) -> str:
    return f"step {time}" if time else "the reset"


# --- what is in a moment ---------------------------------------------------------------------------------------------


def _observations_are_in_bounds(case: _Case) -> str | None:
    low, high = case.spec.observation_bounds
    for time, now, running in case.watched():
        seen = now["observations"]
        outside = ~((seen >= low) & (seen <= high) & torch.isfinite(seen)) & running.view(-1, 1, 1)
        if outside.any():
            world, slot, number = outside.nonzero()[0].tolist()
            return (
                f"slot {slot} of world {world} observes {float(seen[world, slot, number]):g} (number {number}) at "
                f"{_when(time)}, wanted finite numbers within spec.observation_bounds, [{low:g}, {high:g}]"
            )
    return None


def _rewards_are_finite(case: _Case) -> str | None:
    for time, now, running in case.watched():
        rewards = now["rewards"]
        wrong = running.unsqueeze(1) & (~torch.isfinite(rewards) if time else rewards != 0)
        if wrong.any():
            world, slot = wrong.nonzero()[0].tolist()
            wanted = "a finite number" if time else "0: nobody has acted"
            return f"the reward of {_place(world, slot, time)} is {float(rewards[world, slot]):g}, wanted {wanted}"
    return None


def _place(world: int, slot: int, time: int) -> str:
    return f"slot {slot} of world {world} at {_when(time)}"


def _success_is_told(case: _Case) -> str | None:
    names: list[str] = []
    for time, now, running in case.watched():
        told = [name for name in now if name.startswith("info")]
        if "info['success']" not in told:
            return f"'success' is not in info at {_when(time)}"
        if time and told != names:
            return (
                f"info holds {', '.join(told)} at {_when(time)}, and {', '.join(names)} before: wanted the same names"
            )
        names = told
        for name in told:
            values = now[name][running]
            if not torch.isfinite(values).all():
                return f"{name} is infinite or NaN at {_when(time)}"
            if name == "info['success']" and ((values < 0) | (values > 1)).any():
                return f"{name} leaves 0..1 at {_when(time)}: wanted 1 for a success, 0 for none"
    return None


def _labels_are_actions(case: _Case) -> str | None:
    spec = case.spec
    if case.env.labelled and spec.action_bounds is not None:
        return "the world is labelled, and its actions are of a box: a label is the number of an action"
    choices = torch.tensor(spec.choices or (spec.num_actions,) * spec.num_agents, device=case.env.device)
    for time, now, running in case.watched():
        if ("labels" in now) != case.env.labelled:
            missing, rule = ("None", "") if case.env.labelled else ("given", "not ")
            return f"labels are {missing} at {_when(time)}, and the world is {rule}labelled"
        if not case.env.labelled:
            continue
        labels = now["labels"]
        wrong = running.unsqueeze(1) & ((labels < NO_LABEL) | (labels >= choices))
        if wrong.any():
            world, slot = wrong.nonzero()[0].tolist()
            return (
                f"the label of {_place(world, slot, time)} is {int(labels[world, slot])}, wanted one of its "
                f"{int(choices[slot])} actions, or {NO_LABEL} where none is right"
            )
    return None


def _empty_slots_are_zero(case: _Case) -> str | None:
    found, before = False, torch.tensor(False, device=case.env.device)
    for time, now, running in case.watched():
        empty = ~now["alive"] & running.unsqueeze(1)
        found = found or bool(empty.any())
        unpaid, before = empty & ~before, now["alive"]  # who leaves may be paid for its last action
        for what, slots, values in (
            ("observes", empty, now["observations"]),
            ("is paid", unpaid, now["rewards"].unsqueeze(-1)),
        ):
            wrong = slots.unsqueeze(-1) & (values != 0)
            if wrong.any():
                world, slot, number = wrong.nonzero()[0].tolist()
                value = float(values[world, slot, number])
                return f"{_place(world, slot, time)} is empty (not alive) and {what} {value:g}, wanted zeros"
    if not found:
        raise UncheckedError("no slot was ever empty")
    return None


def _new_occupants_are_reported(case: _Case) -> str | None:
    before: Tensor | None = None
    found = False
    for time, now, running in case.watched():
        alive, spawned, counts = now["alive"], now["spawned"], running.unsqueeze(1)
        empty = spawned & ~alive & counts
        if empty.any():
            world, slot = empty.nonzero()[0].tolist()
            return f"{_place(world, slot, time)} has spawned and is empty, wanted alive"
        if before is not None:
            found = found or bool((alive & ~before & counts).any())
            silent = alive & ~before & ~spawned & counts
            if silent.any():
                world, slot = silent.nonzero()[0].tolist()
                return f"{_place(world, slot, time)} was empty before and is alive, and is not in spawned"
        before = alive
    if not found:
        raise UncheckedError("no empty slot ever got an occupant")
    return None


# --- time ------------------------------------------------------------------------------------------------------------


def _worlds_end_in_time(case: _Case) -> str | None:
    horizon = case.spec.horizon
    for time, now, running in case.play(_BATCHES[-1], steps=horizon):
        if time == 0 and (now["terminated"] | now["truncated"]).any():
            return "a world is over at its reset, before anybody has acted"
        early = now["truncated"] & running
        if time < horizon and early.any():
            world = int(early.nonzero()[0])
            return f"world {world} is truncated at step {time}, wanted at the horizon, {horizon} (or terminated)"
        lasting = running & ~(now["terminated"] | now["truncated"])
        if time == horizon and lasting.any():
            world = int(lasting.nonzero()[0])
            return f"world {world} goes on at the horizon, step {time}: wanted truncated there, or terminated"
    return None


def _step_never_resets(case: _Case) -> str | None:
    env, horizon, begun = case.env, case.spec.horizon, [0]
    begin = env._begin

    def counted(episodes: Tensor) -> TeamStep:
        begun[0] += 1
        return begin(episodes)

    def choose(time: int, now: Moment, actions: Tensor) -> Tensor:
        begun[0] = 0
        return actions

    env._begin = counted  # type: ignore[method-assign]
    played = case.play(steps=horizon, choose=choose)
    if begun[0]:
        return "step calls _begin: whoever plays resets all worlds together"
    if env.time != horizon:
        return f"time is {env.time} after {horizon} steps: step must not touch it"
    following = case.play(steps=0, episode=1).moments[0]["observations"]
    return _runs_again(played) or _is_back(played, [played.moments[0]["observations"], following])


def _runs_again(played: _Played) -> str | None:
    """A world that had ended, and has not any more."""
    for time, now, running in played:
        again = ~running & ~(now["terminated"] | now["truncated"])
        if again.any():
            return (
                f"world {int(again.nonzero()[0])} had ended before step {time} and runs again, wanted it to stay ended"
            )
    return None


def _is_back(played: _Played, starts: list[Tensor]) -> str | None:
    """All worlds that go on till the horizon see there what they see at a reset, and did not a step before."""
    last, before = (moment["observations"].flatten(1) for moment in (played.moments[-1], played.moments[-2]))
    for start in (start.flatten(1) for start in starts):
        moved = (before != start).any(1) & played.running[-1]
        if moved.sum() > 1 and torch.equal(last[moved], start[moved]):
            return "at the horizon all worlds observe the start of an episode, wanted the end of the one played"
    return None


def _wrong_actions_are_refused(case: _Case) -> str | None:
    env, worlds = case.env, case.numbers(_BATCHES[-1])
    right = case.actions(worlds, 1)
    problem = _refusal(lambda: case.build().step(right), RuntimeError, "a step before the first reset")
    for what, actions in _wrong_actions(case.spec, right).items():
        env.reset(_SEED, worlds, torch.zeros_like(worlds), _STREAM)
        problem = problem or _refusal(functools.partial(env.step, actions), ValueError, what)
    case.play(len(worlds), steps=case.spec.horizon)
    return problem or _refusal(lambda: env.step(right), RuntimeError, "a step after the horizon")


def _wrong_actions(spec: TeamSpec, right: Tensor) -> dict[str, Tensor]:
    wrong = {
        "an agent too few": right[:, 1:],
        "a world too few": right[1:],
        "an action of another type": right.to(torch.float64),
        "a negative action": torch.full_like(right, -1),
        "an action that is too large": torch.full_like(right, spec.num_actions),
    }
    if spec.action_bounds is None:
        return wrong
    low, high = (right.new_tensor(bound) for bound in spec.action_bounds)
    return wrong | {
        "a negative action": right * 0 + low - 1,
        "an action that is too large": right * 0 + high + 1,
        "an action that is NaN": right * torch.nan,
    }


def _refusal(call: Callable[[], object], wanted: type[Exception], what: str) -> str | None:
    try:
        call()
    except wanted:
        return None
    except Exception as error:  # of a third party: anything
        return f"{what} raises {type(error).__name__}: {error}; wanted a {wanted.__name__} that names it"
    return f"{what} is taken without a word, wanted a {wanted.__name__}"


# --- what an episode depends on --------------------------------------------------------------------------------------


def _tensors_are_fresh(case: _Case) -> str | None:
    given: list[tuple[Tensor, Tensor]] = []

    def choose(time: int, now: Moment, actions: Tensor) -> Tensor:
        given.append((actions, actions.clone()))
        return actions

    played = case.play(choose=choose)
    case.play(seed=_SEED + 1, steps=1)
    for time, (returned, copy) in enumerate(zip(played.returned, played.moments, strict=True)):
        for name, value in returned.items():
            if not _close(value, copy[name], 0.0).all():
                return f"{name} of {_when(time)} is written over later: return a new tensor, as by clone()"
    for time, (actions, before) in enumerate(given, start=1):
        if not torch.equal(actions, before):
            return f"step {time} writes into the actions that it was given"
    return None


def _idle_actions_change_nothing(case: _Case) -> str | None:
    spec = case.spec
    idle = torch.zeros(spec.num_agents, dtype=torch.bool, device=case.env.device)
    if spec.actors is not None:
        idle = ~torch.tensor(spec.actors, device=case.env.device)
    found = [bool(idle.any())]

    def choose(time: int, now: Moment, actions: Tensor) -> Tensor:
        ignored = ~now["alive"] | idle
        found[0] = found[0] or bool(ignored.any())
        return torch.where(ignored.view(*ignored.shape, *[1] * len(spec.actions.shape)), _other(spec, actions), actions)

    problem = _difference(case.watched(), case.play(choose=choose))
    if problem is None and not found[0]:
        raise UncheckedError("no slot was ever empty, and all are actors")
    return problem and f"other actions in slots that are empty, or no actors, make a difference: {problem}"


def _other(spec: TeamSpec, actions: Tensor) -> Tensor:
    """Another valid action in place of each."""
    if spec.action_bounds is None:
        return (actions + 1) % spec.num_actions
    low, high = (actions.new_tensor(bound) for bound in spec.action_bounds)
    return torch.where(actions - low < high - actions, actions * 0 + high, actions * 0 + low)


def _batches_do_not_matter(case: _Case) -> str | None:
    numbers = list(range(_WORLDS))
    whole = case.watched()
    parts = {"alone": [[0], [_WORLDS - 1]], "in another order": [numbers[::-1]], "among fewer": [[9, 2, 5]]}
    for what, batches in parts.items():
        for worlds in batches:
            problem = _difference(whole, case.play(worlds, env=case.build()), _TOLERANCE)
            if problem is not None:
                return f"played among {_WORLDS} and {what}, {problem}: key every draw by self.keys"
    return None


def _the_past_does_not_matter(case: _Case) -> str | None:
    first = case.watched()
    case.play(list(range(50, 55)), episode=3)
    problem = _difference(first, case.play())
    return problem and f"played first, and again after other episodes, {problem}: _begin must reset all of the state"


def _the_seed_is_all(case: _Case) -> str | None:
    first = case.watched()
    torch.rand(3)  # as anything else in the process may, between two plays
    problem = _difference(first, case.play())
    return problem and f"played twice from one seed, {problem}: draw from marlcomm.noise with self.keys only"


def _everything_in_the_key_counts(case: _Case) -> str | None:
    first = case.watched()
    others = {
        "seed": case.play(seed=_SEED + 1),
        "stream": case.play(stream="another"),
        "episode": case.play(episode=1),
        "world": case.play(list(range(_WORLDS, 2 * _WORLDS)), acting=case.numbers(_WORLDS)),
    }
    same = [name for name, other in others.items() if _difference(first, _renamed(other, first.worlds)) is None]
    if len(same) == len(others):
        raise UncheckedError("it draws nothing: all episodes are alike")
    if same:
        return f"another {' or '.join(same)} plays the same episodes: draw from marlcomm.noise with self.keys only"
    return None


def _renamed(played: _Played, worlds: list[int]) -> _Played:
    return _Played(worlds, played.moments, played.running, played.returned)


def _difference(whole: _Played, part: _Played, tolerance: float = 0.0) -> str | None:
    """Where the worlds of `part` first differ from the same ones of `whole`, while they run."""
    rows = [whole.worlds.index(world) for world in part.worlds]
    for (time, one, running), (_, other, _) in zip(whole, part, strict=True):
        for name, value in other.items():
            unlike = ~_close(one[name][rows], value, tolerance).flatten(1) & running[rows].unsqueeze(1)
            if unlike.any():
                row, number = unlike.nonzero()[0].tolist()
                first, second = (float(values.flatten(1)[row, number]) for values in (one[name][rows], value))
                where = f"{name} of world {part.worlds[row]} at {_when(time)}"
                return f"{where} is {first:.6g} and {second:.6g} (number {number} of it)"
    return None


def _close(one: Tensor, other: Tensor, tolerance: float) -> Tensor:
    """[B, ...] bool; masks must be the same."""
    if one.dtype == torch.bool:
        return (one == other).view(len(one), -1)
    return torch.isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True).view(len(one), -1)


# --- scripts, devices, faces -----------------------------------------------------------------------------------------


def _scripts_choose_actions(case: _Case) -> str | None:
    env = case.env
    for name in env.scripts():

        def choose(time: int, now: Moment, actions: Tensor, name: str = name) -> Tensor:
            chosen = env.scripts()[name](env)
            env.spec.actions.check(f"script {name!r} at step {time}", chosen, (len(actions), env.spec.num_agents))
            if not torch.equal(chosen, env.scripts()[name](env)):
                raise ValueError(f"script {name!r} at step {time}: asked twice, it chooses other actions")
            return chosen

        try:
            case.play(_BATCHES[-1], choose=choose)
        except ValueError as error:
            return str(error)
    if not env.scripts():
        raise UncheckedError("it has no scripts; a floor and a ceiling (TeamSpec) are what scores are told between")
    return None


def _tensors_are_on_its_device(case: _Case) -> str | None:
    strays = _strays(case)
    if strays is not None or case.env.device.type != "cpu":
        return strays
    # Without an accelerator, the CPU plays its part: what is made without device= is put elsewhere.
    try:
        with torch.device("meta"):
            strays = _strays(_Case(case.build, case.watched))
    except NotImplementedError as error:
        raise UncheckedError(
            f"on the cpu only ({error}): make tensors with device=self.device, then more is seen"
        ) from None
    except (RuntimeError, ValueError, TypeError) as error:
        return f"a tensor is made without device=self.device: {str(error).partition(chr(10))[0]}"
    if strays is not None:
        return f"{strays}: it is made without device=self.device"
    raise UncheckedError(
        "on the cpu only, where every tensor is made with a device; --device cuda plays on an accelerator"
    )


def _strays(case: _Case) -> str | None:
    device = case.env.device
    for time, now, _ in case.play(_BATCHES[-1]):
        for name, value in now.items():
            if value.device.type != device.type:
                return f"{name} at {_when(time)} is on {value.device}, the world on {device}"
    return None


def _pettingzoo_accepts_it(case: _Case) -> str | None:
    from pettingzoo.test import parallel_api_test

    from marlcomm.envs.pettingzoo import TeamParallelEnv

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(TeamParallelEnv(case.env), num_cycles=min(2 * case.spec.horizon + 10, 2 * _STEPS))
    return None


def _pictures_are_pictures(case: _Case) -> str | None:
    if type(case.env).render is TeamEnv.render:
        raise UncheckedError("it draws no pictures")
    size = _BATCHES[-1]
    for steps in (0, min(3, case.spec.horizon)):
        case.play(size, steps=steps)
        for world in (0, size - 1):
            try:
                picture: object = case.env.render(world)
            except NotImplementedError as reason:
                raise UncheckedError(f"it draws no pictures: {reason}") from None
            if not isinstance(picture, np.ndarray):
                return f"render returns {type(picture).__name__}, wanted a numpy array"
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                return f"render returns {picture.dtype} of shape {picture.shape}, wanted uint8 [height, width, 3]"
    return None


_FIRST: dict[str, Callable[[_Case], str | None]] = {
    "its spec says what it is": _says_what_it_is,
    "tensors have the shapes and types of the contract, in batches of any size": _tensors_have_their_shapes,
}
_CHECKS: dict[str, Callable[[_Case], str | None]] = {
    "observations are finite and within their bounds": _observations_are_in_bounds,
    "rewards are finite, and zero at a reset": _rewards_are_finite,
    "success is among the statistics, which are always the same": _success_is_told,
    "labels are actions, and there where the world is labelled": _labels_are_actions,
    "empty slots see zeros, and are paid for nothing but the last action of who left": _empty_slots_are_zero,
    "new occupants of a slot are reported in spawned": _new_occupants_are_reported,
    "the actions of empty slots, and of those that are no actors, are ignored": _idle_actions_change_nothing,
    "worlds end at the horizon, and are not truncated before": _worlds_end_in_time,
    "step never resets": _step_never_resets,
    "wrong actions are refused": _wrong_actions_are_refused,
    "later steps leave alone what was returned and given": _tensors_are_fresh,
    "an episode is the same alone, in any batch and in any order": _batches_do_not_matter,
    "an episode is the same after others were played": _the_past_does_not_matter,
    "the same seed gives the same episode": _the_seed_is_all,
    "another seed, stream, episode or world gives another one": _everything_in_the_key_counts,
    "scripts choose valid actions": _scripts_choose_actions,
    "PettingZoo accepts it": _pettingzoo_accepts_it,
    "pictures are uint8 [height, width, 3]": _pictures_are_pictures,
    "all tensors are on the world's device": _tensors_are_on_its_device,
}
