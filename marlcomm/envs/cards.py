"""Cards: measured references of each world and setting, stored beside the code. A score means nothing without."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any


@functools.cache
def cards(env: str) -> dict[str, dict[str, Any]]:
    """All stored cards of an environment: setting -> reference policy -> measured figures."""
    file = resources.files("marlcomm.envs") / "cards_data" / f"{env}.json"
    if not file.is_file():
        return {}
    stored: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return stored


def card(env: str, setting: str) -> dict[str, Any] | None:
    """The card of one setting, or None where none was measured."""
    return cards(env).get(setting)


def best_of(scripts: Sequence[str], measured: dict[str, Any] | None) -> str:
    """The script with the greatest success on a card; the first one where nothing was measured."""
    references = (measured or {}).get("references", {})
    return max(scripts, key=lambda name: float(references.get(name, {}).get("success", -1)))
