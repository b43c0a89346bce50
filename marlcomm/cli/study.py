"""marlcomm study: trainings that answer a question, by the rules of evidence."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm.cli.shell import command_line, file_to_write, out, program, say, say_command, tell_where
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.analysis.findings import Row
    from marlcomm.analysis.study import Ahead, Study

app = typer.Typer(help="Train what answers a question, and tell what was found.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file, as in studies/")]
Root = Annotated[Path, typer.Option("--runs", help="folder that runs are made in, and looked for")]
Jobs = Annotated[int, typer.Option(min=1, help="trainings at a time, of one thread each")]
Results = Annotated[Path, typer.Option(help="folder of result files")]


@app.command()
def run(
    file: File,
    teams: Annotated[
        list[str] | None,
        typer.Option("--team", help="one of its teams, once or more; by default all", show_default=False),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", help="one of its seeds, once or more; by default all", show_default=False),
    ] = None,
    root: Root = Path("runs"),
    jobs: Jobs = 2,
    results: Results = Path("results"),
    dry: Annotated[
        bool, typer.Option("--dry-run", help="only tell what is trained, and what the rest will take")
    ] = False,
) -> None:
    """Train and evaluate the teams of a study, and store a result file of each.

    What is trained already below --runs is not trained again, and what was stopped goes on. Result files are replaced.
    """
    with _goes_on(), out.status("reading") as status:
        from marlcomm.analysis import study as studies
        from marlcomm.analysis.findings import rows

        study = studies.Study.read(file, results)
        if dry:
            _tell_ahead(study, studies.ahead(study, root, teams, seeds), jobs)
            return
        studies.run(study, root, jobs, teams, seeds, watch=lambda what: status.update(escape(what)))
        found = rows(study)
    _tell(study, found)
    tell_where(study.results)


@app.command()
def tune(file: File, root: Root = Path("runs"), jobs: Jobs = 2, results: Results = Path("results")) -> None:
    """Try the settings that a study names, on seeds and worlds of their own, and choose the best of each team."""
    with _goes_on(), out.status("reading") as status:
        from marlcomm.analysis import study as studies

        study = studies.Study.read(file, results)
        trials = studies.tune(study, root, jobs, watch=lambda what: status.update(escape(what)))
    table = Table(title=f"{study.name}: {study.settings.metric} on the stream tuning")
    for column in ("team", "settings", "by seed", "chosen"):
        table.add_column(column)
    for trial in trials:
        by_seed = ", ".join(f"{seed}: {value:.3f}" for seed, value in trial["by_seed"].items())
        chosen = "yes" if trial["chosen"] else escape(trial.get(studies.FAILED, ""))
        table.add_row(trial["team"], escape(" ".join(trial["changes"])), by_seed, chosen)
    out.print(table)
    tell_where(study.results)


@app.command()
def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[STUDY]...", help="YAML files; by default all of studies/", show_default=False),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=file_to_write, help="page to write, with its pictures beside", show_default=False
        ),
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Tell what studies found, from their result files alone."""
    from marlcomm.analysis.findings import rows
    from marlcomm.analysis.results_page import write_page
    from marlcomm.analysis.study import Study

    files = files or sorted(Path("studies").glob("*.yaml"))
    if not files:
        raise ConfigError("study report: no studies/*.yaml here; say which, as in marlcomm study report my_study.yaml")
    studies = [Study.read(file, results) for file in files]
    found = [(study, rows(study)) for study in studies]
    for study, own in found:
        _tell(study, own)
    if target is not None:
        write_page(found, target, command_line())
        tell_where(target)


@contextmanager
def _goes_on() -> Iterator[None]:
    """Where trainings are stopped, say what continues them."""
    try:
        yield
    except KeyboardInterrupt:
        again = f"{program('marlcomm')} {shlex.join(sys.argv[1:])}"
        say_command("stopped and saved; continue with", again)
        raise typer.Exit(130) from None


def _tell_ahead(study: Study, trainings: Sequence[Ahead], jobs: int) -> None:
    """A table of what is trained and what is not, and how long that will take."""
    table = Table(title=study.settings.title)
    table.add_column("team")
    for column in ("seed", "over", "core minutes ahead"):
        table.add_column(column, justify="right")
    for training in trainings:
        minutes = "unknown" if training.core_minutes is None else f"{training.core_minutes:.0f}"
        table.add_row(escape(training.label), str(training.seed), f"{training.over:.0%}", minutes)
    out.print(table)
    left = [training for training in trainings if training.over < 1]
    known = sum(training.core_minutes or 0.0 for training in left)
    unknown = sum(training.core_minutes is None for training in left)
    beside = f", and {unknown} of unknown length" if unknown else ""
    say(
        f"{len(left)} of {len(trainings)} trainings ahead: {known:.0f} core-minutes, {known / jobs:.0f} minutes"
        f" with --jobs {jobs}{beside}; evaluations come to it"
    )


def _tell(study: Study, found: Sequence[Row]) -> None:
    """A table of what there is, and why some of it is no evidence."""
    from marlcomm.analysis.findings import doubts

    if found:
        out.print(_table(study, found))
    else:
        out.print(f"{escape(study.settings.title)}: no results yet", highlight=False)
    for doubt in doubts(study, found):
        out.print(escape(" ".join(doubt.split())), highlight=False)


def _table(study: Study, found: Sequence[Row]) -> Table:
    from marlcomm.analysis.findings import bits_told

    settings = study.settings
    table = Table(title=settings.title, caption=f"{settings.metric}; {bits_told(found)}", caption_justify="left")
    table.add_column("team")
    for column in ("seeds", "mean", "95 %", "worst", "bits", "counts"):
        table.add_column(column, justify="right")
    for row in found:
        values = sorted(row.by_seed.values(), reverse=settings.metric == "length")
        ends = "" if row.figure.low is None else f"{row.figure.low:.3f} to {row.figure.high:.3f}"
        cells = [str(len(values)), f"{row.figure.mean:.3f}", ends, f"{values[0]:.3f}", f"{row.bits.mean:.2f}"]
        table.add_row(escape(row.label), *cells, row.counts)
    return table
