"""An experiment as data: YAML and dotted overrides to checked, typed settings, and back."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, field_validator, model_validator
from pydantic_core import to_jsonable_python

from marlcomm.registry import TABLES, ConfigError, Settings, check_multiple, nearest, validate

GROUPS = tuple(TABLES)
_FOLDERS = {"config": "configs", "study": "studies"}  # where files of a kind are looked for too
_DEFAULT_NAMES = {"env": "traffic_junction", "channel": "ddcl", "policy": "transformer", "algorithm": "mappo"}


class RunSettings(Settings):
    """How long to train, and how often to look."""

    worlds: int = Field(
        128,
        ge=1,
        description="worlds of all runners; a round plays an episode of each, or several (`algorithm.episodes`)",
    )
    sampling: Literal["synchronous", "asynchronous"] = Field(
        "synchronous",
        description="synchronous: a round is played with the weights that learned from all rounds before it; "
        "asynchronous: remote runners play it while learners still learn from the round before, with weights that have "
        "not learned from that one",
    )
    env_steps: int | None = Field(
        1_000_000, ge=1, description="train until this many env steps were sampled; null: until the minutes are over"
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="train for so many minutes at most, over all sessions of the run and without evaluations (like "
        "time/training_seconds); the round that is under way is finished; null: as long as it takes",
    )
    evaluate_every: int | None = Field(10, ge=1, description="rounds between short evaluations; null: none")
    evaluation_worlds: int = Field(500, ge=1, description="episodes of a short evaluation")
    checkpoint_every: int | None = Field(10, ge=1, description="rounds between checkpoints; null: by minutes alone")
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="minutes of training after which a checkpoint is due in any case; null: by rounds alone"
    )

    @model_validator(mode="after")
    def _ends(self) -> RunSettings:
        if self.env_steps is None and self.minutes is None:
            raise ValueError("env_steps or minutes must be a number: a run must end")
        return self

    def done(self, env_steps: int, seconds: float) -> float:
        """The share of the run that is over after so many env steps and seconds of training; 1 or more: it ends."""
        shares = [0.0 if self.env_steps is None else env_steps / self.env_steps]
        shares.append(0.0 if self.minutes is None else seconds / (60 * self.minutes))
        return max(shares)


class ResourceSettings(Settings):
    """Where the work runs. None of these changes what is learned, up to the rounding of floats."""

    num_env_runners: int = Field(
        0, ge=0, description="remote processes that play; 0: the training process itself plays"
    )
    num_learners: int = Field(0, ge=0, description="remote processes that learn; 0: the training process itself learns")
    num_gpus_per_learner: float = Field(0, ge=0, description="GPUs of each learner")
    num_cpus: int | None = Field(None, ge=1, description="CPUs that Ray may give to workers; null: all processor cores")
    threads: int | None = Field(
        None,
        ge=1,
        description="threads of the training process; null: the cores that workers leave, at most OMP_NUM_THREADS",
    )
    sample_timeout: float = Field(
        600,
        gt=0,
        description="seconds in which a round must be played, or a runner that died be back; after them the run stops "
        "and names the worlds that did not answer",
    )


class ClusterSettings(Settings):
    """Which Ray runs the workers."""

    address: str | None = Field(
        None,
        description="null: the cluster at RAY_ADDRESS, or where that is not set a Ray of the run's own on this "
        "machine; auto: the cluster that this machine is part of; HOST:PORT: the cluster whose head that is",
    )
    ship_code: bool = Field(
        False,
        description="send workers the marlcomm of this machine, and the modules in imports that are files of yours; "
        "else all of it must be installed on theirs",
    )
    loopback: bool = Field(
        True, description="a Ray of the run's own listens to this machine only; false: on every network it is part of"
    )

    @field_validator("address")
    @classmethod
    def _names_a_head(cls, address: str | None) -> str | None:
        if address is None or address == "auto" or re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}", address):
            return address
        if address.startswith("ray://"):
            raise ValueError(
                "auto or HOST:PORT (as in head:6379): the training process must be on a machine of the cluster, which "
                "Ray's client (ray://) is not; `ray job submit` starts it there"
            )
        raise ValueError("null, auto or HOST:PORT, as in head:6379")


class EvaluationSettings(Settings):
    """The final evaluation, which fills summary.json."""

    episodes: int = Field(2000, ge=1, description="episodes, one of each of as many worlds")
    code_episodes: int = Field(
        1000, ge=2, description="other episodes, on whose messages the code of the headline rate is fitted and frozen"
    )
    learned_prior: bool = Field(
        False, description="let a learned factorised prior stand among the codes and tables that are fitted"
    )
    stream: Literal["evaluation", "tuning"] = Field(
        "evaluation",
        description="random stream of its worlds; tuning: for choosing settings, so that results are of other worlds",
    )


@dataclass(frozen=True)
class Choice:
    """A registered thing by name, with its checked settings."""

    name: str
    settings: Settings

    def as_data(self) -> dict[str, Any]:
        return {"name": self.name, **self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class Experiment:
    """Everything that a run is made of."""

    name: str
    seed: int
    env: Choice
    policy: Choice
    channel: Choice
    algorithm: Choice
    run: RunSettings
    resources: ResourceSettings
    cluster: ClusterSettings
    evaluation: EvaluationSettings
    imports: tuple[str, ...] = ()
    init_from: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Plain data that `experiment` reads back."""
        return {
            "name": self.name,
            "seed": self.seed,
            **{group: getattr(self, group).as_data() for group in GROUPS},
            **{section: getattr(self, section).model_dump(mode="json") for section in _SECTIONS},
            "imports": list(self.imports),
            "init_from": self.init_from,
        }

    def with_defaults(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Data of another experiment: settings of its parts that were not there yet when it was written, by default."""
        found = dict(data)
        for part in (*GROUPS, *_SECTIONS):
            chosen, own = getattr(self, part), dict(data.get(part, {}))
            settings, name = (chosen.settings, chosen.name) if part in GROUPS else (chosen, None)
            if own.get("name") == name:
                found[part] = _defaults(type(settings)) | own
        return found

    def as_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(self.as_data()))


def _defaults(model: type[Settings]) -> dict[str, Any]:
    """What settings are where nobody says otherwise, as plain data."""
    return {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


_SECTIONS: dict[str, type[Settings]] = {
    "run": RunSettings,
    "resources": ResourceSettings,
    "cluster": ClusterSettings,
    "evaluation": EvaluationSettings,
}


class _Head(Settings):
    """The keys outside every group."""

    name: str = Field("run", description="folder of the run")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    imports: tuple[str, ...] = Field((), description="modules to import first: they register things of their own")
    init_from: str | None = Field(None, description="checkpoint whose weights to start from, as far as they fit")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
            nearest_name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "", name.replace(" ", "_"))
            hint = f" (nearest: {nearest_name})" if nearest_name else ""
            raise ValueError(f"a letter or digit, then letters, digits, dots, dashes and underscores{hint}")
        return name


def check_name(name: Any) -> None:
    """Raise `ConfigError` unless a name is that of one folder."""
    validate(_Head, {"name": name}, "")


def check_seed(seed: Any) -> None:
    """Raise `ConfigError` unless every draw can be keyed by a seed."""
    validate(_Head, {"seed": seed}, "")


def experiment(data: Mapping[str, Any]) -> Experiment:
    """Check plain data. Raises `ConfigError` with one line for each thing that is wrong."""
    errors: list[str] = []
    head_keys = list(_Head.model_fields)
    known = [*head_keys, *GROUPS, *_SECTIONS]
    strange = [str(key) for key in data if key not in known]
    errors += [f"{key}: unknown key; {_meant(key, data) or nearest(key, known)}" for key in strange]

    def attempt(check: Any, *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except ConfigError as error:
            errors.append(str(error))
            return None

    head = attempt(validate, _Head, {key: data[key] for key in data if key in head_keys}, "")
    if head is not None:
        attempt(import_plugins, head.imports)
    choices = {group: attempt(_choose, group, data.get(group)) for group in GROUPS}
    sections = {name: attempt(_section, name, data.get(name)) for name in _SECTIONS}
    if not errors:
        attempt(_check_together, choices, sections)
    if errors:
        raise ConfigError("\n".join(errors))
    return Experiment(**dict(head), **choices, **sections)


def _meant(key: str, data: Mapping[str, Any]) -> str | None:
    """A hint for a key that lacks its group, as env_steps for run.env_steps."""
    fields = {section: model.model_fields for section, model in _SECTIONS.items()}
    for group, default in _DEFAULT_NAMES.items():
        chosen = data.get(group)
        row = TABLES[group].rows.get(str(chosen.get("name", default) if isinstance(chosen, Mapping) else default))
        fields |= {} if row is None else {group: row.settings_model().model_fields}
    found = [f"{group}.{key}" for group, names in fields.items() if key in names]
    return f"did you mean {' or '.join(found)}?" if found else None


def import_plugins(modules: Sequence[str]) -> None:
    """Import modules that register things of their own."""
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"imports: got {module!r}, wanted the name of a module, as in my_channels")
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"imports: cannot import {module!r}: {error}") from None


def _keys_of(key: str, value: Any) -> dict[str, Any]:
    """The keys and values of a group; none where it is empty."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        named = isinstance(value, str) and key in GROUPS
        hint = f"; did you mean {key}.name={value}?" if named else f" (as in {key}.KEY=VALUE)"
        raise ConfigError(f"{key}: got {value!r}, wanted a group of keys{hint}")
    return dict(value)


def _choose(group: str, value: Any) -> Choice:
    settings = _keys_of(group, value)
    name = str(settings.pop("name", _DEFAULT_NAMES[group]))
    return Choice(name, TABLES[group].check(name, settings))


def _section(name: str, value: Any) -> Settings:
    return validate(_SECTIONS[name], _keys_of(name, value), name)


def _check_together(choices: dict[str, Choice], sections: dict[str, Any]) -> None:
    """What each setting allows may still not fit together."""
    env, policy, channel, algorithm = (choices[group].settings for group in ("env", "policy", "channel", "algorithm"))
    policy.check_channel(channel)  # type: ignore[attr-defined]
    key = f"env.{env.horizon_key}"  # type: ignore[attr-defined]
    policy.check_horizon(env.told_horizon, channel, key)  # type: ignore[attr-defined]
    run, resources = sections["run"], sections["resources"]
    check_worlds(run.worlds, resources.num_env_runners)
    algorithm.check_rows(run.worlds, resources.num_learners, "run.worlds")  # type: ignore[attr-defined]
    algorithm.check_sampling(  # type: ignore[attr-defined]
        run.sampling, resources.num_env_runners, choices["algorithm"].name, "run.sampling"
    )


def check_worlds(worlds: int, num_env_runners: int, key: str = "run.worlds") -> None:
    """Raise `ConfigError` unless worlds divide by runners."""
    check_multiple(key, worlds, max(num_env_runners, 1), f"resources.num_env_runners {num_env_runners}")


def read(path: Path | str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Plain data of a YAML file under dotted overrides, and sentences about keys that were dropped on the way.

    Choosing another ``name`` in a group drops the file's other keys of that group.
    """
    path = Path(path)
    if "=" in path.name and not path.exists():
        raise ConfigError(f"config: got {str(path)!r}, wanted a config file first, as in configs/demo.yaml {path}")
    data = load(path)
    data.setdefault("name", path.stem)
    return merge(data, overrides)


def load(path: Path, kind: Literal["config", "study", "policy"] = "config") -> dict[str, Any]:
    """The keys and values of a YAML file of a kind; reading it makes nothing but plain data."""
    if not path.is_file():
        folder, what, word = (path, "a folder is", "") if path.is_dir() else (path.parent, "no file", str(path))
        places = [folder, *(place / _FOLDERS[kind] for place in (folder, folder.parent) if kind in _FOLDERS)]
        known = dict.fromkeys(str(file) for place in places for file in sorted(place.glob("*.yaml")))
        raise ConfigError(f"{kind}: {what} {str(path)!r}; {nearest(word, known) if known else 'no YAML files there'}")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{kind}: cannot read {str(path)!r}: {error}") from None
    except Exception as error:  # YAML's own errors share no base class with the above
        raise ConfigError(f"{kind}: {str(path)!r} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{kind}: {str(path)!r} must hold keys and values, got {type(loaded).__name__}")
    return cast(dict[str, Any], loaded)


def merge(data: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Data under dotted overrides ``key.path=value``, and sentences about what was dropped."""
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r}: wanted KEY=VALUE, as in channel.name=vq")
    try:
        changes = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=True))
    except Exception as error:  # YAML and OmegaConf errors alike
        raise ConfigError(f"overrides {' '.join(overrides)!r}: {_first_line(error)}") from None
    data, notes = dict(data), []
    for group in GROUPS:
        chosen, present = changes.get(group), _keys_of(group, data.get(group))
        if not isinstance(chosen, dict) or "name" not in chosen:
            continue
        if chosen["name"] != present.get("name", _DEFAULT_NAMES[group]):
            dropped = [f"{group}.{key}" for key in present if key != "name"]
            if dropped:
                notes.append(f"{group}.name={chosen['name']}: the file's {', '.join(dropped)} no longer apply")
            data[group] = {}
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(data), OmegaConf.create(changes)))
    except Exception as error:  # a key below a number, a list changed by index, ...
        raise ConfigError(f"overrides {' '.join(overrides)!r} do not fit the file: {_first_line(error)}") from None
    return cast(dict[str, Any], merged), notes


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
