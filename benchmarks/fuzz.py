"""Random configs through validation, and of the accepted ones a sample built: every refusal is words, nothing crashes.

A config is made of names from the tables and of values that fit a field's type or nearly do, now and then of any value
at all. Sizes stay small: what a huge one costs is the user's affair. Exit code 1 with the configs that broke the rule.
"""

import argparse
import json
import math
import random
import sys
import time
import types
import typing
from collections import Counter

from common import report
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from marlcomm.algorithms.build import algorithm_config
from marlcomm.analysis.evaluation import team_names
from marlcomm.config import EvaluationSettings, Experiment, ResourceSettings, RunSettings, experiment
from marlcomm.registry import TABLES, ConfigError, Settings

SECTIONS = {"run": RunSettings, "resources": ResourceSettings, "evaluation": EvaluationSettings}
NUMBERS = [0, 1, 2, 3, 4, 5, 8, 16, -1, 0.5, 0.1, 1e-3, 0.99, 2.5, math.inf, math.nan, 10**30, True]
WORDS = ["", "easy", "none", "relu", "../up", "x:y", "${oc.env:HOME}", "null", "no_such_module", "é", "a" * 300]
ANYTHING = [*NUMBERS, *WORDS, None, [], {}, [1, 2], [[0, 1], [5, 0]], {"name": "vq"}, {"a": {"b": []}}, [None], b"x"]


class Fuzzer:
    """Draws configs; the n-th of a seed is always the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def config(self) -> dict[str, typing.Any]:
        """An experiment as data, which may well be none."""
        draw = self._random
        data: dict[str, typing.Any] = {}
        for group, table in TABLES.items():
            if draw.random() < 0.8:
                name = draw.choice([name for name, row in table.rows.items() if isinstance(row.target, str)])
                data[group] = {"name": name} | self._settings(table.row(name).settings_model())
        for section, model in SECTIONS.items():
            if draw.random() < 0.3:
                data[section] = self._settings(model)
        if draw.random() < 0.1:
            data[draw.choice(["seed", "name", "imports", "init_from", "channel", "run", "chanel", 3])] = (
                self._anything()
            )
        return data

    def _settings(self, model: type[Settings]) -> dict[str, typing.Any]:
        """Some fields of a model with values."""
        fields = list(model.model_fields.items())
        chosen = self._random.sample(fields, min(self._random.choice([0, 0, 1, 1, 2, 3]), len(fields)))
        given = {name: self._value(field) for name, field in chosen}
        if self._random.random() < 0.03:
            given[self._random.choice(["unknown", "", "name", 7])] = self._anything()
        return given

    def _value(self, field: FieldInfo) -> typing.Any:
        if self._random.random() < 0.08:
            return self._anything()
        return self._of(field.annotation, field.default)

    def _of(self, kind: typing.Any, default: typing.Any = None) -> typing.Any:
        """A value of a type, small, and near the default where that is a number."""
        draw, origin, arguments = self._random, typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self._of(arguments[0], default)
        if origin is typing.Literal:
            return draw.choice(arguments)
        if origin in (typing.Union, types.UnionType):
            return self._of(draw.choice(arguments), default)
        if kind is type(None):
            return None
        if kind is bool:
            return draw.random() < 0.5
        if kind is int:
            near = [default, 2 * default, default // 2] if isinstance(default, int) and abs(default) < 10**4 else []
            return draw.choice([0, 1, 2, 3, 4, 6, 8, *near])
        if kind is float:
            near = [default, default / 2] if isinstance(default, (int, float)) else []
            return draw.choice([0.0, 0.1, 0.5, 1.0, 2.0, *near])
        if kind is str:
            return draw.choice(WORDS)
        if origin in (list, tuple):
            inner = [argument for argument in arguments if argument is not Ellipsis] or [int]
            fixed = origin is tuple and Ellipsis not in arguments
            return [self._of(one) for one in (inner if fixed else draw.choices(inner, k=draw.randint(0, 4)))]
        if origin is dict:
            return {draw.choice(WORDS): self._of(arguments[1]) for _ in range(draw.randint(0, 2))}
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return self._settings(kind)  # type: ignore[arg-type]
        return self._anything()

    def _anything(self) -> typing.Any:
        return self._random.choice(ANYTHING)


def check(data: dict[str, typing.Any]) -> Experiment | None:
    """The experiment that data makes; None where it is refused with words. Anything else raises."""
    try:
        accepted = experiment(data)
    except ConfigError as error:
        if not str(error).strip():
            raise AssertionError("refused without a word") from error
        return None
    if experiment(json.loads(json.dumps(accepted.as_data()))) != accepted:
        raise AssertionError("what is stored of it is another experiment")
    return accepted


def build(settings: Experiment) -> str | None:
    """Make everything of an experiment but workers: the algorithm's config, the world, policy and channel.

    Returns what is refused with words, if anything is: what only the world itself can know, and what is not installed.
    """
    try:
        algorithm_config(settings).validate()
        names = team_names(settings)
        env = names.make_env()
        names.make_policy(env, settings.seed)
        env.close()
    except ConfigError as error:
        return str(error)
    return None


def fuzz(seed: int, configs: int, builds: int) -> tuple[dict[str, typing.Any], list[dict[str, typing.Any]]]:
    """Figures, and what broke the rule: stage, error, config."""
    fuzzer, counts, reasons, broken = Fuzzer(seed), Counter[str](), Counter[str](), list[dict[str, typing.Any]]()
    clock = time.perf_counter()
    for _ in range(configs):
        data = fuzzer.config()
        stage = "validation"
        try:
            accepted = check(data)
            counts["accepted" if accepted else "refused"] += 1
            if accepted is not None and counts["built"] + reasons.total() < builds:
                stage = "build"
                reason = build(accepted)
                if reason is None:
                    counts["built"] += 1
                else:
                    reasons[reason.partition(": ")[0]] += 1
        except Exception as error:  # any of them is a finding
            broken.append({"stage": stage, "error": f"{type(error).__name__}: {error}"[:500], "config": repr(data)})
    figures = {"seed": seed, "configs": configs, **counts, "refused_when_built": dict(reasons), "broken": len(broken)}
    return figures | {"seconds": round(time.perf_counter() - clock, 1)}, broken


def main() -> None:
    """Fuzz, and write results/benchmarks/fuzz.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--configs", type=int, default=5000)
    options.add_argument("--builds", type=int, default=300)
    given = options.parse_args()
    figures, broken = fuzz(given.seed, given.configs, given.builds)
    for finding in broken:
        print(json.dumps(finding, indent=1), file=sys.stderr)
    report("fuzz", **figures)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
