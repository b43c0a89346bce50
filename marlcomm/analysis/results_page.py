"""The page of results: every study's rows in Markdown, and a picture, made of the committed files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marlcomm.analysis.evidence import Interval
from marlcomm.analysis.findings import CODED_BITS, Row, doubts, plays, scale
from marlcomm.analysis.study import DIED, FAILED, Study
from marlcomm.analysis.study_settings import CONTINUOUS
from marlcomm.runs import sessions

_HEAD = """# Results

Made by `{command}` from the files in `{results}/`, which hold everything that an evaluation found, and the command,
settings, versions, machine, env steps and processor time of its training. Every figure is of a run's last checkpoint,
on 2,000 episodes of the stream `evaluation`, whose worlds no training has seen. What is otherwise, or was trained
otherwise than the study says now, is *no evidence*: it says so, counts for nothing and claims nothing. The same holds
of a team of which a seed failed. The first figure is of sampled actions, and a column *greedy* of the likeliest; where
a column says *sampled* it is the other way round, and way and bits are of the likeliest actions too. *Shuffled* lets
everybody hear what is said in another episode, with sampled actions: a team that talks loses by it. *Way* is how far
its return, and where success is the figure its success, have come from floor to ceiling, where the two differ (the
floor is a script that hears nobody; it may be good by one and bad by the other). Intervals are of the mean over seeds,
95 %, Student's, from three seeds on. Bits are coded ones for each living agent's step ([bits](bits.md)), and of a
channel at the read-out those that are read there, while its links carry float32 numbers; *times fewer* compares what
links carry with the float32 numbers of `continuous`, or where it is not there with as many of its own. Few bits *count*
where a team is as good as `continuous` under the same recipe (within 2 points, or 2 % of the way from floor to
ceiling), its coded bits are few enough not to spell out where everybody is, and a silent team of the same budget stands
beside it. Differences are claimed from five paired seeds on, if the interval excludes 0; what stands on an upper hull
is chosen on other seeds than it is compared on. Where a study lists no trials, its settings were chosen by hand, on
results of seed 0: of that seed they may be a little too good.
"""


Found = tuple[Study, Sequence[Row]]  # a study and its rows


def write_page(studies: Sequence[Found], file: Path, command: str) -> None:
    """Write the page of all studies, and a picture of each beside it."""
    from marlcomm.analysis.pictures import draw_study

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(studies, command), encoding="utf-8")
    for study, found in studies:
        if found:
            draw_study(study, found, scale(study, found[0].summaries), file.parent / _picture(study))


def page(studies: Sequence[Found], command: str) -> str:
    """All studies in Markdown; the command is what makes the page."""
    head = _HEAD.format(command=command, results=studies[0][0].results.parent.name)
    return "\n".join([head, *(section(study, found) for study, found in studies)])


def _picture(study: Study) -> Path:
    return Path("pictures") / f"results_{study.name}.png"


def section(study: Study, found: Sequence[Row]) -> str:
    """A study in Markdown."""
    settings = study.settings
    parts = [f"## {settings.title}", settings.about.strip()]
    if found:
        parts += [
            f"![{settings.title}]({_picture(study)})",
            table(study, found),
            *_asked(study, found),
            *_claims(found),
            *_listed([*_elsewhere(study, found), *_sizes(found), *_gates(found), *_died(found)]),
        ]
    parts += [*_listed(doubts(study, found)), *([_provenance(found)] if found else []), *_missing(study)]
    trials = study.trials()
    if trials:
        parts.append(_trials(trials))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(study: Study, found: Sequence[Row]) -> str:
    """A row for floor and ceiling, for what is known from elsewhere, and for each team."""
    settings = study.settings
    name = settings.metric if settings.share == 1 else f"{settings.metric} / {settings.share}"
    other = {"greedy": "evaluation", "evaluation": "greedy"}[settings.group]
    beside = "sampled" if other == "evaluation" else "greedy"
    ways = ("return", "success") if settings.metric == "success" else ("return",)
    columns = [f"{name}, mean", "by seed", beside, "shuffled", f"way by {', '.join(ways)}"]
    columns += ["bits / agent step", "times fewer", "counts"]
    lines = [f"| team | {' | '.join(columns)} | env steps | core min |", "|---" * (len(columns) + 3) + "|"]
    ends, summary = scale(study, found[0].summaries), found[0].summaries[0]
    scripts = {"floor": ends.floor, "ceiling": ends.ceiling}
    references = [(summary[end], value) for end, value in scripts.items() if value is not None]
    for label, value in [*references, *settings.known.items()]:
        lines.append(f"| *{label.replace('_', ' ')}* | {_number(value)} |" + " |" * len(columns) + " |")
    for row in found:
        others = (row.mean(settings.metric, group) for group in (other, "shuffled"))
        cells = [_interval(row.figure), " ".join(_number(value) for value in row.by_seed.values())]
        cells += ["-" if value is None else _number(settings.shared(value)) for value in others]
        cells.append(", ".join("-" if come is None else f"{round(100 * come)}%" for come in map(row.way, ways)))
        ratio = _times_fewer(study, row, found)
        cells += [f"{row.bits.mean:.2f}", "-" if ratio is None else f"{ratio:.1f}", _counts(study, row)]
        env_steps, core_minutes = row.cost
        cells += [f"{env_steps / 1e6:.2f} M", f"{core_minutes:.1f}"]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _times_fewer(study: Study, row: Row, found: Sequence[Row]) -> float | None:
    """How many times fewer bits links carry than with the float32 numbers of the same recipe, or else of its own."""
    ratio, bits = row.mean("compression_ratio"), row.mean(CODED_BITS)
    numbers = study.settings.numbers_of(row.label)
    theirs = [other.mean(CODED_BITS) for other in found if other.label == numbers and plays(other) == plays(row)]
    bounded = all(summary["channel"] != CONTINUOUS for summary in row.summaries)
    return theirs[0] / bits if ratio is not None and bounded and theirs and theirs[0] and bits else ratio


def _counts(study: Study, row: Row) -> str:
    """Whether its few bits count, and by how many seeds if not by all."""
    seeds, whole = len(row.by_seed), len(study.settings.seeds)
    return f"yes, by {seeds} of {whole} seeds" if row.counts == "yes" and seeds < whole else row.counts


def _asked(study: Study, found: Sequence[Row]) -> list[str]:
    """What was to be reached, and whether it was."""
    settings, sentences = study.settings, []
    less = settings.metric == "length"
    for row in found:
        wanted = [
            f"{what} {asked[row.label]:g}"
            for what, asked in (
                (f"mean {'at most' if less else 'at least'}", settings.reach),
                (f"every seed {'at most' if less else 'at least'}", settings.worst),
                (f"mean not worse than that of {settings.numbers_of(row.label)} by more than", settings.within),
            )
            if row.label in asked
        ]
        if wanted:
            judged = [row, *(other for other in found if other.label == _partner(study, row))]
            verdict = {True: "reached", False: "not reached", None: "not to be told yet"}[row.reached]
            verdict = "no evidence" if any(one.doubts for one in judged) else verdict
            seeds = len(set.intersection(*(set(one.by_seed) for one in judged)))
            yet = f" so far, by {seeds} of {len(settings.seeds)} seeds" if seeds < len(settings.seeds) else ""
            but = f"; its bits do not count: {'; '.join(row.reasons)}" if row.reasons else ""
            sentences.append(f"{row.label}: {' and '.join(wanted)}: **{verdict}**{yet}{but}")
    return _listed(sentences)


def _partner(study: Study, row: Row) -> str | None:
    """The team that a row was to come close to, if it was."""
    return study.settings.numbers_of(row.label) if row.label in study.settings.within else None


def _elsewhere(study: Study, found: Sequence[Row]) -> list[str]:
    """What teams on other worlds than the first ones stand between."""
    ends = {row.label: scale(study, row.summaries) for row in found if plays(row) != plays(found[0])}
    told = [
        f"{label} from {_number(own.floor)} to {_number(own.ceiling)}"
        for label, own in ends.items()
        if own.floor is not None and own.ceiling is not None
    ]
    return [f"Floor and ceiling of other worlds: {', '.join(told)}."] if told else []


def _sizes(found: Sequence[Row]) -> list[str]:
    """How large teams are, and how much selectors say."""
    sizes = [
        f"{row.label} {summary['parameters']:,} ({summary['channel_parameters']:,})"
        for row in found
        for summary in row.summaries[:1]
        if "parameters" in summary
    ]
    said = [
        f"{row.label} {bits:.2f} bits"
        for row in found
        if (bits := row.mean("selector_entropy_bits_per_message")) is not None
    ]
    sentences = [f"Parameters (of them the channel's): {', '.join(sizes)}."] if sizes else []
    return sentences + ([f"Entropy of the selector in a message: {', '.join(said)}."] if said else [])


def _gates(found: Sequence[Row]) -> list[str]:
    """How often agents that may keep silent speak."""
    told = [
        f"{row.label} {opened:.3f} ({heard:.3f})"
        for row in found
        if (opened := row.mean("gate_rate")) is not None
        if (heard := row.mean("effective_gate_rate")) is not None
    ]
    return [f"Gates open, of living agents' steps (where somebody heard): {', '.join(told)}."] if told else []


def _died(found: Sequence[Row]) -> list[str]:
    """What was trained again because it had failed."""
    return [
        f"{row.label}, seed {summary['seed']}: trained again after: {why}"
        for row in found
        for summary in row.summaries
        for why in summary.get(DIED, [])
    ]


def _listed(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {' '.join(sentence.split())}" for sentence in sentences)] if sentences else []


def _claims(found: Sequence[Row]) -> list[str]:
    lines = ["| difference | mean | pairs | claim |", "|---|---|---|---|"]
    for row in found:
        for other, comparison in row.against.items():
            claim = comparison.claim or f"none: {comparison.withheld}".removesuffix(": ")
            lines.append(
                f"| {row.label} - {other} | {_interval(comparison.difference)} | {comparison.pairs} | {claim} |"
            )
    return ["\n".join(lines)] if len(lines) > 2 else []


def _missing(study: Study) -> list[str]:
    """What has not been run yet."""
    settings, missing = study.settings, []
    evaluations, failures = study.evaluations(), study.failures()
    for label in (*settings.teams, *settings.afterwards):
        ended = {summary["seed"] for summary in evaluations.get(label, [])} | failures.get(label, {}).keys()
        seeds = [str(seed) for seed in settings.seeds if seed not in ended]
        if seeds:
            some = f" (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})" if ended else ""
            missing.append(label + some)
    return [f"Not run yet: {'; '.join(missing)}."] if missing else []


def _provenance(found: Sequence[Row]) -> str:
    lines = [
        summary[kind]
        for row in found
        for summary in row.summaries
        for kind in ("command", "evaluation_command")
        if kind in summary
    ]
    commands = "\n".join(dict.fromkeys(lines))
    places = [place for row in found for summary in row.summaries for place in sessions(summary)]
    places += [summary["evaluated_on"] for row in found for summary in row.summaries if "evaluated_on" in summary]
    machines = dict.fromkeys(f"{place['machine']['processor']}, {place['machine']['cores']} cores" for place in places)
    versions = [place["versions"] for place in places]
    kept = ", ".join(
        f"{name} {' and '.join(dict.fromkeys(one[name] for one in versions if name in one))}"
        for name in ("python", "torch", "ray")
        if any(name in one for one in versions)
    )
    return f"<details><summary>Commands ({'; '.join(machines)}; {kept})</summary>\n\n```\n{commands}\n```\n\n</details>"


def _trials(trials: Sequence[Mapping[str, Any]]) -> str:
    lines = ["Tried before, on the stream `tuning`:", "", "| team | settings | by seed | chosen |", "|---|---|---|---|"]
    for trial in trials:
        by_seed = " ".join(f"{seed}: {_number(value)}" for seed, value in trial["by_seed"].items())
        chosen = "yes" if trial["chosen"] else trial.get(FAILED, "")
        lines.append(f"| {trial['team']} | `{' '.join(trial['changes'])}` | {by_seed} | {chosen} |")
    return "\n".join(lines)


def _interval(figure: Interval) -> str:
    if figure.low is None or figure.high is None:
        return _number(figure.mean)
    mean, low, high = _numbers(figure.mean, figure.low, figure.high)
    return f"{mean} [{low}, {high}]"


def _number(value: float) -> str:
    return _numbers(value)[0]


def _numbers(*values: float) -> list[str]:
    """Numbers that are told together, all to as many places."""
    places = 3 if max(map(abs, values)) < 1.5 else 2
    return [f"{value:.{places}f}" for value in values]
