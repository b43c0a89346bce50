"""Names to things: one table per kind (env, channel, policy, algorithm), and settings checked against it.

Built-in rows name their class and settings model as ``"module:attribute"``, so that listing them and refusing
a bad setting import neither torch nor ray. Everybody else registers with a decorator::

    @register_channel("sign", settings=SignSettings)
    class SignChannel(Channel): ...

An installed package makes its things known without being imported by an entry point of the same name, in the group
``marlcomm.channels`` (or ``.envs``, ``.policies``, ``.algorithms``).
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

T = TypeVar("T", bound=type)
S = TypeVar("S", bound=BaseModel)


class ConfigError(ValueError):
    """A setting that cannot be used; the message names its key, its value and what was wanted."""


_MOST_TOLD = 40
_PLAIN = {"a valid tuple": "a list, as in [a,b]", "a valid dictionary": "keys and values, as in {key: value}"}
_SCALARS = {int: "an integer", float: "a number", bool: "true or false"}


class Settings(BaseModel):
    """The settings of a registered thing: typed, immutable, closed to unknown keys.

    Every field carries a description. A subclass raises `ValueError` in a validator where fields do not fit
    together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Neither true nor a text passes for a number, nor a text for true (pydantic would convert them)."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = set(get_args(annotation) or (annotation,)) - {type(None)}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind in _SCALARS and isinstance(value, (str, bool)) and type(value) is not kind:
            raise ValueError(_SCALARS[kind])
        return value


def turn_on(settings: S, switches: Iterable[str]) -> S:
    """Settings in which these are true whatever was said of them, so that a stored run says so too."""
    settings.__dict__.update(dict.fromkeys(switches, True))  # they are frozen; a validator is still making them
    return settings


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: what the user writes.
        target: the class, or ``"module:attribute"`` of it.
        settings: its `Settings` model, or ``"module:attribute"`` of it.
        summary: one line for ``marlcomm list``.
    """

    name: str
    target: Any
    settings: Any
    summary: str

    def load(self) -> Any:
        """The class itself (this imports what the class needs)."""
        return _resolve(self.target)

    def settings_model(self) -> type[Settings]:
        model: type[Settings] = _resolve(self.settings)
        return model


@dataclass
class Table:
    """All things of one kind, by name.

    Attributes:
        kind: env, channel, policy or algorithm.
        plural: of the kind.
        base: what their settings are made of, as ``"module:attribute"``.
        rows: by name.
    """

    kind: str
    plural: str
    base: str
    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Add a row; the same class again is no change (a module may be imported twice), a double name raises."""
        known = self.rows.get(row.name)
        if known is not None and not _same_target(known.target, row.target):
            raise ConfigError(
                f"{self.kind} {row.name!r} is registered already, by {_describe(known.target)}: choose another name"
            )
        self.rows[row.name] = row

    def discover(self) -> None:
        """Import what installed packages announce by entry points and is not registered yet."""
        for point in metadata.entry_points(group=f"marlcomm.{self.plural}"):
            if point.name in self.rows:
                continue
            try:
                point.load()
            except Exception as error:  # a third party's module may raise anything
                raise ConfigError(f"{self.kind} {point.name!r}: cannot import {point.value}: {error}") from error
            if point.name not in self.rows:
                raise ConfigError(f"{self.kind} {point.name!r}: {point.value} registers no {self.kind} of that name")

    def row(self, name: str) -> Row:
        if name not in self.rows:
            self.discover()
        if name not in self.rows:
            raise ConfigError(f"{self.kind}.name: unknown {self.kind} {name!r}; {nearest(name, self.rows)}")
        return self.rows[name]

    def check(self, name: str, settings: Mapping[str, Any], path: str | None = None) -> Settings:
        """The validated settings of a named thing; raises `ConfigError` with key paths under `path`."""
        return validate(self.row(name).settings_model(), settings, self.kind if path is None else path)

    def register(self, name: str, *, settings: type[Settings] | None = None) -> Callable[[T], T]:
        """Class decorator: make the class known under `name`; `settings` is a subclass of what this kind's share."""
        base = _resolve(self.base)
        settings = base if settings is None else settings
        if not (isinstance(settings, type) and issubclass(settings, base)):
            raise ConfigError(
                f"{self.kind} {name!r}: settings must be a subclass of {self.base.replace(':', '.')}, got {settings!r}"
            )

        def decorate(target: T) -> T:
            summary = (inspect.getdoc(target) or "").partition("\n")[0]
            self.add(Row(name, target, settings, summary))
            return target

        return decorate


def _resolve(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _describe(target: Any) -> str:
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _same_target(first: Any, second: Any) -> bool:
    return _describe(first) == _describe(second)


def nearest(word: str, known: Iterable[str], quoted: bool = False) -> str:
    """A hint for a word that is not among the known ones, of which 40 are told; `quoted` where they may hold commas."""
    known = list(known)
    told = ", ".join(map(repr, known[:_MOST_TOLD]) if quoted else known[:_MOST_TOLD])
    told += f" and {len(known) - _MOST_TOLD} more" if len(known) > _MOST_TOLD else ""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? (known: {told})"
    return f"known: {told}" if known else "no keys are known here"


def check_multiple(key: str, number: int, parts: int, reason: str) -> None:
    """Raise `ConfigError` unless a number divides into parts."""
    if number % parts:
        fitting = max(round(number / parts), 1) * parts
        raise ConfigError(f"{key}: got {number}, wanted a multiple of {parts} = {reason} (nearest: {fitting})")


def validate(model: type[Settings], settings: Mapping[str, Any], path: str) -> Settings:
    """Build a settings model; raises `ConfigError` with one line per wrong key, each with its full path."""
    wrong = [key for key in settings if not isinstance(key, str)]
    if wrong:
        raise ConfigError(f"{path}: key {wrong[0]!r} is no text; {nearest(str(wrong[0]), model.model_fields)}")
    try:
        return model(**settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem, model, path) for problem in error.errors())) from None


def _explain(problem: Any, model: type[BaseModel], path: str) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join([path, *location]) if path else ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = [*_fields_at(model, location[:-1]), *(["name"] if len(location) == 1 and path in TABLES else [])]
        return f"{key}: unknown key (value {problem['input']!r}); {nearest(location[-1], known)}"
    if problem["type"] == "missing":
        return f"{key}: a value is required"
    wanted = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    wanted = _PLAIN.get(wanted.partition(" or instance of ")[0], wanted)
    if not location:
        name = wanted.partition(":")[0]  # a validator of the whole model names the field that it found wrong
        return f"{key}.{wanted}" if key and name in model.model_fields else f"{key}: {wanted}"
    return f"{key}: got {problem['input']!r}, wanted {wanted}"


def _fields_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """The field names of the (possibly nested) model at a location."""
    for part in location:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _table(kind: str, plural: str, base: str, *rows: tuple[str, str, str, str]) -> Table:
    """A table of built-in rows: name, "module:class", "module:settings" (all under marlcomm), summary."""
    table = Table(kind, plural, f"marlcomm.{base}")
    for name, target, settings, summary in rows:
        table.add(Row(name, f"marlcomm.{target}", f"marlcomm.{settings}", summary))
    return table


ENVS = _table(
    "env",
    "envs",
    "envs.settings:EnvSettings",
    (
        "traffic_junction",
        "envs.traffic_junction.world:TrafficJunction",
        "envs.traffic_junction.settings:TrafficJunctionSettings",
        "cars that cannot see each other cross junctions: easy (5), medium (10), hard (20)",
    ),
    (
        "communicating_goal",
        "envs.communicating_goal.world:CommunicatingGoal",
        "envs.communicating_goal.settings:CommunicatingGoalSettings",
        "a speaker sees the goal, a listener walks; some goals are drawn far more often than others",
    ),
    (
        "particle_spread",
        "envs.particle_spread.world:ParticleSpread",
        "envs.particle_spread.settings:ParticleSpreadSettings",
        "discs with inertia cover landmarks (simple_spread), with full or partial views",
    ),
    (
        "predator_prey",
        "envs.predator_prey.world:PredatorPrey",
        "envs.predator_prey.settings:PredatorPreySettings",
        "predators that see a few cells gather on a prey: easy (3), medium (5), hard (10)",
    ),
    (
        "ghost_run",
        "envs.ghost_run.world:GhostRun",
        "envs.ghost_run.settings:GhostRunSettings",
        "drones flee from ghosts, each pilot with another one's picture; legacy: the published drones",
    ),
    (
        "lewis_game",
        "envs.lewis_game.world:LewisGame",
        "envs.lewis_game.settings:LewisGameSettings",
        "a sender sees an object, a receiver finds it among 64; rounds need a known number of symbols",
    ),
    (
        "pettingzoo",
        "envs.foreign.world:PettingZooWorld",
        "envs.foreign.settings:PettingZooSettings",
        "any PettingZoo environment, by the function that makes it",
    ),
)
CHANNELS = _table(
    "channel",
    "channels",
    "channels.settings:ChannelSettings",
    (
        "continuous",
        "channels.plain:ContinuousChannel",
        "channels.settings:ContinuousSettings",
        "float32 numbers as they are: 32 bits per element",
    ),
    ("silent", "channels.plain:SilentChannel", "channels.settings:SilentSettings", "nothing is sent: the reference"),
    (
        "float16",
        "channels.casts:CastChannel",
        "channels.settings:Float16Settings",
        "float16 numbers: 16 bits per element",
    ),
    (
        "bfloat16",
        "channels.casts:CastChannel",
        "channels.settings:BFloat16Settings",
        "bfloat16 numbers: 16 bits per element",
    ),
    (
        "int8",
        "channels.casts:Int8Channel",
        "channels.settings:Int8Settings",
        "integers times a scale: 8 bits per element",
    ),
    (
        "post_training",
        "channels.post_training:PostTrainingChannel",
        "channels.settings:PostTrainingSettings",
        "a continuous team quantised after training: the cheap baseline",
    ),
    (
        "uniform",
        "channels.uniform:UniformChannel",
        "channels.settings:UniformSettings",
        "b bits an element in equal steps, whose size is learned or fixed",
    ),
    (
        "fsq",
        "channels.fsq:FSQChannel",
        "channels.settings:FSQSettings",
        "every number squashed and rounded to a few levels, no codebook",
    ),
    (
        "lfq",
        "channels.lfq:LFQChannel",
        "channels.settings:LFQSettings",
        "the signs of a few numbers, one bit each",
    ),
    (
        "bsq",
        "channels.lfq:LFQChannel",
        "channels.settings:BSQSettings",
        "the signs of a few numbers on the unit sphere",
    ),
    (
        "vq",
        "channels.vq:VQChannel",
        "channels.settings:VQSettings",
        "the nearest codeword of a learned codebook, per segment",
    ),
    (
        "dvq",
        "channels.dvq:DVQChannel",
        "channels.settings:DVQSettings",
        "each message chooses its quantiser from a pool",
    ),
    (
        "rvq",
        "channels.rvq:RVQChannel",
        "channels.settings:RVQSettings",
        "indices of stages that refine each other; any prefix is a message",
    ),
    (
        "ddcl",
        "channels.ddcl:DDCLChannel",
        "channels.settings:DDCLSettings",
        "integers from a dithered quantiser with a learned rate",
    ),
    (
        "gumbel",
        "channels.gumbel:GumbelChannel",
        "channels.settings:GumbelSettings",
        "tokens by straight-through Gumbel-softmax",
    ),
    (
        "gr_mck",
        "channels.gumbel:GRMCKChannel",
        "channels.settings:GRMCKSettings",
        "gumbel with a gradient averaged over noises of the same token",
    ),
    (
        "daps",
        "channels.daps:DAPSChannel",
        "channels.settings:DAPSSettings",
        "tokens whose sender is trained by policy search",
    ),
)
POLICIES = _table(
    "policy",
    "policies",
    "policies.settings:PolicySettings",
    (
        "ic3net",
        "policies.ic3net:IC3Net",
        "policies.settings:IC3NetSettings",
        "LSTM agents hear the mean of the others behind learned gates",
    ),
    (
        "commnet",
        "policies.ic3net:IC3Net",
        "policies.settings:CommNetSettings",
        "ic3net with open gates, trained on the team's mean return",
    ),
    (
        "tarmac",
        "policies.tarmac:TarMAC",
        "policies.settings:TarMACSettings",
        "LSTM agents attend to the keys of what they hear, in one or several rounds a step",
    ),
    (
        "transformer",
        "policies.transformer:Transformer",
        "policies.settings:TransformerSettings",
        "each agent attends over its own state and what it received",
    ),
)
ALGORITHMS = _table(
    "algorithm",
    "algorithms",
    "rllib.settings:Training",
    (
        "ic3net",
        "algorithms.ic3net:IC3NetConfig",
        "algorithms.settings:IC3NetTraining",
        "REINFORCE with a value baseline and individual returns",
    ),
    (
        "mappo",
        "algorithms.mappo:MAPPOConfig",
        "algorithms.settings:MAPPOTraining",
        "clipped policy optimisation for each agent, shared parameters",
    ),
    (
        "maddpg",
        "algorithms.maddpg:MADDPGConfig",
        "algorithms.settings:MADDPGTraining",
        "actors that follow central critics, which learn from a replay",
    ),
    (
        "supervised",
        "algorithms.supervised:SupervisedConfig",
        "algorithms.settings:SupervisedTraining",
        "cross-entropy with the actions that are right, in worlds that say which are",
    ),
)
TABLES = {table.kind: table for table in (ENVS, CHANNELS, POLICIES, ALGORITHMS)}

register_env = ENVS.register
register_channel = CHANNELS.register
register_policy = POLICIES.register
register_algorithm = ALGORITHMS.register
