"""What `marlcomm train` says of a run: what it is, what it would take, why it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm.cli.shell import complain, out, print_remarks, resume_command, say, say_aside

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.runs import Run


def what(settings: Experiment) -> str:
    """What a run is, in a line."""
    return (
        f"[bold]{settings.name}[/bold]: {settings.policy.name} + {settings.channel.name} under "
        f"{settings.algorithm.name} on {settings.env.name}, seed {settings.seed}"
    )


def tell_dry_run(settings: Experiment) -> None:
    """Try a run, and tell what the whole of it will take."""
    from marlcomm.dry_run import dry_run
    from marlcomm.rllib.cluster import running_ray

    say(what(settings))
    with out.status("trying two rounds"), running_ray(settings), failures_told(None):
        tried = dry_run(settings)
    print_remarks(tried.remarks)
    run, figures = settings.run, tried.figures
    bits = {name: figures.get(f"bandwidth/{name}_bits_per_message", 0.0) for name in ("nominal", "prefix")}
    minutes, speed = tried.seconds(run) / 60, tried.env_steps / tried.round_seconds
    _print_rows("rows of a round", {name: " x ".join(map(str, shape)) for name, shape in tried.shapes.items()})
    total = {"all": sum(tried.parameters.values())}
    _print_rows("parameters", {name: f"{count:,}" for name, count in (tried.parameters | total).items()})
    _print_rows(
        "cost",
        {
            "bits of a message": f"{bits['nominal']:.1f} nominal, {bits['prefix']:.1f} by the prefix code",
            "a round": f"{tried.env_steps:,.0f} env steps in {tried.round_seconds:.2f} s ({speed:,.0f} a second)",
            "the whole run": f"{tried.rounds(run):,} rounds, about {minutes:,.1f} minutes",
            **{f"memory of {part}": f"{peak / 2**20:,.0f} MiB at most" for part, peak in tried.peak_bytes.items()},
        },
    )


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, box=None, pad_edge=False, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    out.print()
    out.print(table, highlight=False)


@contextmanager
def failures_told(run: Run | None) -> Iterator[None]:
    """Where training fails, say what is saved; a known reason is a sentence and exit code 1, not a traceback."""
    from marlcomm.disk import DiskError
    from marlcomm.envs.faults import NoAnswerError, WorldError
    from marlcomm.rllib.errors import TrainingError
    from marlcomm.wire import WireError

    try:
        yield
    except Exception as error:
        known = isinstance(error, (TrainingError, WorldError, NoAnswerError, DiskError, WireError))
        if known:
            complain(str(getattr(error, "cause", error)))  # Ray wraps what a worker raised
        if run is not None and run.checkpoints():
            saved, go_on = escape(str(run.last_checkpoint())), escape(resume_command(run))
            say_aside(f"saved: {saved}; continue with\n  [bold]{go_on}[/bold]")
        if known:
            raise typer.Exit(1) from None
        raise
