"""How settings differ, and which of a run's may change while it goes on, or is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marlcomm.registry import ConfigError

Changes = dict[str, tuple[Any, Any]]

# Keys, or whole groups of them, on which nothing depends that is learned, and why. All other keys are of the training.
MAY_CHANGE = {
    "name": "names a folder",
    "imports": "says where registered things come from; which of them are used, other keys say",
    "init_from": "is read once, at the beginning; what came of it is in the checkpoints",
    "run.env_steps": "says when it ends; schedules go by env steps, not by shares of the run",
    "run.minutes": "likewise",
    "run.evaluate_every": "short evaluations play a random stream of their own",
    "run.evaluation_worlds": "likewise",
    "run.checkpoint_every": "saving changes nothing",
    "run.checkpoint_minutes": "likewise",
    "resources": "says where the work runs; what is learned is the same up to the rounding of floats",
    "cluster": "likewise",
    "evaluation": "is of the final evaluation",
}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Keys of both that have other values now: key -> (then, now). Where a group has another name, only that is told.

    A key that only one of them has is of another version of marlcomm.
    """
    found: Changes = {}
    for key in [key for key in now if key in then]:
        old, new = then[key], now[key]
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            found |= {key: (old, new)} if old != new else {}
        elif old.get("name") != new.get("name"):
            found[f"{key}.name"] = (old.get("name"), new.get("name"))
        else:
            found |= {f"{key}.{name}": (old[name], new[name]) for name in new if name in old and old[name] != new[name]}
    return found


def of_training(changes: Changes) -> Changes:
    """Those that change what is learned."""
    return {
        key: values
        for key, values in changes.items()
        if key not in MAY_CHANGE and key.partition(".")[0] not in MAY_CHANGE
    }


def check_evaluated(changes: Sequence[str]) -> None:
    """Raise `ConfigError` unless overrides change nothing but where a trained team talks and plays."""
    for change in changes:
        if not change.startswith(("channel.", "env.")) or change.startswith("env.name="):
            raise ConfigError(
                f"evaluate: got {change!r}, wanted channel.KEY=VALUE or env.KEY=VALUE: all else is as it was trained"
            )


def told(changes: Changes) -> str:
    """Changes as ``key: old -> new``, with semicolons between."""
    return "; ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in changes.items())
