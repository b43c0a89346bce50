"""Measuring a world's card: its scripted references, and what teams learned in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

from marlcomm.envs.cards import cards
from marlcomm.envs.settings import EnvSettings
from marlcomm.policies.evaluation import evaluate_script
from marlcomm.registry import ENVS, ConfigError
from marlcomm.runs import Run, anywhere

_SEED = 0
_STREAM = "card"


def card_file(env: str) -> Path:
    """Where the cards of an environment are stored."""
    return Path(str(resources.files("marlcomm.envs") / "cards_data" / f"{env}.json"))


def measure_cards(
    env: str,
    episodes: int,
    chosen: Sequence[Mapping[str, Any]] | None = None,
    watch: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Cards of chosen settings, or of all that the environment names: setting -> references -> success, return, ...

    What was learned in silence is kept from the stored ones, and so are, beside all, cards of settings not named.
    """
    row = ENVS.row(env)
    measured = dict(cards(env)) if chosen is None else {}
    named = cast(type[EnvSettings], row.settings_model()).card_settings
    for settings in named if chosen is None else chosen:
        world = row.load()(ENVS.check(env, settings))
        references = {}
        for name, script in world.scripts().items():
            watch(f"{world.spec.setting}: {name}")
            figures = evaluate_script(world, script, _SEED, episodes, stream=_STREAM)
            wanted = ("success", "success_standard_error", "return", "return_standard_error", "length")
            references[name] = {key: round(figures[key], 4) for key in wanted}
        stored = cards(env).get(world.spec.setting, {})
        measured[world.spec.setting] = {
            "settings": dict(settings),
            "floor": world.spec.floor,
            "ceiling": world.spec.ceiling,
            "episodes": episodes,
            "references": references,
            **({"silent": stored["silent"]} if "silent" in stored else {}),
        }
    return measured


def cards_with_silence(env: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The stored cards, and what teams learned in silence in some of their settings, one run for each seed.

    Of the runs of a setting the best one counts.
    """
    found = {setting: dict(card) for setting, card in cards(env).items()}
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        summary = run.summary()
        if (summary["env"], summary["channel"]) != (env, "silent"):
            raise ConfigError(
                f"--silent: {run.folder} was trained on {summary['env']} with channel {summary['channel']!r}, wanted "
                f"{env} and 'silent'"
            )
        if summary["setting"] not in found:
            raise ConfigError(f"--silent: {env} has no card of {summary['setting']}, where {run.folder} was trained")
        by_setting.setdefault(summary["setting"], []).append(summary)
    for setting, summaries in by_setting.items():
        found[setting]["silent"] = _best(summaries)
    return found


def _best(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = max(summaries, key=lambda summary: (summary["evaluation/success"], summary["evaluation/return"]))
    return {
        **{name: round(best[f"evaluation/{name}"], 4) for name in ("success", "return", "length")},
        "env_steps": best["env_steps"],
        "by_seed": {str(summary["seed"]): round(summary["evaluation/success"], 4) for summary in summaries},
        "command": anywhere(best["command"]),
    }


def write_cards(measured: dict[str, Any], file: Path) -> None:
    """Store cards as JSON, where `marlcomm.envs.cards.card` finds them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
