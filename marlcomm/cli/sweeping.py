"""marlcomm sweep."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm import config
from marlcomm.cli.shell import (
    ConfigFile,
    Imports,
    Trust,
    err,
    file_and_changes,
    out,
    print_notes,
    program,
    say,
    say_aside,
    say_command,
    tell_where,
)
from marlcomm.registry import ConfigError, validate

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.sweeps.folder import Sweep, TrialFolder
    from marlcomm.sweeps.settings import SweepSettings


def sweep(
    context: typer.Context,
    config_file: ConfigFile = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUES]...",
            help="dotted settings; lists a,b,c and ranges 0..4 are tried, what is in brackets is one value",
            show_default=False,
        ),
    ] = None,
    imports: Imports = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="trials at a time; by default as many as there are cores for")
    ] = None,
    scheduler: Annotated[str, typer.Option(metavar="none|asha", help="what stops trials early")] = "none",
    metric: Annotated[str, typer.Option(help="figure of a round that decides what goes on")] = "validation/success",
    mode: Annotated[str, typer.Option(metavar="max|min", help="whether more or less of it is better")] = "max",
    grace: Annotated[int, typer.Option(min=1, help="env steps before a trial may be stopped")] = 100_000,
    factor: Annotated[
        int, typer.Option(min=2, help="the best of so many trials goes on, for so many times the env steps")
    ] = 3,
    search: Annotated[
        str, typer.Option(metavar="grid|optuna", help="try all, or ranges as in 0.05..0.5 or log:1e-4..1e-2")
    ] = "grid",
    trials: Annotated[int, typer.Option(min=1, help="how many a search tries")] = 20,
    root: Annotated[Path, typer.Option("--runs", help="folder that sweeps are made in")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="go on with a sweep that was stopped", show_default=False)
    ] = None,
    trust: Trust = False,
) -> None:
    """Train and evaluate a config under many settings, side by side, each in a run of its own.

    Ctrl-C finishes the updates, saves all trials and tells how to go on; a second Ctrl-C stops at once.
    """
    from marlcomm.sweeps.folder import Sweep, check

    if resume is not None:
        sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in context.params}
        if {name for name, source in sources.items() if source == "COMMANDLINE"} - {"resume", "jobs", "trust"}:
            raise ConfigError("--resume takes a sweep, --jobs and --trust: it goes on with the settings it has")
        going = Sweep.open(resume, jobs, trust)
        checked = check(going.settings)
    else:
        deciding = {"scheduler": scheduler, "metric": metric, "mode": mode, "grace": grace, "factor": factor}
        options = {**deciding, "search": search, "trials": trials}
        settings, checked = _settings(*file_and_changes(config_file, overrides), imports or [], jobs, options)
        going = Sweep.create(settings, root)
    _run(going, checked[0])


def _settings(
    file: Path | None, overrides: list[str], imports: list[str], jobs: int | None, options: dict[str, Any]
) -> tuple[SweepSettings, list[Experiment]]:
    """What is asked for, checked, and the settings of its trials."""
    from marlcomm.sweeps.folder import check
    from marlcomm.sweeps.settings import SweepSettings, is_swept
    from marlcomm.sweeps.trial import cpus

    pairs = dict(override.partition("=")[::2] for override in overrides if "=" in override)
    swept = {key: value for key, value in pairs.items() if is_swept(value)}
    if not swept:
        raise ConfigError("sweep: wanted values to try, as in marlcomm sweep configs/demo.yaml channel.delta=0.1,0.2")
    fixed = [override for override in overrides if override.partition("=")[0] not in swept]
    data: dict[str, Any] = {"name": "run"} if file is None else config.read(file)[0]
    _tell_what_is_dropped(data, fixed, swept)
    data["name"] = config.merge(data, fixed)[0]["name"]
    if imports:
        data["imports"] = [*(data.get("imports") or []), *imports]
    asked = {"command": sys.argv[1:], "config": data, "changes": fixed, "swept": swept, "jobs": jobs or 1, **options}
    settings: Any = validate(SweepSettings, asked, "sweep")
    checked = check(settings)
    if settings.search == "optuna":
        from marlcomm.rllib.tuning import optuna_search

        optuna_search()
    if jobs is None:
        settings = settings.model_copy(update={"jobs": max((os.cpu_count() or 1) // cpus(checked[0]), 1)})
    return settings, checked


def _tell_what_is_dropped(data: dict[str, Any], fixed: list[str], swept: dict[str, str]) -> None:
    """Say which keys of the file do not apply under other names."""
    from marlcomm.sweeps.settings import values

    names = [f"{key}={value}" for key, text in swept.items() if key.endswith(".name") for value in values(text)]
    notes = config.merge(data, fixed)[1] + [note for name in names for note in config.merge(data, [name])[1]]
    print_notes(dict.fromkeys(notes))


def _run(sweep: Sweep, settings: Experiment) -> None:
    """Run what is left of a sweep, and print its table."""
    from marlcomm.sweeps.trial import run_sweep
    from marlcomm.training import Interruption

    total = sweep.settings.trials if sweep.settings.search == "optuna" else len(sweep.trials())
    left = total - sum(trial.over for trial in sweep.trials())
    say(f"{left} of {total} trials to train, {sweep.settings.jobs} at a time, in {escape(str(sweep.folder))}")

    def tell(trial: TrialFolder, status: str) -> None:
        words = " ".join(f"{key}={value}" for key, value in trial.point.items())
        say(f"{status}: {escape(words)}")

    with Interruption(lambda: err.print("\nfinishing the updates, then saving; once more stops at once")) as stop:
        if left:
            run_sweep(sweep, settings, tell, lambda: stop.requested, stop.install)
    rows = sweep.write_results()
    out.print(_table(rows, list(sweep.settings.swept)))
    tell_where(sweep.folder / "results.csv")
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        words = " ".join(f"{key}={value}" for key, value in row["settings"].items())
        say_aside(f"[bold red]failed:[/bold red] {escape(words)}: {escape(row['reason'])}")
    again = f"{program('marlcomm')} sweep --resume {shlex.quote(str(sweep.folder))}"
    if stop.requested or failed:
        say_command("continue with", again)
        raise typer.Exit(stop.exit_code if stop.requested else 1)


def _table(rows: list[dict[str, Any]], keys: list[str]) -> Table:
    """What became of each trial; in brackets the last short evaluation of those that have no final one."""
    table = Table(caption="in brackets: of the last short evaluation", caption_justify="left")
    for name in (*keys, "status"):
        table.add_column(name)
    for name in ("success", "return", "bits/\nagent step", "env steps", "minutes"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = [_figure(row, name, places) for name, places in (("success", 3), ("return", 2), ("bits", 2))]
        settings = [escape(str(row["settings"][key])) for key in keys]
        table.add_row(*settings, row["status"], *figures, f"{row['env_steps']:,}", f"{row['minutes']:.1f}")
    return table


def _figure(row: dict[str, Any], name: str, places: int) -> str:
    value, short = row[name], row.get(f"short_{name}")
    if value is not None:
        return f"{value:.{places}f}"
    return "" if short is None else f"({short:.{places}f})"
