"""Write the tables of these pages from the code: python docs/tables.py (with --check, only compare).

A table stands between ``<!-- settings KIND NAME -->``, ``<!-- figures GROUP -->``, ``<!-- card ENV -->``,
``<!-- study NAME -->`` (studies/NAME.yaml, results/NAME/), ``<!-- distortion PART -->`` (results/rate_distortion/),
``<!-- channels -->`` and ``<!-- frequency -->`` (results/communicating_goal/), ``<!-- lewis -->``
(results/lewis_game*/) or ``<!-- speed -->`` (results/benchmarks/), and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from marlcomm import glossary
from marlcomm.analysis.capacity import Relation
from marlcomm.analysis.findings import rows
from marlcomm.analysis.results_page import table
from marlcomm.analysis.study import FAILED, Study
from marlcomm.analysis.study_settings import StudySettings
from marlcomm.config import ClusterSettings, EvaluationSettings, ResourceSettings, RunSettings
from marlcomm.envs.cards import cards
from marlcomm.envs.traffic_junction.settings import Curriculum
from marlcomm.registry import TABLES, Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(Path(__file__).parent.glob("*.md"))]
RESULTS = ROOT / "results"
SECTIONS: dict[str, type[Settings]] = {
    "run": RunSettings,
    "resources": ResourceSettings,
    "cluster": ClusterSettings,
    "evaluation": EvaluationSettings,
    "env.curriculum": Curriculum,
    "study": StudySettings,
}
GROUPS = {
    "episode": glossary.EPISODE,
    **glossary.ENV_STATISTICS,
    "bandwidth": glossary.BANDWIDTH,
    "bottleneck": glossary.BOTTLENECK,
    "gates": glossary.GATES,
    "env messages": glossary.ENV_MESSAGES,
    "wire": glossary.WIRE,
    "coded": glossary.CODED,
    "diagnostics": glossary.DIAGNOSTICS,
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
    """A row for each setting of a card: success, return and (where they differ) steps of its references."""
    measured = {setting: card for setting, card in cards(env).items() if "references" in card}
    columns = list(dict.fromkeys(name for card in measured.values() for name in card["references"]))
    trained = ["trained in silence"] if any("silent" in card for card in measured.values()) else []
    returns = [score["return"] for card in measured.values() for score in card["references"].values()]
    decimals = 3 if max(map(abs, returns)) <= 1 else 1
    told = any(len({s.get("length") for s in card["references"].values()}) > 1 for card in measured.values())
    headings = ["setting", *(name.replace("_", " ") for name in columns), *trained]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for setting, card in measured.items():
        scores = [*(card["references"].get(name) for name in columns), *(card.get("silent") for _ in trained)]
        lines.append(f"| {setting} | " + " | ".join(_score(score, decimals, told) for score in scores) + " |")
    return "\n".join(lines)


def _score(score: dict[str, Any] | None, decimals: int, told: bool) -> str:
    """Success, return and, where episodes end at different times, their `told` length."""
    if score is None:
        return "-"
    length = f" / {score['length']:.1f}" if told and "length" in score else ""
    return f"{score['success']:.3f} / {score['return']:.{decimals}f}{length}"


def study_table(name: str) -> str:
    """What the teams of a study did, as on the page of results."""
    study = Study.read(ROOT / "studies" / f"{name}.yaml", RESULTS)
    found = rows(study)
    return table(study, found) if found else "No runs yet."


def speed_table() -> str:
    """What was measured on one machine, with the commands that measure it again."""
    worlds, peers, training, meter, startup, saves = (
        _read(RESULTS / "benchmarks" / f"{name}.json")
        for name in ("worlds", "peers", "training", "meter", "startup", "checkpoints")
    )
    steps, seconds = training["env_steps_per_second"], startup["seconds"]
    alone = worlds["env_steps_per_second"]["medium, vision 0, 256 worlds"]
    rows = [
        ("worlds alone, Traffic Junction medium, 256 worlds, one thread", f"{alone:,} env steps/s", worlds),
        *(
            (
                f"{pair.replace(' / ', ' over ')}, each at its best, one thread",
                (
                    f"{found['ratio']:g} times: {found['env_steps_per_second']:,} over "
                    f"{found['their_env_steps_per_second']:,} env steps/s"
                ),
                peers,
            )
            for pair, found in peers["beside"].items()
        ),
        (
            f"training Traffic Junction medium by IC3Net's recipe, {training['threads']} threads, everything included",
            f"{steps['rllib']['median']:,} env steps/s (best round {steps['rllib']['best']:,})",
            training,
        ),
        (
            "time of a round through RLlib over that of a bare loop with the same learning",
            f"{training['rllib_time_over_bare_time']:.3f}",
            training,
        ),
        ("the meter's share of a round, at most", f"{max(meter['share_of_a_round'].values()):.1%}", meter),
        *(
            (f"a checkpoint every minute, {case}", f"{saves[case]['share_of_a_minute']:.2%} of wall time", saves)
            for case in ("without replay", "with replay")
        ),
        (
            "`import marlcomm`; `--help`; a rejected config",
            "; ".join(f"{seconds[what]:.2f} s" for what in ("import marlcomm", "marlcomm --help", "a rejected config")),
            startup,
        ),
    ]
    lines = ["| what | measured | command |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {figure} | `{record['command']}` |" for what, figure, record in rows)])


def distortion_table(part: str) -> str:
    """Rates, errors and gaps to Shannon's bound of one part, means over seeds; both sources side by side."""
    points = [
        point
        for point in _read(RESULTS / "rate_distortion" / "rate_distortion.json")["points"]
        if point["part"] == part
    ]
    sources = list(dict.fromkeys(point["source"] for point in points))
    lines = ["| channel |" + "".join(f" {source}: bits | packet bits | error | gap, dB |" for source in sources)]
    lines.append("|---|" + "---|" * 4 * len(sources))
    for label, wanted in dict.fromkeys((point["label"], point["target_bits"]) for point in points):
        cells = [f"{label}, {wanted:g}"]
        for source in sources:
            own = [
                point
                for point in points
                if (point["label"], point["target_bits"], point["source"]) == (label, wanted, source)
            ]
            bits, packet, mse, gap, error = (
                statistics.fmean(point[name] for point in own)
                for name in ("bits", "packet_bits", "mse", "gap_db", "gap_error_db")
            )
            cells += [f"{bits:.2f}", f"{packet:.2f}", f"{mse:.3g}", f"{gap:.2f} ± {error:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def channels_table() -> str:
    """What every channel reached on the proving ground and what it cost, means over seeds; each seed's return."""
    file = RESULTS / "communicating_goal" / "teams.json"
    if not file.is_file():
        return "No runs yet."
    found = _read(file)
    columns = ["channel", "way to the oracle", "by seed", "success", "coded bits / agent step"]
    columns += ["prefix bits / message", "paper bits / message"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for label in dict.fromkeys(team["label"] for team in found["teams"]):
        own = [team for team in found["teams"] if team["label"] == label]
        ways = [team["normalized_return"] for team in own]
        names = ("success", "coded_bits_per_agent_step", "prefix_bits_per_message", "paper_bits_per_message")
        figures = [[team["figures"].get(name) for team in own] for name in names]
        means = [None if None in values else statistics.fmean(values) for values in figures]
        cells = [label, _figure(statistics.fmean(ways)), " ".join(map(_figure, ways)), *map(_figure, means)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`{found['command']}`"])


def frequency_table() -> str:
    """What every team of ``marlcomm bench frequency`` says of its goals, and the command that measured it."""
    file = RESULTS / "communicating_goal" / "frequency.json"
    if not file.is_file():
        return "No runs yet."
    found = _read(file)
    columns = ["rate weight", "seed", "success", "way to the oracle", "Spearman", "Pearson"]
    columns += ["code bits by goal", "H(goal)", "H(m)", "H(m \\| eps)"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for team in found["teams"]:
        correlations = [team[kind]["code_bits"] for kind in ("spearman", "pearson")]
        entropies = [team["goal_entropy"], team["entropy"], team["entropy_given_dither"]]
        cells = [f"{team['rate_weight']:g}", str(team["seed"])]
        cells += map(_figure, [team["success"], team["normalized_return"], *correlations])
        cells += [", ".join(f"{goal['code_bits']:.1f}" for goal in team["goals"]), *map(_figure, entropies)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`{found['command']}`"])


def capacity_table() -> str:
    """What ``marlcomm bench capacity`` found, a row for each team, and its command."""
    file = RESULTS / "capacity" / "capacity.json"
    if not file.is_file():
        return "No runs yet."
    found = _read(file)
    names = list(found["teams"][0]["relations"])
    columns = [
        "team",
        "bits",
        "members of over a tenth of messages",
        *(name.replace("_", " ") for name in names),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for team in found["teams"]:
        used = ", ".join(f"{name} ({share:.0%})" for name, share in team["shares"].items() if share > 0.1)
        cells = [
            team["run"],
            f"{team['bits']:.1f}",
            used,
            *(str(Relation(**team["relations"][name])) for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"`{found['command']}`"])


def lewis_table() -> str:
    """Accuracy by least number of attributes and of tokens, means over seeds; and how many tokens matter."""
    lines = [
        "| min \\|M\\| | L | seeds | accuracy | choices sampled | effective symbols |",
        "|---|---|---|---|---|---|",
    ]
    for least in (2, 3):
        for length in range(1, 6):
            files = sorted((RESULTS / f"lewis_game_min{least}").glob(f"L___{length}-*.json"))
            found = [team for team in map(_read, files) if FAILED not in team]
            symbols = _read(RESULTS / "lewis_game" / f"min{least}_L{length}_effective.json")["effective"]
            accuracy, sampled = (
                statistics.fmean(team[f"{how}/success"] for team in found) for how in ("greedy", "evaluation")
            )
            lines.append(f"| {least} | {length} | {len(found)} | {accuracy:.3f} | {sampled:.3f} | {symbols} |")
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _read(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _of_settings(name: str) -> str:
    what, _, which = name.partition(" ")
    return settings_table(TABLES[what].row(which).settings_model() if which else SECTIONS[what])


KINDS: dict[str, Callable[[str], str]] = {
    "settings": _of_settings,
    "figures": lambda name: figures_table(GROUPS[name]),
    "card": card_table,
    "study": study_table,
    "distortion": distortion_table,
    "channels": lambda name: channels_table(),
    "frequency": lambda name: frequency_table(),
    "capacity": lambda name: capacity_table(),
    "lewis": lambda name: lewis_table(),
    "speed": lambda name: speed_table(),
}


def rendered(text: str) -> str:
    """A page with all its tables written anew."""
    return re.sub(
        rf"<!-- ({'|'.join(KINDS)})(?: ([\w. ]+))? -->\n.*?<!-- end -->",
        lambda found: f"{found[0].splitlines()[0]}\n{KINDS[found[1]](found[2] or '')}\n<!-- end -->",
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
