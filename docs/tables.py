"""Write the tables of these pages from the code: python docs/tables.py (with --check, only compare).

A table stands between ``<!-- settings KIND NAME -->``, ``<!-- figures GROUP -->`` or ``<!-- card ENV -->`` and
``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from marlcomm import glossary
from marlcomm.config import EvaluationSettings, ResourceSettings, RunSettings
from marlcomm.envs.cards import cards
from marlcomm.envs.traffic_junction.settings import Curriculum
from marlcomm.registry import TABLES, Settings

PAGES = sorted(Path(__file__).parent.glob("*.md"))
SECTIONS: dict[str, type[Settings]] = {
    "run": RunSettings,
    "resources": ResourceSettings,
    "evaluation": EvaluationSettings,
    "env.curriculum": Curriculum,
}
GROUPS = {
    "episode": glossary.EPISODE,
    "traffic_junction": glossary.ENV_STATISTICS["traffic_junction"],
    "bandwidth": glossary.BANDWIDTH,
    "wire": glossary.WIRE,
    "errors": glossary.ERRORS,
    "learning": glossary.LEARNING,
}


def settings_table(model: type[Settings]) -> str:
    """A row for each field of a settings model."""
    rows = [
        f"| `{name}` | `{_default(field)}` | {_escape(field.description or '')} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| setting | default | what it does |", "|---|---|---|", *rows]) if rows else "No settings."


def figures_table(figures: dict[str, glossary.Figure]) -> str:
    """A row for each figure of a group."""
    rows = [f"| `{name}` | {figure.unit} | {_escape(figure.formula)} |" for name, figure in figures.items()]
    return "\n".join(["| figure | unit | how it is computed |", "|---|---|---|", *rows])


def card_table(env: str) -> str:
    """A row for each setting of an environment's card: success and return of its references."""
    stored = cards(env)
    names = list(next(iter(stored.values()))["references"])
    lines = ["| setting | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for setting, card in stored.items():
        scores = (card["references"][name] for name in names)
        lines.append(f"| {setting} | " + " | ".join(f"{s['success']:.3f} / {s['return']:.1f}" for s in scores) + " |")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    value = field.default
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _table(kind: str, name: str) -> str:
    if kind == "figures":
        return figures_table(GROUPS[name])
    if kind == "card":
        return card_table(name)
    what, _, which = name.partition(" ")
    return settings_table(TABLES[what].row(which).settings_model() if which else SECTIONS[what])


def rendered(text: str) -> str:
    """A page with all its tables written anew."""
    return re.sub(
        r"<!-- (settings|figures|card) ([\w. ]+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- {found[1]} {found[2]} -->\n{_table(found[1], found[2])}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    """Rewrite the pages, or name those whose tables are stale."""
    stale = [page for page in PAGES if rendered(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale tables in {', '.join(page.name for page in stale)}: python docs/tables.py" if stale else 0)
    for page in stale:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
